"""The mappings of the generator: noise, and for the planes the camera and the shape, become a style.

Letters: B batch, Z width of the noise, K of the condition, D of the style, L styles of a network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triportrait.core.unit_scale import Linear, unit_moment
from triportrait.kernels.checks import shapes

RATE = 0.01  # factor on the learning rate of all layers but the embedding
MEAN_DECAY = 0.998  # of the running mean of styles, a step


class Mapping(nn.Module):
    """A mapping from noise and condition to styles.

    Args:
        latent_width: Z.
        style_width: D.
        num_layers: fully connected layers after the embedding.
        condition_width: K; 0 where there is no condition.
    """

    mean_style: Tensor

    def __init__(self, latent_width: int, style_width: int, num_layers: int, condition_width: int = 0) -> None:
        super().__init__()
        self.embed = Linear(condition_width, style_width, activates=False) if condition_width else None
        widths = [latent_width + (style_width if condition_width else 0)] + [style_width] * num_layers
        self.layers = nn.ModuleList(
            Linear(widths[i], widths[i + 1], activates=True, lr_multiplier=RATE) for i in range(num_layers)
        )
        self.register_buffer("mean_style", torch.zeros(style_width))

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute styles [B, D] of noise [B, Z] and a condition [B, K], None where the mapping takes none.

        Raises: `ValueError` where a shape disagrees, or there is a condition too many or too few.
        """
        shapes(latent=(latent, "B Z"))
        if (condition is None) != (self.embed is None):
            raise ValueError(f"condition: expected {'none' if self.embed is None else 'one'}, got the other")
        x = unit_moment(latent)
        if self.embed is not None and condition is not None:
            x = torch.cat([x, unit_moment(self.embed(condition))], 1)
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.no_grad()
    def update_mean(self, styles: Tensor) -> None:
        """Move the running mean, to which `truncated` goes, towards the mean of styles [B, D] of a training step."""
        self.mean_style.lerp_(styles.detach().float().mean(0), 1 - MEAN_DECAY)

    def truncated(self, styles: Tensor, num_styles: int, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Give each layer of a network its style, the first of them drawn towards the mean style.

        Args:
            styles: [B, D] of `forward`.
            num_styles: L.
            truncation: ψ; 1 leaves styles as they are, 0 makes all of them the mean style.
            cutoff: how many of the L styles are drawn; None takes all.

        Returns:
            [B, L, D].
        """
        every = styles[:, None].expand(-1, num_styles, -1)
        if truncation == 1:
            return every
        drawn = torch.lerp(self.mean_style.expand_as(every), every, truncation)
        stays = torch.arange(num_styles, device=styles.device) >= (num_styles if cutoff is None else cutoff)
        return torch.where(stays[:, None], every, drawn)
