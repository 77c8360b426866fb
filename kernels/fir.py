"""The filter [1, 3, 3, 1] / 8 in both directions: smoothing and changing the size by two, for super-resolution.

    y[o] = gain Σ_i h[i] x'[o · down + i - pad],   x' = x with up - 1 zeros behind each value

in both directions. The gradient is the same sum with up and down exchanged and pad' = 3 - pad, as h is symmetric.
Letters: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.bias_act import layout, same_layout
from triportrait.kernels.checks import shapes
from triportrait.kernels.device import lift
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.language import MAX_GRID_YZ, device_of, tl, triton

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def smooth_fir(image: Tensor, gain: float = 1.0) -> Tensor:
    """Filter an image that is padded by one zero on each side.

    Args:
        image: [B, C, H, W], contiguous or channels last.
        gain: factor on the result.

    Returns:
        [B, C, H-1, W-1].

    Raises:
        ValueError: a shape disagrees.

    Differentiable any number of times, like the others here. Saves nothing.
    """
    shapes(image=(image, "B C H W"))
    if runs_triton(image=image):
        return _filtered(image, 1, 1, 1, (image.shape[2] - 1, image.shape[3] - 1), gain)
    return smooth_fir_reference(image, gain)


def smooth_fir_reference(image: Tensor, gain: float = 1.0) -> Tensor:
    """Compute the definition in plain PyTorch."""
    return _smooth(_smooth(F.pad(image, (1, 1, 1, 1)), -2), -1) * gain


def upsample_fir(image: Tensor) -> Tensor:
    """Double the size of an image: zeros in between, then the filter with gain 4.

    Args:
        image: [B, C, H, W].

    Returns:
        [B, C, 2H, 2W]. A constant image stays constant away from the border.

    Raises:
        ValueError: a shape disagrees.
    """
    shapes(image=(image, "B C H W"))
    if runs_triton(image=image):
        return _filtered(image, 2, 1, 2, (2 * image.shape[2], 2 * image.shape[3]), 4.0)
    return upsample_fir_reference(image)


def upsample_fir_reference(image: Tensor) -> Tensor:
    """Compute the definition in plain PyTorch."""
    return _double(_double(image, -2), -1)


def downsample_fir(image: Tensor) -> Tensor:
    """Halve the size of an image: the filter on the image padded by one zero on each side, every second value.

    Args:
        image: [B, C, H, W], H and W even.

    Returns:
        [B, C, H/2, W/2]. A constant image stays constant away from the border.

    Raises:
        ValueError: a shape disagrees, or a side is odd.
    """
    shapes(image=(image, "B C H W"))
    H, W = image.shape[2:]
    if H % 2 or W % 2:
        raise ValueError(f"image: expected even sides to halve, got {H} x {W}; crop or pad it")
    if runs_triton(image=image):
        return _filtered(image, 1, 2, 1, (H // 2, W // 2), 1.0)
    return downsample_fir_reference(image)


def downsample_fir_reference(image: Tensor) -> Tensor:
    """Compute the definition in plain PyTorch."""
    return smooth_fir_reference(image)[..., ::2, ::2]


def _smooth(image: Tensor, dim: int) -> Tensor:
    """Filter along one dimension without padding: the result is three shorter."""
    size = image.shape[dim] - 3
    near = image.narrow(dim, 1, size) + image.narrow(dim, 2, size)
    far = image.narrow(dim, 0, size) + image.narrow(dim, 3, size)
    return TAPS[1] * near + TAPS[0] * far


def _double(image: Tensor, dim: int) -> Tensor:
    """Put zeros in between and filter with gain 2 along one dimension: each new value sees two old ones."""
    size = image.shape[dim]
    padded = F.pad(image, (1, 1) if dim == -1 else (0, 0, 1, 1))
    before, here, after = (padded.narrow(dim, i, size) for i in range(3))
    even, odd = TAPS[1] * here + TAPS[0] * before, TAPS[1] * here + TAPS[0] * after
    return 2 * torch.stack([even, odd], dim).flatten(dim - 1, dim)


def _filtered(image: Tensor, up: int, down: int, pad: int, size: tuple[int, int], gain: float) -> Tensor:
    with device_of(image):
        return _Filter.apply(image, up, down, pad, size, gain)  # type: ignore[no-any-return]


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, up: int, down: int, pad: int, size: tuple[int, int], gain: float) -> Tensor:
        image = same_layout(image)
        B, C, H, W = image.shape
        out = torch.empty((B, C, *size), dtype=image.dtype, device=image.device, memory_format=layout(image))
        last = layout(image) == torch.channels_last
        outer, inner = (B, C) if last else (B * C, 1)
        if out.numel():
            rows, to = (x.permute(0, 2, 3, 1) if last else x.flatten(0, 1) for x in (image, out))
            for first in range(0, outer, MAX_GRID_YZ):
                count = min(MAX_GRID_YZ, outer - first)
                _filter_kernel[triton.cdiv(size[0] * size[1] * inner, BLOCK), count](
                    rows[first:], to[first:], H, W, *size, inner, gain, up, down, pad, BLOCK, num_stages=1
                )
        ctx.constants = up, down, pad, (H, W), gain
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        up, down, pad, size, gain = ctx.constants
        return _Filter.apply(d_out, down, up, 3 - pad, size, gain), None, None, None, None, None


BLOCK = 256  # values of a program; 512 fill half as many places of a multiprocessor, and spill


@triton.jit
def _tap_weight(i: tl.constexpr):
    """Return the i-th of the four weights."""
    return 0.125 if i == 0 or i == 3 else 0.375


@triton.jit
def _filter_kernel(
    image_ptr, out_ptr, H, W, H_OUT, W_OUT, INNER, gain, UP: tl.constexpr, DOWN: tl.constexpr, PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Filter an image whose memory runs outer, row, column, inner: B C H W 1, or B H W C."""
    outer = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < H_OUT * W_OUT * INNER
    inner, column, row = i % INNER, i // INNER % W_OUT, i // (INNER * W_OUT)
    image_ptr += outer * H * W * INNER
    total = tl.zeros((BLOCK,), tl.float64 if image_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for a in tl.static_range(4):
        y = row * DOWN + a - PAD
        in_y = mask & (y >= 0) & (y < H * UP) & (y % UP == 0)
        for b in tl.static_range(4):
            x = column * DOWN + b - PAD
            inside = in_y & (x >= 0) & (x < W * UP) & (x % UP == 0)
            value = tl.load(image_ptr + (y // UP * W + x // UP) * INNER + inner, mask=inside, other=0.0)
            total += _tap_weight(a) * _tap_weight(b) * lift(value)
    tl.store(out_ptr + outer * H_OUT * W_OUT * INNER + i, total * gain, mask=mask)
