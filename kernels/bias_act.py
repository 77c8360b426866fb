"""Bias and leaky ReLU in one pass, as the convolutions of super-resolution and of the discriminator end.

    y = gain · leaky_relu(x + b)

Letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from triportrait.kernels.checks import lifted, shapes
from triportrait.kernels.device import lift
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.language import device_of, tl, triton

LEAK, GAIN = 0.2, math.sqrt(2)


def bias_leaky_relu(x: Tensor, bias: Tensor, leak: float = LEAK, gain: float = GAIN) -> Tensor:
    """Add a bias for each channel, then a leaky ReLU, then a gain.

    Args:
        x: [B, C, H, W], contiguous or channels last; the result has the same layout.
        bias: [C].
        leak: slope below zero, above 0.
        gain: factor on the result, above 0.

    Returns:
        [B, C, H, W], the dtype of `x`.

    Raises:
        ValueError: a shape disagrees, or tensors lie on several devices.

    Differentiable in `x` and `bias`, any number of times (R1 needs two). Saves the result alone, whose sign tells which
    slope was taken.
    """
    shapes(x=(x, "B C H W"), bias=(bias, "C"))
    if not (leak > 0 and gain > 0):
        raise ValueError(f"leak, gain: expected numbers above 0, got {leak} and {gain}; the sign of the result counts")
    if runs_triton(x=x, bias=bias):
        with device_of(x):
            return _BiasLeakyRelu.apply(x, bias, leak, gain)  # type: ignore[no-any-return]
    return bias_leaky_relu_reference(x, bias, leak, gain)


def bias_leaky_relu_reference(x: Tensor, bias: Tensor, leak: float = LEAK, gain: float = GAIN) -> Tensor:
    """Compute the definition in plain PyTorch."""
    return (F.leaky_relu(lifted(x) + lifted(bias)[:, None, None], leak) * gain).to(x.dtype)


class _BiasLeakyRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, leak: float, gain: float) -> Tensor:
        x = same_layout(x)
        out = torch.empty_like(x)  # keeps the layout
        _launch(_forward_kernel, x, bias.contiguous(), out, leak, gain)
        ctx.save_for_backward(out)
        ctx.constants = leak, gain, bias.dtype
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        leak, gain, bias_dtype = ctx.constants
        out = ctx.saved_tensors[0]
        wide = _Slope.apply(lifted(d_out), out, leak, gain)  # float32, in which the bias is summed
        return wide.to(out.dtype), wide.sum((0, 2, 3)).to(bias_dtype), None, None


class _Slope(torch.autograd.Function):
    """The activation's effect on a gradient: it is linear, so its own gradient is the same operation."""

    @staticmethod
    def forward(ctx: Any, d_out: Tensor, out: Tensor, leak: float, gain: float) -> Tensor:
        d_out = d_out.contiguous(memory_format=layout(out))
        d_x = torch.empty_like(d_out)
        _launch(_slope_kernel, d_out, out, d_x, leak, gain)
        ctx.save_for_backward(out)
        ctx.constants = leak, gain
        return d_x

    @staticmethod
    def backward(ctx: FunctionCtx, d: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return _Slope.apply(d, ctx.saved_tensors[0], *ctx.constants), None, None, None  # type: ignore[attr-defined]


BLOCK = 1024  # values of a program
NARROW = 2**31 - BLOCK  # values whose places, and those beside them in a program, are numbers of 32 bits


def layout(x: Tensor) -> torch.memory_format:
    """Tell how a picture [B, C, H, W] lies in memory: channels last, or contiguous where it lies both ways."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def same_layout(x: Tensor) -> Tensor:
    """Return the picture itself where it lies densely in one of the two layouts, else a contiguous copy."""
    return x.contiguous(memory_format=layout(x))


def inner_size(x: Tensor) -> int:
    """Count the values of a channel that lie side by side in memory."""
    return 1 if layout(x) == torch.channels_last else x.shape[2] * x.shape[3]


def _launch(kernel: Any, a: Tensor, b: Tensor, out: Tensor, leak: float, gain: float) -> None:
    if out.numel():
        kernel[triton.cdiv(out.numel(), BLOCK),](
            a, b, out, out.numel(), out.shape[1], inner_size(out), leak, gain, BLOCK, out.numel() > NARROW, num_stages=1
        )


@triton.jit
def _forward_kernel(x_ptr, bias_ptr, out_ptr, N, C, INNER, leak, gain, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Add the bias and activate. Places are numbers of 64 bits where WIDE: dividing those takes twice the program."""
    i = tl.program_id(0).to(tl.int64 if WIDE else tl.int32) * BLOCK + tl.arange(0, BLOCK)
    mask = i < N
    x = lift(tl.load(x_ptr + i, mask=mask, other=0.0)) + lift(tl.load(bias_ptr + i // INNER % C, mask=mask, other=0.0))
    tl.store(out_ptr + i, tl.where(x > 0, x, x * leak) * gain, mask=mask)


@triton.jit
def _slope_kernel(d_out_ptr, out_ptr, d_x_ptr, N, C, INNER, leak, gain, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Multiply a gradient by the slope that the sign of the result tells."""
    i = tl.program_id(0).to(tl.int64 if WIDE else tl.int32) * BLOCK + tl.arange(0, BLOCK)
    mask = i < N
    d = lift(tl.load(d_out_ptr + i, mask=mask, other=0.0)) * gain
    tl.store(d_x_ptr + i, tl.where(lift(tl.load(out_ptr + i, mask=mask, other=0.0)) > 0, d, d * leak), mask=mask)
