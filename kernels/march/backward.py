"""Gradients of the march by recomputation, in four launches over a piece of the image at a time; depths carry none.

    probe   every sample again: σ_i, q_i = <d_feature, c_i>, and its point
    scan    per ray, no network: w_k, and the gradient of an interval's raw density,
                g_k = 1.002 (q_k + q_{k+1}) / 2 + d_depth (t_k - depth) / opacity + d_opacity,   A the optical depth,
                d_τ_k = exp(-A_{k+1}) g_k - Σ_{j>k} w_j g_j,     d_mid_k = d_τ_k δ_k sigmoid(mid_k - 1)
    mlp     every sample once more, with d_c_i = (w_{i-1} + w_i) / 2 d_feature and d_σ_i = (d_mid_{i-1} + d_mid_i) / 2,
            back through the network; the weights' gradients stay in registers until the end
    splat   d_f to the planes by atomic adds, and nothing else

What lies behind an interval is all there is less what stands before it, so that nothing runs from back to front. mlp
and splat are two launches, because the taps' addresses would stay in registers across the network and spill.
Sums of the weights: a part for each program, added in order at the end. Planes: float32 adds, whose order is the
hardware's, or multiples of 1 / scale in int64, which have no order: the deterministic mode.
Scratch is addressed by the place of a ray in its piece: Q of them for each image.
"""

from __future__ import annotations

from triportrait.kernels.device import LOG2E, interval_depth, lerp_weight, sigmoid, softplus
from triportrait.kernels.language import tl, triton
from triportrait.kernels.march.device import (
    directions,
    features,
    hidden_units,
    placed_rays,
    plane_cell,
    ray_points,
    sample_ringed,
    tile_rays,
)


@triton.jit(do_not_specialize=["tile", "Q"])
def probe_kernel(
    planes_ptr, depths_ptr, ray_ptr, direction_ptr, fine_ptr, coarse_ptr, w_h_ptr, b_h_ptr, w_d_ptr, b_d_ptr, w_f_ptr,
    b_f_ptr, d_feature_ptr, s_ptr, q_ptr, point_ptr, tile, Q, R, H, W, width, side, near, rate,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, E: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr,
    SAMPLES: tl.constexpr, BLOCK_R: tl.constexpr, TILE_W: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Write raw density, <d_feature, feature> and point of every sample of a piece of the image."""
    b = tl.program_id(2).to(tl.int64)
    ray, _ = tile_rays(tile + tl.program_id(0), width, R, BLOCK_R, TILE_W, 1)
    ray = b * R + ray
    place = b * Q + tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    dx, dy, dz = directions(direction_ptr, ray)
    c, k, e = tl.arange(0, C), tl.arange(0, K), tl.arange(0, E)
    w_h, w_f = tl.load(w_h_ptr + c[:, None] * K + k[None, :]), tl.load(w_f_ptr + k[:, None] * E + e[None, :])
    b_h, w_d, b_f, b_d = tl.load(b_h_ptr + k), tl.load(w_d_ptr + k), tl.load(b_f_ptr + e), tl.load(b_d_ptr)
    d_feature = tl.load(d_feature_ptr + ray[:, None] * E + e[None, :])
    start = tl.program_id(1) * SAMPLES
    for i in range(start, tl.minimum(start + SAMPLES, L)):
        t = tl.load(depths_ptr + ray * L + i)
        x, y, z = ray_points(ray_ptr, b, dx, dy, dz, t, fine_ptr, coarse_ptr, side, near, rate, FINE, COARSE)
        at = place * L + i
        tl.store(point_ptr + at * 3, x)
        tl.store(point_ptr + at * 3 + 1, y)
        tl.store(point_ptr + at * 3 + 2, z)
        f = sample_ringed(planes_ptr + b * 3 * (H + 4) * (W + 4) * C, x, y, z, H, W, C)
        h = hidden_units(f, w_h, b_h, PRECISION, EXACT)
        tl.store(s_ptr + at, tl.sum(h * w_d[None, :], 1) + b_d)
        tl.store(q_ptr + at, tl.sum(features(h, w_f, b_f, PRECISION) * d_feature, 1))


@triton.jit(do_not_specialize=["tile", "Q"])
def scan_kernel(
    depths_ptr, depth_ptr, opacity_ptr, d_feature_ptr, d_depth_ptr, d_opacity_ptr, s_ptr, q_ptr, tile,
    Q, R, width, L: tl.constexpr, E: tl.constexpr, L_PAD: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_R: tl.constexpr, TILE_W: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Replace σ and q by the weights and gradients of the intervals; the last one of a ray is 0."""
    b = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ray, exists = placed_rays(tile * BLOCK_R + place, width, R, BLOCK_R, TILE_W)
    ray = b * R + ray
    i = tl.arange(0, L_PAD)[None, :]
    e = tl.arange(0, E)[None, :]
    at = (b * Q + place)[:, None] * L + i
    is_interval = i < L - 1
    t0 = tl.load(depths_ptr + ray[:, None] * L + i, mask=is_interval, other=0.0)
    t1 = tl.load(depths_ptr + ray[:, None] * L + i + 1, mask=is_interval, other=0.0)
    s0, s1 = tl.load(s_ptr + at, mask=is_interval, other=0.0), tl.load(s_ptr + at + 1, mask=is_interval, other=0.0)
    q = 0.5 * (tl.load(q_ptr + at, mask=is_interval, other=0.0) + tl.load(q_ptr + at + 1, mask=is_interval, other=0.0))
    d_feature = tl.load(d_feature_ptr + ray[:, None] * E + e)
    d_opacity = tl.load(d_opacity_ptr + ray) - 0.001 * tl.sum(d_feature, 1)
    opacity = tl.load(opacity_ptr + ray)
    hit = opacity != 0
    d_depth = tl.where(hit, tl.load(d_depth_ptr + ray) / tl.where(hit, opacity, 1.0), 0.0)
    depth = tl.where(hit, tl.load(depth_ptr + ray), 0.0)
    g = 1.002 * q + d_depth[:, None] * (0.5 * (t0 + t1) - depth[:, None]) + d_opacity[:, None]
    tau = tl.where(is_interval, interval_depth(s0, s1, t1 - t0, EXACT), 0.0)
    optical_depth = tl.cumsum(tau, 1)
    after = tl.exp2(-optical_depth * LOG2E)
    w = tl.exp2((tau - optical_depth) * LOG2E) - after
    wg = tl.where(is_interval, w * g, 0.0)
    behind = tl.sum(wg, 1)[:, None] - tl.cumsum(wg, 1)
    d_middle = (after * g - behind) * (t1 - t0) * sigmoid(0.5 * (s0 + s1) - 1)
    counts = is_interval & exists[:, None]
    tl.debug_barrier()  # neighbours have been read
    tl.store(s_ptr + at, tl.where(counts, w, 0.0), mask=i < L)
    tl.store(q_ptr + at, tl.where(counts & (tau < 50.0), d_middle, 0.0), mask=i < L)


@triton.jit
def _add(ptr, value):
    """Add to memory that only this program adds to."""
    tl.store(ptr, tl.load(ptr) + value)


@triton.jit(do_not_specialize=["tile", "Q"])
def mlp_kernel(
    planes_ptr, point_ptr, w_h_ptr, b_h_ptr, w_d_ptr, w_f_ptr, b_f_ptr, d_feature_ptr, w_ptr, d_middle_ptr, d_f_ptr,
    d_w_h_ptr, d_w_f_ptr, d_b_h_ptr, d_w_d_ptr, d_b_f_ptr, PARTS, tile, Q, R, H, W, width,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, E: tl.constexpr, SAMPLES: tl.constexpr,
    BLOCK_R: tl.constexpr, TILE_W: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Run every sample back through the network: write d_f, and add to a part of the sums for each weight."""
    b = tl.program_id(2).to(tl.int64)
    ray, _ = tile_rays(tile + tl.program_id(0), width, R, BLOCK_R, TILE_W, 1)
    place = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)) * L
    # a piece's scratch is small: within an image 32-bit offsets do, which are half the registers
    point_ptr, w_ptr, d_middle_ptr = point_ptr + b * Q * L * 3, w_ptr + b * Q * L, d_middle_ptr + b * Q * L
    d_f_ptr = d_f_ptr + b * Q * L * C
    c, k, e, row = tl.arange(0, C), tl.arange(0, K), tl.arange(0, E), tl.arange(0, 16)[:, None]
    w_h, w_f = tl.load(w_h_ptr + c[:, None] * K + k[None, :]), tl.load(w_f_ptr + k[:, None] * E + e[None, :])
    b_h, b_f = tl.load(b_h_ptr + k), tl.load(b_f_ptr + e)
    WIDE: tl.constexpr = b_h.dtype
    d_feature_ptr += b * R * E
    d_w_h = tl.zeros([C, K], WIDE)
    d_w_f = tl.zeros([K, E], WIDE)
    d_before_sum = tl.zeros([16, K], WIDE)  # row 0: the sum of d_before
    h_sum = tl.zeros([16, K], WIDE)  # row 1: the sum of d_σ h
    d_out_sum = tl.zeros([16, E], WIDE)  # row 0: the sum of d_out
    start = tl.program_id(1) * SAMPLES
    for i in range(start, tl.minimum(start + SAMPLES, L)):
        at = place + i
        x, y, z = tl.load(point_ptr + at * 3), tl.load(point_ptr + at * 3 + 1), tl.load(point_ptr + at * 3 + 2)
        f = sample_ringed(planes_ptr + b * 3 * (H + 4) * (W + 4) * C, x, y, z, H, W, C).to(w_h.dtype)
        before = tl.dot(f, w_h, input_precision=PRECISION, out_dtype=WIDE) + b_h[None, :]
        h = softplus(before, EXACT).to(w_f.dtype)
        out = features(h, w_f, b_f, PRECISION)
        has_previous = tl.zeros([BLOCK_R], tl.int1) | (i > 0)
        v = 0.5 * (tl.load(w_ptr + at) + tl.load(w_ptr + at - 1, mask=has_previous, other=0.0))
        d_s = tl.load(d_middle_ptr + at) + tl.load(d_middle_ptr + at - 1, mask=has_previous, other=0.0)
        d_s = 0.5 * d_s
        d_feature = tl.load(d_feature_ptr + ray[:, None] * E + e[None, :])  # kept across the loop it would spill
        d_out = (d_feature * (1.002 * v)[:, None] * out * (1 - out)).to(w_f.dtype)
        d_h = tl.dot(d_out, tl.trans(w_f), input_precision=PRECISION, out_dtype=WIDE)
        d_h += d_s[:, None] * tl.load(w_d_ptr + k)[None, :]
        d_before = (d_h * sigmoid(before)).to(w_h.dtype)
        d_f = tl.dot(d_before, tl.trans(w_h), input_precision=PRECISION, out_dtype=WIDE)
        tl.store(d_f_ptr + at[:, None] * C + c[None, :], d_f)
        d_w_h += tl.dot(tl.trans(f), d_before, input_precision=PRECISION, out_dtype=WIDE)
        d_w_f += tl.dot(tl.trans(h), d_out, input_precision=PRECISION, out_dtype=WIDE)
        # sums over rows on the tensor cores, by a row of ones and a row of d_σ: tl.sum over them is 130 shuffles
        rows = tl.where(row == 0, 1.0, tl.where(row == 1, d_s[None, :], 0.0)).to(w_h.dtype)
        d_before_sum += tl.dot(rows, d_before, input_precision=PRECISION, out_dtype=WIDE)
        h_sum += tl.dot(rows, h, input_precision=PRECISION, out_dtype=WIDE)
        d_out_sum += tl.dot(rows, d_out, input_precision=PRECISION, out_dtype=WIDE)
    part = b * PARTS + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    _add(d_w_h_ptr + part * C * K + c[:, None] * K + k[None, :], d_w_h)
    _add(d_w_f_ptr + part * K * E + k[:, None] * E + e[None, :], d_w_f)
    _add(d_b_h_ptr + part * K + k, tl.sum(tl.where(row == 0, d_before_sum, 0.0), 0))
    _add(d_w_d_ptr + part * K + k, tl.sum(tl.where(row == 1, h_sum, 0.0), 0))
    _add(d_b_f_ptr + part * E + e, tl.sum(tl.where(row == 0, d_out_sum, 0.0), 0))


@triton.jit
def splat_kernel(
    d_f_ptr, point_ptr, scale_ptr, d_planes_ptr, POINTS, H, W, C: tl.constexpr, FIXED: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Add d_f [B, POINTS, C] to planes [B, 3, H, W, C]; float32 tiles are vector adds on sm_90, scalars on sm_80."""
    b, k = tl.program_id(1).to(tl.int64), tl.program_id(2)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    exists = p < POINTS
    p = b * POINTS + tl.where(exists, p, 0)
    c = tl.arange(0, C)
    d_f = tl.load(d_f_ptr + p[:, None] * C + c[None, :])
    u, v = tl.load(point_ptr + p * 3 + k), tl.load(point_ptr + p * 3 + (k + 1) % 3)
    x0, y0, wx, wy = plane_cell(u, v, H, W)
    base = d_planes_ptr + (b * 3 + k) * H * W * C
    if FIXED:
        scale = tl.load(scale_ptr + b)
    for corner in tl.static_range(4):
        weight = lerp_weight(wx, corner % 2) * lerp_weight(wy, corner // 2)
        xi, yi = x0 + corner % 2 - 2, y0 + corner // 2 - 2
        inside = exists & (xi >= 0) & (xi < W) & (yi >= 0) & (yi < H)  # the ring takes none
        to = base + tl.where(inside, yi * W + xi, 0)[:, None] * C + c[None, :]
        if FIXED:
            tl.atomic_add(
                to, (weight[:, None] * d_f * scale).to(tl.int32).to(tl.int64), mask=inside[:, None], sem="relaxed"
            )
        else:
            tl.atomic_add(to, weight[:, None] * d_f, mask=inside[:, None], sem="relaxed")
