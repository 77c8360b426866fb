"""Stage 1: a static synthesizer from multi-view pictures (section 4.2, Eq. 2).

A picture of a head becomes planes without motion; other views of the same moment say what they should show.
Letters: B sources, V views rendered of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triportrait.core.portrait import Portrait4D
from triportrait.core.render.volume import as_images
from triportrait.core.types import Driving, Head, Rendering
from triportrait.train.config import LossConfig, Precision, StageConfig
from triportrait.train.data.pictures import Pictures, PictureSet, join
from triportrait.train.data.resize import shrink
from triportrait.train.data.upload import upload
from triportrait.train.engines.schedule import ActiveTerms
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.losses import (
    beside_features,
    density_smoothness,
    depth_loss,
    feature_loss,
    plane_loss,
    teacher_points,
)
from triportrait.train.objectives.perceptual import Perceptual
from triportrait.train.stages.common import (
    RECONSTRUCTION_TERMS,
    HandedOn,
    autocast,
    compare,
    identity_and_adversarial_terms,
    repeated,
    sampling_noise,
    stage_phases,
)
from triportrait.train.stages.stage import MicroBatch, Phase


@dataclass(frozen=True)
class StaticBatch:
    """B sources and, V after V, the views that they should show.

    Attributes:
        source: B pictures.
        target: B * V pictures; the V of the first source come first.
    """

    source: Pictures
    target: Pictures

    def to(self, device: torch.device | str) -> StaticBatch:
        """Return the batch on a device."""
        return upload(self, device)


@dataclass(frozen=True)
class StaticModels:
    """The networks that stage 1 trains (the portrait, the discriminator) and those that it uses.

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
    """Return a batch; `sets` are the cast and, where the config wants them, strangers. The generator alone decides."""
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
    active: ActiveTerms = RECONSTRUCTION_TERMS,
    handed_on: HandedOn | None = None,
) -> dict[str, Tensor]:
    """Return the weighted terms of Eq. 2; their sum is the loss.

    Args:
        active: which terms are on.
        handed_on: takes the real and the fake pictures for the discriminator.
    """
    target = batch.target
    views = len(target.image) // len(batch.source.image)
    with autocast(models.precision, batch.source.image):
        head = models.portrait.reenact(models.portrait.prepare(batch.source.image, None), Driving(None))
        head = repeated(head, views, target.neck)
        noise = sampling_noise(models.portrait, head, target, rng, active.neural_size)
        rendering = models.portrait.render(head, target.camera, active.neural_size, *noise)
    terms = compare(rendering, target, models.perceptual, config)
    if active.teacher and target.depth is not None:
        side = rendering.depth.shape[-1]
        depth, opacity = shrink(target.depth, side), shrink(target.opacity, side)
        terms["depth"] = config.depth * depth_loss(rendering.depth, depth, opacity)
        terms |= distillation_loss(batch, models, config, head, rendering, noise, rng)
    is_real = torch.ones(len(target.image), dtype=torch.bool, device=target.image.device)
    terms |= identity_and_adversarial_terms(models, rendering, target, is_real, config, active, handed_on)
    return {name: value.mean() for name, value in terms.items()}


def distillation_loss(
    batch: StaticBatch,
    models: StaticModels,
    config: LossConfig,
    head: Head,
    rendering: Rendering,
    noise: tuple[Tensor, Tensor],
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Return the terms [B * V] that compare the student with a frozen teacher of the same sources.

    `planes` is L_T: planes at points on rays that meet neither eyes nor mouth. `feature` is the published code's:
    feature images of the head and of the background, in [-1, 1] as there.

    Args:
        head: what the student made of the sources, V after V. rendering: its views.
        noise: where along the rays they were sampled; the teacher is sampled there, too.
    """
    teacher, target = models.teacher, batch.target
    terms: dict[str, Tensor] = {}
    if teacher is None or not (config.distill_planes or config.distill_feature):
        return terms
    side, views = rendering.depth.shape[-1], len(target.image) // len(batch.source.image)
    with torch.no_grad(), autocast(models.precision, batch.source.image):
        teacher_head = teacher.reenact(teacher.prepare(batch.source.image, None), Driving(None))
        teacher_head = repeated(teacher_head, views, target.neck)
    if config.distill_planes:
        rays = beside_features(target.landmarks, target.image.shape[-1], side)
        points = teacher_points(target.camera, target.neck, rays, teacher.config.render.box_side, rng)
        terms["planes"] = config.distill_planes * plane_loss(head.planes, teacher_head.planes, points)
    if config.distill_feature:
        with torch.no_grad():
            samples = teacher.volume(teacher_head.planes, target.camera, teacher_head.neck, side, None, *noise)
            foreground, _, _, background = as_images(samples, teacher_head.background)
        off = feature_loss(rendering.foreground, foreground)
        off = off + feature_loss(rendering.background.float(), background.float())
        terms["feature"] = config.distill_feature * 2 * off
    return terms


def phases(models: StaticModels, config: StageConfig) -> list[Phase[StaticBatch]]:
    """Return what a step of stage 1 does: the generator, its density, the discriminator, R1."""

    def density(micro: MicroBatch[StaticBatch]) -> dict[str, Tensor]:
        with autocast(models.precision, micro.batch.source.image):
            head = models.portrait.reenact(models.portrait.prepare(micro.batch.source.image, None), Driving(None))
        weights = models.portrait.volume.field.weights()
        return {"density": config.losses.density * density_smoothness(head.planes, weights, micro.rng).mean()}

    smoothing = Phase("density", "generator", density, every=config.schedule.density_every)
    return stage_phases(models, config, losses, [smoothing] if config.losses.density else [])
