"""Stage 1: a static synthesizer from multi-view pictures (section 4.2, Eq. 2).

A picture of a head becomes planes without motion; other views of the same moment say what they should show.
Letters: B sources, V views rendered of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.portrait import Portrait4D
from triportrait.core.render.volume import as_images
from triportrait.core.types import Driving, Head, NeckGrid, Rendering
from triportrait.train.config import LossConfig, Precision, StageConfig
from triportrait.train.data.pictures import Pictures, PictureSet, join
from triportrait.train.engines.schedule import Moment, moment
from triportrait.train.loop import Micro, Phase
from triportrait.train.objectives.adversary import discriminator_phases, opposed
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity, five_points, identity_loss
from triportrait.train.objectives.losses import (
    beside_features,
    density_smoothness,
    depth_loss,
    feature_loss,
    feature_weight,
    l1,
    layer_pairs,
    opacity_loss,
    plane_loss,
    shrink,
    teacher_points,
)
from triportrait.train.objectives.perceptual import Perceptual

EVER = Moment()


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
    """What stage 1 trains (the portrait, the discriminator) and asks.

    Attributes:
        discriminator: where there is an adversary.
        identity: the identity network, where its term counts.
        teacher: a frozen static synthesizer, where its planes or feature images count.
    """

    portrait: Portrait4D
    perceptual: Perceptual
    precision: Precision = "fp32"
    discriminator: Discriminator | None = None
    identity: FaceIdentity | None = None
    teacher: Portrait4D | None = None


def draw(sets: list[PictureSet], config: StageConfig, rng: np.random.Generator) -> StaticBatch:
    """A batch; `sets` are the cast and, where the config wants them, strangers. The generator alone decides."""
    sources, targets = [], []
    for _ in range(config.batch):
        chosen = sets[int(rng.random() < config.strangers)]
        pose = int(rng.integers(len(chosen)))
        views = rng.permutation(chosen.views)
        front = rng.random() < config.front_sources
        source_view = 0 if front else int(rng.integers(chosen.views))
        if not config.own_view and chosen.views > 1:
            views = views[views != source_view]
        count = min(config.views, len(views))
        sources.append(chosen.take(torch.tensor([pose]), torch.tensor([source_view])))
        targets.append(chosen.take(torch.full((count,), pose), torch.from_numpy(views[:count].copy())))
    return StaticBatch(join(sources), join(targets))


def losses(
    batch: StaticBatch,
    models: StaticModels,
    config: LossConfig,
    rng: torch.Generator,
    at: Moment = EVER,
    made: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of Eq. 2; their sum is the loss.

    Args:
        at: what is on.
        made: takes the real and the fake pictures for the discriminator.
    """
    target = batch.target
    views = len(target.image) // len(batch.source.image)
    with lowered(models.precision, batch.source.image):
        head = models.portrait.reenact(models.portrait.prepare(batch.source.image, None), Driving(None))
        head = repeated(head, views, target.neck)
        scattered = scatter(models.portrait, head, target, rng, at.neural_size)
        rendering = models.portrait.render(head, target.camera, at.neural_size, *scattered)
    terms = compare(rendering, target, models.perceptual, config)
    if at.teacher and target.depth is not None:
        side = rendering.depth.shape[-1]
        depth, opacity = shrink(target.depth, side), shrink(target.opacity, side)
        terms["depth"] = config.depth * depth_loss(rendering.depth, depth, opacity)
        terms |= taught(batch, models, config, head, rendering, scattered, rng)
    if at.identity and models.identity is not None:
        terms["identity"] = config.identity * identity_loss(
            models.identity, rendering.image, target.image, five_points(target.landmarks)
        )
    if at.adversary and models.discriminator is not None:
        rows = torch.arange(len(target.image))
        terms |= opposed(models.discriminator, rendering, target, target.camera, rows, config, made)
    return {name: value.mean() for name, value in terms.items()}


def taught(
    batch: StaticBatch,
    models: StaticModels,
    config: LossConfig,
    head: Head,
    rendering: Rendering,
    scattered: tuple[Tensor, Tensor],
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """What a frozen teacher says of the same sources, as far as it counts: the terms [B * V].

    `planes` is L_T: planes at points on rays that meet neither eyes nor mouth. `feature` is the published code's:
    feature images of the head and of the background, in [-1, 1] as there.

    Args:
        head: what the student made of the sources, V after V. rendering: its views.
        scattered: where along the rays they were sampled; the teacher is, too.
    """
    teacher, target = models.teacher, batch.target
    terms: dict[str, Tensor] = {}
    if teacher is None or not (config.planes or config.feature):
        return terms
    side, views = rendering.depth.shape[-1], len(target.image) // len(batch.source.image)
    with torch.no_grad(), lowered(models.precision, batch.source.image):
        wanted = teacher.reenact(teacher.prepare(batch.source.image, None), Driving(None))
        wanted = repeated(wanted, views, target.neck)
    if config.planes:
        rays = beside_features(target.landmarks, target.image.shape[-1], side)
        points = teacher_points(target.camera, target.neck, rays, teacher.config.render.box_side, rng)
        terms["planes"] = config.planes * plane_loss(head.planes, wanted.planes, points)
    if config.feature:
        with torch.no_grad():
            samples = teacher.volume(wanted.planes, target.camera, wanted.neck, side, None, *scattered)
            foreground, _, _, background = as_images(samples, wanted.background)
        off = feature_loss(rendering.foreground, foreground)
        off = off + feature_loss(rendering.background.float(), background.float())
        terms["feature"] = config.feature * 2 * off
    return terms


def phases(models: StaticModels, config: StageConfig) -> list[Phase]:
    """What a step of stage 1 does: the generator, its density, the discriminator, R1."""
    full = models.portrait.config.render.neural_size

    def main(micro: Micro) -> dict[str, Tensor]:
        at = moment(config.schedule, config.losses, micro.images_seen, full)
        return losses(micro.batch, models, config.losses, micro.rng, at, micro.made)

    def density(micro: Micro) -> dict[str, Tensor]:
        with lowered(models.precision, micro.batch.source.image):
            head = models.portrait.reenact(models.portrait.prepare(micro.batch.source.image, None), Driving(None))
        weights = models.portrait.volume.field.weights()
        return {"density": config.losses.density * density_smoothness(head.planes, weights, micro.rng).mean()}

    found = [Phase("main", "generator", main, counts=True)]
    if config.losses.density:
        found.append(Phase("density", "generator", density, every=config.schedule.density_every))
    if models.discriminator is not None:
        found += discriminator_phases(models.discriminator, config.losses, config.schedule)
    return found


def lowered(precision: Precision, like: Tensor) -> torch.autocast:
    """The context in which networks run in a precision, on the device of `like`."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=precision == "bf16")


def repeated(head: Head, views: int, neck: NeckGrid | None) -> Head:
    """Each head `views` times in a row, with the neck poses of the views."""
    return Head(head.planes.repeat_interleave(views, 0), head.background.repeat_interleave(views, 0), neck)


def render(
    portrait: Portrait4D, head: Head, target: Pictures, rng: torch.Generator, size: int | None = None
) -> Rendering:
    """The views of the target's cameras, with samples jittered along the rays as in training.

    Args:
        size: side of the ray grid, px; the model's by default.
    """
    return portrait.render(head, target.camera, size, *scatter(portrait, head, target, rng, size))


def scatter(
    portrait: Portrait4D, head: Head, target: Pictures, rng: torch.Generator, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """What is random in such views: jitter and uniforms, see `VolumeRenderer.forward`."""
    config = portrait.config.render
    batch, rays = len(target.image), (size or config.neural_size) ** 2
    jitter = torch.rand(batch, config.num_coarse, generator=rng)
    uniforms = torch.rand(batch, rays, config.num_fine, generator=rng)
    device = head.planes.device
    return jitter.to(device), uniforms.to(device)


def compare(rendering: Rendering, target: Pictures, perceptual: Perceptual, config: LossConfig) -> dict[str, Tensor]:
    """The terms [B] that a picture and its mask give: the published loss's four pairs as far as they have a weight, and
    the opacity; eyes and mouth count more."""
    side = target.image.shape[-1]
    weight = feature_weight(target.landmarks, side, config.features)
    raw_side = rendering.raw_image.shape[-1]
    small, opacity = shrink(target.image, raw_side), shrink(target.opacity, raw_side)
    small_weight = shrink(weight, raw_side)
    terms = {
        "l1": config.l1 * l1(rendering.image, target.image, weight),
        "raw": config.raw * l1(rendering.raw_image, small, small_weight),
        "perceptual": config.perceptual * perceptual(rendering.image, target.image, weight),
        "opacity": config.opacity * opacity_loss(rendering.opacity, opacity),
    }
    if config.raw_perceptual:
        terms["raw perceptual"] = config.raw_perceptual * perceptual(rendering.raw_image, small, small_weight)
    if config.foreground or config.background:
        colours = [layer[:, :3].float() for layer in (rendering.foreground, rendering.background)]
        head, behind = layer_pairs(colours[0], colours[1], small, opacity)
        layers = (
            ("foreground", config.foreground, head, small_weight),
            ("background", config.background, behind, None),
        )
        for name, factor, (found, wanted), its_weight in layers:
            if factor:
                terms[name] = factor * l1(found, wanted, its_weight)
                terms[f"{name} perceptual"] = factor * perceptual(found, wanted, its_weight)
    return terms
