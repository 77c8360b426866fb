"""Shrink pictures by averaging."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def shrink(picture: Tensor, size: int) -> Tensor:
    """Shrink [B, C, S, S] to [B, C, size, size]: each pixel is the mean of what it covers, as of a raw picture."""
    if picture.shape[-1] == size:
        return picture
    return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
