"""A whole training from a config: data, stage 1, the motion encoder, stage 2, and the weights folder at the end.

run/cast  run/strangers            the data, drawn if they are not there
run/stage1.state ... .weights      a stage's state while it runs, its averaged weights when it is done
run/weights                        portrait and motion encoder in half precision, as the other commands take them
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn

from triportrait import __version__
from triportrait.core.checkpoint import save_weights
from triportrait.core.errors import InputError
from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Driving
from triportrait.train import motion, stage1, stage2
from triportrait.train.config import SetConfig, TrainConfig
from triportrait.train.data.heads.population import EXPRESSION_AXES
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import Pictures, PictureSet, open_set, photograph
from triportrait.train.data.scenes import expressions, filming_cameras, population
from triportrait.train.engine import Group, PlainEngine
from triportrait.train.evaluation.metrics import psnr
from triportrait.train.loop import LOG, Stage, check_config, check_states, run_stage
from triportrait.train.perceptual import Perceptual, perceptual
from triportrait.train.response import Probe, responses, take_probe
from triportrait.train.samples import shown_depth, write_grid
from triportrait.train.start import motion_parameters, reads_motion, start, start_motion
from triportrait.train.weights import REENACTMENT, STATIC_SYNTHESIZER

PROBED = ("jaw", "blink", "gaze x")
ROWS = 6  # in a grid of samples: heads, or views of fewer
UNSEEN = 7919  # added to a set's seed for expressions that it does not hold
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
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise InputError(f"{run}: expected a folder for the run ({reason}); name another folder") from error
        check_config(run, config.to_dict())
        self._claim = _claim(run)
        check_states(run, STAGES)
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
        self.probe = _probe(config)

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
            (self.run / "static", self.static, STATIC_SYNTHESIZER),
        ):
            card = provenance | {"network": network}
            save_weights(folder, "portrait", _halves(portrait), self.config.model, card)
        save_weights(weights, "motion", _halves(self.motion_encoder), self.motion_encoder, provenance)
        return weights

    def reenact(self, source: Pictures, driving: Pictures) -> Tensor:
        """What the portrait makes of B sources and B driving pictures, seen by the driving pictures' cameras."""
        with torch.no_grad():
            v_s = motion.read_motion(self.motion_encoder, source.image, source.landmarks)
            v_d = motion.read_motion(self.motion_encoder, driving.image, driving.landmarks)
            head = self.portrait.reenact(self.portrait.prepare(source.image, v_s), Driving(v_d, driving.neck))
            return self.portrait.render(head, driving.camera).image

    def _stage1(self) -> Stage:
        config, portrait = self.config.stage1, self.static
        parameters = [p for name, p in portrait.named_parameters() if not reads_motion(name)]
        models = stage1.StaticModels(portrait, self.perceptual, self.config.precision)
        shown = stage1.draw(self.sets, config, np.random.default_rng([self.config.seed, 99]))

        def losses(streams: np.random.Generator, rng: torch.Generator) -> dict[str, Tensor]:
            return stage1.losses(stage1.draw(self.sets, config, streams), models, config.losses, rng)

        def sample(path: Path) -> dict[str, float]:
            views = len(shown.target.image) // len(shown.source.image)
            head = portrait.reenact(portrait.prepare(shown.source.image, None), Driving(None))
            rendering = portrait.render(stage1.repeated(head, views, shown.target.neck), shown.target.camera)
            side = shown.target.image.shape[-1]
            columns = {
                "source": shown.source.image.repeat_interleave(views, 0),
                "truth": shown.target.image,
                "static": rendering.image,
                "depth": shown_depth(rendering.depth, rendering.opacity, side),
                "true depth": shown_depth(shown.target.depth, shown.target.opacity, side),
            }
            write_grid(path, columns)
            source = self.probe.source
            again = portrait.reenact(portrait.prepare(source.image, None), Driving(None, source.neck))
            unseen = psnr(portrait.render(again, source.camera).image, source.image)
            seen = psnr(rendering.image, shown.target.image)
            return {"psnr": seen.mean().item(), "psnr unseen": unseen.mean().item()}

        engine = PlainEngine(portrait, [Group(parameters)], config.optimizer, config.images)
        return Stage("stage1", 1, engine, config.images, config.batch, losses, sample)

    def _motion(self) -> Stage:
        config, encoder = self.config.motion, self.motion_encoder

        def losses(streams: np.random.Generator, rng: torch.Generator) -> dict[str, Tensor]:
            return motion.losses(motion.draw(self.sets, config, encoder.crop_size, streams), encoder)

        def sample(path: Path) -> dict[str, float]:
            image, landmarks, true = _strangers(self.config)
            return motion.correlations(motion.read_motion(encoder, image, landmarks), true)

        engine = PlainEngine(encoder, [Group(list(encoder.parameters()))], config.optimizer, config.images)
        return Stage("motion", 2, engine, config.images, config.batch, losses, sample)

    def _stage2(self) -> Stage:
        config, portrait = self.config.stage2, self.portrait
        portrait.load_state_dict(self.static.state_dict())
        start_motion(portrait, self.config.seed)
        models = stage2.ReenactModels(
            portrait, self.static, self.motion_encoder, self.perceptual, self.config.precision
        )
        own = [p for name, p in portrait.named_parameters() if not reads_motion(name)]
        groups = [Group(own), Group(motion_parameters(portrait), config.optimizer.motion_factor)]

        def losses(streams: np.random.Generator, rng: torch.Generator) -> dict[str, Tensor]:
            return stage2.losses(stage2.draw(self.sets[0], config, streams), models, config.losses, rng)

        def sample(path: Path) -> dict[str, float]:
            source, columns, numbers = self.probe.source, {"source": self.probe.source.image}, {}
            for axis, (_, after) in self.probe.ends.items():
                result = self.reenact(source, after)
                columns |= {f"{axis}: driving": after.image, "result " + axis: result}
                numbers[f"psnr {axis}"] = psnr(result, after.image).mean().item()
            write_grid(path, columns)
            for axis, found in responses(self.probe, self.reenact).items():
                numbers |= {f"correlation {axis}": found.correlation, f"gain {axis}": found.gain}
            return numbers

        engine = PlainEngine(portrait, groups, config.optimizer, config.images)
        return Stage("stage2", 3, engine, config.images, config.batch, losses, sample)


def fresh_encoder(config: TrainConfig) -> SmallMotionEncoder:
    """A motion encoder at its start; the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = SmallMotionEncoder(config.model.transformer.motion_width)
    assert encoder.motion_width == len(EXPRESSION_AXES)
    return encoder


def commit() -> str:
    """The commit of the sources, with a + where they were changed; empty where no repository keeps them."""
    folder = Path(__file__).parent
    try:
        kept = ["git", "ls-files", "--error-unmatch", Path(__file__).name]  # a user's own repository knows no such file
        subprocess.run(kept, cwd=folder, capture_output=True, check=True)
        said = [
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said[0] + ("+" if said[1] else "")


def _note_commit(run: Path) -> list[str]:
    """The commits of the sources that this run was made by, one after the other; the last is today's."""
    path = run / COMMITS
    try:
        known = [str(name) for name in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        known = []
    now = commit()
    if known[-1:] != [now]:
        known.append(now)
        path.write_text(json.dumps(known) + "\n")
    return known


def short_of(stage: str, log: Path) -> list[str]:
    """What the next stage should not be built on, by the last numbers of a stage's log."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
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


def _claim(run: Path) -> IO[str]:
    """Keep other processes out of the folder while the file is open: two would overwrite each other's state."""
    lock = (run / ".lock").open("a")
    try:
        import fcntl

        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # a system without such locks
    except (BlockingIOError, PermissionError) as error:
        lock.close()
        raise InputError(
            f"{run}: another process trains in this folder; wait for it, or name another folder"
        ) from error
    return lock


def _probe(config: TrainConfig) -> Probe:
    who, light = population(config.cast.seed, config.cast.count)
    rows = torch.arange(ROWS) % config.cast.count  # few heads are seen from several sides
    face, camera = expressions(config.cast.seed + UNSEEN, ROWS, 1), filming_cameras(config.cast.seed + UNSEEN, ROWS)
    return take_probe(HeadRenderer(), who.take(rows), light.take(rows), face, camera, config.model, PROBED)


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
