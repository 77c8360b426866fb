"""The depths at which a ray is sampled: even ones first, then more where the first pass found matter.

    m_i = max(w_{i-1}, w_i),  w'_i = (m_i + m_{i+1}) / 2 + 0.01;  the inner w' over the midpoints of the coarse depths
    form a piecewise constant density whose inverse cumulative distribution maps uniforms to depths

Letters: B batch, R rays, S samples on a ray, N fine samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import shapes
from triportrait.kernels.device import larger
from triportrait.kernels.dispatch import runs_triton, same_dtype
from triportrait.kernels.language import device_of, tl, triton

WEIGHT_FLOOR = 0.01  # every interval keeps a chance
PROBABILITY_FLOOR = 1e-5  # and a bin narrower than this is not divided by


def stratified_depths(near: Tensor, far: Tensor, num_samples: int, jitter: Tensor | None = None) -> Tensor:
    """Make even depths from near to far, moved by a jitter that all rays of an image share.

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
    """Draw depths from the weights of the coarse pass by inverting their cumulative distribution.

    Args:
        depths: [B, R, S] float32, the coarse depths, ascending.
        weights: [B, R, S-1] float32, from `interval_weights`.
        uniforms: [B, R, N] in [0, 1].

    Returns:
        [B, R, N] float32 depths, in the order of `uniforms`, without a gradient.

    Raises:
        ValueError: a shape disagrees, or S is below 4.
    """
    sizes = shapes(depths=(depths, "B R S"), uniforms=(uniforms, "B R N"))
    if weights.shape != (sizes["B"], sizes["R"], sizes["S"] - 1) or sizes["S"] < 4:
        raise ValueError(
            f"weights: expected [B, R, S-1] with S={sizes['S']} >= 4 from depths, got {list(weights.shape)}"
        )
    same_dtype(depths=depths, weights=weights, uniforms=uniforms)
    with torch.no_grad():
        if runs_triton(depths=depths, weights=weights, uniforms=uniforms):
            with device_of(depths):
                return _importance(depths.contiguous(), weights.contiguous(), uniforms.contiguous())
        return importance_depths_reference(depths, weights, uniforms)


def importance_depths_reference(depths: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Compute the definition in plain PyTorch."""
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
        The depths [B, R, S+N], ascending, then each pair of values in the same order. Where depths coincide, the first
        set comes first.

    Raises:
        ValueError: a shape disagrees, or tensors lie on several devices.

    Differentiable in the values, and in the depths.
    """
    sides = {f"depths_{j}": (depths[j], f"B R {'SN'[j]}") for j in range(2)}
    shapes(**sides)
    for i, pair in enumerate(values):
        for j, value in enumerate(pair):
            width = " E" if value.dim() == 4 else ""
            shapes(**sides, **{f"values_{i}_{j}": (value, f"B R {'SN'[j]}{width}")})
    named = {f"values_{i}_{j}": tensor for i, pair in enumerate(values) for j, tensor in enumerate(pair)}
    fused = runs_triton(depths_0=depths[0], depths_1=depths[1], **named)
    joined = torch.cat(depths, dim=-1)
    if fused:
        with device_of(joined):
            order = _order(joined.detach().contiguous())
    else:
        order = joined.argsort(dim=-1, stable=True)
    merged = []
    for pair in values:
        both = torch.cat(pair, dim=2)
        index = order if both.dim() == 3 else order[..., None].expand_as(both)
        merged.append(both.gather(2, index))
    return joined.gather(2, order), *merged


BLOCK_R = 8  # rays of a program


def _importance(depths: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    (B, R, S), N = depths.shape, uniforms.shape[2]
    out = torch.empty_like(uniforms)
    if out.numel():
        _importance_kernel[triton.cdiv(B * R, BLOCK_R),](
            depths, weights, uniforms, out, B * R, S, N, triton.next_power_of_2(N), BLOCK_R, num_stages=1
        )
    return out


def _order(depths: Tensor) -> Tensor:
    """Return [B, R, L] int64, the index from which each place of the sorted ray comes."""
    B, R, L = depths.shape
    order = torch.empty(B, R, L, dtype=torch.int64, device=depths.device)
    if order.numel():
        _order_kernel[triton.cdiv(B * R, BLOCK_R),](
            depths, order, B * R, L, triton.next_power_of_2(L), BLOCK_R, num_stages=1
        )
    return order


@triton.jit
def _smooth_weight(weights_ptr, r, i, mask, S):
    """Return the weight of inner interval i after the maxima and means over neighbours, with both floors."""
    before = tl.load(weights_ptr + r * (S - 1) + i - 1, mask=mask, other=0.0)
    here = tl.load(weights_ptr + r * (S - 1) + i, mask=mask, other=0.0)
    after = tl.load(weights_ptr + r * (S - 1) + i + 1, mask=mask, other=0.0)
    return (larger(before, here) + larger(here, after)) * 0.5 + 0.01 + 1e-5


@triton.jit
def _importance_kernel(
    depths_ptr, weights_ptr, uniforms_ptr, out_ptr, RAYS, S, N: tl.constexpr, N_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Invert the distribution of each ray at its uniforms, with one walk along the coarse depths."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    n = tl.arange(0, N_PAD)
    mask_r = r < RAYS
    mask = mask_r[:, None] & (n < N)[None, :]
    u = tl.load(uniforms_ptr + (r * N)[:, None] + n[None, :], mask=mask, other=0.0)
    total = tl.zeros((BLOCK_R,), u.dtype)
    for i in range(1, S - 2):
        total += _smooth_weight(weights_ptr, r, i, mask_r, S)
    # the last entry of the distribution that is not above u, and the one after it: both stay where u is beyond the end
    t0 = tl.load(depths_ptr + r * S, mask=mask_r, other=0.0)
    t1 = tl.load(depths_ptr + r * S + 1, mask=mask_r, other=0.0)
    middle = 0.5 * (t0 + t1)
    entry = tl.zeros((BLOCK_R,), u.dtype)
    below, above = tl.zeros_like(u), tl.zeros_like(u)
    start, end = middle[:, None] + tl.zeros_like(u), middle[:, None] + tl.zeros_like(u)
    waits = u < 0  # for the entry above it
    for i in range(1, S - 1):
        reached = entry[:, None] <= u
        below, start = tl.where(reached, entry[:, None], below), tl.where(reached, middle[:, None], start)
        above, end = tl.where(reached, entry[:, None], above), tl.where(reached, middle[:, None], end)
        first_above = (~reached) & waits
        above, end = tl.where(first_above, entry[:, None], above), tl.where(first_above, middle[:, None], end)
        waits = reached
        if i < S - 2:
            entry += _smooth_weight(weights_ptr, r, i, mask_r, S) / total
        t0, t1 = t1, tl.load(depths_ptr + r * S + i + 1, mask=mask_r, other=0.0)
        middle = 0.5 * (t0 + t1)
    width = above - below
    width = tl.where(width < 1e-5, 1.0, width)
    tl.store(out_ptr + (r * N)[:, None] + n[None, :], start + (u - below) / width * (end - start), mask=mask)


@triton.jit
def _nan_last(depth):
    """Replace NaN by infinity: it stands last, as it does where PyTorch sorts."""
    return tl.where(depth != depth, float("inf"), depth)


@triton.jit
def _order_kernel(depths_ptr, order_ptr, RAYS, L, L_PAD: tl.constexpr, BLOCK_R: tl.constexpr):
    """Write the order of each ray's depths by counting, for each depth, those that stand before it."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    i = tl.arange(0, L_PAD)[None, :]
    mask_r = r < RAYS
    mask = mask_r[:, None] & (i < L)
    depth = _nan_last(tl.load(depths_ptr + (r * L)[:, None] + i, mask=mask, other=0.0))
    rank = tl.zeros((BLOCK_R, L_PAD), tl.int32)
    for j in range(0, L):
        other = _nan_last(tl.load(depths_ptr + r * L + j, mask=mask_r, other=0.0))[:, None]
        rank += ((other < depth) | ((other == depth) & (j < i))).to(tl.int32)
    tl.store(order_ptr + (r * L)[:, None] + rank, i + tl.zeros_like(rank), mask=mask)
