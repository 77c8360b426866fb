"""The terms of Eq. 2 and Eq. 5, each a plain function of a rendering and its truth.

Letters: B batch, S side of a picture, h side of the ray grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EYES_AND_MOUTH = ((36, 42), (42, 48), (48, 68))  # of the 68 landmarks
SPREAD = 0.75  # radius of what counts more, in extents of the eye or mouth
FLOOR_PX = 1.5


def feature_weight(landmarks: Tensor, size: int, factor: float) -> Tensor:
    """A map that makes eyes and mouth count more; they are under 5 % of the pixels.

    Args:
        landmarks: [B, 68, 2] pixels of a picture of side `size`, the centre of the first pixel at 0.5.
        factor: how much more their centres count.

    Returns:
        [B, 1, size, size]: 1 + factor around each eye and the mouth, 1 far away, divided by its mean.
    """
    pixel = torch.arange(size, device=landmarks.device) + 0.5
    weight = landmarks.new_zeros(len(landmarks), size, size)
    for start, end in EYES_AND_MOUTH:
        points = landmarks[:, start:end]
        centre = points.mean(1)  # [B, 2]
        radius = SPREAD * (points.amax(1) - points.amin(1)).amax(-1) / 2 + FLOOR_PX
        across = (pixel - centre[:, :1]) / radius[:, None]  # [B, S]
        down = (pixel - centre[:, 1:]) / radius[:, None]
        bump = torch.exp(-0.5 * (across[:, None, :].square() + down[:, :, None].square()))
        weight = torch.maximum(weight, bump)
    weight = 1 + factor * weight[:, None]
    return weight / weight.mean((2, 3), keepdim=True)


def l1(picture: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of pictures [B, C, S, S], with a weight [B, 1, S, S] of mean 1 -> [B]."""
    difference = (picture - target).abs()
    return (difference if weight is None else weight * difference).mean((1, 2, 3))


def opacity_loss(opacity: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of opacities [B, 1, h, h] in [0, 1] -> [B]."""
    return (opacity - target).abs().mean((1, 2, 3))


def depth_loss(depth: Tensor, target: Tensor, opacity: Tensor) -> Tensor:
    """Mean absolute difference of depths [B, 1, h, h] in scene units where the truth is opaque -> [B]."""
    inside = (opacity > 0.9).float()
    return ((depth - target).abs() * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)


def shrink(picture: Tensor, size: int) -> Tensor:
    """[B, C, S, S] -> [B, C, size, size], the mean of what each pixel covers (the raw picture's truth)."""
    if picture.shape[-1] == size:
        return picture
    return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
