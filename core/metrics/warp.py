"""Crop a face by a similarity: a turn, a scale and a shift, written as complex numbers. Letters: B batch, P points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Fit turn and shift, complex [B], so that turn * source + shift is nearest to target [B, P] in mean square."""
    middle, aim = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    away = source - middle
    turn = (away.conj() * (target - aim)).sum(1) / away.abs().square().sum(1)
    return turn, aim[:, 0] - turn * middle[:, 0]


def similarity_crop(image: Tensor, turn: Tensor, shift: Tensor, side: int) -> Tensor:
    """Resample pictures [B, C, H, W] bilinearly where turn * pixel + shift, complex [B], lies in the crop.

    Returns:
        [B, C, side, side]; 0 beyond the picture. Differentiable in the image.
    """
    pixel = torch.arange(side, device=image.device, dtype=torch.float32)
    down, across = torch.meshgrid(pixel, pixel, indexing="ij")
    at = (torch.complex(across, down) - shift[:, None, None]) / turn[:, None, None]
    height, width = image.shape[-2:]
    grid = torch.stack((at.real * (2 / (width - 1)) - 1, at.imag * (2 / (height - 1)) - 1), -1)
    return F.grid_sample(image, grid.to(image.dtype), mode="bilinear", padding_mode="zeros", align_corners=True)
