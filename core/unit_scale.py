"""Layers that store weights at unit scale: the gain 1 / sqrt(inputs) is applied when they are used.

So every weight learns at one rate, whatever the layer's width. The mappings of the generator and of the discriminator
are made of them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.kernels.bias_act import GAIN, LEAK

MOMENT_FLOOR = 1e-8


class Linear(nn.Module):
    """A linear layer at unit scale; `lr_multiplier` is a factor on the learning rate of weight and bias."""

    def __init__(self, in_width: int, out_width: int, activates: bool, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.activates, self.lr_multiplier = activates, lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_width, in_width) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(out_width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, I] to [B, O]."""
        weight = self.weight * (self.lr_multiplier / math.sqrt(self.weight.shape[1]))
        x = F.linear(x, weight, self.bias * self.lr_multiplier)
        return F.leaky_relu(x, LEAK) * GAIN if self.activates else x


def unit_moment(x: Tensor) -> Tensor:
    """Scale vectors [B, D] so that the mean of their squares is 1."""
    return x * (x.square().mean(1, keepdim=True) + MOMENT_FLOOR).rsqrt()
