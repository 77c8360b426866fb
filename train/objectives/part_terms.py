"""What keeps the parts of a generated head apart: densities, distortion and light in the masks of eyes and mouth.

The planes of the eyes and of the mouth's inside are seen through the face's openings alone. Nothing of the face may
stand there, what is there must be solid, and its density lies close together on a ray.
Letters: B batch, Q rays that see a part, L samples on a ray, h side of the ray grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from triportrait.core.genhead.rendering import PartRays


def face_densities(parts: PartRays, num_rays: int) -> tuple[Tensor, Tensor]:
    """Return how dense the face is where eyes and mouth are seen, for `num_rays` rays in all -> [B], [B].

    With the raw density σ of the face's planes alone, the means over all samples of all rays of e softplus(σ inside),
    where `inside` tells the boxes around the eyeballs, and of m softplus(σ).
    """
    samples = num_rays * parts.face_density.shape[-1]
    in_eyes = F.softplus(parts.face_density * parts.inside_eyes).sum(-1) * parts.eye
    in_mouth = F.softplus(parts.face_density).sum(-1) * parts.mouth
    return in_eyes.sum(1) / samples, in_mouth.sum(1) / samples


def distortion(weights: Tensor, depths: Tensor, unit: float) -> Tensor:
    """Return the distortion of rays (mip-NeRF 360, Eq. 15): small where their weight lies in one place.

        Σ_ij w_i w_j |s_i - s_j| + 1/3 Σ_i w_i² δ_i

    with the middle s_i and the length δ_i of interval i, in units of `unit`. It is computed in one walk along a ray.

    Args:
        weights: [B, Q, L - 1] of the intervals. depths: [B, Q, L], ascending, their ends.
        unit: scene units; the side of the box, so that a ray is about 1 long.

    Returns:
        [B, Q]. Differentiable in the weights.
    """
    along = (depths - depths[..., :1]) / unit
    middles, lengths = (along[..., 1:] + along[..., :-1]) / 2, along.diff(dim=-1)
    weighed = weights * middles
    before, weighed_before = weights.cumsum(-1) - weights, weighed.cumsum(-1) - weighed
    pairs = 2 * (weights * (middles * before - weighed_before)).sum(-1)
    return pairs + (weights.square() * lengths).sum(-1) / 3


def distortions(parts: PartRays, num_rays: int, unit: float) -> tuple[Tensor, Tensor]:
    """Return the means over all `num_rays` rays of e and m times a ray's `distortion` -> [B], [B]."""
    along = distortion(parts.weights, parts.depths, unit)
    return (along * parts.eye).sum(1) / num_rays, (along * parts.mouth).sum(1) / num_rays


def light_through(opacity: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (1 - opacity) mask, both [B, 1, h, h] in [0, 1] -> [B]: the published T_bg in a mask."""
    return ((1 - opacity) * mask).mean((1, 2, 3))
