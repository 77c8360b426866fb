"""The published schedule with the interface of the joint solve: frames that do not know of each other.

Letters: N clips, T frames, P points.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame
from triportrait.core.tracking.fit import Fitted, Start, nearest_known
from triportrait.core.tracking.head_model import HeadModel
from triportrait.core.tracking.pinhole import Pinhole
from triportrait.core.tracking.point_model import JOINT_ANGLES
from triportrait.core.tracking.published_fit import STEPS, TRANSLATION_STEPS, lid_table, published_fit

FIRST_Z = -3 / (math.tan(math.radians(6)) * 6.2189)  # scene units, where the published schedule has a head begin
AT_ONCE = 100  # pictures of one solve, as published


def published_clip(
    model: HeadModel,
    landmarks: Tensor,
    weights: Tensor,
    camera: Pinhole,
    start: Start | None = None,
    shape: Tensor | None = None,
    steps: tuple[int, int] = (TRANSLATION_STEPS, STEPS),
) -> Fitted:
    """Fit [N, T] or [T] pictures by the published schedule, in float32, a hundred at once, as published.

    Args:
        landmarks: [(N,) T, 70, 2], all seen: the schedule knows no weights. A picture with less than all of them gets
            the answer of the nearest of its clip that has them, its weights are 0 and its error is NaN; where a clip
            has none, its pictures are the mean face, straight ahead.
        weights: [(N,) T, 70].
        start: [N, ...]; None begins at the mean face with a pose in closed form, and a start with a rotation 4.59 units
            before the camera, as published.
        shape: not taken.

    Raises:
        InputError: a shape is given, or no picture has all landmarks.
    """
    if shape is not None:
        raise InputError("shape: expected none with the published schedule, which fits each picture by itself")
    if landmarks.ndim == 3:
        landmarks, weights = landmarks[None], weights[None]
    N, T = landmarks.shape[:2]
    whole = (weights > 0).all(-1)
    if not bool(whole.any()):
        raise InputError("landmarks: the published schedule expects all 70 of a picture, and none has them")
    flame = copy.deepcopy(model.flame).to(landmarks.device)  # the caller's stays where it is
    lids = None if start is None else lid_table(flame, model.mesh).to(landmarks.device)
    known = whole.flatten().nonzero()[:, 0]
    parts = []
    for rows in known.split(AT_ONCE):
        clips, frames = rows // T, rows % T
        begun = None if start is None else _start_of(start, clips, frames)
        pixels, counted = landmarks[clips, frames].float(), weights[clips, frames].float()
        parts.append(_fit_pictures(flame, model.num_shape, pixels, counted, camera, begun, lids, steps))
    found = _Pictures(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))
    # others get the answer of the nearest of their clip, or the mean face where it has none
    near = nearest_known(whole) + T * torch.arange(N, device=whole.device)[:, None]
    answer = (whole.flatten().cumsum(0) - 1)[near].clamp(min=0)  # [N, T] rows of what was found
    any_whole = whole.any(1)

    def placed(values: Tensor, blank: Tensor) -> Tensor:
        spread = values.double()[answer]
        return torch.where(any_whole.view(-1, *[1] * (spread.ndim - 1)), spread, blank.to(spread))

    zero = torch.zeros(())
    kept = torch.where(whole[..., None], weights.double(), 0.0)
    shares = whole[..., None] / whole.sum(1).clamp(min=1)[:, None, None]
    return Fitted(
        shape=(placed(found.shape, zero) * shares).sum(1),
        expression=placed(found.expression, zero),
        angles=placed(found.angles, zero),
        rotation=placed(found.rotation, torch.eye(3)),
        translation=placed(found.translation, torch.tensor([0.0, 0.0, FIRST_Z])),
        weights=kept,
        error_px=torch.where(whole, placed(found.error_px, zero), torch.nan),
    )


@dataclass(frozen=True)
class _Start:
    """The start of B pictures, float32: betas [B, K], jaw [B, 3], rotation [B, 3, 3] or None."""

    betas: Tensor
    jaw: Tensor
    rotation: Tensor | None


@dataclass(frozen=True)
class _Pictures:
    """What was found of B pictures, as in `Fitted`; each has a shape of its own, [B, S]."""

    shape: Tensor
    expression: Tensor
    angles: Tensor
    rotation: Tensor
    translation: Tensor
    error_px: Tensor


def _start_of(start: Start, clips: Tensor, frames: Tensor) -> _Start:
    """Take frames [B] of clips [B] of a start."""
    betas = torch.cat([start.shape[clips], start.expression[clips, frames]], -1).float()
    rotation = None if start.rotation is None else start.rotation[clips, frames].float()
    return _Start(betas, start.jaw[clips, frames].float(), rotation)


def _fit_pictures(
    flame: Flame,
    num_shape: int,
    pixels: Tensor,
    weights: Tensor,
    camera: Pinhole,
    start: _Start | None,
    lids: Tensor | None,
    steps: tuple[int, int],
) -> _Pictures:
    """Fit B pictures, pixels [B, 70, 2], each with all its landmarks."""
    B, zero = len(pixels), pixels.new_zeros
    jaw = zero(B, 3) if start is None else start.jaw
    begun = zero(B, flame["shape_directions"].shape[-1]) if start is None else start.betas
    vertices, _ = flame(begun, zero(B, 3), jaw, zero(B, 6))
    rotation, at = camera.first_pose(flame.landmarks(vertices), pixels, weights)
    if start is not None and start.rotation is not None:
        rotation, at = start.rotation, pixels.new_tensor([0.0, 0.0, FIRST_Z]).repeat(B, 1)
    betas = None if start is None else begun
    found = published_fit(flame, num_shape, pixels, camera, rotation, at, jaw, betas, lids, steps=steps)
    angles = torch.cat([jaw, found.eyes, found.eyes], 1)
    assert angles.shape[1] == JOINT_ANGLES
    posed, _ = flame(torch.cat([found.shape, found.expression], 1), zero(B, 3), jaw, angles[:, 3:])
    off = camera.project(flame.landmarks(posed) @ rotation.mT + found.translation[:, None]) - pixels
    error = off.square().sum(-1).mean(-1).sqrt()
    return _Pictures(found.shape, found.expression, angles, rotation, found.translation, error)
