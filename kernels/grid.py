"""Values of 3D points from a regular grid, trilinear, zero outside.

Letters: B batch, P points, X Y Z the sides of the grid, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import lifted, shapes


def lookup_grid(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear lookup in a grid whose outermost nodes lie at -1 and 1.

    Args:
        grid: [B, X, Y, Z, C], channels last; `grid[b, i, j, k]` is the value at the i-th x, j-th y and k-th z.
        points: [B, P, 3], grid units. Beyond the outermost nodes the value fades to zero over one cell.

    Returns:
        [B, P, C].

    Raises:
        ValueError: a shape disagrees.

    Differentiable in both.
    """
    shapes(grid=(grid, "B X Y Z C"), points=(points, "B P 3"))
    flipped = points.flip(-1)[:, None, None]  # [B, 1, 1, P, 3]: grid_sample wants the innermost axis first
    wide = lifted(grid)
    values = F.grid_sample(wide.permute(0, 4, 1, 2, 3), flipped.to(wide.dtype), align_corners=True)
    return values[:, :, 0, 0].mT.to(grid.dtype)  # [B, P, C]
