"""The kernels of the rasteriser: a depth buffer of packed depths and faces, then barycentrics of what is seen.

A program takes a few faces and walks over their boxes, tile by tile; the smallest key stays, by an atomic minimum of
whole numbers, which has no order. Float64 is not fused into multiply-adds, so that depths are those of the definition.
Letters: B batch, U vertices, F faces, H W picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.kernels.language import tl, triton
from triportrait.kernels.rasterize.fixed_point import EMPTY, Vertices

BLOCK_F = 8  # faces of a program
TILE = tl.constexpr(4)  # pixels of a side: faces of 10,000 on a picture of 512 x 512 are about that large
SHARES = 8  # programs that share the tiles of the same faces: large faces would keep one busy for long
BLOCK_P = 128  # pixels of a program that resolves


def rasterize_gpu(
    vertices: Vertices, faces: Tensor, height: int, width: int, cull: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Rasterise on a GPU without waiting for it. Returns face, barycentrics and depth, as in `Raster`."""
    (B, U, _), F, device = vertices.place.shape, len(faces), faces.device
    place, inverse_depth, faces = vertices.place.contiguous(), vertices.inverse_depth.contiguous(), faces.contiguous()
    key = torch.full((B, height, width), EMPTY, device=device)
    face = torch.empty(B, height, width, dtype=torch.int64, device=device)
    barycentrics = torch.empty(B, height, width, 3, dtype=dtype, device=device)
    depth = torch.empty(B, height, width, dtype=dtype, device=device)
    if B and F:
        _draw_kernel[triton.cdiv(F, BLOCK_F), B, SHARES](
            place, inverse_depth, faces, key, U, F, height, width, SHARES, cull, BLOCK_F,
            num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    if B:
        _resolve_kernel[triton.cdiv(height * width, BLOCK_P), B](
            place, inverse_depth, faces, key, face, barycentrics, depth, U, height, width, BLOCK_P,
            enable_fp_fusion=False,
        )  # fmt: skip
    return face, barycentrics, depth


@triton.jit
def _vertex(place_ptr, inverse_depth_ptr, index, mask):
    """Load x and y, int32, and the inverse depth of vertices."""
    x = tl.load(place_ptr + index * 2, mask=mask, other=0)
    y = tl.load(place_ptr + index * 2 + 1, mask=mask, other=0)
    return x, y, tl.load(inverse_depth_ptr + index, mask=mask, other=0.0)


@triton.jit
def _product(a, b):
    """Multiply int32 numbers into int64."""
    return a.to(tl.int64) * b.to(tl.int64)


@triton.jit
def _edge(ax, ay, bx, by, sign, x, y):
    """Return the edge function at x, y of the edge from a to b."""
    return (_product(bx - ax, y - ay) - _product(by - ay, x - ax)) * sign


@triton.jit
def _least(ax, ay, bx, by, sign):
    """Return what the edge function has to reach: 0 on top and left edges, 1 on others."""
    dx, dy = (bx - ax) * sign, (by - ay) * sign
    return tl.where((dy < 0) | ((dy == 0) & (dx > 0)), 0, 1)


@triton.jit
def _first_pixel(least):
    """Return the first pixel whose centre is not before a coordinate, of the picture at least."""
    return tl.maximum((least + 127) >> 8, 0)


@triton.jit
def _draw_kernel(
    place_ptr, inverse_depth_ptr, faces_ptr, key_ptr, U, F, H, W, SHARES: tl.constexpr, CULL: tl.constexpr,
    BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Lower the keys of the pixels that faces cover."""
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask_f = f < F
    v0 = tl.load(faces_ptr + f.to(tl.int64) * 3, mask=mask_f, other=-1)
    v1 = tl.load(faces_ptr + f.to(tl.int64) * 3 + 1, mask=mask_f, other=-1)
    v2 = tl.load(faces_ptr + f.to(tl.int64) * 3 + 2, mask=mask_f, other=-1)
    exists = (v0 >= 0) & (v0 < U) & (v1 >= 0) & (v1 < U) & (v2 >= 0) & (v2 < U)
    lane = tl.arange(0, TILE * TILE)[None, :]
    b = tl.program_id(1).to(tl.int64)
    x0, y0, w0 = _vertex(place_ptr + b * U * 2, inverse_depth_ptr + b * U, v0, exists)
    x1, y1, w1 = _vertex(place_ptr + b * U * 2, inverse_depth_ptr + b * U, v1, exists)
    x2, y2, w2 = _vertex(place_ptr + b * U * 2, inverse_depth_ptr + b * U, v2, exists)
    twice = _product(x1 - x0, y2 - y0) - _product(x2 - x0, y1 - y0)
    drawn = (w0 > 0) & (w1 > 0) & (w2 > 0) & ((twice < 0) if CULL else (twice != 0))
    sign = tl.where(twice < 0, -1, 1)
    left = _first_pixel(tl.minimum(tl.minimum(x0, x1), x2))
    top = _first_pixel(tl.minimum(tl.minimum(y0, y1), y2))
    right = tl.minimum((tl.maximum(tl.maximum(x0, x1), x2) - 128) >> 8, W - 1)
    bottom = tl.minimum((tl.maximum(tl.maximum(y0, y1), y2) - 128) >> 8, H - 1)
    across = tl.maximum(right - left + TILE, 0) // TILE
    tiles = tl.where(drawn & (bottom >= top), across * (tl.maximum(bottom - top + TILE, 0) // TILE), 0)
    across = tl.maximum(across, 1)
    least0 = _least(x1, y1, x2, y2, sign)[:, None]
    least1 = _least(x2, y2, x0, y0, sign)[:, None]
    least2 = _least(x0, y0, x1, y1, sign)[:, None]
    for tile in range(tl.program_id(2), tl.max(tiles, 0), SHARES):
        px = (left + tile % across * TILE)[:, None] + lane % TILE
        py = (top + tile // across * TILE)[:, None] + lane // TILE
        x, y = px * 256 + 128, py * 256 + 128
        e0 = _edge(x1[:, None], y1[:, None], x2[:, None], y2[:, None], sign[:, None], x, y)
        e1 = _edge(x2[:, None], y2[:, None], x0[:, None], y0[:, None], sign[:, None], x, y)
        e2 = _edge(x0[:, None], y0[:, None], x1[:, None], y1[:, None], sign[:, None], x, y)
        covered = (e0 >= least0) & (e1 >= least1) & (e2 >= least2) & (tile < tiles)[:, None] & (px < W) & (py < H)
        total = e0.to(tl.float64) * w0[:, None] + e1.to(tl.float64) * w1[:, None] + e2.to(tl.float64) * w2[:, None]
        depth = (e0 + e1 + e2).to(tl.float64) / tl.where(covered, total, 1.0)
        key = (depth.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64) << 32) | f[:, None]
        pixel = key_ptr + (b * H + py) * W + px
        tl.atomic_min(pixel, key, mask=covered, sem="relaxed")


@triton.jit
def _resolve_kernel(
    place_ptr, inverse_depth_ptr, faces_ptr, key_ptr, face_ptr, barycentrics_ptr, depth_ptr, U, H, W,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Unpack the faces that pixels see, and compute the places on them."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_p = p < H * W
    x, y = p % W * 256 + 128, p // W * 256 + 128
    b = tl.program_id(1).to(tl.int64)
    at = b * H * W + p
    key = tl.load(key_ptr + at, mask=mask_p, other=0x7FFFFFFFFFFFFFFF)
    seen = key != 0x7FFFFFFFFFFFFFFF
    f = tl.where(seen, key & 0xFFFFFFFF, 0)
    v0 = tl.load(faces_ptr + f * 3, mask=seen, other=0)
    v1 = tl.load(faces_ptr + f * 3 + 1, mask=seen, other=0)
    v2 = tl.load(faces_ptr + f * 3 + 2, mask=seen, other=0)
    x0, y0, w0 = _vertex(place_ptr + b * U * 2, inverse_depth_ptr + b * U, v0, seen)
    x1, y1, w1 = _vertex(place_ptr + b * U * 2, inverse_depth_ptr + b * U, v1, seen)
    x2, y2, w2 = _vertex(place_ptr + b * U * 2, inverse_depth_ptr + b * U, v2, seen)
    sign = tl.where(_product(x1 - x0, y2 - y0) - _product(x2 - x0, y1 - y0) < 0, -1, 1)
    e0 = _edge(x1, y1, x2, y2, sign, x, y)
    e1 = _edge(x2, y2, x0, y0, sign, x, y)
    e2 = _edge(x0, y0, x1, y1, sign, x, y)
    b0, b1, b2 = e0.to(tl.float64) * w0, e1.to(tl.float64) * w1, e2.to(tl.float64) * w2
    total = tl.where(seen, b0 + b1 + b2, 1.0)
    tl.store(face_ptr + at, tl.where(seen, f, -1), mask=mask_p)
    tl.store(barycentrics_ptr + at * 3, tl.where(seen, b0 / total, 0.0), mask=mask_p)
    tl.store(barycentrics_ptr + at * 3 + 1, tl.where(seen, b1 / total, 0.0), mask=mask_p)
    tl.store(barycentrics_ptr + at * 3 + 2, tl.where(seen, b2 / total, 0.0), mask=mask_p)
    tl.store(depth_ptr + at, tl.where(seen, (e0 + e1 + e2).to(tl.float64) / total, 0.0), mask=mask_p)
