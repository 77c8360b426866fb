"""Density and feature of 3D points: planes, then a small MLP (paper, Eq. 1; the published decoder).

    h = softplus(W_h f + b_h),   raw_density = w_d · h + b_d,   feature = 1.002 sigmoid(W_f h + b_f) - 0.001

with f the mean plane feature. The density is raw here: the activation belongs to the compositing, on midpoints.
Letters: B batch, P points, H W height and width of a plane, C plane channels, K hidden units, E feature channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import lifted, shapes
from triportrait.kernels.triplane import sample_triplane

FEATURE_MARGIN = 0.001  # the sigmoid is widened so that 0 and 1 can be reached


class FieldWeights(NamedTuple):
    """The weights of the MLP as they multiply (any gain already applied)."""

    hidden_weight: Tensor  # [K, C]
    hidden_bias: Tensor  # [K]
    density_weight: Tensor  # [1, K]
    density_bias: Tensor  # [1]
    feature_weight: Tensor  # [E, K]
    feature_bias: Tensor  # [E]


def decode_field(planes: Tensor, points: Tensor, weights: FieldWeights) -> tuple[Tensor, Tensor]:
    """Raw density and feature of 3D points.

    Args:
        planes: [B, 3, H, W, C], as in `sample_triplane`.
        points: [B, P, 3], plane units.
        weights: the MLP.

    Returns:
        raw_density [B, P] float32 (float64 for float64 planes), before the softplus; feature [B, P, E] in the dtype of
        `planes`, in [-0.001, 1.001].

    Raises:
        ValueError: a shape disagrees.

    Differentiable in everything.
    """
    shapes(
        planes=(planes, "B 3 H W C"),
        points=(points, "B P 3"),
        hidden_weight=(weights.hidden_weight, "K C"),
        hidden_bias=(weights.hidden_bias, "K"),
        density_weight=(weights.density_weight, "1 K"),
        density_bias=(weights.density_bias, "1"),
        feature_weight=(weights.feature_weight, "E K"),
        feature_bias=(weights.feature_bias, "E"),
    )
    w = FieldWeights(*(lifted(weight) for weight in weights))
    hidden = F.softplus(F.linear(sample_triplane(lifted(planes), points), w.hidden_weight, w.hidden_bias))
    raw_density = F.linear(hidden, w.density_weight, w.density_bias)[..., 0]  # [B, P]
    feature = torch.sigmoid(F.linear(hidden, w.feature_weight, w.feature_bias))  # [B, P, E]
    return raw_density, (feature * (1 + 2 * FEATURE_MARGIN) - FEATURE_MARGIN).to(planes.dtype)
