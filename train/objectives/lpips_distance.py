"""LPIPS (Zhang 2018) is taken from the `lpips` package, with VGG's weights from a file of the user's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from triportrait.core.metrics.lpips_network import lpips_network


class Lpips(nn.Module):
    """LPIPS 0.1 with VGG, a `perceptual.Perceptual` distance whose linear layers come from the package.

    Args:
        weights: torchvision's VGG-16 without its classifier; None: random ones, for tests.

    Raises: `InputError` where the package is missing or the file is no VGG-16.
    """

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        self.network = lpips_network("vgg", weights)

    def forward(self, picture: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See `Perceptual`."""
        with torch.autocast(picture.device.type, enabled=False):
            distance = self.network(picture.float(), target.float())  # [B, 1, S, S]
        return (distance if weight is None else weight * distance).mean((1, 2, 3))
