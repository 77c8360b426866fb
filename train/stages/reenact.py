"""Stage 2: reenactment from pseudo multi-views (section 4.3, Eq. 5).

Two pictures of one head, I_s and I_d. The frozen static synthesizer shows I_d from sampled cameras θ_p and θ_q. The
motion v_d is read off the pseudo view I_d(θ_p), and only now and then off the real picture, so that it carries neither
pose nor identity; the reenacted head is seen from the real camera and compared with I_d, or from θ_q and compared with
the pseudo view I_d(θ_q) by the perceptual distance alone.
Letters: B sources.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.motion.encoder import MotionEncoder
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import sample_look_at
from triportrait.core.types import Camera, Driving, Rendering
from triportrait.train.config import LossConfig, Precision, ReenactConfig
from triportrait.train.data.heads.rasterize import project
from triportrait.train.data.pictures import Pictures
from triportrait.train.data.upload import upload
from triportrait.train.engines.schedule import ActiveTerms
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.losses import closed_eye_scale, over_black
from triportrait.train.objectives.perceptual import Perceptual
from triportrait.train.stages.common import (
    RECONSTRUCTION_TERMS,
    HandedOn,
    autocast,
    compare,
    identity_and_adversarial_terms,
    render,
    stage_phases,
)
from triportrait.train.stages.motion import motion_of, read_motion
from triportrait.train.stages.stage import MicroBatch, Phase


@dataclass(frozen=True)
class ReenactBatch:
    """B sources and driving pictures of the same heads with other expressions.

    Attributes:
        source, driving: B pictures each.
        camera_p, camera_q: B sampled cameras each.
        real_driving, real_target: [B] bool, where the real picture takes the pseudo view's place.
    """

    source: Pictures
    driving: Pictures
    camera_p: Camera
    camera_q: Camera
    real_driving: Tensor
    real_target: Tensor

    def to(self, device: torch.device | str) -> ReenactBatch:
        """Return the batch on a device."""
        return upload(self, device)


@dataclass(frozen=True)
class ReenactModels:
    """The networks that stage 2 trains (the portrait, the discriminator) and those that it uses.

    Attributes:
        static: draws pseudo views; None where all is learned from real frames.
        motion_encoder: reads motion off pictures, or gives the parameters that come with the data their units; None:
            motion is those parameters as they are.
        discriminator, identity: see `StaticModels`.
        dynamic: `static` reads the motion of what it draws, as a 4D synthesizer does.
    """

    portrait: Portrait4D
    static: Portrait4D | None
    motion_encoder: MotionEncoder | None
    perceptual: Perceptual
    precision: Precision = "fp32"
    discriminator: Discriminator | None = None
    identity: FaceIdentity | None = None
    dynamic: bool = False


class Pairs(Protocol):
    """What stage 2 draws from: a multi-view set in memory, or stored clips."""

    def pairs(
        self, count: int, front_sources: float, streams: np.random.Generator, place: int, first: int = 0
    ) -> tuple[Pictures, Pictures]:
        """Draw B sources and B driving pictures of the same heads; the arguments alone decide.

        Args:
            front_sources: share of sources that are taken from near the front, where there are several views.
            place: number of the first image, over the whole run and all ranks.
            first: how many heads or clips, from the first on, are drawn from; 0: all.
        """
        ...


def draw(data: Pairs, config: ReenactConfig, rng: np.random.Generator, place: int = 0) -> ReenactBatch:
    """Return a batch; the generator and the number of its first image alone decide."""
    count = config.batch
    source, driving = data.pairs(count, config.front_sources, rng, place, config.clips)
    cameras = torch.Generator().manual_seed(int(rng.integers(2**62)))
    real_driving, real_target = substitutions(config, count, rng)
    return ReenactBatch(
        source=source,
        driving=driving,
        camera_p=sample_look_at(count, cameras, config.camera_p),
        camera_q=sample_look_at(count, cameras, config.camera_q),
        real_driving=real_driving,
        real_target=real_target,
    )


def substitutions(config: ReenactConfig, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Toss two independent coins for each of `count` samples: [count] bool, twice.

    They say whether the motion is read off the real picture, and whether that is the target.
    """
    real_driving = rng.random(count) < config.real_driving
    return torch.from_numpy(real_driving), torch.from_numpy(rng.random(count) < config.real_target)


def move_landmarks(pictures: Pictures, camera: Camera) -> Tensor:
    """Return where the landmarks of pictures appear to other cameras: [B, 68, 2] pixels.

    They are carried by their places in the world, where these are known, else by the depth that is seen at them.
    """
    depth, side = pictures.depth, pictures.image.shape[-1]
    if pictures.points is not None:
        return project(pictures.points.float(), camera, side)[0] + 0.5
    assert depth is not None, "pictures have the one or the other"
    with torch.autocast(pictures.image.device.type, enabled=False):  # half precision would be pixels off
        small = depth.shape[-1]
        at = (pictures.landmarks / side * small).long().clamp(0, small - 1)  # [B, 68, 2]
        rows = torch.arange(len(depth))[:, None]
        along = depth[rows, 0, at[..., 1], at[..., 0]]  # [B, 68]
        from_camera, f = pictures.camera.world_from_camera, pictures.camera.intrinsics[:, 0, 0]
        across = (pictures.landmarks / side - 0.5) / f[:, None, None]
        ray = torch.stack([across[..., 0], -across[..., 1], -torch.ones_like(across[..., 0])], -1)
        ray = along[..., None] * nn.functional.normalize(ray, dim=-1)
        world = ray @ from_camera[:, :3, :3].mT + from_camera[:, None, :3, 3]
        seen = (world - camera.world_from_camera[:, None, :3, 3]) @ camera.world_from_camera[:, :3, :3]  # [B, 68, 3]
        f = camera.intrinsics[:, 0, 0, None, None]
        upright = upload(torch.tensor([1.0, -1.0], dtype=seen.dtype), seen.device)
        flat = f * seen[..., :2] / -seen[..., 2:] * upright + 0.5
        return flat * side


@torch.no_grad()
def pseudo_views(batch: ReenactBatch, models: ReenactModels) -> tuple[Tensor, Tensor]:
    """Return what the frozen static synthesizer makes of the driving pictures.

    Returns:
        v_d [B, M], and the heads [N, 3, S, S] before black from θ_q for the N samples whose target is no real picture.
    """
    static, driving, encoder = models.static, batch.driving, models.motion_encoder
    with autocast(models.precision, driving.image):
        motion = motion_of(driving, encoder).clone()
        targets = driving.image[:0]
        (p,), (q,) = ((~real).nonzero(as_tuple=True) for real in (batch.real_driving, batch.real_target))
        is_seen = ~(batch.real_driving & batch.real_target)
        if not is_seen.any():
            return motion, targets
        assert static is not None, "pseudo views have somebody who draws them"
        neck = None if driving.neck is None else driving.neck.take(is_seen)
        true_motion = motion[is_seen] if models.dynamic else None
        head = static.reenact(static.prepare(driving.image[is_seen], true_motion), Driving(true_motion, neck))
        place = is_seen.cumsum(0) - 1  # of a sample among those that are seen
        if len(p) and encoder is not None and encoder.crop_size is not None:
            view_p = static.render(head.take(place[p]), batch.camera_p.take(p)).image.clamp(-1, 1)
            motion[p] = read_motion(encoder, view_p, move_landmarks(driving, batch.camera_p)[p])
        if len(q):
            targets = _foreground(static.render(head.take(place[q]), batch.camera_q.take(q)))
    return motion, targets


def losses(
    batch: ReenactBatch,
    models: ReenactModels,
    config: LossConfig,
    rng: torch.Generator,
    active: ActiveTerms = RECONSTRUCTION_TERMS,
    handed_on: HandedOn | None = None,
) -> dict[str, Tensor]:
    """Return the weighted terms of Eq. 5: all of stage 1 but depth for real targets, one for pseudo views.

    Args:
        active: which terms are on.
        handed_on: takes the real and the fake pictures for the discriminator; only real targets are shown to it.
    """
    portrait, driving, is_real = models.portrait, batch.driving, batch.real_target
    motion, targets = pseudo_views(batch, models)
    with autocast(models.precision, driving.image):
        with torch.no_grad():
            source_motion = motion_of(batch.source, models.motion_encoder)
        head = portrait.reenact(portrait.prepare(batch.source.image, source_motion), Driving(motion, driving.neck))
        seen = replace(driving, camera=_where(is_real, driving.camera, batch.camera_q))
        rendering = render(portrait, head, seen, rng, active.neural_size)
    terms = {name: value * is_real for name, value in compare(rendering, driving, models.perceptual, config).items()}
    pseudo = rendering.image.new_zeros(len(is_real))
    if len(targets):
        pseudo[~is_real] = config.perceptual * models.perceptual(_foreground(rendering)[~is_real], targets)
    terms["pseudo"] = pseudo
    terms |= identity_and_adversarial_terms(models, rendering, driving, is_real, config, active, handed_on)
    return {name: value.mean() for name, value in terms.items()}


def pseudo_view_loss(batch: ReenactBatch, models: ReenactModels, rng: torch.Generator) -> Tensor:
    """Return the published form of the pseudo views' term: a phase of its own, straight necks, eyes that close, [B].

    v_d is what the main phase takes: most of it read off the pseudo views from θ_p.
    """
    portrait, static, driving, source = models.portrait, models.static, batch.driving, batch.source
    assert static is not None, "pseudo views have somebody who draws them"
    with autocast(models.precision, driving.image), torch.no_grad():
        motion, _ = pseudo_views(replace(batch, real_target=torch.ones_like(batch.real_target)), models)
        source_motion = motion_of(source, models.motion_encoder)
        true_motion = motion_of(driving, models.motion_encoder) if models.dynamic else None
        head = static.reenact(static.prepare(driving.image, true_motion), Driving(true_motion))
        scale = closed_eye_scale(driving.landmarks)
        targets = _foreground(static.render(head, batch.camera_q, box_scale=scale))
    with autocast(models.precision, driving.image):
        head = portrait.reenact(portrait.prepare(source.image, source_motion), Driving(motion))
        rendering = render(portrait, head, replace(driving, camera=batch.camera_q), rng)
    return models.perceptual(_foreground(rendering), targets)


def phases(models: ReenactModels, config: ReenactConfig) -> list[Phase[ReenactBatch]]:
    """Return what a step of stage 2 does: the generator, pseudo views in a phase, the discriminator, R1."""

    def pseudo(micro: MicroBatch[ReenactBatch]) -> dict[str, Tensor]:
        value = pseudo_view_loss(micro.batch, models, micro.rng) * config.losses.perceptual
        return {"pseudo view": value.mean()}

    every = config.schedule.pseudo_every
    return stage_phases(
        models, config, losses, [Phase("pseudo views", "generator", pseudo, every=every)] if every else []
    )


def _foreground(rendering: Rendering) -> Tensor:
    """Return the picture with black behind the head."""
    size = rendering.image.shape[-2:]
    opacity = nn.functional.interpolate(rendering.opacity, size=size, mode="bilinear", align_corners=False)
    return over_black(rendering.image, opacity)


def _where(first: Tensor, one: Camera, other: Camera) -> Camera:
    """Choose [B] cameras: `one` where `first` is true, else `other`."""
    rows = first[:, None, None]
    return Camera(
        torch.where(rows, one.world_from_camera, other.world_from_camera),
        torch.where(rows, one.intrinsics, other.intrinsics),
    )
