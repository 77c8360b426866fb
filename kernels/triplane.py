"""Features of 3D points: the mean over three axis-aligned planes (paper, Eq. 1, the argument of the MLP).

    feature(x) = (T_xy(x, y) + T_yz(y, z) + T_zx(z, x)) / 3,   T(u, v) bilinear, zero outside the plane

The paper writes a sum; the published network takes the mean, and so does this operator.
Letters: B batch, P points, H W height and width of a plane, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from triportrait.kernels.checks import lifted, shapes, wide_dtype
from triportrait.kernels.device import axis_tap, lift, node_index, store_vectors, texel_coordinates
from triportrait.kernels.dispatch import alert_not_deterministic, runs_triton
from triportrait.kernels.language import device_of, tl, triton


def sample_triplane(planes: Tensor, points: Tensor) -> Tensor:
    """Sample three feature planes at 3D points and take the mean.

    Args:
        planes: [B, 3, H, W, C], the planes xy, yz, zx, channels last. The first coordinate of a pair runs along W, the
            second along H, so row 0 is the lowest value of the second coordinate.
        points: [B, P, 3], plane units: the planes cover [-1, 1]; texels are cells, their centres half a cell inside.

    Returns:
        [B, P, C], the dtype of `planes`. A tap outside the plane counts as zero.

    Raises:
        ValueError: a shape disagrees, or tensors lie on several devices.

    Differentiable in `planes` and `points`. Saves both.
    """
    shapes(planes=(planes, "B 3 H W C"), points=(points, "B P 3"))
    if runs_triton(planes=planes, points=points):
        with device_of(planes):
            return SampleTriplane.apply(planes, points)  # type: ignore[no-any-return]
    return sample_triplane_reference(planes, points)


def sample_triplane_reference(planes: Tensor, points: Tensor) -> Tensor:
    """Compute the definition in plain PyTorch."""
    (B, _, H, W, C), P = planes.shape, points.shape[1]
    wide = lifted(planes)
    zx = torch.stack([points[..., 2], points[..., 0]], -1)
    pairs = torch.stack([points[..., :2], points[..., 1:], zx], 1)  # [B, 3, P, 2]
    taps = F.grid_sample(
        wide.reshape(B * 3, H, W, C).permute(0, 3, 1, 2),  # [B*3, C, H, W], still channels last in memory
        pairs.reshape(B * 3, 1, P, 2).to(wide.dtype),
        align_corners=False,
    )  # [B*3, C, 1, P]
    return taps.view(B, 3, C, P).mean(1).mT.to(planes.dtype)  # [B, P, C]


class SampleTriplane(torch.autograd.Function):
    """The kernels of `sample_triplane`; `kernels.field` differentiates through them, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, planes: Tensor, points: Tensor) -> Tensor:
        planes, points = planes.contiguous(), points.to(wide_dtype(planes)).contiguous()
        ctx.save_for_backward(planes, points)
        (B, _, H, W, C), P = planes.shape, points.shape[1]
        out = planes.new_empty(B, P, C)
        if out.numel():
            block = _block(C)
            _forward_kernel[triton.cdiv(P, block), B](
                planes, points, out, P, H, W, C, triton.next_power_of_2(C), block, num_stages=1
            )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_out: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        alert_not_deterministic("sample_triplane")
        planes, points = ctx.saved_tensors  # type: ignore[attr-defined]
        (B, _, H, W, C), P = planes.shape, points.shape[1]
        d_planes = torch.zeros_like(planes, dtype=points.dtype)  # sums stay wide
        d_points = torch.empty_like(points)
        if d_out.numel():
            block = _block(C)
            _backward_kernel[triton.cdiv(P, block), B](
                planes, points, d_out.contiguous(), d_planes, d_points, P, H, W, C, triton.next_power_of_2(C), block,
                num_stages=1,
            )  # fmt: skip
        return d_planes.to(planes.dtype), d_points


def _block(C: int) -> int:
    """Choose the points of a program: 1024 values, with 4 warps 16 bytes of half precision a thread."""
    return max(16, 1024 // triton.next_power_of_2(C))


@triton.jit
def _axes(points_ptr, p, mask, plane: tl.constexpr):
    """Load the first and the second coordinate of points on one of the planes xy, yz, zx."""
    u = tl.load(points_ptr + p * 3 + plane, mask=mask, other=0.0)
    v = tl.load(points_ptr + p * 3 + (plane + 1) % 3, mask=mask, other=0.0)
    return u, v


@triton.jit
def _tap(x, y, mask, H, W, corner: tl.constexpr):
    """Return column and row of one of four taps, whether it is on the plane, and its weights along x and y."""
    xi, in_x, weight_x = axis_tap(x, W, corner % 2)
    yi, in_y, weight_y = axis_tap(y, H, corner // 2)
    inside = mask & in_x & in_y
    return node_index(xi, inside), node_index(yi, inside), inside, weight_x, weight_y


@triton.jit
def plane_mean(
    planes_ptr, points_ptr, p, mask_p, H, W, C: tl.constexpr, C_PAD: tl.constexpr, BLOCK_P: tl.constexpr
):  # fmt: skip
    """Return features [BLOCK_P, C_PAD] of points p [., 3] of one image, zero beyond C; its planes are [3, H, W, C]."""
    c = tl.arange(0, C_PAD)
    mask_c = c < C
    total = tl.zeros((BLOCK_P, C_PAD), points_ptr.dtype.element_ty)
    for k in tl.static_range(3):
        u, v = _axes(points_ptr, p, mask_p, k)
        x, y = texel_coordinates(u, v, H, W)
        plane_ptr = planes_ptr + k * H * W * C
        for corner in tl.static_range(4):
            xi, yi, inside, weight_x, weight_y = _tap(x, y, mask_p, H, W, corner)
            at = plane_ptr + ((yi * W + xi) * C)[:, None] + c[None, :]
            texel = tl.load(at, mask=inside[:, None] & mask_c[None, :], other=0.0)
            # a tap beside the plane weighs nothing, even where its weight is no number
            total += tl.where(inside, weight_x * weight_y, 0.0)[:, None] * lift(texel)
    return total / 3


@triton.jit
def _forward_kernel(
    planes_ptr, points_ptr, out_ptr, P, H, W, C: tl.constexpr, C_PAD: tl.constexpr, BLOCK_P: tl.constexpr
):  # fmt: skip
    """Write the mean of the three planes at each point."""
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, C_PAD)
    mask_p, mask_c = p < P, c < C
    mean = plane_mean(planes_ptr + b * 3 * H * W * C, points_ptr + b * P * 3, p, mask_p, H, W, C, C_PAD, BLOCK_P)
    to = out_ptr + ((b * P + p) * C)[:, None] + c[None, :]
    tl.store(to, mean, mask=mask_p[:, None] & mask_c[None, :])


@triton.jit
def _backward_kernel(
    planes_ptr, points_ptr, d_out_ptr, d_planes_ptr, d_points_ptr, P, H, W,
    C: tl.constexpr, C_PAD: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Add to the gradients of the texels around each point, and write the gradient of the point."""
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, C_PAD)
    mask_p, mask_c = p < P, c < C
    mask = mask_p[:, None] & mask_c[None, :]
    d_out = lift(tl.load(d_out_ptr + ((b * P + p) * C)[:, None] + c[None, :], mask=mask, other=0.0)) / 3
    d_x = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
    d_y = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
    d_z = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
    for k in tl.static_range(3):
        u, v = _axes(points_ptr + b * P * 3, p, mask_p, k)
        x, y = texel_coordinates(u, v, H, W)
        base = (b * 3 + k) * H * W * C
        d_u = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
        d_v = tl.zeros((BLOCK_P,), points_ptr.dtype.element_ty)
        for corner in tl.static_range(4):
            xi, yi, inside, weight_x, weight_y = _tap(x, y, mask_p, H, W, corner)
            at = base + ((yi * W + xi) * C)[:, None] + c[None, :]
            here = inside[:, None] & mask_c[None, :]
            texel = lift(tl.load(planes_ptr + at, mask=here, other=0.0))
            tl.atomic_add(d_planes_ptr + at, (weight_x * weight_y)[:, None] * d_out, mask=here, sem="relaxed")
            both = tl.sum(texel * d_out, 1)
            d_u += tl.where(inside, (2 * (corner % 2) - 1) * weight_y * both, 0.0)
            d_v += tl.where(inside, (2 * (corner // 2) - 1) * weight_x * both, 0.0)
        d_u, d_v = d_u * (W * 0.5), d_v * (H * 0.5)
        if k == 0:
            d_x, d_y = d_x + d_u, d_y + d_v
        elif k == 1:
            d_y, d_z = d_y + d_u, d_z + d_v
        else:
            d_z, d_x = d_z + d_u, d_x + d_v
    store_vectors(d_points_ptr + (b * P + p) * 3, d_x, d_y, d_z, mask_p)
