"""Launch the march: pack tensors for the kernels, allocate scratch, choose the constants of each launch.

Letters: B batch, R rays, S coarse and N fine samples, L = S + N, C plane channels, K hidden units, E feature channels.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import wide_dtype
from triportrait.kernels.dispatch import INTERPRETED
from triportrait.kernels.field import FieldWeights
from triportrait.kernels.language import tile_side, triton
from triportrait.kernels.march.backward import mlp_kernel, probe_kernel, scan_kernel, splat_kernel
from triportrait.kernels.march.forward import march_kernel, propose_kernel

MlpPrecision = Literal["exact", "tf32", "fp16", "bf16"]
RING = 2  # texels of zeros around a plane

BLOCK_R, TILE_W = 16, 4  # rays of a program as a patch 4 wide
SEGMENTS, EXACT_SEGMENTS = 4, 2  # pieces of a ray; with exact products 64 rows spill
BACK_R, WIDE_BACK_R = 64, 32  # rays of a program in the backward pass; 64 spill with products of float32 or TF32
BACK_W, BACK_SAMPLES = 8, 16  # width of their patch; samples of a program
SCAN_ROWS = 4
SPLAT_P = 32
SCRATCH = 32 << 20  # bytes of d_f at a time: with points and sums most of a second cache
DETERMINISTIC_SCRATCH = (
    256 << 20
)  # bytes of an image: a frame at once, because each piece adds a whole set of integer planes


class Warp(NamedTuple):
    """Offsets by which points move before the planes are looked up: x + w fine(x) + (1 - w) coarse(x).

    w = exp(-rate max(0, d(x) - near)), with d the fine grid's fourth channel: it counts near its surface.
    """

    fine: Tensor  # [B, G, G, G, 4] at the centres of the cells of a cube around the origin
    coarse: Tensor  # [B, g, g, g, 3]
    side: float  # the cube's
    near: float
    rate: float


class Rays(NamedTuple):
    """The rays of B images.

    Attributes:
        origins: [B, 3].
        directions: [B, R, 3], unit vectors.
        width: rays of a row of the image; R for a flat list.
    """

    origins: Tensor
    directions: Tensor
    width: int


class Packed(NamedTuple):
    """The tensors in the dtypes and layouts of the kernels."""

    planes: Tensor  # [B, 3, H + 4, W + 4, C]
    ray: Tensor  # [B, 4] origin, 1 / half the side of the box
    directions: Tensor  # [B, R, 3]
    fine: Tensor
    coarse: Tensor  # [B, g, g, g, 4]
    w_h: Tensor  # [C, K], the mean over the planes folded in
    b_h: Tensor
    w_d: Tensor
    b_d: Tensor
    w_f: Tensor  # [K, E]
    b_f: Tensor

    def mlp(self) -> tuple[Tensor, ...]:
        """Return the weights of the MLP."""
        return self.w_h, self.b_h, self.w_d, self.b_d, self.w_f, self.b_f


class Arguments(NamedTuple):
    """Everything that the launches of a march need.

    Attributes:
        tensors: what the kernels read.
        size: H and W of the planes.
        width: rays of a row.
        shape: B and R.
        warp_numbers: side, near and rate of the warp.
        warp_sizes: sides of its two grids, 0 without a warp.
        options: how the MLP's products are computed.
    """

    tensors: Packed
    size: tuple[int, int]
    width: int
    shape: tuple[int, int]
    warp_numbers: tuple[float, float, float]
    warp_sizes: tuple[int, int]
    options: dict[str, Any]


def ringed(planes: Tensor) -> Tensor:
    """Copy planes [B, 3, H, W, C] into a ring of zeros, as the kernels read them: [B, 3, H + 4, W + 4, C]."""
    return F.pad(planes.detach(), (0, 0, RING, RING, RING, RING)).contiguous()


def inside_ring(planes: Tensor) -> Tensor:
    """View what `ringed` was given, [B, 3, H, W, C], in its result."""
    return planes[:, :, RING:-RING, RING:-RING]


def pack(
    planes: Tensor, rays: Rays, half_side: Tensor, weights: FieldWeights, warp: Warp | None, precision: MlpPrecision,
    ringed_planes: Tensor | None = None,
) -> Arguments:  # fmt: skip
    """Bring the arguments of `march_rays` to the dtypes and layouts of the kernels."""
    wide = wide_dtype(planes)
    narrow = {"exact": wide, "tf32": wide, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    if INTERPRETED and precision == "bf16":
        narrow = wide  # Triton's interpreter multiplies bfloat16 wrongly
    w = FieldWeights(*(weight.detach().to(wide) for weight in weights))
    ray = torch.cat([rays.origins.to(wide), 1 / half_side.to(wide)[:, None]], 1).contiguous()
    tensors = Packed(
        planes=ringed(planes) if ringed_planes is None else ringed_planes,
        ray=ray,
        directions=rays.directions.to(wide).contiguous(),
        fine=ray if warp is None else warp.fine.to(wide).contiguous(),
        coarse=ray if warp is None else F.pad(warp.coarse.to(wide), (0, 1)).contiguous(),
        w_h=(w.hidden_weight.T / 3).to(narrow).contiguous(),
        b_h=w.hidden_bias.contiguous(),
        w_d=w.density_weight.contiguous(),
        b_d=w.density_bias.contiguous(),
        w_f=w.feature_weight.T.to(narrow).contiguous(),
        b_f=w.feature_bias.contiguous(),
    )
    return Arguments(
        tensors, (planes.shape[2], planes.shape[3]), rays.width, (rays.directions.shape[0], rays.directions.shape[1]),
        (1.0, 0.0, 0.0) if warp is None else (warp.side, warp.near, warp.rate),
        (0, 0) if warp is None else (warp.fine.shape[1], warp.coarse.shape[1]),
        {"PRECISION": "ieee" if precision == "exact" else "tf32", "EXACT": precision == "exact", "num_stages": 1},
    )  # fmt: skip


def patches(args: Arguments, block: int, tile_width: int) -> int:
    """Count the patches of `block` rays that cover an image."""
    height = triton.cdiv(args.shape[1], args.width)
    return triton.cdiv(args.width, tile_width) * triton.cdiv(height, block // tile_width)  # type: ignore[no-any-return]


def propose(args: Arguments, depths: Tensor, num_fine: int, uniforms: Tensor | None) -> Tensor:
    """Choose the fine depths, and return all depths [B, R, L] in order."""
    x, (B, R), S = args.tensors, args.shape, depths.shape[1]
    samples = torch.empty(B, R, S + num_fine, dtype=x.ray.dtype, device=x.ray.device)
    if samples.numel():
        ordered = samples if uniforms is None else uniforms.to(x.ray.dtype).sort(-1).values.contiguous()
        propose_kernel[patches(args, BLOCK_R, TILE_W), B](
            x.planes, depths.to(x.ray.dtype).contiguous(), ordered, x.ray, x.directions, x.fine, x.coarse, x.w_h, x.b_h,
            x.w_d, x.b_d, samples, R, *args.size, args.width, *args.warp_numbers, S, num_fine, *x.w_h.shape,
            *args.warp_sizes, uniforms is None, tile_side(S), tile_side(num_fine), BLOCK_R, TILE_W, SEGMENTS,
            **args.options,
        )  # fmt: skip
    return samples


def march(args: Arguments, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Render feature [B, R, E], depth [B, R] and opacity [B, R] from sorted depths [B, R, L]."""
    x, (B, R, L) = args.tensors, samples.shape
    E = x.w_f.shape[1]
    feature = samples.new_empty(B, R, E)
    depth, opacity = samples.new_empty(B, R), samples.new_empty(B, R)
    if opacity.numel():
        march_kernel[patches(args, BLOCK_R, TILE_W), B](
            x.planes, samples, x.ray, x.directions, x.fine, x.coarse, *x.mlp(),
            feature, depth, opacity, R, *args.size, args.width, *args.warp_numbers, L, *x.w_h.shape, E,
            *args.warp_sizes, BLOCK_R, TILE_W, EXACT_SEGMENTS if args.options["EXACT"] else SEGMENTS, **args.options,
        )  # fmt: skip
    return feature, depth, opacity


class Gradients(NamedTuple):
    """The gradients of the planes [B, 3, H, W, C], in float32, where they are needed, and of the packed MLP."""

    planes: Tensor | None
    w_h: Tensor
    b_h: Tensor
    w_d: Tensor
    b_d: Tensor
    w_f: Tensor
    b_f: Tensor


def march_backward(
    args: Arguments, samples: Tensor, out: tuple[Tensor, Tensor],
    d_out: tuple[Tensor, Tensor, Tensor], deterministic: bool, with_planes: bool = True, scale: Tensor | None = None,
) -> Gradients:  # fmt: skip
    """Compute gradients from those of feature, depth and opacity.

    Args:
        out: depth and opacity.
        scale: [B], the factor in the gradients of each image; the results are divided by it.
    """
    x, (B, R, L), (H, W) = args.tensors, samples.shape, args.size
    (C, K), E = x.w_h.shape, x.w_f.shape[1]
    d_planes = torch.zeros(B, 3, H, W, C, dtype=samples.dtype, device=samples.device) if with_planes else None
    rows = BACK_R if x.w_h.dtype in (torch.float16, torch.bfloat16) else WIDE_BACK_R
    all_patches, groups = patches(args, rows, BACK_W), triton.cdiv(L, BACK_SAMPLES)
    patch_bytes = max(1, rows * L * C * samples.element_size())
    # in the deterministic mode an image's gradients, and so its pieces, do not depend on the images beside it
    chunk = DETERMINISTIC_SCRATCH // patch_bytes if deterministic else SCRATCH // max(1, B * patch_bytes)
    chunk = max(1, min(chunk, all_patches))
    # each program adds to a part of its own, piece after piece
    parts = [samples.new_zeros(B, groups * chunk, *w.shape) for w in x.mlp()]
    w_h, b_h, w_d, b_d, w_f, b_f = parts
    for first in range(0, all_patches if samples.numel() else 0, chunk):
        count = min(chunk, all_patches - first)
        Q = count * rows
        s, q = (samples.new_empty(B, Q, L) for _ in range(2))
        points, d_f = samples.new_empty(B, Q, L, 3), samples.new_empty(B, Q, L, C)
        where, rays = (first, Q, R), (*args.size, args.width)
        probe_kernel[count, groups, B](
            x.planes, samples, x.ray, x.directions, x.fine, x.coarse, *x.mlp(), d_out[0], s, q, points, *where,
            *rays, *args.warp_numbers, L, C, K, E, *args.warp_sizes, BACK_SAMPLES, rows, BACK_W, **args.options,
        )  # fmt: skip
        scan_kernel[triton.cdiv(Q, SCAN_ROWS), B](
            samples, *out, *d_out, s, q, *where, args.width, L, E, tile_side(L), SCAN_ROWS, rows, BACK_W,
            EXACT=args.options["EXACT"], num_stages=1,
        )  # fmt: skip
        b_d[:, 0, 0] += q.sum((1, 2))  # an interval's gradient goes to two samples by halves: the sum is the bias's
        mlp_kernel[count, groups, B](
            x.planes, points, x.w_h, x.b_h, x.w_d, x.w_f, x.b_f, d_out[0], s, q, d_f, w_h, w_f, b_h, w_d, b_f,
            groups * chunk, *where, *rays, L, C, K, E, BACK_SAMPLES, rows, BACK_W, **args.options,
        )  # fmt: skip
        if d_planes is not None:
            _splat(d_f, points, d_planes, deterministic)
    sums = [part.sum(1) for part in parts]
    if scale is not None:
        sums = [d / scale.view(-1, *(1,) * (d.dim() - 1)) for d in sums]
        d_planes = None if d_planes is None else d_planes / scale.view(-1, 1, 1, 1, 1)
    return Gradients(d_planes, *(d.sum(0) for d in sums))


def _splat(d_f: Tensor, points: Tensor, d_planes: Tensor, deterministic: bool) -> None:
    """Add the gradients of features at points to those of the planes."""
    B, _, H, W, C = d_planes.shape
    number = points.shape[1] * points.shape[2]
    grid = triton.cdiv(number, SPLAT_P), B, 3
    if not deterministic:
        splat_kernel[grid](d_f, points, d_f, d_planes, number, H, W, C, False, SPLAT_P, num_stages=1)
        return
    scale = 2.0**30 / d_f.abs().amax((1, 2, 3)).clamp(min=torch.finfo(d_f.dtype).tiny * 2.0**31)
    whole = torch.zeros_like(d_planes, dtype=torch.int64)
    splat_kernel[grid](d_f, points, scale, whole, number, H, W, C, True, SPLAT_P, num_stages=1)
    d_planes += whole.to(d_planes.dtype) / scale[:, None, None, None, None]
