"""Emission-absorption along rays, on the midpoints of neighbouring samples.

    x_k = (x_k + x_{k+1}) / 2,  δ_k = t_{k+1} - t_k,  α_k = 1 - exp(-softplus(σ_k - 1) δ_k)
    w_k = α_k Π_{j<k} (1 - α_j + 1e-10),   feature = Σ w_k c_k,   opacity = Σ w_k,   depth = Σ w_k t_k / Σ w_k

Letters: B batch, R rays, S samples in order of depth, E feature channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from triportrait.kernels.checks import lifted, shapes
from triportrait.kernels.device import lift, sigmoid, softplus
from triportrait.kernels.dispatch import runs_triton, same_dtype
from triportrait.kernels.language import device_of, tl, triton

TRANSMITTANCE_FLOOR = 1e-10  # keeps the running product above zero behind an opaque interval


def interval_weights(raw_density: Tensor, depths: Tensor) -> Tensor:
    """Compute how much each interval between two samples adds to its ray.

    Args:
        raw_density: [B, R, S] float32, before the activation.
        depths: [B, R, S] float32, ascending, along the unit ray.

    Returns:
        [B, R, S-1] float32 weights, each in [0, 1], their sum at most 1 up to rounding.

    Raises:
        ValueError: a shape disagrees.

    It is a step of sampling and has no kernel of its own: `kernels.march` fuses it.
    """
    shapes(raw_density=(raw_density, "B R S"), depths=(depths, "B R S"))
    density = F.softplus((raw_density[..., 1:] + raw_density[..., :-1]) / 2 - 1)  # [B, R, S-1]
    alpha = 1 - torch.exp(-density * depths.diff(dim=-1))
    after = torch.cumprod(1 - alpha + TRANSMITTANCE_FLOOR, dim=-1)  # the transmittance behind each interval
    transmittance = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], dim=-1)
    return alpha * transmittance


def composite(raw_density: Tensor, feature: Tensor, depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Render samples into rays.

    Args:
        raw_density: [B, R, S] float32, before the activation.
        feature: [B, R, S, E].
        depths: [B, R, S] float32, ascending, along the unit ray.

    Returns:
        feature [B, R, E] without background; depth [B, R], the expected depth, +inf where a ray hit nothing at all;
        opacity [B, R], the sum of the weights.

    Raises:
        ValueError: a shape or a dtype disagrees, or tensors lie on several devices.

    Differentiable in `raw_density` and `feature`; depths carry no gradient, as nothing differentiates the choice of
    samples. Saves the inputs.
    """
    n = shapes(raw_density=(raw_density, "B R S"), feature=(feature, "B R S E"), depths=(depths, "B R S"))
    if not n["S"] * n["E"]:
        raise ValueError(f"feature: expected [B, R, S, E] with S, E >= 1, got {list(feature.shape)}")
    dtype = same_dtype(raw_density=raw_density, depths=depths)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"raw_density: expected float32 (or float64), got {dtype}; lift it, distances are small")
    if runs_triton(raw_density=raw_density, feature=feature, depths=depths):
        with device_of(raw_density):
            return _Composite.apply(raw_density, feature, depths.detach())  # type: ignore[no-any-return]
    return composite_reference(raw_density, feature, depths.detach())


def composite_reference(raw_density: Tensor, feature: Tensor, depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the definition in plain PyTorch."""
    weights = interval_weights(raw_density, depths)  # [B, R, S-1]
    sample_weights = (F.pad(weights, (1, 0)) + F.pad(weights, (0, 1))) / 2  # [B, R, S]
    pixel = torch.einsum("brs,brse->bre", sample_weights, lifted(feature).to(sample_weights.dtype)).to(feature.dtype)
    opacity = weights.sum(-1)
    missed = opacity == 0
    depth = (sample_weights * depths).sum(-1) / opacity.masked_fill(missed, 1)  # 0/0 would poison every gradient
    return pixel, depth.masked_fill(missed, torch.inf), opacity


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, raw_density: Tensor, feature: Tensor, depths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        raw_density, feature, depths = (x.contiguous() for x in (raw_density, feature, depths))
        B, R, S, E = feature.shape
        pixel, depth, opacity = feature.new_empty(B, R, E), depths.new_empty(B, R), depths.new_empty(B, R)
        if opacity.numel():
            _forward_kernel[triton.cdiv(B * R, BLOCK_R),](
                raw_density, feature, depths, pixel, depth, opacity, B * R, S, E, triton.next_power_of_2(E), BLOCK_R,
                num_stages=1,
            )  # fmt: skip
        ctx.save_for_backward(raw_density, feature, depths, depth, opacity)
        return pixel, depth, opacity

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: FunctionCtx, d_pixel: Tensor, d_depth: Tensor, d_opacity: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        raw_density, feature, depths, depth, opacity = ctx.saved_tensors  # type: ignore[attr-defined]
        B, R, S, E = feature.shape
        d_raw, d_feature = torch.empty_like(raw_density), torch.empty_like(feature)
        if opacity.numel():
            _backward_kernel[triton.cdiv(B * R, BLOCK_R),](
                raw_density, feature, depths, depth, opacity, d_pixel.contiguous(), d_depth.contiguous(),
                d_opacity.contiguous(), d_raw, d_feature, B * R, S, E, triton.next_power_of_2(E), BLOCK_R,
                num_stages=1,
            )  # fmt: skip
        return d_raw, d_feature, None


BLOCK_R = 32  # rays of a program


@triton.jit
def _interval(s0, s1, t0, t1):
    """Return the opacity α of an interval, its transmittance 1 - α, and the slope of α divided by that."""
    middle = 0.5 * (s0 + s1) - 1
    through = tl.exp(-softplus(middle, True) * (t1 - t0))
    return 1 - through, through, sigmoid(middle) * (t1 - t0)


@triton.jit
def _forward_kernel(
    raw_ptr, feature_ptr, depths_ptr, pixel_ptr, depth_ptr, opacity_ptr, N, S, E: tl.constexpr, E_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Walk rays front to back and sum what their intervals add."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.arange(0, E_PAD)
    mask_r = r < N
    mask = mask_r[:, None] & (e < E)[None, :]
    s0 = tl.load(raw_ptr + r * S, mask=mask_r, other=0.0)
    t0 = tl.load(depths_ptr + r * S, mask=mask_r, other=0.0)
    c0 = lift(tl.load(feature_ptr + (r * S * E)[:, None] + e[None, :], mask=mask, other=0.0))
    transmittance = tl.full((BLOCK_R,), 1.0, s0.dtype)
    pixel = tl.zeros((BLOCK_R, E_PAD), s0.dtype)
    depth = tl.zeros((BLOCK_R,), s0.dtype)
    opacity = tl.zeros((BLOCK_R,), s0.dtype)
    for i in range(1, S):
        s1 = tl.load(raw_ptr + r * S + i, mask=mask_r, other=0.0)
        t1 = tl.load(depths_ptr + r * S + i, mask=mask_r, other=0.0)
        c1 = lift(tl.load(feature_ptr + ((r * S + i) * E)[:, None] + e[None, :], mask=mask, other=0.0))
        alpha, _through, _ = _interval(s0, s1, t0, t1)
        weight = alpha * transmittance
        pixel += (0.5 * weight)[:, None] * (c0 + c1)
        depth += 0.5 * weight * (t0 + t1)
        opacity += weight
        transmittance *= 1 - alpha + 1e-10
        s0, t0, c0 = s1, t1, c1
    depth = tl.where(opacity == 0, float("inf"), depth / tl.where(opacity == 0, 1.0, opacity))
    tl.store(pixel_ptr + (r * E)[:, None] + e[None, :], pixel, mask=mask)
    tl.store(depth_ptr + r, depth, mask=mask_r)
    tl.store(opacity_ptr + r, opacity, mask=mask_r)


@triton.jit
def _weight_gradient(q0, q1, t0, t1, depth, d_depth, d_opacity):
    """Return the gradient of an interval's weight."""
    return 0.5 * (q0 + q1) + d_depth * (0.5 * (t0 + t1) - depth) + d_opacity


@triton.jit
def _backward_kernel(
    raw_ptr, feature_ptr, depths_ptr, depth_ptr, opacity_ptr, d_pixel_ptr, d_depth_ptr, d_opacity_ptr, d_raw_ptr,
    d_feature_ptr, N, S, E: tl.constexpr, E_PAD: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Walk rays front to back twice: what lies behind an interval is the total less what stands before it."""
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.arange(0, E_PAD)
    mask_r = r < N
    mask = mask_r[:, None] & (e < E)[None, :]
    d_pixel = lift(tl.load(d_pixel_ptr + (r * E)[:, None] + e[None, :], mask=mask, other=0.0))
    opacity = tl.load(opacity_ptr + r, mask=mask_r, other=0.0)
    hit = opacity != 0
    depth = tl.where(hit, tl.load(depth_ptr + r, mask=mask_r, other=0.0), 0.0)
    d_depth = tl.load(d_depth_ptr + r, mask=mask_r, other=0.0)
    d_depth = tl.where(hit, d_depth / tl.where(hit, opacity, 1.0), 0.0)
    d_opacity = tl.load(d_opacity_ptr + r, mask=mask_r, other=0.0)
    first = feature_ptr + (r * S * E)[:, None] + e[None, :]

    behind = tl.zeros((BLOCK_R,), depth.dtype)
    for walk in tl.static_range(2):
        s0 = tl.load(raw_ptr + r * S, mask=mask_r, other=0.0)
        t0 = tl.load(depths_ptr + r * S, mask=mask_r, other=0.0)
        q0 = tl.sum(lift(tl.load(first, mask=mask, other=0.0)) * d_pixel, 1)
        transmittance = tl.full((BLOCK_R,), 1.0, depth.dtype)
        last_weight = tl.zeros((BLOCK_R,), depth.dtype)
        last_d = tl.zeros((BLOCK_R,), depth.dtype)
        for i in range(1, S):
            s1 = tl.load(raw_ptr + r * S + i, mask=mask_r, other=0.0)
            t1 = tl.load(depths_ptr + r * S + i, mask=mask_r, other=0.0)
            q1 = tl.sum(lift(tl.load(first + i * E, mask=mask, other=0.0)) * d_pixel, 1)
            alpha, through, slope = _interval(s0, s1, t0, t1)
            weight = alpha * transmittance
            d_weight = _weight_gradient(q0, q1, t0, t1, depth, d_depth, d_opacity)
            if walk == 0:
                behind += weight * d_weight
            else:
                behind -= weight * d_weight
                # d alpha is `slope * through`; what lies behind dims by 1 - alpha + 1e-10
                d_middle = slope * (through * transmittance * d_weight - behind * (through / (1 - alpha + 1e-10)))
                tl.store(d_raw_ptr + r * S + i - 1, 0.5 * (last_d + d_middle), mask=mask_r)
                to = d_feature_ptr + ((r * S + i - 1) * E)[:, None] + e[None, :]
                tl.store(to, (0.5 * (last_weight + weight))[:, None] * d_pixel, mask=mask)
                last_weight, last_d = weight, d_middle
            transmittance *= 1 - alpha + 1e-10
            s0, t0, q0 = s1, t1, q1
        if walk == 1:
            tl.store(d_raw_ptr + r * S + S - 1, 0.5 * last_d, mask=mask_r)
            to = d_feature_ptr + ((r * S + S - 1) * E)[:, None] + e[None, :]
            tl.store(to, (0.5 * last_weight)[:, None] * d_pixel, mask=mask)
