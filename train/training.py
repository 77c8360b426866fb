"""A whole training from a config: data, stage 1, the motion encoder, stage 2, and the weights folder at the end.

run/cast  run/strangers            the data, drawn if they are not there
run/checkpoints                    of each stage, while it runs and of its end
run/weights                        portrait and motion encoder in half precision, as the other commands take them
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from triportrait import __version__
from triportrait.core.checkpoint import save_weights
from triportrait.core.commit import commit
from triportrait.core.files import MOST_INDEX, read_bytes, read_json
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.network_kind import REENACTMENT, STATIC
from triportrait.core.portrait import Portrait4D
from triportrait.train.config import SetConfig, TrainConfig
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import Pictures, PictureSet, open_set, photograph
from triportrait.train.data.scenes import expressions, filming_cameras, population
from triportrait.train.engines.engine import Group, PlainEngine
from triportrait.train.evaluation.probe import probe
from triportrait.train.loop import Stage, run_stage, single_network
from triportrait.train.objectives.perceptual import Perceptual, perceptual
from triportrait.train.runs.checkpoints import check_checkpoints
from triportrait.train.runs.claim import claim, made_folder
from triportrait.train.runs.record import LOG
from triportrait.train.runs.run_config import check_config, check_folder
from triportrait.train.runs.weights import save_neck
from triportrait.train.stages import motion
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.assemble import Engines, reenact_stage, reenacted, static_stage
from triportrait.train.stages.initialize import start, start_motion

STRANGERS, HELD_OUT = 104_729, 64  # added to it for heads that no set holds, and how many of them
STAGES = ("stage1", "motion", "stage2")
COMMITS = "commits.json"
ENOUGH_DB, ENOUGH_CORRELATION = 22.0, 0.9  # of what a stage leaves to the next; less is said, not refused


class Training:
    """A run: what it learns from and what it learns.

    Args:
        config: every number.
        run: the folder; made if it is missing. Going on needs the same config.
        distance: the perceptual distance, for instance LPIPS; by default the stand-in that the config names.

    Raises: `InputError` for a run of another config, damaged data, a damaged state, or a folder that another process
        trains in.
    """

    def __init__(self, config: TrainConfig, run: Path, distance: Perceptual | None = None) -> None:
        made_folder(run)
        check_folder(run)
        self._claim = claim(run)
        check_config(run, config.to_dict())
        check_checkpoints(run, STAGES)
        for name in ("cast", "strangers"):
            if (run / name).exists():
                MultiviewSet(run / name)  # whole, before anything is drawn
        self.commits = _note_commit(run)
        self.config, self.run = config, run
        self.sets = [_open(run / "cast", config.cast, config, True)]
        if config.strangers is not None:
            self.sets.append(_open(run / "strangers", config.strangers, config, config.stage1.strangers > 0))
        self.perceptual = perceptual(config.perceptual) if distance is None else distance
        self.static = Portrait4D(config.model)
        start(self.static, config.seed)
        self.portrait = Portrait4D(config.model)
        self.motion_encoder = fresh_encoder(config)
        self.probe = probe(config)

    def train(self, until: str = "stage2", said: Callable[[str], None] = lambda line: None) -> None:
        """Run the stages in order, as far as `until`; those that are done are read."""
        for name in STAGES[: STAGES.index(until) + 1]:
            stage: Stage = getattr(self, f"_{name}")()
            run_stage(stage, self.run, self.config.seed, self.config.save_each, self.config.sample_each)
            stage.engine.module.load_state_dict(stage.engine.averaged())
            stage.engine.module.eval().requires_grad_(False)
            said(f"{name}: done, {stage.engine.images_seen} images")
            for line in short_of(name, self.run / LOG):
                said(line)

    def export(self, command: str) -> Path:
        """Write `run/weights`, the portrait and the motion encoder, and `run/static`, the static synthesizer.

        Both are in half precision, with where they come from beside them; returns the first.
        """
        cast = {"seed": self.config.cast.seed, "count": self.config.cast.count}
        provenance = {
            "made by": f"triportrait {__version__}", "command": command, "commit": ", ".join(self.commits),
            "preset": self.config.preset, "seed": self.config.seed, "cast": cast, "licence": "Apache-2.0",
            "images seen": {name: getattr(self.config, name).images for name in STAGES},
        }  # fmt: skip
        weights = self.run / "weights"
        for folder, portrait, network in (
            (weights, self.portrait, REENACTMENT),
            (self.run / "static", self.static, STATIC),
        ):
            card = provenance | {"network": network}
            save_weights(folder, "portrait", _halves(portrait), self.config.model, card)
            save_neck(folder, self.config.model, card)
        save_weights(weights, "motion", _halves(self.motion_encoder), self.motion_encoder, provenance)
        return weights

    def reenact(self, source: Pictures, driving: Pictures) -> Tensor:
        """What the portrait makes of B sources and B driving pictures, seen by the driving pictures' cameras."""
        return reenacted(self.portrait, self.motion_encoder, source, driving)

    def _stage1(self) -> Stage:
        models = stage1.StaticModels(self.static, self.perceptual, self.config.precision)
        return static_stage(self.config, self.sets, models, self.probe, Engines())

    def _motion(self) -> Stage:
        config, encoder = self.config.motion, self.motion_encoder

        def losses(streams: np.random.Generator, rng: torch.Generator) -> dict[str, Tensor]:
            return motion.losses(motion.draw(self.sets, config, encoder.crop_size, streams), encoder)

        def sample(path: Path | None) -> dict[str, float]:
            image, landmarks, true = _strangers(self.config)
            return motion.correlations(motion.read_motion(encoder, image, landmarks), true)

        engine = PlainEngine(encoder, [Group(list(encoder.parameters()))], config.optimizer, config.images)
        return single_network("motion", 2, engine, config.images, config.batch, losses, sample)

    def _stage2(self) -> Stage:
        self.portrait.load_state_dict(self.static.state_dict())
        start_motion(self.portrait, self.config.seed)
        models = stage2.ReenactModels(
            self.portrait, self.static, self.motion_encoder, self.perceptual, self.config.precision
        )
        return reenact_stage(self.config, self.sets[0], models, self.probe, Engines())


def fresh_encoder(config: TrainConfig) -> SmallMotionEncoder:
    """A motion encoder at its start; the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = SmallMotionEncoder(config.model.transformer.motion_width)
    assert encoder.motion_width == len(EXPRESSION_AXES)
    return encoder


def _note_commit(run: Path) -> list[str]:
    """The commits of the sources that this run was made by, one after the other; the last is today's."""
    path = run / COMMITS
    try:
        known = [str(name) for name in read_json(path)]
    except (OSError, ValueError, TypeError):
        known = []
    now = commit()
    if known[-1:] != [now]:
        known.append(now)
        path.write_text(json.dumps(known) + "\n")
    return known


def short_of(stage: str, log: Path) -> list[str]:
    """What the next stage should not be built on, by the last numbers of a stage's log."""
    lines = [json.loads(line) for line in read_bytes(log, MOST_INDEX).decode().splitlines()]
    told = {key: value for line in lines if line["stage"] == stage for key, value in line.items()}
    found = []
    if stage == "stage1" and told.get("psnr unseen", ENOUGH_DB) < ENOUGH_DB:
        found.append(f"stage1: {told['psnr unseen']:.1f} dB on unseen poses, {ENOUGH_DB:g} are wanted before stage 2")
    if stage == "motion":
        found += [
            f"motion: correlation {told[axis]:.2f} of {axis} on unseen heads, {ENOUGH_CORRELATION:g} is wanted"
            for axis in ("jaw", "blink_left", "blink_right")
            if told.get(axis, 1.0) < ENOUGH_CORRELATION
        ]
    return found


@lru_cache(maxsize=1)
def _strangers(config: TrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of heads that nothing here trains on, their landmarks [B, 68, 2] and expressions [B, 9]."""
    seed = config.cast.seed + STRANGERS
    who, light = population(seed, HELD_OUT)
    face, camera = expressions(seed, HELD_OUT, 1), filming_cameras(seed, HELD_OUT)
    taken = photograph(HeadRenderer(), who, face, light, camera, config.model, necks=False)
    return taken.image, taken.landmarks, taken.motion


def _open(folder: Path, wanted: SetConfig, config: TrainConfig, necks: bool) -> PictureSet:
    with _bar(wanted.count, f"draw {folder.name}") as drawing, _bar(wanted.count, f"read {folder.name}") as reading:
        return open_set(folder, wanted, config.model, necks, drawing, reading)


@contextmanager
def _bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(total=total, unit="head", desc=what, file=sys.stderr, delay=1.0, leave=False) as bar:

        def tell(done: int) -> None:
            bar.update(done - bar.n)

        yield tell


def _halves(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.half() if t.is_floating_point() else t for name, t in module.state_dict().items()}
