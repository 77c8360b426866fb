"""Values of 3D points from a regular grid, trilinear, zero outside.

Letters: B batch, P points, X Y Z the sides of the grid, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from triportrait.kernels.checks import lifted, shapes, wide_dtype
from triportrait.kernels.device import axis_tap, lift, node_index, store_vectors
from triportrait.kernels.dispatch import alert_not_deterministic, runs_triton
from triportrait.kernels.language import device_of, tl, triton


def lookup_grid(grid: Tensor, points: Tensor) -> Tensor:
    """Look points up in a grid whose outermost nodes lie at -1 and 1, trilinearly.

    Args:
        grid: [B, X, Y, Z, C], channels last; `grid[b, i, j, k]` is the value at the i-th x, j-th y and k-th z.
        points: [B, P, 3], grid units. Beyond the outermost nodes the value fades to zero over one cell.

    Returns:
        [B, P, C].

    Raises:
        ValueError: a shape disagrees, or tensors lie on several devices.

    Differentiable in both. Saves both.
    """
    shapes(grid=(grid, "B X Y Z C"), points=(points, "B P 3"))
    if runs_triton(grid=grid, points=points):
        with device_of(grid):
            return _LookupGrid.apply(grid, points)  # type: ignore[no-any-return]
    return lookup_grid_reference(grid, points)


def lookup_grid_reference(grid: Tensor, points: Tensor) -> Tensor:
    """Compute the definition in plain PyTorch."""
    flipped = points.flip(-1)[:, None, None]  # [B, 1, 1, P, 3]: grid_sample wants the innermost axis first
    wide = lifted(grid)
    values = F.grid_sample(wide.permute(0, 4, 1, 2, 3), flipped.to(wide.dtype), align_corners=True)
    return values[:, :, 0, 0].mT.to(grid.dtype)  # [B, P, C]


class _LookupGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, grid: Tensor, points: Tensor) -> Tensor:
        grid, points = grid.contiguous(), points.to(wide_dtype(grid)).contiguous()
        ctx.save_for_backward(grid, points)
        (B, X, Y, Z, C), P = grid.shape, points.shape[1]
        out = grid.new_empty(B, P, C)
        if out.numel():
            _forward_kernel[triton.cdiv(P, BLOCK_P), B](
                grid, points, out, P, X, Y, Z, C, triton.next_power_of_2(C), BLOCK_P, num_stages=1
            )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_out: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        alert_not_deterministic("lookup_grid")
        grid, points = ctx.saved_tensors  # type: ignore[attr-defined]
        (B, X, Y, Z, C), P = grid.shape, points.shape[1]
        d_grid = torch.zeros_like(grid, dtype=points.dtype)  # sums stay wide
        d_points = torch.empty_like(points)
        if d_out.numel():
            _backward_kernel[triton.cdiv(P, BLOCK_P), B](
                grid, points, d_out.contiguous(), d_grid, d_points, P, X, Y, Z, C, triton.next_power_of_2(C), BLOCK_P,
                num_stages=1,
            )  # fmt: skip
        return d_grid.to(grid.dtype), d_points


BLOCK_P = 128  # points of a program: a thread each with 4 warps


@triton.jit
def _nodes(points_ptr, p, mask, X, Y, Z):
    """Return where points lie among the nodes of each axis."""
    x = (tl.load(points_ptr + p * 3, mask=mask, other=0.0) + 1) * 0.5 * (X - 1)
    y = (tl.load(points_ptr + p * 3 + 1, mask=mask, other=0.0) + 1) * 0.5 * (Y - 1)
    z = (tl.load(points_ptr + p * 3 + 2, mask=mask, other=0.0) + 1) * 0.5 * (Z - 1)
    return x, y, z


@triton.jit
def _forward_kernel(
    grid_ptr, points_ptr, out_ptr, P, X, Y, Z, C: tl.constexpr, C_PAD: tl.constexpr, BLOCK_P: tl.constexpr
):  # fmt: skip
    """Add the eight nodes around each point, each with its weight."""
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, C_PAD)
    mask_p, mask_c = p < P, c < C
    points_ptr += b * P * 3
    x, y, z = _nodes(points_ptr, p, mask_p, X, Y, Z)
    total = tl.zeros((BLOCK_P, C_PAD), points_ptr.dtype.element_ty)
    for corner in tl.static_range(8):
        xi, in_x, w_x = axis_tap(x, X, corner // 4)
        yi, in_y, w_y = axis_tap(y, Y, corner // 2 % 2)
        zi, in_z, w_z = axis_tap(z, Z, corner % 2)
        xi, yi, zi = node_index(xi, in_x), node_index(yi, in_y), node_index(zi, in_z)
        inside = mask_p & in_x & in_y & in_z
        at = ((((b * X + xi) * Y + yi) * Z + zi) * C)[:, None] + c[None, :]
        value = tl.load(grid_ptr + at, mask=inside[:, None] & mask_c[None, :], other=0.0)
        total += tl.where(inside, w_x * w_y * w_z, 0.0)[:, None] * lift(value)
    tl.store(out_ptr + ((b * P + p) * C)[:, None] + c[None, :], total, mask=mask_p[:, None] & mask_c[None, :])


@triton.jit
def _backward_kernel(
    grid_ptr, points_ptr, d_out_ptr, d_grid_ptr, d_points_ptr, P, X, Y, Z, C: tl.constexpr, C_PAD: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Add to the gradients of the nodes around each point, and write the gradient of the point."""
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, C_PAD)
    mask_p, mask_c = p < P, c < C
    mask = mask_p[:, None] & mask_c[None, :]
    d_out = lift(tl.load(d_out_ptr + ((b * P + p) * C)[:, None] + c[None, :], mask=mask, other=0.0))
    points_ptr += b * P * 3
    x, y, z = _nodes(points_ptr, p, mask_p, X, Y, Z)
    d_x = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
    d_y = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
    d_z = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
    for corner in tl.static_range(8):
        xi, in_x, w_x = axis_tap(x, X, corner // 4)
        yi, in_y, w_y = axis_tap(y, Y, corner // 2 % 2)
        zi, in_z, w_z = axis_tap(z, Z, corner % 2)
        xi, yi, zi = node_index(xi, in_x), node_index(yi, in_y), node_index(zi, in_z)
        inside = mask_p & in_x & in_y & in_z
        here = inside[:, None] & mask_c[None, :]
        at = ((((b * X + xi) * Y + yi) * Z + zi) * C)[:, None] + c[None, :]
        tl.atomic_add(d_grid_ptr + at, (w_x * w_y * w_z)[:, None] * d_out, mask=here, sem="relaxed")
        value = lift(tl.load(grid_ptr + at, mask=here, other=0.0))
        both = tl.where(inside, tl.sum(value * d_out, 1), 0.0)
        d_x += (2 * (corner // 4) - 1) * w_y * w_z * both
        d_y += (2 * (corner // 2 % 2) - 1) * w_x * w_z * both
        d_z += (2 * (corner % 2) - 1) * w_x * w_y * both
    to = d_points_ptr + (b * P + p) * 3
    store_vectors(to, d_x * 0.5 * (X - 1), d_y * 0.5 * (Y - 1), d_z * 0.5 * (Z - 1), mask_p)
