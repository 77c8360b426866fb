"""How the parts of the head become one field along a ray: by masks alone ("hard"), or by their densities, too ("auto").

Part E has the eyes and the mouth's inside, part F everything else. e and m tell how much of a ray is eye and mouth;
e counts only inside the boxes around the eyeballs. Part E's raw density is multiplied by what tells that it is there:

    hard:  σ = e σ_E + m σ_E + (1 - e - m) σ_F,   colours with the same weights
    auto:  where m > 0   σ = σ_E + σ_F,   c = softmax(σ_E, σ_F) · (c_E, c_F);   elsewhere as hard

Letters: B batch, R rays, S samples on a ray, C channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from triportrait.kernels.checks import check_choice, shapes

Fuse = Literal["hard", "auto"]


def gate_density(raw_density: Tensor, inside_eyes: Tensor, mouth: Tensor) -> Tensor:
    """Multiply part E's raw density by (inside + m).

    Args:
        raw_density: [B, R, S]. inside_eyes: [B, R, S], truth values. mouth: [B, R], m.

    Returns:
        σ_E, [B, R, S].
    """
    return raw_density * (inside_eyes + mouth[..., None])


def fuse_parts(
    fuse: Fuse,
    density_e: Tensor,
    feature_e: Tensor,
    density_f: Tensor,
    feature_f: Tensor,
    eye: Tensor,
    mouth: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fuse the parts' fields.

    Args:
        fuse: "hard" or "auto".
        density_e, density_f: [B, R, S] raw, σ_E after `gate_density`.
        feature_e, feature_f: [B, R, S, C].
        eye: [B, R, S], e where a sample is inside a box around an eyeball, else 0.
        mouth: [B, R], m.

    Returns:
        raw density [B, R, S] and feature [B, R, S, C].

    Raises: `ValueError` where a shape disagrees or the fuse is unknown.
    """
    check_choice("fuse", fuse, Fuse)
    shapes(
        density_e=(density_e, "B R S"), density_f=(density_f, "B R S"), feature_e=(feature_e, "B R S C"),
        feature_f=(feature_f, "B R S C"), eye=(eye, "B R S"), mouth=(mouth, "B R"),
    )  # fmt: skip
    hard_density, hard_feature = _fuse_hard(density_e, feature_e, density_f, feature_f, eye, mouth)
    if fuse == "hard":
        return hard_density, hard_feature
    share_e = torch.sigmoid(density_e - density_f)[..., None]  # the softmax of two
    in_mouth = (mouth > 0)[..., None]
    density = torch.where(in_mouth, density_e + density_f, hard_density)
    feature = torch.where(in_mouth[..., None], share_e * feature_e + (1 - share_e) * feature_f, hard_feature)
    return density, feature.to(feature_f.dtype)


def _fuse_hard(
    density_e: Tensor, feature_e: Tensor, density_f: Tensor, feature_f: Tensor, eye: Tensor, mouth: Tensor
) -> tuple[Tensor, Tensor]:
    share_e = eye + mouth[..., None]  # [B, R, S]
    density = share_e * density_e + (1 - share_e) * density_f
    feature = share_e[..., None] * feature_e + (1 - share_e)[..., None] * feature_f
    return density, feature.to(feature_f.dtype)
