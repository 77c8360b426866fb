"""Smoothing by the filter [1, 3, 3, 1] / 8 in both directions, as super-resolution uses it.

Letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import shapes

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def _taps(image: Tensor, gain: float) -> Tensor:
    return torch.tensor(TAPS, dtype=image.dtype, device=image.device) * gain


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
    C = shapes(image=(image, "B C H W")).C
    taps = _taps(image, gain**0.5)
    rows = F.conv2d(image, taps.view(1, 1, 4, 1).expand(C, 1, 4, 1), padding=(1, 0), groups=C)
    return F.conv2d(rows, taps.view(1, 1, 1, 4).expand(C, 1, 1, 4), padding=(0, 1), groups=C)


def upsample_fir(image: Tensor) -> Tensor:
    """Double the size of an image: zeros in between, then the filter with gain 4.

    Args:
        image: [B, C, H, W].

    Returns:
        [B, C, 2H, 2W]. A constant image stays constant away from the border.

    Raises:
        ValueError: a shape disagrees.
    """
    C = shapes(image=(image, "B C H W")).C
    taps = _taps(image, 2.0)
    kernel = (taps[:, None] * taps[None, :]).expand(C, 1, 4, 4)
    return F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=C)
