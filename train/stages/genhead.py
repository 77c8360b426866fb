"""GenHead's own training: the 4D GAN learns from single pictures whose FLAME parameters are known (section 3.1).

The generator draws heads as which real people were tracked, the discriminator sees picture, ray grid, correspondence
map and mask of both. A step: the generator, now and then the smoothness of its density, the discriminator, R1.
Letters: B heads, Z width of the noise, S side of the picture, h of the ray grid, P points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.genhead.generator import GenHead, PaintedHead
from triportrait.core.genhead.masks import PartMasks
from triportrait.core.genhead.rendering import PartRays
from triportrait.core.render.cameras import camera_label
from triportrait.core.types import Camera, Rendering
from triportrait.train.config import GROUP, StageName
from triportrait.train.data.resize import shrink
from triportrait.train.data.training_pictures import GenHeadBatch, HeadParameters, RealPictures
from triportrait.train.data.upload import upload
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Engine, Group
from triportrait.train.genhead_config import GenHeadLosses, GenHeadTraining
from triportrait.train.objectives.adversary import (
    FAKE,
    REAL,
    DiscriminatorInput,
    discriminator_terms,
    generator_term,
    r1_terms,
)
from triportrait.train.objectives.blurred import Blurred
from triportrait.train.objectives.discriminator import Discriminator, DiscriminatorConfig
from triportrait.train.objectives.losses import DENSITY_POINTS, DENSITY_STEP
from triportrait.train.objectives.part_terms import distortions, face_densities, light_through
from triportrait.train.stages.head_geometry import HeadGeometry
from triportrait.train.stages.stage import MicroBatch, Phase, Stage

NAME: StageName = "genhead"
STREAMS = 5  # number of its streams of random numbers
GenHeadMicroBatch = MicroBatch[GenHeadBatch]


@dataclass(frozen=True)
class GenHeadModels:
    """The networks that are trained, and the head model that they share."""

    generator: GenHead
    discriminator: Discriminator
    geometry: HeadGeometry


@dataclass(frozen=True)
class DrawnHeads:
    """B heads that the generator drew for training."""

    rendering: Rendering
    parts: PartRays
    masks: PartMasks
    positions: Tensor


class MeanStyles:
    """Follows the mean styles, to which truncation goes: once a step, the mean over all micro-batches and ranks.

    Args:
        per_step: micro-batches of a step on this rank.
    """

    def __init__(self, generator: GenHead, per_step: int, ranks: Ranks) -> None:
        self._generator, self._per_step, self._ranks = generator, per_step, ranks
        self._means: list[Tensor] = []

    @torch.no_grad()
    def add(self, styles: Tensor, background_styles: Tensor) -> None:
        """Take in the styles [B, D] of a micro-batch; with the step's last one the means move."""
        self._means.append(torch.stack([styles.float().mean(0), background_styles.float().mean(0)]))
        if len(self._means) < self._per_step:
            return
        means, self._means = self._ranks.mean(torch.stack(self._means).mean(0)), []
        for mapping, mean in zip((self._generator.mapping, self._generator.background_mapping), means, strict=True):
            finite = torch.where(mean.isfinite(), mean, mapping.mean_style)
            mapping.update_mean(finite[None])


def discriminator_sizes(config: GenHeadTraining) -> DiscriminatorConfig:
    """Return the sizes of the discriminator."""
    return DiscriminatorConfig(
        config.generator.image_size, config.discriminator_base, config.discriminator_widest,
        config.discriminator_mapping, group=GROUP,
    )  # fmt: skip


def make_networks(config: GenHeadTraining) -> tuple[GenHead, Discriminator]:
    """Return a fresh generator, without a head model, and a fresh discriminator; the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return GenHead(config.generator), Discriminator(discriminator_sizes(config))


def genhead_stage(
    config: GenHeadTraining,
    models: GenHeadModels,
    draw: Callable[[int, np.random.Generator, int], GenHeadBatch],
    sample: Callable[..., dict[str, float]],
    engines: Engines,
) -> Stage[GenHeadBatch]:
    """Assemble the training.

    Args:
        draw: how many, random numbers, the number of the first image -> a micro-batch on the CPU.
        sample: as of `Stage`.
    """
    give_dimensions(models.generator)
    moved = [p for p in models.generator.parameters() if p.dim()]  # not the noise that super-resolution never has
    by_network: dict[str, Engine] = {
        "generator": engines.make(models.generator, [Group(moved)], config.optimizer, config),
        "discriminator": engines.make(
            models.discriminator, [Group(list(models.discriminator.parameters()))], config.discriminator, config
        ),
    }
    means = MeanStyles(models.generator, config.micro_batches // engines.ranks.size, engines.ranks)
    count = config.batch // config.micro_batches
    return Stage(
        NAME, STREAMS, by_network, config.images, config.batch, config.micro_batches,
        lambda streams, place: draw(count, streams, place), phases(models, config, means), sample,
        lambda batch: batch.to(engines.ranks.device),
    )  # fmt: skip


def give_dimensions(generator: GenHead) -> None:
    """Make the strengths of the noise of planes and background vectors of one number, in place.

    An engine of many processes moves no weight without dimensions. The export takes them back.
    """
    for network in (generator.plane_synthesis, generator.background_synthesis):
        for module in network.modules():
            strength = getattr(module, "noise_strength", None)
            if isinstance(strength, nn.Parameter) and not strength.dim():
                module.noise_strength = nn.Parameter(strength.detach().reshape(1))


def phases(models: GenHeadModels, config: GenHeadTraining, means: MeanStyles | None) -> list[Phase[GenHeadBatch]]:
    """Return what a step does.

    The discriminator's fakes are those that the generator was moved by, one step old: drawing new ones would cost a
    forward pass.

    Args:
        means: follows the mean styles; None: they stay.
    """
    schedule, weights = config.schedule, config.losses

    def blurred(micro: GenHeadMicroBatch) -> Blurred:
        return Blurred(models.discriminator, schedule.blur_at(micro.images_seen))

    def main(micro: GenHeadMicroBatch) -> dict[str, Tensor]:
        drawn = draw_heads(models, micro.batch.drawn, micro.rng, schedule.swapping_at(micro.images_seen), means)
        false = as_fake(drawn, micro.batch.drawn)
        true = as_real(models, micro.batch.real)
        micro.handed_on |= {REAL: true, FAKE: false.detach()}
        adversary = generator_term(blurred(micro), false)
        side = models.generator.config.render.box_side
        return {"adversary": adversary.mean(), **part_terms(drawn, weights, side)}

    def density(micro: GenHeadMicroBatch) -> dict[str, Tensor]:
        share = schedule.swapping_at(micro.images_seen)
        return {"density": weights.density * density_roughness(models, micro.batch.drawn, micro.rng, share).mean()}

    def discriminator(micro: GenHeadMicroBatch) -> dict[str, Tensor]:
        return discriminator_terms(blurred(micro), micro.handed_on[REAL], micro.handed_on[FAKE])

    def regularisation(micro: GenHeadMicroBatch) -> dict[str, Tensor]:
        return r1_terms(blurred(micro), micro.handed_on[REAL], weights)

    return [
        Phase("main", "generator", main, counts=True),
        *([Phase("density", "generator", density, every=schedule.density_every)] if weights.density else []),
        Phase("discriminator", "discriminator", discriminator, counts=True),
        Phase("R1", "discriminator", regularisation, every=schedule.r1_every),
    ]


def draw_heads(
    models: GenHeadModels,
    head: HeadParameters,
    rng: torch.Generator,
    swapped_share: float,
    means: MeanStyles | None = None,
) -> DrawnHeads:
    """Draw B heads of parameters and of new noise, with samples jittered along the rays.

    Args:
        rng: draws all that is random, where it is.
        swapped_share: of the heads whose mapping is told the camera of the head before.
        means: takes in the styles, where they are followed.
    """
    generator, render, device = models.generator, models.generator.config.render, head.shape.device
    styles, background_styles = draw_styles(generator, head, rng, swapped_share)
    if means is not None:
        means.add(styles, background_styles)
    planes, background = generator.plane_synthesis.num_styles, generator.background_synthesis.num_styles
    painted = generator.paint(
        generator.mapping.truncated(styles, planes),
        generator.background_mapping.truncated(background_styles, background), "random", rng,
    )  # fmt: skip
    batch, rays = len(head.shape), generator.config.ray_size**2
    jitter = torch.rand(batch, render.num_coarse, generator=rng, device=rng.device)
    uniforms = torch.rand(batch, rays, render.num_fine, generator=rng, device=rng.device)
    return render_heads(models, painted, head, upload(jitter, device), upload(uniforms, device))


def render_heads(
    models: GenHeadModels,
    painted: PaintedHead,
    head: HeadParameters,
    jitter: Tensor | None = None,
    uniforms: Tensor | None = None,
) -> DrawnHeads:
    """Render B painted heads by their parameters; jitter and uniforms are those of `PartRenderer.forward`."""
    generator, geometry = models.generator, models.geometry
    posed = geometry.pose(head)
    masks = geometry.masks(posed, head.camera)
    samples, parts = generator.volume.forward_with_parts(
        painted.planes, head.camera, posed, geometry.regions, masks, None, jitter, uniforms
    )
    rendering = generator.picture(samples, painted.background)
    return DrawnHeads(rendering, parts, masks, geometry.positions(posed, head.camera))


def draw_styles(
    generator: GenHead, head: HeadParameters, rng: torch.Generator, swapped_share: float
) -> tuple[Tensor, Tensor]:
    """Draw noise and return the styles [B, D] of planes and background.

    The mapping is told camera and shape. In the place of its own camera a share of the heads has that of the head
    before, so that a picture does not depend on where it is seen from.
    """
    batch, device = len(head.shape), head.shape.device
    latent = torch.randn(batch, generator.config.latent_width, generator=rng, device=rng.device)
    swapped = torch.rand(batch, 1, generator=rng, device=rng.device) < swapped_share
    latent, swapped = upload(latent, device), upload(swapped, device)
    label = camera_label(head.camera)
    condition = torch.cat([torch.where(swapped, label.roll(1, 0), label), head.shape], 1)
    return generator.mapping(latent, condition), generator.background_mapping(latent)


def part_terms(drawn: DrawnHeads, weights: GenHeadLosses, box_side: float) -> dict[str, Tensor]:
    """Return the weighted terms that keep the face, the eyes and the mouth's inside apart, means over B."""
    rays = drawn.masks.eye[0].numel()
    face_in_eyes, face_in_mouth = face_densities(drawn.parts, rays)
    distortion_eyes, distortion_mouth = distortions(drawn.parts, rays, box_side)
    opacity = drawn.rendering.opacity
    return {
        "face in eyes": weights.face_in_eyes * face_in_eyes.mean(),
        "face in mouth": weights.face_in_mouth * face_in_mouth.mean(),
        "distortion eyes": weights.distortion_eyes * distortion_eyes.mean(),
        "distortion mouth": weights.distortion_mouth * distortion_mouth.mean(),
        "light through eyes": weights.light_through_eyes * light_through(opacity, drawn.masks.eye).mean(),
        "light through mouth": weights.light_through_mouth * light_through(opacity, drawn.masks.mouth).mean(),
    }


def density_roughness(
    models: GenHeadModels, head: HeadParameters, rng: torch.Generator, swapped_share: float
) -> Tensor:
    """Return the mean absolute difference of the raw density at points and beside them, over the three parts: [B].

    The points lie in [-1, 1]³ scene units, further out than the box, as published.
    """
    generator, device = models.generator, head.shape.device
    styles, _ = draw_styles(generator, head, rng, swapped_share)
    planes = generator.planes(generator.mapping.truncated(styles, generator.plane_synthesis.num_styles), "random", rng)
    step = DENSITY_STEP * generator.config.render.box_side / 2  # from plane units
    points = torch.rand(len(styles), DENSITY_POINTS, 3, generator=rng, device=rng.device) * 2 - 1
    beside = points + step * torch.randn(points.shape, generator=rng, device=rng.device)
    both = upload(torch.cat([points, beside], 1), device)
    density = generator.volume.part_densities(planes, both, models.geometry.pose(head), models.geometry.regions)
    return (density[:, :DENSITY_POINTS] - density[:, DENSITY_POINTS:]).abs().mean((1, 2))


def as_fake(drawn: DrawnHeads, head: HeadParameters) -> DiscriminatorInput:
    """Return drawn heads as the discriminator sees them."""
    rendering = drawn.rendering
    return DiscriminatorInput(
        rendering.image, rendering.raw_image, drawn.positions, rendering.opacity * 2 - 1, camera_label(head.camera)
    )


@torch.no_grad()
def as_real(models: GenHeadModels, pictures: RealPictures) -> DiscriminatorInput:
    """Return real pictures as the discriminator sees them."""
    camera, side = pictures.head.camera, models.generator.config.ray_size
    positions = models.geometry.positions(models.geometry.pose(pictures.head), camera)
    return DiscriminatorInput(
        pictures.image, shrink(pictures.image, side), positions, shrink(pictures.mask, side) * 2 - 1,
        camera_label(camera),
    )  # fmt: skip


def seen_from(head: HeadParameters, camera: Camera) -> HeadParameters:
    """Return the same heads before other cameras."""
    return HeadParameters(camera, head.shape, head.expression, head.pose, head.eyes)
