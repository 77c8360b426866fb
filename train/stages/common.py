"""The parts that the stages share: autocast, renderings with jittered rays, and the terms of their losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from triportrait.core.portrait import Portrait4D
from triportrait.core.types import Head, NeckGrid, Rendering
from triportrait.train.config import LossConfig, Precision, StageConfig
from triportrait.train.data.pictures import Pictures
from triportrait.train.data.resize import shrink
from triportrait.train.data.upload import upload
from triportrait.train.engines.schedule import ActiveTerms, active_terms
from triportrait.train.objectives.adversary import DiscriminatorInput, adversarial_loss
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity, five_points, identity_loss
from triportrait.train.objectives.losses import feature_weight, l1, layer_pairs, opacity_loss
from triportrait.train.objectives.perceptual import Perceptual
from triportrait.train.stages.adversarial import discriminator_phases
from triportrait.train.stages.stage import Batch, MicroBatch, Phase

RECONSTRUCTION_TERMS = ActiveTerms()  # neither identity nor the discriminator


class Models(Protocol):
    """The networks that both stages have."""

    @property
    def portrait(self) -> Portrait4D: ...
    @property
    def discriminator(self) -> Discriminator | None: ...
    @property
    def identity(self) -> FaceIdentity | None: ...


class LearningModels(Models, Protocol):
    """The networks of a stage that compares with whole pictures."""

    @property
    def perceptual(self) -> Perceptual: ...
    @property
    def precision(self) -> Precision: ...


ModelsOfStage = TypeVar("ModelsOfStage", bound=Models)
HandedOn = dict[str, DiscriminatorInput]
Losses = Callable[[Batch, ModelsOfStage, LossConfig, torch.Generator, ActiveTerms, HandedOn | None], dict[str, Tensor]]


def stage_phases(
    models: ModelsOfStage,
    config: StageConfig,
    losses: Losses[Batch, ModelsOfStage],
    extra_phases: Sequence[Phase[Batch]],
) -> list[Phase[Batch]]:
    """Return the phases of a step in their order: the generator, `extra_phases`, the discriminator, the R1 penalty."""
    full_size = models.portrait.config.render.neural_size

    def main(micro: MicroBatch[Batch]) -> dict[str, Tensor]:
        active = active_terms(config.schedule, config.losses, micro.images_seen, full_size)
        return losses(micro.batch, models, config.losses, micro.rng, active, micro.handed_on)

    phases = [Phase("main", "generator", main, counts=True), *extra_phases]
    if models.discriminator is not None:
        phases += discriminator_phases(models.discriminator, config.losses, config.schedule)
    return phases


def identity_and_adversarial_terms(
    models: Models,
    rendering: Rendering,
    target: Pictures,
    is_real: Tensor,
    config: LossConfig,
    active: ActiveTerms,
    handed_on: HandedOn | None,
) -> dict[str, Tensor]:
    """Return the identity and the generator's adversarial loss [B], those that are switched on.

    Both are 0 where the target is a pseudo view.

    Args:
        is_real: [B] bool, which targets are real pictures; only these are shown to the discriminator.
        handed_on: is filled with real and fake pictures for the discriminator's phase; None where there is none.
    """
    terms = {}
    if active.identity and models.identity is not None:
        points = five_points(target.landmarks)
        distance = identity_loss(models.identity, rendering.image, target.image, points)
        terms["identity"] = is_real * (config.identity * distance)
    if active.adversarial and models.discriminator is not None:
        rows = is_real.nonzero()[:, 0]
        terms |= adversarial_loss(models.discriminator, rendering, target, target.camera, rows, config, handed_on)
    return terms


def autocast(precision: Precision, like: Tensor) -> torch.autocast:
    """Return the context in which networks run in a precision, on the device of `like`."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=precision == "bf16")


def repeated(head: Head, views: int, neck: NeckGrid | None) -> Head:
    """Repeat each head `views` times in a row, with the neck poses of the views."""
    return Head(head.planes.repeat_interleave(views, 0), head.background.repeat_interleave(views, 0), neck)


def render(
    portrait: Portrait4D, head: Head, target: Pictures, rng: torch.Generator, size: int | None = None
) -> Rendering:
    """Return the views of the target's cameras, with samples jittered along the rays as in training.

    Args:
        size: side of the ray grid, px; the model's by default.
    """
    return portrait.render(head, target.camera, size, *sampling_noise(portrait, head, target, rng, size))


def sampling_noise(
    portrait: Portrait4D, head: Head, target: Pictures, rng: torch.Generator, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the random numbers of stratified and importance sampling along the rays, see `VolumeRenderer.forward`.

    They are drawn where `rng` is: on a GPU nothing goes up, and the numbers are not those of a CPU.
    """
    config = portrait.config.render
    batch, rays = len(target.image), (size or config.neural_size) ** 2
    jitter = torch.rand(batch, config.num_coarse, generator=rng, device=rng.device)
    uniforms = torch.rand(batch, rays, config.num_fine, generator=rng, device=rng.device)
    device = head.planes.device
    return upload(jitter, device), upload(uniforms, device)


def compare(rendering: Rendering, target: Pictures, perceptual: Perceptual, config: LossConfig) -> dict[str, Tensor]:
    """Return the terms [B] of a picture and its mask: the published loss's four pairs as far as they have a weight,
    and the opacity; eyes and mouth count more.

    The fourth pair is the background: whole where its truth is known, else where no head hides it.
    """
    side = target.image.shape[-1]
    weight = feature_weight(target.landmarks, side, config.eye_mouth_boost)
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
        if target.truth is not None:
            behind = 2 * colours[1] - 1, 2 * shrink(target.truth.background[:, :3].float(), raw_side) - 1
        layers = (
            ("foreground", config.foreground, head, small_weight),
            ("background", config.background, behind, None),
        )
        for name, factor, (picture, truth), weight_map in layers:
            if factor:
                terms[name] = factor * l1(picture, truth, weight_map)
                terms[f"{name} perceptual"] = factor * perceptual(picture, truth, weight_map)
    return terms
