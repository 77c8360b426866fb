"""Device functions of the fused march: from a place in the image to rays, points, plane features and network outputs.

Planes are stored with a ring of two zeros around them, [B, 3, H + 4, W + 4, C]: the ring takes the place of every
bounds test, and a point beside a plane reads the ring alone, so that no value of the plane can reach it.
"""

from __future__ import annotations

from triportrait.kernels.device import LOG2E, larger, lerp_weight, sigmoid, softplus
from triportrait.kernels.language import tl, triton


@triton.jit
def placed_rays(place, width, R, BLOCK_R: tl.constexpr, TILE_W: tl.constexpr):
    """Return the rays at places of the order in which patches of BLOCK_R rays cover an image, and whether they exist.

    Neighbours share texels, so a patch of BLOCK_R / TILE_W rows of TILE_W rays reads less than a row of BLOCK_R.
    """
    TILE_H: tl.constexpr = BLOCK_R // TILE_W
    patches = (width + TILE_W - 1) // TILE_W
    patch, i = place // BLOCK_R, place % BLOCK_R
    column = patch % patches * TILE_W + i % TILE_W
    ray = (patch // patches * TILE_H + i // TILE_W) * width + column
    exists = (column < width) & (ray < R)
    return tl.where(exists, ray, 0), exists


@triton.jit
def tile_rays(patch, width, R, BLOCK_R: tl.constexpr, TILE_W: tl.constexpr, SEGMENTS: tl.constexpr):
    """Return the rays of a patch of the image, SEGMENTS times over, and whether they exist."""
    i = tl.arange(0, SEGMENTS * BLOCK_R) % BLOCK_R
    return placed_rays(patch * BLOCK_R + i, width, R, BLOCK_R, TILE_W)


@triton.jit
def plane_cell(u, v, H, W):
    """Return the upper left texel of the cell around a point on a ringed plane, and the place in the cell.

    Far points are moved into the ring, where all four taps are zeros.
    """
    x, y = u * (W * 0.5) + (W * 0.5 + 1.5), v * (H * 0.5) + (H * 0.5 + 1.5)
    x, y = tl.minimum(tl.maximum(x, 0.0), W + 2.0), tl.minimum(tl.maximum(y, 0.0), H + 2.0)
    x0, y0 = x.to(tl.int32), y.to(tl.int32)
    return x0, y0, x - x0.to(x.dtype), y - y0.to(y.dtype)


@triton.jit
def plane_axes(x, y, z, k: tl.constexpr):
    """Return the coordinates along the width and along the height of plane k of xy, yz, zx."""
    if k == 0:
        u, v = x, y
    elif k == 1:
        u, v = y, z
    else:
        u, v = z, x
    return u, v


@triton.jit
def sample_ringed(planes_ptr, x, y, z, H, W, C: tl.constexpr):
    """Return the sum [rows, C] of the three planes at points [rows].

    Four taps are blended in half precision where the planes are float16 (two channels an instruction), else wide; the
    planes are always added wide.
    """
    BLEND: tl.constexpr = tl.float16 if planes_ptr.dtype.element_ty == tl.float16 else x.dtype
    c = tl.arange(0, C)
    f = tl.zeros([x.shape[0], C], x.dtype)
    for k in tl.static_range(3):
        u, v = plane_axes(x, y, z, k)
        x0, y0, wx, wy = plane_cell(u, v, H, W)
        at = planes_ptr + ((y0 + k * (H + 4)) * (W + 4) + x0)[:, None] * C + c[None, :]
        plane = tl.zeros([x.shape[0], C], BLEND)
        for corner in tl.static_range(4):
            weight = lerp_weight(wx, corner % 2) * lerp_weight(wy, corner // 2)
            tap = tl.load(at + (corner // 2 * (W + 4) + corner % 2) * C)
            plane += weight.to(BLEND)[:, None] * tap.to(BLEND)
        f += plane.to(x.dtype)
    return f


@triton.jit
def _trilinear(grid_ptr, x, y, z, side, G: tl.constexpr):
    """Interpolate four numbers between the centres of the cells of a cube [G, G, G, 4] of this side; zero outside."""
    px, py, pz = (x / side + 0.5) * G - 0.5, (y / side + 0.5) * G - 0.5, (z / side + 0.5) * G - 0.5
    fx, fy, fz = tl.floor(px), tl.floor(py), tl.floor(pz)
    wx, wy, wz = px - fx, py - fy, pz - fz
    c = tl.arange(0, 4)
    out = tl.zeros([x.shape[0], 4], x.dtype)
    for corner in tl.static_range(8):
        xi, yi, zi = fx + corner // 4, fy + corner // 2 % 2, fz + corner % 2
        inside = (
            (xi >= 0) & (xi < G) & (yi >= 0) & (yi < G) & (zi >= 0) & (zi < G)
        )  # before the cast: far ones overflow
        weight = lerp_weight(wx, corner // 4) * lerp_weight(wy, corner // 2 % 2) * lerp_weight(wz, corner % 2)
        cell = tl.where(inside, (xi * G + yi) * G + zi, 0.0).to(tl.int32)
        out += tl.where(inside, weight, 0.0)[:, None] * tl.load(grid_ptr + cell[:, None] * 4 + c[None, :])
    even, odd = tl.split(tl.reshape(out, [x.shape[0], 2, 2]))
    v0, v2 = tl.split(even)
    v1, v3 = tl.split(odd)
    return v0, v1, v2, v3


@triton.jit
def _warped(fine_ptr, coarse_ptr, x, y, z, side, near, rate, FINE: tl.constexpr, COARSE: tl.constexpr):
    """Move points by two grids of offsets: the fine one near its surface, the coarse one far from it."""
    ax, ay, az, distance = _trilinear(fine_ptr, x, y, z, side, FINE)
    bx, by, bz, _ = _trilinear(coarse_ptr, x, y, z, side, COARSE)
    w = tl.exp2(larger(distance - near, 0.0) * (-rate * LOG2E))
    return x + bx + w * (ax - bx), y + by + w * (ay - by), z + bz + w * (az - bz)


@triton.jit
def ray_points(
    ray_ptr, b, dx, dy, dz, t, fine_ptr, coarse_ptr, side, near, rate, FINE: tl.constexpr, COARSE: tl.constexpr
):  # fmt: skip
    """Return points at depths t of rays, in plane units; ray_ptr [B, 4] holds an image's origin and 2 / box side."""
    x = tl.load(ray_ptr + b * 4) + t * dx
    y = tl.load(ray_ptr + b * 4 + 1) + t * dy
    z = tl.load(ray_ptr + b * 4 + 2) + t * dz
    if FINE > 0:
        x, y, z = _warped(
            fine_ptr + b * FINE * FINE * FINE * 4, coarse_ptr + b * COARSE * COARSE * COARSE * 4, x, y, z, side, near,
            rate, FINE, COARSE,
        )  # fmt: skip
    scale = tl.load(ray_ptr + b * 4 + 3)
    return x * scale, y * scale, z * scale


@triton.jit
def hidden_units(f, w_h, b_h, PRECISION: tl.constexpr, EXACT: tl.constexpr):
    """Return the softplus [rows, K] of the first layer; w_h [C, K] is in the dtype of the product."""
    return softplus(tl.dot(f.to(w_h.dtype), w_h, input_precision=PRECISION, out_dtype=b_h.dtype) + b_h[None, :], EXACT)


@triton.jit
def features(h, w_f, b_f, PRECISION: tl.constexpr):
    """Return the sigmoid [rows, E] of the second layer; w_f [K, E] is in the dtype of the product."""
    return sigmoid(tl.dot(h.to(w_f.dtype), w_f, input_precision=PRECISION, out_dtype=b_f.dtype) + b_f[None, :])


@triton.jit
def directions(direction_ptr, ray):
    """Load x, y and z of the directions of rays."""
    at = direction_ptr + ray * 3
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)
