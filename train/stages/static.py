"""Stage 1: a static synthesizer from pictures that GenHead draws, or of procedural heads (section 4.2, Eq. 2).

A picture of a head becomes planes without motion; other views of the same moment say what they should show, and
GenHead's pictures bring the volume behind them.
Letters: B sources, V views rendered of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Driving, Head, Rendering
from triportrait.train.config import LossConfig, Precision, StageConfig
from triportrait.train.data.pictures import Pictures, PictureSet, join
from triportrait.train.data.resize import shrink
from triportrait.train.data.upload import upload
from triportrait.train.engines.schedule import ActiveTerms
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.losses import (
    density_smoothness,
    depth_loss,
    feature_loss,
    plane_loss,
    weighed_depth_loss,
)
from triportrait.train.objectives.perceptual import Perceptual
from triportrait.train.stages.common import (
    RECONSTRUCTION_TERMS,
    HandedOn,
    LearningModels,
    Models,
    autocast,
    compare,
    identity_and_adversarial_terms,
    repeated,
    sampling_noise,
    stage_phases,
)
from triportrait.train.stages.stage import Batch, MicroBatch, Phase


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
    """

    portrait: Portrait4D
    perceptual: Perceptual
    precision: Precision = "fp32"
    discriminator: Discriminator | None = None
    identity: FaceIdentity | None = None


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
    with autocast(models.precision, batch.source.image):
        head = models.portrait.reenact(models.portrait.prepare(batch.source.image, None), Driving(None))
    return view_terms(head, batch.target, models, config, rng, active, handed_on)


def view_terms(
    head: Head,
    target: Pictures,
    models: LearningModels,
    config: LossConfig,
    rng: torch.Generator,
    active: ActiveTerms = RECONSTRUCTION_TERMS,
    handed_on: HandedOn | None = None,
) -> dict[str, Tensor]:
    """Return the weighted terms of Eq. 2 for views of heads; their sum is the loss.

    Args:
        head: B heads, their necks unturned.
        target: B * V pictures, what the views should show; the V of the first head come first.
        active, handed_on: see `losses`.
    """
    views = len(target.image) // len(head.planes)
    with autocast(models.precision, target.image):
        head = repeated(head, views, target.neck)
        noise = sampling_noise(models.portrait, head, target, rng, active.neural_size)
        rendering = models.portrait.render(head, target.camera, active.neural_size, *noise)
    terms = compare(rendering, target, models.perceptual, config)
    if active.distill and target.depth is not None:
        terms["depth"] = config.depth * _depth(rendering, target)
    if active.distill and target.truth is not None:
        terms |= generated_terms(head, rendering, target, config, models.portrait.config.render.box_side)
    is_real = torch.ones(len(target.image), dtype=torch.bool, device=target.image.device)
    terms |= identity_and_adversarial_terms(models, rendering, target, is_real, config, active, handed_on)
    return {name: value.mean() for name, value in terms.items()}


def _depth(rendering: Rendering, target: Pictures) -> Tensor:
    """Compare depths [B * V]: GenHead's are known everywhere, a procedural head's where the head is."""
    assert target.depth is not None
    depth, (true_depth, opacity) = _at_smaller(rendering.depth, target.depth, target.opacity)
    return (depth_loss if target.truth is None else weighed_depth_loss)(depth, true_depth, opacity)


def _at_smaller(picture: Tensor, *truths: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Bring a picture and its truths, of one size, to the smaller of both sizes."""
    side = min(picture.shape[-1], truths[0].shape[-1])
    return shrink(picture, side), tuple(shrink(truth, side) for truth in truths)


def generated_terms(
    head: Head, rendering: Rendering, target: Pictures, config: LossConfig, box_side: float
) -> dict[str, Tensor]:
    """Return the terms [B * V] that compare the student with the GenHead which drew the pictures, those with a weight.

    `planes` is L_T: planes at points on rays beside eyes and mouth. `feature` is the published code's: feature images
    of the head and of the background, in [-1, 1] as there.

    Args:
        head: what the student made of the sources, V after V, with the necks of the views. rendering: its views.
        box_side: of the student, scene units.
    """
    truth, terms = target.truth, {}
    assert truth is not None, "pictures of GenHead"
    if config.distill_planes:
        terms["planes"] = config.distill_planes * plane_loss(head.planes, head.neck, truth, box_side)
    if config.distill_feature and truth.foreground is not None:
        off = torch.zeros_like(rendering.depth[:, 0, 0, 0])
        for picture, true in ((rendering.foreground, truth.foreground), (rendering.background, truth.background)):
            small, (known,) = _at_smaller(picture.float(), true.float())
            off = off + feature_loss(small, known)
        terms["feature"] = config.distill_feature * 2 * off
    return terms


def phases(models: StaticModels, config: StageConfig) -> list[Phase[StaticBatch]]:
    """Return what a step of stage 1 does: the generator, its density, the discriminator, R1."""

    def head_of(batch: StaticBatch) -> Head:
        with autocast(models.precision, batch.source.image):
            return models.portrait.reenact(models.portrait.prepare(batch.source.image, None), Driving(None))

    smoothing = density_phase(models, config, head_of)
    return stage_phases(models, config, losses, [smoothing] if config.losses.density else [])


def density_phase(models: Models, config: StageConfig, head_of: Callable[[Batch], Head]) -> Phase[Batch]:
    """Return the phase that smooths the density of heads, a step of its own.

    Args:
        head_of: makes the heads of a batch.
    """

    def density(micro: MicroBatch[Batch]) -> dict[str, Tensor]:
        planes, weights = head_of(micro.batch).planes, models.portrait.volume.field.weights()
        return {"density": config.losses.density * density_smoothness(planes, weights, micro.rng).mean()}

    return Phase("density", "generator", density, every=config.schedule.density_every)
