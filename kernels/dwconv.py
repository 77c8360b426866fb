"""Depthwise 3x3 convolution, bias and GELU in one pass, channels last (the middle of a Mix-FFN).

    y = gelu(Σ_ij w[i, j] x[h + i - 1, w + j - 1] + b),   gelu(a) = a Φ(a), zeros outside

Letters: B batch, H W height and width, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from triportrait.kernels.checks import lifted, shapes, wide_dtype
from triportrait.kernels.device import lift
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.language import device_of, tl, triton


def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Filter each channel with its own 3x3 weights, add its bias and apply a GELU.

    Args:
        x: [B, H, W, C].
        weight: [C, 1, 3, 3].
        bias: [C].

    Returns:
        [B, H, W, C], the dtype of `x`.

    Raises:
        ValueError: a shape disagrees, or tensors lie on several devices.

    Differentiable in everything. Saves the inputs; the backward pass filters again.
    """
    shapes(x=(x, "B H W C"), weight=(weight, "C 1 3 3"), bias=(bias, "C"))
    if runs_triton(x=x, weight=weight, bias=bias):
        with device_of(x):
            return _DepthwiseGelu.apply(x, weight, bias)  # type: ignore[no-any-return]
    return depthwise_gelu_reference(x, weight, bias)


def depthwise_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the definition in plain PyTorch."""
    filtered = F.conv2d(x.permute(0, 3, 1, 2), weight.to(x.dtype), bias.to(x.dtype), padding=1, groups=len(weight))
    return F.gelu(filtered).permute(0, 2, 3, 1)


class _DepthwiseGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, bias)
        out = torch.empty_like(x)
        if out.numel():
            _launch_filter(x, _taps(weight), bias.contiguous(), out, True)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        C = x.shape[3]
        d_before, d_x = torch.empty_like(x), torch.empty_like(x)
        if not x.numel():
            return d_x, torch.zeros_like(weight), torch.zeros_like(bias)
        programs = min(PARTIALS, triton.cdiv(x.numel() // C, BLOCK_P))
        parts = torch.empty(programs, 10, C, dtype=wide_dtype(x), device=x.device)
        _backward_kernel[programs, triton.cdiv(C, BLOCK_C)](
            x,
            _taps(weight),
            bias.contiguous(),
            d_out.contiguous(),
            d_before,
            parts,
            *_sizes(x),
            BLOCK_P,
            BLOCK_C,
            num_stages=1,
        )
        turned = _taps(lifted(weight).flip(2, 3)).to(weight.dtype)
        _launch_filter(d_before, turned, bias, d_x, False)
        sums = parts.sum(0)
        return d_x, sums[:9].T.reshape(C, 1, 3, 3).to(weight.dtype), sums[9].to(bias.dtype)


BLOCK_P, BLOCK_C = 16, 64  # pixels and channels of a program
# Of a program that filters: with 16 pixels in 4 warps registers spill under Triton 3.7 and 3.9.
FILTER_P, FILTER_WARPS = 32, 8
PARTIALS = 128  # programs over the pixels that sum gradients: partial sums are added in order, so runs are equal


def _taps(weight: Tensor) -> Tensor:
    """Return the weights as [9, C], in which channels lie side by side."""
    return weight.flatten(1).T.contiguous()


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    B, H, W, C = x.shape
    return B * H * W, H, W, C


def _launch_filter(x: Tensor, taps: Tensor, bias: Tensor, out: Tensor, activates: bool) -> None:
    pixels, H, W, C = _sizes(x)
    _filter_kernel[triton.cdiv(pixels, FILTER_P), triton.cdiv(C, BLOCK_C)](
        x, taps, bias, out, pixels, H, W, C, activates, FILTER_P, BLOCK_C, num_stages=1, num_warps=FILTER_WARPS
    )


@triton.jit
def _neighbour(p, H, W, N, a: tl.constexpr):
    """Return the pixel at tap a of pixel p, and whether it is on the picture."""
    y, x = p // W % H + (a // 3 - 1), p % W + (a % 3 - 1)
    return p + (a // 3 - 1) * W + (a % 3 - 1), (p < N) & (y >= 0) & (y < H) & (x >= 0) & (x < W)


@triton.jit
def _before(x_ptr, taps_ptr, bias_ptr, p, c, N, H, W, C, BIAS: tl.constexpr):
    """Compute [BLOCK_P, BLOCK_C] before the activation."""
    mask_c = c < C
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((p.shape[0], c.shape[0]), wide)
    for a in tl.static_range(9):
        at, inside = _neighbour(p, H, W, N, a)
        value = tl.load(x_ptr + (at * C)[:, None] + c[None, :], mask=inside[:, None] & mask_c[None, :], other=0.0)
        total += lift(value) * lift(tl.load(taps_ptr + a * C + c, mask=mask_c, other=0.0))[None, :]
    if BIAS:
        total += lift(tl.load(bias_ptr + c, mask=mask_c, other=0.0))[None, :]
    return total


@triton.jit
def _filter_kernel(
    x_ptr, taps_ptr, bias_ptr, out_ptr, N, H, W, C, ACTIVATES: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Filter; with ACTIVATES, add the bias and apply the GELU."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    out = _before(x_ptr, taps_ptr, bias_ptr, p, c, N, H, W, C, ACTIVATES)
    if ACTIVATES:
        out = 0.5 * out * (1 + tl.erf(out * 0.7071067811865476))
    tl.store(out_ptr + (p * C)[:, None] + c[None, :], out, mask=(p < N)[:, None] & (c < C)[None, :])


@triton.jit
def _backward_kernel(
    x_ptr, taps_ptr, bias_ptr, d_out_ptr, d_before_ptr, parts_ptr, N, H, W, C, BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradient before the activation, and a part of the sums for each weight and bias."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = c < C
    wide: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    row = tl.arange(0, 16)[:, None]
    sums = tl.zeros((16, BLOCK_C), wide)  # nine taps and the bias
    for start in range(tl.program_id(0) * BLOCK_P, N, tl.num_programs(0) * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P).to(tl.int64)
        mask = (p < N)[:, None] & mask_c[None, :]
        before = _before(x_ptr, taps_ptr, bias_ptr, p, c, N, H, W, C, True)
        slope = 0.5 * (1 + tl.erf(before * 0.7071067811865476))
        slope += before * tl.exp(-0.5 * before * before) * 0.3989422804014327
        d_before = slope * lift(tl.load(d_out_ptr + (p * C)[:, None] + c[None, :], mask=mask, other=0.0))
        tl.store(d_before_ptr + (p * C)[:, None] + c[None, :], d_before, mask=mask)
        for a in tl.static_range(9):
            at, inside = _neighbour(p, H, W, N, a)
            value = tl.load(x_ptr + (at * C)[:, None] + c[None, :], mask=inside[:, None] & mask_c[None, :], other=0.0)
            sums += tl.where(row == a, tl.sum(lift(value) * d_before, 0)[None, :], 0.0)
        sums += tl.where(row == 9, tl.sum(d_before, 0)[None, :], 0.0)
    to = parts_ptr + (tl.program_id(0) * 10 + row) * C + c[None, :]
    tl.store(to, sums, mask=(row < 10) & mask_c[None, :])
