"""Pixel shuffle that keeps channels last on a GPU, where PyTorch's own gives them up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.bias_act import layout


def pixel_shuffle(x: Tensor) -> Tensor:
    """Rearrange [B, 4C, H, W] to [B, C, 2H, 2W] as `F.pixel_shuffle(x, 2)` does; channels that are last stay last.

    On CUDA PyTorch's own result is contiguous whatever the input is, and a convolution whose weight has its channels
    last copies it once more.
    """
    if x.device.type != "cuda" or layout(x) != torch.channels_last:
        return F.pixel_shuffle(x, 2)
    return shuffled_channels_last(x)


def shuffled_channels_last(x: Tensor) -> Tensor:
    """Shuffle with one copy, whose result has its channels last."""
    B, channels, H, W = x.shape
    cells = x.unflatten(1, (channels // 4, 2, 2)).permute(0, 4, 2, 5, 3, 1)  # [B, H, 2, W, 2, C]
    return cells.reshape(B, 2 * H, 2 * W, channels // 4).permute(0, 3, 1, 2)
