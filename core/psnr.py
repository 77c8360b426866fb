"""Compute the peak signal to noise ratio of two pictures."""

from __future__ import annotations

import math

from torch import Tensor


def psnr(image: Tensor, truth: Tensor, peak: float | None = None) -> float:
    """Return the PSNR in dB: 0 where the error is not finite, infinity where there is none.

    Args:
        image, truth: pictures of one shape.
        peak: the range of the values; None takes pictures in [-1, 1] and clamps both to it.
    """
    image, truth = image.float(), truth.float()
    if peak is None:
        image, truth, peak = image.clamp(-1, 1), truth.clamp(-1, 1), 2.0
    error = (image - truth).square().mean().item()
    if not math.isfinite(error):
        return 0.0
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)
