"""Stand-ins for LPIPS, for machines without VGG's weights, are fixed networks that compare structure, not pixels.

A perceptual distance is called with two pictures and, optionally, a map of weights; see `Perceptual`.
Letters: B batch, S side of the pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.errors import InputError
from triportrait.train.objectives.lpips_distance import Lpips


class Perceptual(Protocol):
    """A perceptual distance, which can be moved to a device."""

    def to(self, device: torch.device | str) -> Any:
        """Move the distance to a device."""
        ...

    def __call__(self, picture: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return distances [B] of pictures [B, 3, S, S] in [-1, 1]; a weight [B, 1, S, S] has a mean of about 1."""
        ...


class Gradients(nn.Module):
    """A distance by differences between neighbouring pixels at four sizes, and the colours of the smallest."""

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, picture: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Perceptual`."""
        error = picture - target  # everything here is linear
        total = error.new_zeros(len(error))
        for level in range(self.levels):
            across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
            if weight is None:
                total = total + across.abs().mean((1, 2, 3)) + down.abs().mean((1, 2, 3))
            else:
                total = total + (weight[..., 1:] * across.abs()).mean((1, 2, 3))
                total = total + (weight[..., 1:, :] * down.abs()).mean((1, 2, 3))
            if level + 1 < self.levels:
                error = F.avg_pool2d(error, 2)
                weight = None if weight is None else F.avg_pool2d(weight, 2)
        return total / (2 * self.levels) + error.abs().mean((1, 2, 3)) / self.levels


class RandomFeatures(nn.Module):
    """A distance between the features of a fixed random convolutional network at three sizes."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48), seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip((3, *widths[:-1]), widths, strict=True)
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            fan_in = conv.weight[0].numel()
            with torch.no_grad():
                conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
        self.requires_grad_(False)

    def forward(self, picture: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Perceptual`."""
        x, y = picture, target
        total = x.new_zeros(len(x))
        for i, conv in enumerate(self.convs):
            if i:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
                weight = None if weight is None else F.avg_pool2d(weight, 2)
            x, y = F.relu(conv(x)), F.relu(conv(y))
            difference = (x - y).abs()
            total = total + (difference if weight is None else weight * difference).mean((1, 2, 3))
        return total / len(self.convs)


def perceptual(name: str, weights: Path | None = None) -> Perceptual:
    """Make the distance of a name: lpips, or one of its stand-ins, gradients and random_features.

    Args:
        weights: VGG-16's for lpips.

    Raises:
        InputError: there is no such distance, or lpips has no weights.
    """
    stand_ins = {"gradients": Gradients, "random_features": RandomFeatures}
    if name == "lpips":
        if weights is None:
            raise InputError("lpips: expected the file of VGG-16's weights, got none; name it by --vgg")
        return Lpips(weights)
    if name not in stand_ins:
        raise InputError(
            f"perceptual: expected one of {', '.join([*stand_ins, 'lpips'])}, got {name!r}; choose one of them"
        )
    return stand_ins[name]()
