"""Smoothing by the filter [1, 3, 3, 1] / 8 in both directions, as super-resolution uses it.

Letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import shapes

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def smooth_fir(image: Tensor, gain: float = 1.0) -> Tensor:
    """Filter an image that is padded by one zero on each side.

    Args:
        image: [B, C, H, W].
        gain: factor on the result.

    Returns:
        [B, C, H-1, W-1].

    Raises:
        ValueError: a shape disagrees.
    """
    shapes(image=(image, "B C H W"))
    return _smooth(_smooth(F.pad(image, (1, 1, 1, 1)), -2), -1) * gain


def upsample_fir(image: Tensor) -> Tensor:
    """Double the size of an image: zeros in between, then the filter with gain 4.

    Args:
        image: [B, C, H, W].

    Returns:
        [B, C, 2H, 2W]. A constant image stays constant away from the border.

    Raises:
        ValueError: a shape disagrees.
    """
    shapes(image=(image, "B C H W"))
    return _double(_double(image, -2), -1)


def _smooth(image: Tensor, dim: int) -> Tensor:
    """The filter along one dimension, over the image as it is: three shorter."""
    size = image.shape[dim] - 3
    near = image.narrow(dim, 1, size) + image.narrow(dim, 2, size)
    far = image.narrow(dim, 0, size) + image.narrow(dim, 3, size)
    return TAPS[1] * near + TAPS[0] * far


def _double(image: Tensor, dim: int) -> Tensor:
    """Zeros in between and the filter with gain 2 along one dimension: each new value sees two old ones."""
    size = image.shape[dim]
    padded = F.pad(image, (1, 1) if dim == -1 else (0, 0, 1, 1))
    before, here, after = (padded.narrow(dim, i, size) for i in range(3))
    even, odd = TAPS[1] * here + TAPS[0] * before, TAPS[1] * here + TAPS[0] * after
    return 2 * torch.stack([even, odd], dim).flatten(dim - 1, dim)
