"""Where to sample a ray: evenly first, then where the first pass found matter.

    m_i = max(w_{i-1}, w_i),  w'_i = (m_i + m_{i+1}) / 2 + 0.01;  the inner w' over the midpoints of the coarse depths
    form a piecewise constant density whose inverse cumulative distribution maps uniforms to depths

Letters: B batch, R rays, S samples on a ray, N fine samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import shapes

WEIGHT_FLOOR = 0.01  # every interval keeps a chance
PROBABILITY_FLOOR = 1e-5  # and a bin narrower than this is not divided by


def stratified_depths(near: Tensor, far: Tensor, num_samples: int, jitter: Tensor | None = None) -> Tensor:
    """Even depths from near to far, moved by a jitter that all rays of an image share.

    Args:
        near, far: [B] float32, depth along the unit ray.
        num_samples: S, at least 2.
        jitter: [B, S] in [0, 1), in units of one step; None means 0.

    Returns:
        [B, S] ascending depths.

    Raises:
        ValueError: a shape disagrees.
    """
    shapes(near=(near, "B"), far=(far, "B"))
    step = ((far - near) / (num_samples - 1))[:, None]  # [B, 1]
    ramp = torch.arange(num_samples, device=near.device, dtype=near.dtype) / (num_samples - 1)
    depths = near[:, None] + ramp * (far - near)[:, None]
    if jitter is None:
        return depths
    shapes(depths=(depths, "B S"), jitter=(jitter, "B S"))
    return depths + jitter * step


def importance_depths(depths: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Depths drawn from the weights of the coarse pass by inverting their cumulative distribution.

    Args:
        depths: [B, R, S] float32, the coarse depths, ascending.
        weights: [B, R, S-1] float32, from `interval_weights`.
        uniforms: [B, R, N] in [0, 1].

    Returns:
        [B, R, N] float32 depths, in the order of `uniforms`. Carries no gradient.

    Raises:
        ValueError: a shape disagrees, or S is below 4.
    """
    sizes = shapes(depths=(depths, "B R S"), uniforms=(uniforms, "B R N"))
    if weights.shape != (sizes["B"], sizes["R"], sizes["S"] - 1) or sizes["S"] < 4:
        raise ValueError(
            f"weights: expected [B, R, S-1] with S={sizes['S']} >= 4 from depths, got {list(weights.shape)}"
        )
    with torch.no_grad():
        peak = F.max_pool1d(weights.flatten(0, 1)[:, None], 2, 1, padding=1)  # [B*R, 1, S]
        smooth = F.avg_pool1d(peak, 2, 1).view_as(weights) + WEIGHT_FLOOR  # [B, R, S-1]
        inner = smooth[..., 1:-1] + PROBABILITY_FLOOR
        cdf = F.pad(torch.cumsum(inner / inner.sum(-1, keepdim=True), -1), (1, 0))  # [B, R, S-2]
        middles = (depths[..., 1:] + depths[..., :-1]) / 2  # [B, R, S-1]; the last one closes no bin
        right = torch.searchsorted(cdf.contiguous(), uniforms.contiguous(), right=True)
        below, above = (right - 1).clamp(min=0), right.clamp(max=cdf.shape[-1] - 1)
        cdf_below, cdf_above = cdf.gather(-1, below), cdf.gather(-1, above)
        width = cdf_above - cdf_below
        width = torch.where(width < PROBABILITY_FLOOR, torch.ones_like(width), width)
        start, end = middles.gather(-1, below), middles.gather(-1, above)
        return start + (uniforms - cdf_below) / width * (end - start)


def merge_samples(depths: tuple[Tensor, Tensor], *values: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Join two sets of samples of the same rays in order of depth.

    Args:
        depths: [B, R, S] and [B, R, N].
        values: pairs [B, R, S] and [B, R, N], or [B, R, S, E] and [B, R, N, E].

    Returns:
        The depths [B, R, S+N], ascending, then each pair of values in the same order.
    """
    joined, order = torch.cat(depths, dim=-1).sort(dim=-1, stable=True)
    merged = []
    for pair in values:
        both = torch.cat(pair, dim=2)
        index = order if both.dim() == 3 else order[..., None].expand_as(both)
        merged.append(both.gather(2, index))
    return joined, *merged
