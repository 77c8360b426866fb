"""Measure how near a picture is to its truth. Letters: B pictures, S their side, h side of the ray grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from triportrait.core.metrics.torchvision_ops import declare

FEWEST_PX = 50  # a face of fewer pixels is left out
LEAST_ERROR = 1e-10  # pictures that agree get 100 dB
OPAQUE = 0.9
LEAST_SLOPE = 1e-6  # of a truth without detail


def psnr(picture: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the peak signal to noise ratio of pictures [B, 3, S, S] in [-1, 1], measured on [0, 1]: [B] dB.

    Args:
        mask: [B, 1, S, S], 1.0 where pixels count; the result is NaN where fewer than FEWEST_PX do.
    """
    error = (_unit(picture) - _unit(truth)).square().mean(1, keepdim=True)
    return -10 * _mean(error, mask).clamp(min=LEAST_ERROR).log10()


def ssim(picture: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the structural similarity of pictures [B, 3, S, S] in [-1, 1]: [B], 1 at best; `mask` as in `psnr`."""
    declare()
    from torchmetrics.functional.image import structural_similarity_index_measure

    whole, everywhere = structural_similarity_index_measure(
        _unit(picture), _unit(truth), data_range=1.0, reduction="none", return_full_image=True
    )
    return whole if mask is None else _mean(everywhere.mean(1, keepdim=True), mask)


def sharpness(picture: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how sharp pictures [B, 3, S, S] in [-1, 1] are beside the truth: [B], 1 as sharp, less is softer.

    It is the mean length of the gradient of the brightness, over that of the truth; `mask` as in `psnr`.
    """
    slope, true_slope = (_mean(_slope(_unit(x).mean(1, keepdim=True)), mask) for x in (picture, truth))
    return slope / true_slope.clamp(min=LEAST_SLOPE)


def _slope(brightness: Tensor) -> Tensor:
    """Return the length of the gradient of [B, 1, S, S], per pixel; 0 along the last row and column."""
    across, down = torch.zeros_like(brightness), torch.zeros_like(brightness)
    across[..., :-1] = brightness[..., 1:] - brightness[..., :-1]
    down[..., :-1, :] = brightness[..., 1:, :] - brightness[..., :-1, :]
    return (across.square() + down.square()).sqrt()


def opacity_iou(opacity: Tensor, truth: Tensor) -> Tensor:
    """Return the intersection over union of opacities [B, 1, h, h] above a half: [B], 1 for two empty pictures."""
    opaque, truly_opaque = opacity > 0.5, truth > 0.5
    intersection = (opaque & truly_opaque).sum((1, 2, 3))
    union = (opaque | truly_opaque).sum((1, 2, 3))
    return torch.where(union > 0, intersection / union.clamp(min=1), torch.ones(len(union), device=union.device))


def depth_error(depth: Tensor, truth: Tensor, opacity: Tensor) -> Tensor:
    """Return the mean error of depths [B, 1, h, h] where the truth is opaque: [B] scene units, NaN without any."""
    inside = (opacity > OPAQUE).float()
    count = inside.sum((1, 2, 3))
    mean = ((depth - truth).abs() * inside).sum((1, 2, 3)) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.full_like(mean, torch.nan))


def agreement(pictures: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean PSNR, over all pairs inside a mask, of N pictures [B, 3, S, S] that should agree: [B] dB."""
    return torch.stack([psnr(one, other, mask) for one, other in combinations(pictures, 2)]).mean(0)


def _unit(picture: Tensor) -> Tensor:
    return (picture.clamp(-1, 1) + 1) / 2


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of [B, 1, S, S] over a mask, [B]."""
    if mask is None:
        return values.mean((1, 2, 3))
    count = mask.sum((1, 2, 3))
    mean = (values * mask).sum((1, 2, 3)) / count.clamp(min=1)
    return torch.where(count >= FEWEST_PX, mean, torch.full_like(mean, torch.nan))
