"""Converts uint8 pictures to tensors that the network reads, and back."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triportrait.serve.media.provenance.watermark import mark


def to_size(image: np.ndarray, size_px: int) -> np.ndarray:
    """Resize the middle square of uint8 [H, W, 3] to size_px x size_px (Lanczos)."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side == size_px:
        return square
    return np.asarray(Image.fromarray(square).resize((size_px, size_px), Image.Resampling.LANCZOS))


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 [B, S, S, 3] to float32 [B, 3, S, S] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Scale [B, 3, S, S] in [-1, 1] to uint8 [B, S, S, 3]; anything beyond is clamped."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def finished(images: Tensor, signs: Tensor) -> tuple[Tensor, ...]:
    """Convert images to pictures, give them watermarks where there are signs, and add whether they are finite.

    Args:
        images: [B, 3, S, S] in [-1, 1]. signs: [B, 64], or [B, 0] where there are none.

    Returns:
        The pictures uint8 [B, S, S, 3]; the marked ones, too, where there are signs; and [B], whether they are finite.
    """
    pictures, finite = to_uint8(images), images.isfinite().flatten(1).all(1)
    return (pictures, finite) if signs.shape[1] == 0 else (pictures, mark(pictures, signs), finite)
