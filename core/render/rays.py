"""The rays of a camera: one for each cell of the ray grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.types import Camera


def camera_rays(camera: Camera, size: int) -> tuple[Tensor, Tensor]:
    """Make rays through the centres of a size x size grid, in reading order.

    Args:
        camera: B cameras.
        size: side of the grid.

    Returns:
        origins [B, 1, 3] in world units, the same for all rays of an image; directions [B, R, 3], unit length,
        R = size², ray i * size + j belongs to row i (from the top) and column j.
    """
    K = camera.intrinsics
    fx, fy, cx, cy, skew = (K[:, a, b, None, None] for a, b in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    centres = (torch.arange(size, device=K.device, dtype=K.dtype) + 0.5) / size
    v, u = centres[None, :, None], centres[None, None, :]
    x = (u - cx + cy * skew / fy - skew * v / fy) / fx  # [B, size, size]
    y = (-(v - cy) / fy).expand_as(x)
    pixels = torch.stack([x, y, -torch.ones_like(x)], -1).flatten(1, 2)  # [B, R, 3], camera frame
    directions = F.normalize(pixels @ camera.world_from_camera[:, :3, :3].mT, dim=-1)
    return camera.world_from_camera[:, None, :3, 3], directions
