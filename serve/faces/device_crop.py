"""Cuts squares out of pictures on the device, as `Alignment.crop` does: Pillow's Lanczos filter as matrix products.

The places of the squares are numbers of the device, so that nothing waits for them; how large the matrices are follows
from the largest square that is taken.
Letters: B pictures, H, W rows and columns of the canvas they lie in, S side of the crops, K taps of the filter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from triportrait.serve.faces.alignment import LANCZOS_REACH, LARGEST_SHARE


def cut_squares(canvas: Tensor, sizes: Tensor, left: Tensor, top: Tensor, side: Tensor, size_px: int) -> Tensor:
    """Cut a square out of each picture, with the picture's edge repeated beyond it.

    Args:
        canvas: [B, 3, H, W] levels 0 to 255 in float32; pictures begin at its first pixel.
        sizes: [B, 2] rows and columns of each picture in it.
        left, top, side: [B] float64, as of `Alignment`; a side is at most LARGEST_SHARE of the canvas's longer side.
        size_px: S.

    Returns:
        uint8 [B, S, S, 3].
    """
    B, _, H, W = canvas.shape
    most_step = LARGEST_SHARE * max(H, W) / size_px
    with torch.autocast(canvas.device.type, enabled=False):
        starts, counts = torch.cat([left, top]), torch.cat([sizes[:, 1], sizes[:, 0]])
        both = _weights(starts, side.repeat(2), counts, size_px, max(H, W), most_step)
        across, down = both[:B, :, :W], both[B:, :, :H]  # [B, S, W] and [B, S, H]
        # Pillow filters rows first, and rounds what comes between to whole levels.
        rows = _levels(canvas.reshape(B, 3 * H, W) @ across.mT).reshape(B, 3, H, size_px)
        crops = _levels(down[:, None] @ rows)
        return crops.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _levels(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _weights(start: Tensor, side: Tensor, count: Tensor, size_px: int, width: int, most_step: float) -> Tensor:
    """Compute what each of `width` pixels of the canvas adds to each pixel of the crop, float32 [B, S, width]."""
    step = (side / size_px)[:, None]
    wide = step.clamp(min=1.0)  # of the filter: enlarged where the picture is reduced
    middle = start[:, None] + (torch.arange(size_px, device=start.device) + 0.5) * step  # [B, S]
    first = (middle - LANCZOS_REACH * wide + 0.5).floor()
    end = (middle + LANCZOS_REACH * wide + 0.5).floor()
    most = 2 * math.ceil(LANCZOS_REACH * max(1.0, most_step)) + 1
    taps = first[..., None] + torch.arange(most, device=start.device)  # [B, S, K] pixels, some beyond the picture
    weights = _lanczos((taps + 0.5 - middle[..., None]) / wide[..., None]) * (taps < end[..., None])
    last = (count[:, None, None] - 1).to(start)
    before, behind = ((weights * beyond).sum(2, keepdim=True) for beyond in (taps < 0, taps > last))
    pixels = torch.arange(width, device=start.device, dtype=start.dtype)
    seen = (pixels >= first[..., None]) & (pixels < end[..., None]) & (pixels <= last)
    inside = _lanczos((pixels + 0.5 - middle[..., None]) / wide[..., None]) * seen
    inside = inside + before * (pixels == 0) + behind * (pixels == last)
    return inside / weights.sum(2, keepdim=True)


def _lanczos(places: Tensor) -> Tensor:
    """Compute sinc(x) sinc(x / 3) of float64 places within the filter's reach, in float32, zero beyond."""
    x = places.float()
    return (torch.sinc(x) * torch.sinc(x / LANCZOS_REACH)) * ((x >= -LANCZOS_REACH) & (x < LANCZOS_REACH))
