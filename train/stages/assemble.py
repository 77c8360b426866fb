"""Assemble the stages from phases, engines and samples, for a run of all and for a run of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.motion.small_encoder import SmallMotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.train.config import GROUP, StageConfig, TrainConfig
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.generated.source import GeneratedBatch, GeneratedHeads
from triportrait.train.data.pictures import PictureSet
from triportrait.train.data.upload import upload
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.recompute import recompute
from triportrait.train.engines.training_engine import Engine, Group, PlainEngine
from triportrait.train.evaluation.motion_response import Probe
from triportrait.train.objectives.discriminator import Discriminator, DiscriminatorConfig
from triportrait.train.stages import motion, portrait4d, reenact, static
from triportrait.train.stages.common import Models
from triportrait.train.stages.initialize import reads_motion
from triportrait.train.stages.preview_grids import (
    SHOWN,
    clip_sample,
    dynamic_sample,
    generated_sample,
    reenact_sample,
    static_sample,
)
from triportrait.train.stages.stage import MicroBatch, Phase, SkippingData, Stage, single_network

RENDERER = ("volume.", "superres.")  # how the names of its weights begin


class _MovableBatch(Protocol):
    def to(self: MovableBatch, device: torch.device | str) -> MovableBatch: ...


MovableBatch = TypeVar("MovableBatch", bound=_MovableBatch)


def make_discriminator(config: TrainConfig) -> Discriminator:
    """Return a fresh discriminator; the seed alone decides."""
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
    config: TrainConfig, sets: list[PictureSet], models: static.StaticModels, probe: Probe, engines: Engines
) -> Stage[static.StaticBatch]:
    """Assemble stage 1, the static synthesizer."""
    stage = config.stage1
    unused = [p for name, p in models.portrait.named_parameters() if reads_motion(name)]
    groups = _groups(models.portrait, stage, unused, None)
    micro = _micro_config(stage)

    def draw(streams: np.random.Generator, place: int) -> static.StaticBatch:
        return static.draw(sets, micro, streams)

    sample = static_sample(config, sets, models, probe, engines.ranks.device)
    phases = static.phases(models, stage)
    return _stage("stage1", 1, stage, models, groups, draw, phases, sample, engines)


def generated_static_stage(
    config: TrainConfig, heads: GeneratedHeads, models: static.StaticModels, engines: Engines
) -> Stage[static.StaticBatch]:
    """Assemble stage 1, the static synthesizer, on heads that GenHead draws."""
    stage = config.stage1
    unused = [p for name, p in models.portrait.named_parameters() if reads_motion(name)]
    groups = _groups(models.portrait, stage, unused, None)
    count = stage.batch // stage.micro_batches

    def generate(drawn: Any) -> static.StaticBatch:
        made = heads.batch(drawn)
        return static.StaticBatch(made.source, made.target)

    def draw(streams: np.random.Generator, place: int) -> Any:
        return heads.draw(count, streams, place)

    shown = generate(heads.draw(SHOWN, np.random.default_rng([config.seed, 99]), stage.images))
    sample = generated_sample(shown, models)
    assembled: Stage[static.StaticBatch] = _stage(
        "stage1", 1, stage, models, groups, draw, static.phases(models, stage), sample, engines
    )
    return dataclasses.replace(assembled, generate=generate, numbers=heads.log_numbers)


def reenact_stage(
    config: TrainConfig,
    data: PictureSet | ClipPictures,
    models: reenact.ReenactModels,
    probe: Probe | None,
    engines: Engines,
) -> Stage[reenact.ReenactBatch]:
    """Assemble stage 2, the reenactment.

    Args:
        probe: procedural heads whose motion is measured; None: samples show the first clips.
    """
    stage, device = config.stage2, engines.ranks.device
    groups = _groups(models.portrait, stage, [], stage.optimizer.motion_lr_factor)
    micro = _micro_config(stage)

    def draw(streams: np.random.Generator, place: int) -> reenact.ReenactBatch:
        return reenact.draw(data, micro, streams, place)

    sample = clip_sample(config, data, models, device) if probe is None else reenact_sample(models, probe, device)
    phases = reenact.phases(models, stage)
    skipping = data if isinstance(data, ClipPictures) else None
    return _stage("stage2", 3, stage, models, groups, draw, phases, sample, engines, skipping)


def portrait4d_stage(
    config: TrainConfig, heads: GeneratedHeads, models: portrait4d.DynamicModels, engines: Engines
) -> Stage[GeneratedBatch]:
    """Assemble the training of Portrait4D; what reads motion moves from the beginning."""
    stage = config.portrait4d
    assert stage is not None, "a config of this training"
    groups = _groups(models.portrait, stage, [], stage.optimizer.motion_lr_factor)
    count = _micro_config(stage).batch

    def draw(streams: np.random.Generator, place: int) -> Any:
        return heads.draw(count, streams, place)

    sample = dynamic_sample(config, heads, models)
    phases = portrait4d.phases(models, stage)
    made = _stage("portrait4d", 4, stage, models, groups, draw, phases, sample, engines)
    return dataclasses.replace(made, generate=heads.batch, numbers=heads.log_numbers)


def motion_stage(
    config: TrainConfig,
    sets: list[PictureSet],
    encoder: SmallMotionEncoder,
    unseen: Callable[[], tuple[Tensor, Tensor, Tensor]],
    engines: Engines,
) -> Stage[np.random.Generator]:
    """Return the stage of the small motion encoder.

    Args:
        unseen: gives pictures that it is not trained on, their landmarks and true motion.
    """
    stage, device = config.motion, engines.ranks.device

    def losses(streams: np.random.Generator, rng: torch.Generator) -> dict[str, Tensor]:
        return motion.losses(upload(motion.draw(sets, stage, encoder.crop_size, streams), device), encoder)

    def sample(path: Path | None) -> dict[str, float]:
        image, landmarks, true_motion = (value.to(device) for value in unseen())
        return motion.correlations(motion.read_motion(encoder, image, landmarks), true_motion)

    engine = PlainEngine(encoder, [Group(list(encoder.parameters()))], stage.optimizer, stage.images)
    return single_network("motion", 2, engine, stage.images, stage.batch, losses, sample)


def motion_clip_stage(
    config: TrainConfig,
    draw: Callable[[np.random.Generator, int, int], motion.MotionBatch],
    encoder: SmallMotionEncoder,
    seen: Callable[[], dict[str, float]],
    unseen: Callable[[], dict[str, float]] | None,
    data: PictureSet | ClipPictures,
    engines: Engines,
) -> Stage[motion.MotionBatch]:
    """Return the stage of a small motion encoder on data that a user names.

    Args:
        draw: random numbers, the number of the first image, and how many -> a micro-batch.
        seen, unseen: measure the encoder on faces that it is trained on, and on held-out ones, where somebody is.
        data: where damaged clips are noted.
    """
    stage = config.motion
    engine = engines.make(encoder, [Group(list(encoder.parameters()))], stage.optimizer, stage)
    count = stage.batch // stage.micro_batches

    def terms(micro: MicroBatch[motion.MotionBatch]) -> dict[str, Tensor]:
        return motion.losses(micro.batch, encoder)

    return Stage(
        "motion", 2, {"motion": engine}, stage.images, stage.batch, stage.micro_batches,
        lambda streams, place: draw(streams, place, count), [Phase("main", "motion", terms, counts=True)],
        lambda path: seen(), lambda batch: batch.to(engines.ranks.device),
        data if isinstance(data, ClipPictures) else None,
        None if unseen is None else lambda ranks: unseen(),
    )  # fmt: skip


StageConfigKind = TypeVar("StageConfigKind", bound=StageConfig)


def _micro_config(stage: StageConfigKind) -> StageConfigKind:
    """Return the stage with the batch of one micro-batch."""
    return dataclasses.replace(stage, batch=stage.batch // stage.micro_batches)


def _stage(
    name: str,
    number: int,
    config: StageConfig,
    models: Models,
    groups: list[Group],
    draw: Callable[[np.random.Generator, int], MovableBatch],
    phases: Sequence[Phase[MovableBatch]],
    sample: Callable[[Path | None], dict[str, float]],
    engines: Engines,
    data: SkippingData | None = None,
) -> Stage[MovableBatch]:
    if engines.recomputes:
        recompute(models.portrait)
    by_network: dict[str, Engine] = {"generator": engines.make(models.portrait, groups, config.optimizer, config)}
    if models.discriminator is not None:
        group = Group(list(models.discriminator.parameters()))
        by_network["discriminator"] = engines.make(models.discriminator, [group], config.discriminator, config)

    def to_device(batch: MovableBatch) -> MovableBatch:
        return batch.to(engines.ranks.device)

    lengths = config.images, config.batch, config.micro_batches
    return Stage(name, number, by_network, *lengths, draw, phases, sample, to_device, data)


def _groups(
    portrait: Portrait4D, config: StageConfig, left_out: list[nn.Parameter], motion_lr_factor: float | None
) -> list[Group]:
    """Group parameters by learning rate: the renderer, which may be frozen at first, what reads motion, the others."""
    left_out_ids = {id(p) for p in left_out}
    parameters: dict[str, list[nn.Parameter]] = {"others": [], "renderer": [], "motion": []}
    frozen_until = config.schedule.renderer_frozen_until
    for name, parameter in portrait.named_parameters():
        if id(parameter) in left_out_ids or parameter.dim() == 0:  # the strength of a noise that is off
            continue
        renders = frozen_until > 0 and name.startswith(RENDERER)
        parameters["renderer" if renders else "motion" if motion_lr_factor and reads_motion(name) else "others"].append(
            parameter
        )
    groups = [Group(parameters["others"])]
    if parameters["motion"]:
        groups.append(Group(parameters["motion"], motion_lr_factor or 1.0, name="motion"))
    if parameters["renderer"]:
        groups.append(Group(parameters["renderer"], frozen_until=frozen_until, name="renderer"))
    return groups
