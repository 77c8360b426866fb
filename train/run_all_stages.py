"""Train all stages on heads that the run draws: stage 1, the motion encoder, stage 2, and a weights folder at the end.

run/cast  run/strangers    the data, drawn if they are not there
run/weights  run/static    the portrait and the motion encoder, and the static synthesizer, in half precision
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from triportrait import __version__
from triportrait.core.checkpoint import save_weights
from triportrait.core.files import MOST_INDEX, read_bytes, read_json
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.network_kind import REENACTMENT, STATIC
from triportrait.core.portrait import Portrait4D
from triportrait.core.source_commit import source_commit
from triportrait.train.config import STAGES, StageName, TrainConfig
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import PictureSet, open_set, photograph
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population
from triportrait.train.data.set_config import SetConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.evaluation.probe import probe
from triportrait.train.objectives.perceptual import Perceptual, perceptual
from triportrait.train.run_folder import Inputs
from triportrait.train.runs.run_log import LOG
from triportrait.train.runs.weights import save_neck
from triportrait.train.stages.assemble import motion_stage, reenact_stage, static_stage
from triportrait.train.stages.initialize import initialize, initialize_motion
from triportrait.train.stages.reenact import ReenactModels
from triportrait.train.stages.stage import Stage
from triportrait.train.stages.static import StaticModels

COMMITS = "commits.json"
STRANGERS, HELD_OUT = 104_729, 64  # added to the cast's seed for heads that no set holds, and how many of them
ENOUGH_DB, ENOUGH_CORRELATION = 22.0, 0.9  # of what a stage leaves to the next; less is warned of, not refused
logger = logging.getLogger(__name__)


class AllStages(Inputs):
    """The inputs of a whole training. See `run.Inputs`.

    Args:
        distance: the perceptual distance, for instance LPIPS; by default the stand-in that the config names.

    Attributes:
        sets: the cast and, where the config wants them, strangers.
        static, motion_encoder, portrait: what stage 1, the motion stage and stage 2 train.
        perceptual: the perceptual distance.
        probe: heads of the cast with expressions that no set holds.
    """

    def __init__(self, distance: Perceptual | None = None) -> None:
        self.stages = STAGES
        self._distance = distance

    def open_data(self, folder: Path, config: TrainConfig, engines: Engines) -> None:
        """See `Inputs`."""
        self.folder, self.config, self.engines = folder, config, engines
        for name in ("cast", "strangers"):
            if (folder / name).exists():
                MultiviewSet(folder / name)  # whole, before anything is drawn
        self.commits = note_commit(folder)
        self.sets = [_open(folder / "cast", config.cast, config, True)]
        if config.strangers is not None:
            self.sets.append(_open(folder / "strangers", config.strangers, config, config.stage1.strangers > 0))

    def make_networks(self, folder: Path) -> None:
        """See `Inputs`."""
        config = self.config
        device = self.engines.ranks.device
        distance = perceptual(config.perceptual) if self._distance is None else self._distance
        self.perceptual = distance.to(device)
        self.static = Portrait4D(config.model)
        initialize(self.static, config.seed)  # on the CPU, whose random numbers do not depend on the card
        self.static.to(device)
        self.portrait = Portrait4D(config.model)
        self.motion_encoder = fresh_encoder(config).to(device)
        self.probe = probe(config)

    def stage(self, name: StageName) -> Stage[Any]:
        """See `Inputs`."""
        config = self.config
        if name == "motion":
            return motion_stage(config, self.sets, self.motion_encoder, lambda: _unseen_heads(config), self.engines)
        if name == "stage1":
            static_models = StaticModels(self.static, self.perceptual, config.precision)
            return static_stage(config, self.sets, static_models, self.probe, self.engines)
        self.portrait.cpu().load_state_dict(self.static.state_dict())
        initialize_motion(self.portrait, config.seed)
        self.portrait.to(self.engines.ranks.device)
        models = ReenactModels(self.portrait, self.static, self.motion_encoder, self.perceptual, config.precision)
        return reenact_stage(config, self.sets[0], models, self.probe, self.engines)

    def finish(self, stage: Stage[Any]) -> None:
        """Put the EMA into the network that the stage trained, and freeze it."""
        module = stage.engine.module
        module.load_state_dict(stage.engine.ema_state_dict())
        module.eval().requires_grad_(False)
        logger.info("%s: done, %d images", stage.name, stage.engine.images_seen)
        for line in shortcomings(stage.name, self.folder / LOG):
            logger.warning(line)

    def export(self, command: str) -> Path:
        """Write `run/weights`, the portrait and the motion encoder, and `run/static`, the static synthesizer.

        Both are in half precision, with where they come from beside them; returns the first.
        """
        config = self.config
        provenance = {
            "made by": f"triportrait {__version__}", "command": command, "commit": ", ".join(self.commits),
            "preset": config.preset, "seed": config.seed, "device": self.engines.ranks.device.type,
            "licence": "Apache-2.0",
            "cast": {"seed": config.cast.seed, "count": config.cast.count},
            "images seen": {name: getattr(config, name).images for name in STAGES},
        }  # fmt: skip
        weights = self.folder / "weights"
        for folder, portrait, network in (
            (weights, self.portrait, REENACTMENT),
            (self.folder / "static", self.static, STATIC),
        ):
            card = provenance | {"network": network}
            save_weights(folder, "portrait", _halves(portrait), config.model, card)
            save_neck(folder, config.model, card)
        save_weights(weights, "motion", _halves(self.motion_encoder), self.motion_encoder, provenance)
        return weights


def note_commit(run: Path) -> list[str]:
    """Note the current commit of the sources in a run; returns all that the run was made by, in order."""
    path = run / COMMITS
    try:
        names = [str(name) for name in read_json(path)]
    except (OSError, ValueError, TypeError):
        names = []
    now = source_commit()
    if names[-1:] != [now]:
        names.append(now)
        path.write_text(json.dumps(names) + "\n")
    return names


def fresh_encoder(config: TrainConfig) -> SmallMotionEncoder:
    """Return a motion encoder with fresh weights; the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = SmallMotionEncoder(config.model.transformer.motion_width)
    assert encoder.motion_width == len(EXPRESSION_AXES)
    return encoder


def shortcomings(stage: str, log: Path) -> list[str]:
    """Return why the next stage should not be built on this one, by the last numbers of its log."""
    lines = [json.loads(line) for line in read_bytes(log, MOST_INDEX).decode().splitlines()]
    numbers = {key: value for line in lines if line["stage"] == stage for key, value in line.items()}
    reasons = []
    if stage == "stage1" and numbers.get("psnr unseen", ENOUGH_DB) < ENOUGH_DB:
        psnr = numbers["psnr unseen"]
        reasons.append(f"stage1: {psnr:.1f} dB on unseen poses, {ENOUGH_DB:g} are wanted before stage 2")
    if stage == "motion":
        reasons += [
            f"motion: correlation {numbers[axis]:.2f} of {axis} on unseen heads, {ENOUGH_CORRELATION:g} is wanted"
            for axis in ("jaw", "blink_left", "blink_right")
            if numbers.get(axis, 1.0) < ENOUGH_CORRELATION
        ]
    return reasons


@lru_cache(maxsize=1)
def _unseen_heads(config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of heads that nothing here trains on, their landmarks [B, 68, 2] and expressions [B, 9]."""
    seed = config.cast.seed + STRANGERS
    who, light = population(seed, HELD_OUT)
    face, camera = expressions(seed, HELD_OUT, 1), filming_cameras(seed, HELD_OUT)
    pictures = photograph(HeadRenderer(), who, face, light, camera, config.model, necks=False)
    return pictures.image, pictures.landmarks, pictures.motion


def _open(folder: Path, set_config: SetConfig, config: TrainConfig, necks: bool) -> PictureSet:
    count = set_config.count
    with _bar(count, f"draw {folder.name}") as drawing, _bar(count, f"read {folder.name}") as reading:
        return open_set(folder, set_config, config.model, necks, drawing, reading)


@contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    quiet = not logger.isEnabledFor(logging.INFO)
    with tqdm(total=total, unit="head", desc=label, file=sys.stderr, delay=1.0, leave=False, disable=quiet) as bar:

        def show(count: int) -> None:
            bar.update(count - bar.n)

        yield show


def _halves(module: nn.Module) -> dict[str, Tensor]:
    return {name: (t.half() if t.is_floating_point() else t).cpu() for name, t in module.state_dict().items()}
