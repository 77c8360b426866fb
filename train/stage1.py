"""Stage 1: a static synthesizer from multi-view pictures (section 4.2, Eq. 2 without the adversary).

A picture of a head becomes planes without motion; other views of the same moment say what they should show.
Letters: B sources, V views rendered of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Driving, Head, NeckGrid, Rendering
from triportrait.train.config import LossConfig, Precision, StageConfig
from triportrait.train.data.pictures import Pictures, PictureSet, join
from triportrait.train.losses import depth_loss, feature_weight, l1, opacity_loss, shrink
from triportrait.train.perceptual import Perceptual


@dataclass(frozen=True)
class StaticBatch:
    """B sources and, V after V, the views that they should show.

    Attributes:
        source: B pictures.
        target: B * V pictures; the V of the first source come first.
    """

    source: Pictures
    target: Pictures


@dataclass(frozen=True)
class StaticModels:
    """What stage 1 trains and asks."""

    portrait: Portrait4D
    perceptual: Perceptual
    precision: Precision = "fp32"


def draw(sets: list[PictureSet], config: StageConfig, rng: np.random.Generator) -> StaticBatch:
    """A batch; `sets` are the cast and, where the config wants them, strangers. The generator alone decides."""
    sources, targets = [], []
    for _ in range(config.batch):
        chosen = sets[int(rng.random() < config.strangers)]
        pose = int(rng.integers(len(chosen)))
        views = rng.permutation(chosen.views)
        front = rng.random() < config.front_sources
        source_view = 0 if front else int(rng.integers(chosen.views))
        count = min(config.views, chosen.views)
        sources.append(chosen.take(torch.tensor([pose]), torch.tensor([source_view])))
        targets.append(chosen.take(torch.full((count,), pose), torch.from_numpy(views[:count].copy())))
    return StaticBatch(join(sources), join(targets))


def losses(batch: StaticBatch, models: StaticModels, config: LossConfig, rng: torch.Generator) -> dict[str, Tensor]:
    """The weighted terms of Eq. 2 that need no adversary and no identity network: their sum is the loss."""
    views = len(batch.target.image) // len(batch.source.image)
    with lowered(models.precision, batch.source.image):
        head = models.portrait.reenact(models.portrait.prepare(batch.source.image, None), Driving(None))
        rendering = render(models.portrait, repeated(head, views, batch.target.neck), batch.target, rng)
    terms = compare(rendering, batch.target, models.perceptual, config)
    terms["depth"] = config.depth * depth_loss(rendering.depth, batch.target.depth, batch.target.opacity)
    return {name: value.mean() for name, value in terms.items()}


def lowered(precision: Precision, like: Tensor) -> torch.autocast:
    """The context in which networks run in a precision, on the device of `like`."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=precision == "bf16")


def repeated(head: Head, views: int, neck: NeckGrid | None) -> Head:
    """Each head `views` times in a row, with the neck poses of the views."""
    return Head(head.planes.repeat_interleave(views, 0), head.background.repeat_interleave(views, 0), neck)


def render(portrait: Portrait4D, head: Head, target: Pictures, rng: torch.Generator) -> Rendering:
    """The views of the target's cameras, with samples jittered along the rays as in training."""
    config = portrait.config.render
    batch, rays = len(target.image), config.neural_size**2
    jitter = torch.rand(batch, config.num_coarse, generator=rng)
    uniforms = torch.rand(batch, rays, config.num_fine, generator=rng)
    return portrait.render(head, target.camera, jitter=jitter, uniforms=uniforms)


def compare(rendering: Rendering, target: Pictures, perceptual: Perceptual, config: LossConfig) -> dict[str, Tensor]:
    """The terms [B] that a picture and its mask give; eyes and mouth count more."""
    side = target.image.shape[-1]
    weight = feature_weight(target.landmarks, side, config.features)
    raw_side = rendering.raw_image.shape[-1]
    small = shrink(target.image, raw_side)
    return {
        "l1": config.l1 * l1(rendering.image, target.image, weight),
        "raw": config.raw * l1(rendering.raw_image, small, shrink(weight, raw_side)),
        "perceptual": config.perceptual * perceptual(rendering.image, target.image, weight),
        "opacity": config.opacity * opacity_loss(rendering.opacity, target.opacity),
    }
