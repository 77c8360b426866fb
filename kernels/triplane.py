"""Features of 3D points: the mean over three axis-aligned planes (paper, Eq. 1, the argument of the MLP).

    feature(x) = (T_xy(x, y) + T_yz(y, z) + T_zx(z, x)) / 3,   T(u, v) bilinear, zero outside the plane

The paper writes a sum; the published network takes the mean, and so does this operator.
Letters: B batch, P points, H W height and width of a plane, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import lifted, shapes


def sample_triplane(planes: Tensor, points: Tensor) -> Tensor:
    """Sample three feature planes at 3D points and average.

    Args:
        planes: [B, 3, H, W, C], the planes xy, yz, zx, channels last. The first coordinate of a pair runs along W, the
            second along H, so row 0 is the lowest value of the second coordinate.
        points: [B, P, 3], plane units: the planes cover [-1, 1]; texels are cells, their centres half a cell inside.

    Returns:
        [B, P, C], the dtype of `planes`. A tap outside the plane counts as zero.

    Raises:
        ValueError: a shape disagrees.

    Differentiable in `planes` and `points`.
    """
    shapes(planes=(planes, "B 3 H W C"), points=(points, "B P 3"))
    B, _, H, W, C = planes.shape
    wide = lifted(planes)
    zx = torch.stack([points[..., 2], points[..., 0]], -1)
    pairs = torch.stack([points[..., :2], points[..., 1:], zx], 1)  # [B, 3, P, 2]
    taps = F.grid_sample(
        wide.reshape(B * 3, H, W, C).permute(0, 3, 1, 2),  # [B*3, C, H, W], still channels last in memory
        pairs.reshape(B * 3, 1, -1, 2).to(wide.dtype),
        align_corners=False,
    )  # [B*3, C, 1, P]
    return taps.view(B, 3, C, -1).mean(1).mT.to(planes.dtype)  # [B, P, C]
