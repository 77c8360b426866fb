"""The published schedule with the interface of the joint solve: frames that do not know of each other.

Letters: N clips, T frames, P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.tracking.fit import Fitted, Start, nearest_known
from triportrait.core.tracking.head_model import HeadModel
from triportrait.core.tracking.pinhole import Pinhole
from triportrait.core.tracking.point_model import JOINT_ANGLES
from triportrait.core.tracking.published_fit import STEPS, TRANSLATION_STEPS, lid_table, published_fit

FIRST_Z = -3 / (math.tan(math.radians(6)) * 6.2189)  # scene units, where the published schedule has a head begin


def published_clip(
    model: HeadModel,
    landmarks: Tensor,
    weights: Tensor,
    camera: Pinhole,
    start: Start | None = None,
    shape: Tensor | None = None,
    steps: tuple[int, int] = (TRANSLATION_STEPS, STEPS),
) -> Fitted:
    """Fit [N, T] or [T] pictures by the published schedule, in float32.

    Args:
        landmarks: [(N,) T, 70, 2], all seen: the schedule knows no weights. A picture with less than all of them gets
            the answer of the nearest that has them, and its weights are 0.
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
    flame, S = model.flame.to(landmarks.device), model.num_shape
    B, E = N * T, flame["shape_directions"].shape[-1] - S
    near = nearest_known(whole.flatten()[None])[0]
    pixels, counted = landmarks.flatten(0, 1).float()[near], weights.flatten(0, 1)[near]
    zero = pixels.new_zeros
    jaw = zero(B, 3) if start is None else start.jaw.flatten(0, 1).float()
    betas = None
    if start is not None:
        betas = torch.cat([start.shape[:, None].expand(-1, T, -1), start.expression], -1).flatten(0, 1).float()
    begun = zero(B, S + E) if betas is None else betas
    vertices, _ = flame(begun, zero(B, 3), jaw, zero(B, 6))
    points = flame.landmarks(vertices)
    rotation, at = camera.first_pose(points, pixels, counted.float())
    if start is not None and start.rotation is not None:
        rotation = start.rotation.flatten(0, 1).float()
        at = zero(B, 3) + zero(3).index_fill(0, torch.tensor([2], device=pixels.device), FIRST_Z)
    found = published_fit(
        flame, S, pixels, camera, rotation, at, jaw, betas, lid_table(flame) if betas is not None else None, steps=steps
    )
    angles = torch.cat([jaw, found.eyes, found.eyes], 1)
    kept = torch.where(whole.flatten()[:, None], counted, 0.0)
    posed, _ = flame(torch.cat([found.shape, found.expression], 1), zero(B, 3), jaw, angles[:, 3:])
    off = camera.project(flame.landmarks(posed) @ rotation.mT + found.translation[:, None]) - pixels
    error = off.square().sum(-1).mean(-1).sqrt()
    assert angles.shape[1] == JOINT_ANGLES
    parts = (found.expression, angles, rotation, found.translation, kept, error)
    expression, angles, rotation, at, kept, error = (part.double().unflatten(0, (N, T)) for part in parts)
    shares = whole[..., None] / whole.sum(1).clamp(min=1)[:, None, None]
    mean = (found.shape.double().unflatten(0, (N, T)) * shares).sum(1)
    return Fitted(mean, expression, angles, rotation, at, kept, error)
