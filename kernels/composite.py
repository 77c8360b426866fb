"""Emission-absorption along rays, on the midpoints of neighbouring samples.

    x_k = (x_k + x_{k+1}) / 2,  δ_k = t_{k+1} - t_k,  α_k = 1 - exp(-softplus(σ_k - 1) δ_k)
    w_k = α_k Π_{j<k} (1 - α_j + 1e-10),   feature = Σ w_k c_k,   opacity = Σ w_k,   depth = Σ w_k t_k / Σ w_k

Letters: B batch, R rays, S samples in order of depth, E feature channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import lifted, shapes

TRANSMITTANCE_FLOOR = 1e-10  # keeps the running product above zero behind an opaque interval


def interval_weights(raw_density: Tensor, depths: Tensor) -> Tensor:
    """How much each interval between two samples adds to its ray.

    Args:
        raw_density: [B, R, S] float32, before the activation.
        depths: [B, R, S] float32, ascending, along the unit ray.

    Returns:
        [B, R, S-1] float32 weights, each in [0, 1], their sum at most 1 up to rounding.

    Raises:
        ValueError: a shape disagrees.
    """
    shapes(raw_density=(raw_density, "B R S"), depths=(depths, "B R S"))
    density = F.softplus((raw_density[..., 1:] + raw_density[..., :-1]) / 2 - 1)  # [B, R, S-1]
    alpha = 1 - torch.exp(-density * depths.diff(dim=-1))
    through = torch.cumprod(1 - alpha + TRANSMITTANCE_FLOOR, dim=-1)
    before = torch.cat([torch.ones_like(through[..., :1]), through[..., :-1]], dim=-1)
    return alpha * before


def composite(raw_density: Tensor, feature: Tensor, depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Render samples into rays.

    Args:
        raw_density: [B, R, S] float32, before the activation.
        feature: [B, R, S, E].
        depths: [B, R, S] float32, ascending, along the unit ray.

    Returns:
        feature [B, R, E] without background; depth [B, R], the expected depth, +inf where a ray met nothing at all;
        opacity [B, R], the sum of the weights.

    Raises:
        ValueError: a shape disagrees.
    """
    shapes(raw_density=(raw_density, "B R S"), feature=(feature, "B R S E"), depths=(depths, "B R S"))
    weights = interval_weights(raw_density, depths)  # [B, R, S-1]
    spread = (F.pad(weights, (1, 0)) + F.pad(weights, (0, 1))) / 2  # [B, R, S], the weight of each sample
    pixel = torch.einsum("brs,brse->bre", spread, lifted(feature).to(spread.dtype)).to(feature.dtype)
    opacity = weights.sum(-1)
    nothing = opacity == 0
    depth = (spread * depths).sum(-1) / opacity.masked_fill(nothing, 1)  # 0/0 would poison every gradient
    return pixel, depth.masked_fill(nothing, torch.inf), opacity
