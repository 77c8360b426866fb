"""Stages 1 and 2 put together: phases, engines and what samples show, for a run of both and for a run of one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Driving, Rendering
from triportrait.train.config import GROUP, OptimizerConfig, StageConfig, TrainConfig
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.pictures import Pictures, PictureSet
from triportrait.train.engines.engine import Engine, Group, PlainEngine
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.recompute import recompute
from triportrait.train.engines.zero import ZeroConfig, ZeroEngine
from triportrait.train.evaluation.metrics import psnr
from triportrait.train.evaluation.response import Probe, responses
from triportrait.train.loop import Stage
from triportrait.train.objectives.discriminator import Discriminator, DiscriminatorConfig
from triportrait.train.runs.samples import shown_depth, write_grid
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.motion import AnyMotionEncoder, motion_of

SHOWN = 4  # rows in a grid of samples
RENDERER = ("volume.", "superres.")  # how the names of its weights begin
SIDE_DEG = 30.0  # of the camera that shows them from the side


@dataclass(frozen=True)
class Engines:
    """How networks are moved: by plain PyTorch on one process, by DeepSpeed where `zero` says how.

    Attributes:
        recomputes: the generator's blocks and renderer compute their insides again for the backward pass.
    """

    ranks: Ranks = field(default_factory=Ranks)
    zero: ZeroConfig | None = None
    recomputes: bool = False

    def make(
        self, module: nn.Module, groups: Sequence[Group], optimizer: OptimizerConfig, config: StageConfig
    ) -> Engine:
        """An engine for one network of a stage.

        Raises:
            InputError: the micro-batches cannot be shared out.
        """
        if config.micros % self.ranks.size:
            raise InputError(
                f"micros: expected a multiple of the {self.ranks.size} ranks, got {config.micros}; choose another"
            )
        micros = config.micros // self.ranks.size
        if self.zero is None:
            return PlainEngine(module, groups, optimizer, config.images, micros, config.batch)
        return ZeroEngine(module, groups, optimizer, config.images, micros, config.batch, self.zero, self.ranks)


def make_discriminator(config: TrainConfig) -> Discriminator:
    """A fresh discriminator; the seed alone decides."""
    sizes = DiscriminatorConfig(
        config.model.image_size,
        config.discriminator_base,
        config.discriminator_widest,
        config.discriminator_mapping,
        group=GROUP,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Discriminator(sizes)


def static_stage(
    config: TrainConfig, sets: list[PictureSet], models: stage1.StaticModels, probe: Probe, engines: Engines
) -> Stage:
    """Stage 1."""
    own, portrait = config.stage1, models.portrait
    groups = _groups(portrait, own, [p for name, p in portrait.named_parameters() if reads_motion(name)], None)
    one = dataclasses.replace(own, batch=own.batch // own.micros)
    few = dataclasses.replace(own, batch=min(own.batch, SHOWN))
    shown = stage1.draw(sets, few, np.random.default_rng([config.seed, 99]))
    device = engines.ranks.device

    def draw(streams: np.random.Generator, place: int) -> stage1.StaticBatch:
        return stage1.draw(sets, one, streams)

    def to_device(batch: stage1.StaticBatch) -> stage1.StaticBatch:
        return stage1.StaticBatch(batch.source.to(device), batch.target.to(device))

    def sample(path: Path | None) -> dict[str, float]:
        source, target = shown.source.to(device), shown.target.to(device)
        views = len(target.image) // len(source.image)
        head = portrait.reenact(portrait.prepare(source.image, None), Driving(None))
        rendering = portrait.render(stage1.repeated(head, views, target.neck), target.camera)
        side = target.image.shape[-1]
        if path is not None:
            assert target.depth is not None, "a multi-view set holds depth"
            columns = {
                "source": source.image.repeat_interleave(views, 0),
                "truth": target.image,
                "static": rendering.image,
                "depth": shown_depth(rendering.depth, rendering.opacity, side),
                "true depth": shown_depth(target.depth, target.opacity, side),
            }
            write_grid(path, {name: value.cpu() for name, value in columns.items()})
        source = probe.source.to(device)
        again = portrait.reenact(portrait.prepare(source.image, None), Driving(None, source.neck))
        unseen = psnr(portrait.render(again, source.camera).image, source.image)
        seen = psnr(rendering.image, target.image)
        return {"psnr": seen.mean().item(), "psnr unseen": unseen.mean().item()}

    made = _engines(portrait, groups, models.discriminator, own, engines)
    return Stage(
        "stage1", 1, made, own.images, own.batch, own.micros, draw, stage1.phases(models, own), sample, to_device
    )


def reenact_stage(
    config: TrainConfig,
    cast: PictureSet | ClipPictures,
    models: stage2.ReenactModels,
    probe: Probe | None,
    engines: Engines,
) -> Stage:
    """Stage 2.

    Args:
        probe: procedural heads whose motion is measured; None: samples show the first clips.
    """
    own, portrait = config.stage2, models.portrait
    groups = _groups(portrait, own, [], own.optimizer.motion_factor)
    one = dataclasses.replace(own, batch=own.batch // own.micros)
    device = engines.ranks.device

    def draw(streams: np.random.Generator, place: int) -> stage2.ReenactBatch:
        return stage2.draw(cast, one, streams, place)

    def to_device(batch: stage2.ReenactBatch) -> stage2.ReenactBatch:
        return batch.to(device)

    def sample(path: Path | None) -> dict[str, float]:
        assert probe is not None
        source = probe.source.to(device)
        columns, numbers = {"source": source.image}, {}

        def reenact(source: Pictures, driving: Pictures) -> Tensor:
            source, driving = source.to(device), driving.to(device)
            return reenacted(portrait, models.motion_encoder, source, driving).cpu()

        for axis, (_, after) in probe.ends.items():
            result = reenact(source, after)
            columns |= {f"{axis}: driving": after.image, "result " + axis: result}
            numbers[f"psnr {axis}"] = psnr(result, after.image).mean().item()
        if path is not None:
            columns |= _from_the_side(models, source, next(iter(probe.ends.values()))[1].to(device))
            write_grid(path, {name: value.float().cpu() for name, value in columns.items()})
        for axis, found in responses(probe, reenact).items():
            numbers |= {f"correlation {axis}": found.correlation, f"gain {axis}": found.gain}
        return numbers

    made = _engines(portrait, groups, models.discriminator, own, engines)
    shows = sample if probe is not None else _of_clips(config, cast, models, device)
    watched = cast if isinstance(cast, ClipPictures) else None
    phases = stage2.phases(models, own)
    return Stage("stage2", 3, made, own.images, own.batch, own.micros, draw, phases, shows, to_device, watched)


def _of_clips(
    config: TrainConfig, cast: stage2.Pairs, models: stage2.ReenactModels, device: torch.device
) -> Callable[[Path | None], dict[str, float]]:
    """Samples of a training without procedural heads: a frame of each of the first clips drives another."""
    one = dataclasses.replace(config.stage2, batch=SHOWN)
    shown = stage2.draw(cast, one, np.random.default_rng([config.seed, 99]))

    def sample(path: Path | None) -> dict[str, float]:
        batch = shown.to(device)
        source, driving = batch.source, batch.driving
        result = reenacted(models.portrait, models.motion_encoder, source, driving)
        if path is not None:
            columns = {"source": source.image, "driving": driving.image, "result": result}
            columns |= _from_the_side(models, source, driving)
            write_grid(path, {name: value.float().cpu() for name, value in columns.items()})
        return {"psnr": psnr(result, driving.image).mean().item()}

    return sample


def _from_the_side(models: stage2.ReenactModels, source: Pictures, driving: Pictures) -> dict[str, Tensor]:
    """The pseudo view of driving pictures, the result from the same camera, and its depth."""
    camera = turned(fixed_camera(), math.radians(SIDE_DEG), 0.0)
    camera = camera.take(torch.zeros(len(source.image), dtype=torch.long)).to(source.image.device)
    seen = dataclasses.replace(driving, camera=camera)
    result = _rendered(models.portrait, models.motion_encoder, source, seen)
    own = motion_of(driving, models.motion_encoder) if models.dynamic else None
    head = models.static.reenact(models.static.prepare(driving.image, own), Driving(own, driving.neck))
    return {
        "pseudo view": models.static.render(head, camera).image,
        "result there": result.image,
        "its depth": shown_depth(result.depth, result.opacity, source.image.shape[-1]),
    }


def reenacted(portrait: Portrait4D, encoder: AnyMotionEncoder | None, source: Pictures, driving: Pictures) -> Tensor:
    """What a portrait makes of B sources and B driving pictures, seen by the driving pictures' cameras."""
    return _rendered(portrait, encoder, source, driving).image


@torch.no_grad()
def _rendered(portrait: Portrait4D, encoder: AnyMotionEncoder | None, source: Pictures, driving: Pictures) -> Rendering:
    v_s, v_d = (motion_of(x, encoder) for x in (source, driving))
    head = portrait.reenact(portrait.prepare(source.image, v_s), Driving(v_d, driving.neck))
    return portrait.render(head, driving.camera)


def _engines(
    portrait: Portrait4D,
    groups: list[Group],
    discriminator: Discriminator | None,
    config: StageConfig,
    engines: Engines,
) -> dict[str, Engine]:
    if engines.recomputes:
        recompute(portrait)
    made = {"generator": engines.make(portrait, groups, config.optimizer, config)}
    if discriminator is not None:
        made["discriminator"] = engines.make(
            discriminator, [Group(list(discriminator.parameters()))], config.discriminator, config
        )
    return made


def _groups(portrait: Portrait4D, config: StageConfig, left_out: list[Any], motion_factor: float | None) -> list[Group]:
    """Parameters by rate: those of the renderer, which may be frozen at first, those that read motion, the others."""
    out = {id(p) for p in left_out}
    found: dict[str, list[nn.Parameter]] = {"own": [], "renderer": [], "motion": []}
    frozen_until = config.schedule.renderer_frozen_until
    for name, parameter in portrait.named_parameters():
        if id(parameter) in out or parameter.dim() == 0:  # the strength of a noise that is off
            continue
        renders = frozen_until > 0 and name.startswith(RENDERER)
        found["renderer" if renders else "motion" if motion_factor and reads_motion(name) else "own"].append(parameter)
    groups = [Group(found["own"])]
    if found["motion"]:
        groups.append(Group(found["motion"], motion_factor or 1.0, name="motion"))
    if found["renderer"]:
        groups.append(Group(found["renderer"], frozen_until=frozen_until, name="renderer"))
    return groups
