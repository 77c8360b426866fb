"""Rays to pixels in two launches: where to sample, then the march itself.

    propose   densities at the coarse depths -> weights -> inverse distribution -> all depths in order     [B, R, S + N]
    march     sample i:   f = Σ_k T_k(x_i), h = softplus(W_h f + b_h), σ_i = w_d · h + b_d, c_i = sigmoid(W_f h + b_f)
              interval i: A += softplus((σ_i + σ_{i+1}) / 2 - 1) (t_{i+1} - t_i),  w_i = exp(-A before) - exp(-A after)
              pixel:      Σ w_i (c_i + c_{i+1}) / 2,   Σ w_i (t_i + t_{i+1}) / 2,   Σ w_i

A program owns BLOCK_R rays and SEGMENTS pieces of each: its rows are (segment, ray), and each row walks along its own
piece, a sample a step. What an interval needs of the sample before it is one value per row, so that the loop has no
exchange between threads; the pieces are joined at the end, as compositing is associative.
Letters: B batch, R rays, S coarse and N fine samples, H W plane, C plane channels, K hidden units, E feature channels.
"""

from __future__ import annotations

from triportrait.kernels.device import LOG2E, interval_depth, larger
from triportrait.kernels.language import tl, triton
from triportrait.kernels.march.device import (
    directions,
    features,
    hidden_units,
    ray_points,
    sample_ringed,
    tile_rays,
)


@triton.jit
def march_kernel(
    planes_ptr, depths_ptr, ray_ptr, direction_ptr, fine_ptr, coarse_ptr, w_h_ptr, b_h_ptr, w_d_ptr, b_d_ptr, w_f_ptr,
    b_f_ptr, feature_ptr, depth_ptr, opacity_ptr, R, H, W, width, side, near, rate,
    L: tl.constexpr, C: tl.constexpr, K: tl.constexpr, E: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr,
    BLOCK_R: tl.constexpr, TILE_W: tl.constexpr, SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Render samples at sorted depths [B, R, L] into feature [B, R, E], depth [B, R] and opacity [B, R]."""
    ROWS: tl.constexpr = BLOCK_R * SEGMENTS
    LENGTH: tl.constexpr = (L - 1 + SEGMENTS - 1) // SEGMENTS  # intervals of a piece
    b = tl.program_id(1).to(tl.int64)
    ray, _ = tile_rays(tl.program_id(0), width, R, BLOCK_R, TILE_W, SEGMENTS)
    ray = b * R + ray
    first = tl.arange(0, ROWS) // BLOCK_R * LENGTH
    planes_ptr += b * 3 * (H + 4) * (W + 4) * C
    dx, dy, dz = directions(direction_ptr, ray)
    c, k, e = tl.arange(0, C), tl.arange(0, K), tl.arange(0, E)
    w_h = tl.load(w_h_ptr + c[:, None] * K + k[None, :])
    w_f = tl.load(w_f_ptr + k[:, None] * E + e[None, :])
    b_h, w_d, b_f, b_d = tl.load(b_h_ptr + k), tl.load(w_d_ptr + k), tl.load(b_f_ptr + e), tl.load(b_d_ptr)

    WIDE: tl.constexpr = dx.dtype
    t0 = tl.load(depths_ptr + ray * L + tl.minimum(first, L - 1))
    s0 = tl.zeros([ROWS], WIDE)
    c0 = tl.zeros([ROWS, E], WIDE)
    optical_depth = tl.zeros([ROWS], WIDE)  # A
    transmittance = tl.full([ROWS], 1.0, WIDE)  # exp(-A)
    feature = tl.zeros([ROWS, E], WIDE)
    depth = tl.zeros([ROWS], WIDE)
    opacity = tl.zeros([ROWS], WIDE)
    for i in range(LENGTH + 1):
        t1 = tl.load(depths_ptr + ray * L + tl.minimum(first + i, L - 1))
        x, y, z = ray_points(
            ray_ptr, b, dx, dy, dz, t1, fine_ptr, coarse_ptr, side, near, rate, FINE, COARSE
        )  # fmt: skip
        h = hidden_units(sample_ringed(planes_ptr, x, y, z, H, W, C), w_h, b_h, PRECISION, EXACT)
        s1 = tl.sum(h * w_d[None, :], 1) + b_d
        c1 = features(h, w_f, b_f, PRECISION)
        # a piece begins with no interval and the last may end early: infinity times no length would be no number
        is_interval = (i > 0) & (first + i < L)
        optical_depth += tl.where(is_interval, interval_depth(s0, s1, t1 - t0, EXACT), 0.0)
        transmittance_after = tl.exp2(-optical_depth * LOG2E)
        w = transmittance - transmittance_after
        feature += (0.5 * w)[:, None] * (c0 + c1)
        depth += 0.5 * w * (t0 + t1)
        opacity += w
        t0, s0, c0, transmittance = t1, s1, c1, transmittance_after

    # Each piece was walked as if nothing stood before it: now the pieces before dim it. Their optical depths are cut
    # at 50 like those of intervals, because differences of a large sum would be rounded.
    total = tl.minimum(tl.reshape(optical_depth, [SEGMENTS, BLOCK_R]), 50.0, propagate_nan=tl.PropagateNan.ALL)
    before = tl.exp2((total - tl.cumsum(total, 0)) * LOG2E)
    feature = tl.sum(tl.reshape(feature, [SEGMENTS, BLOCK_R, E]) * before[:, :, None], 0)
    depth = tl.sum(tl.reshape(depth, [SEGMENTS, BLOCK_R]) * before, 0)
    opacity = tl.sum(tl.reshape(opacity, [SEGMENTS, BLOCK_R]) * before, 0)
    ray, exists = tile_rays(tl.program_id(0), width, R, BLOCK_R, TILE_W, 1)
    ray = b * R + ray
    at = ray[:, None] * E + e[None, :]
    feature = 1.002 * feature - 0.001 * opacity[:, None]
    tl.store(feature_ptr + at, feature, mask=exists[:, None])
    missed = opacity == 0
    tl.store(depth_ptr + ray, tl.where(missed, float("inf"), depth / tl.where(missed, 1.0, opacity)), mask=exists)
    tl.store(opacity_ptr + ray, opacity, mask=exists)


@triton.jit
def _count_below(sorted_ptr, value, LENGTH: tl.constexpr, OR_EQUAL: tl.constexpr, PAD: tl.constexpr):
    """Count by bisection how many of LENGTH < PAD sorted numbers are below each value; loads hit the first cache."""
    count = tl.zeros(value.shape, tl.int32)
    for e in tl.static_range(10):
        if (PAD // 2 >> e) > 0:
            probe = count + (PAD // 2 >> e)
            entry = tl.load(sorted_ptr + probe - 1, mask=probe <= LENGTH, other=float("inf"))
            count = tl.where(entry <= value if OR_EQUAL else entry < value, probe, count)
    return count


@triton.jit
def propose_kernel(
    planes_ptr, coarse_t_ptr, uniform_ptr, ray_ptr, direction_ptr, fine_ptr, coarse_ptr, w_h_ptr, b_h_ptr, w_d_ptr,
    b_d_ptr, depths_ptr, R, H, W, width, side, near, rate,
    S: tl.constexpr, N: tl.constexpr, C: tl.constexpr, K: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr,
    EVEN: tl.constexpr, S_PAD: tl.constexpr, N_PAD: tl.constexpr, BLOCK_R: tl.constexpr, TILE_W: tl.constexpr,
    SEGMENTS: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Sort coarse depths [B, S] and fine ones, from sorted uniforms [B, R, N] or even ones, into depths [B, R, S + N].

    A ray's row of `depths` is scratch for four things before it is the result, and only this program touches it:

        at 0 .. S - 1     raw densities of the coarse samples; a thread writes those of its piece of the ray
        at 0 .. S - 2     weights of the intervals
        at 0 .. S - 4     the cumulative distribution of the inner intervals
        at S .. S + N - 1 fine depths, while the distribution still stands before them

    What one thread writes others read, so a barrier stands after each of these four writes, and one before each write
    over what others may still be reading: the weights over the densities, the distribution over the weights, and the
    sorted depths over everything. The fine depths are written where nothing was before, so they need none.
    """
    ROWS: tl.constexpr = BLOCK_R * SEGMENTS
    LENGTH: tl.constexpr = (S + SEGMENTS - 1) // SEGMENTS
    L: tl.constexpr = S + N
    b = tl.program_id(1).to(tl.int64)
    coarse_t_ptr += b * S
    planes_ptr += b * 3 * (H + 4) * (W + 4) * C
    ray, exists = tile_rays(tl.program_id(0), width, R, BLOCK_R, TILE_W, SEGMENTS)
    ray = b * R + ray
    first = tl.arange(0, ROWS) // BLOCK_R * LENGTH
    dx, dy, dz = directions(direction_ptr, ray)
    WIDE: tl.constexpr = dx.dtype
    c, k = tl.arange(0, C), tl.arange(0, K)
    w_h = tl.load(w_h_ptr + c[:, None] * K + k[None, :])
    b_h, w_d, b_d = tl.load(b_h_ptr + k), tl.load(w_d_ptr + k), tl.load(b_d_ptr)
    for i in range(LENGTH):
        at = tl.minimum(first + i, S - 1)
        t = tl.load(coarse_t_ptr + at)
        x, y, z = ray_points(ray_ptr, b, dx, dy, dz, t, fine_ptr, coarse_ptr, side, near, rate, FINE, COARSE)
        h = hidden_units(sample_ringed(planes_ptr, x, y, z, H, W, C), w_h, b_h, PRECISION, EXACT)
        tl.store(depths_ptr + ray * L + at, tl.sum(h * w_d[None, :], 1) + b_d, mask=exists)
    tl.debug_barrier()  # densities are written

    ray, exists = tile_rays(tl.program_id(0), width, R, BLOCK_R, TILE_W, 1)
    ray = b * R + ray
    s, n, exists = tl.arange(0, S_PAD)[None, :], tl.arange(0, N_PAD)[None, :], exists[:, None]
    row = ray[:, None] * L
    is_interval = exists & (s < S - 1)
    s0 = tl.load(depths_ptr + row + s, mask=is_interval, other=0.0)
    s1 = tl.load(depths_ptr + row + s + 1, mask=is_interval, other=0.0)
    t0 = tl.load(coarse_t_ptr + s, mask=s < S, other=0.0)
    t1 = tl.load(coarse_t_ptr + s + 1, mask=s < S - 1, other=0.0)
    tau = tl.where(s < S - 1, interval_depth(s0, s1, t1 - t0, EXACT), 0.0)
    optical_depth = tl.cumsum(tau, 1)
    w = tl.exp2((tau - optical_depth) * LOG2E) - tl.exp2(-optical_depth * LOG2E)
    total = tl.sum(w, 1)[:, None]
    is_nan = total != total  # a density is NaN: so are the ray's fine depths, and its pixel
    tl.debug_barrier()  # densities are read
    tl.store(depths_ptr + row + s, w, mask=is_interval)
    tl.debug_barrier()  # weights are written
    # maxima over pairs, means over pairs of maxima; intervals 1 .. S-3 stand at 0 .. S-4
    inner = exists & (s < S - 3)
    w_a = tl.load(depths_ptr + row + s, mask=inner, other=0.0)
    w_b = tl.load(depths_ptr + row + s + 1, mask=inner, other=0.0)
    w_c = tl.load(depths_ptr + row + s + 2, mask=inner, other=0.0)
    mass = tl.where(s < S - 3, 0.5 * (larger(w_a, w_b) + larger(w_b, w_c)) + 0.01 + 1e-5, 0.0)
    cdf = tl.cumsum(mass / tl.sum(mass, 1)[:, None], 1)
    tl.debug_barrier()  # weights are read
    tl.store(depths_ptr + row + s, cdf, mask=inner)
    tl.debug_barrier()  # the distribution is written
    # The inverse, by bisection; index counts the entries not above u, without the leading zero.
    if EVEN:
        u = n.to(WIDE) / (N - 1 if N > 1 else 1) + tl.zeros([BLOCK_R, N_PAD], WIDE)
    else:
        u = tl.load(uniform_ptr + ray[:, None] * N + n, mask=exists & (n < N), other=0.0)
    index = _count_below(depths_ptr + row, u, S - 3, True, S_PAD)
    c_below = tl.load(depths_ptr + row + index - 1, mask=exists & (index > 0), other=0.0)
    c_above = tl.load(depths_ptr + row + index, mask=exists & (index < S - 3), other=0.0)
    last = index >= S - 3  # u beyond the last entry: above is below
    t_a, t_b = tl.load(coarse_t_ptr + index), tl.load(coarse_t_ptr + index + 1)
    t_c = tl.load(coarse_t_ptr + tl.minimum(index + 2, S - 1))
    low, high = 0.5 * (t_a + t_b), tl.where(last, 0.5 * (t_a + t_b), 0.5 * (t_b + t_c))
    span = tl.where(last, 0.0, c_above - c_below)
    span = tl.where(span < 1e-5, 1.0, span)
    t_fine = tl.minimum(low + (u - c_below) / span * (high - low), high)  # rounding may not break the order
    t_fine = tl.where(is_nan, float("nan"), t_fine)
    tl.store(depths_ptr + row + S + n, t_fine, mask=exists & (n < N))
    tl.debug_barrier()  # fine depths are written
    # Merged by rank, coarse first on ties; any number of coarse depths may coincide.
    rank_fine = n + _count_below(coarse_t_ptr, t_fine, S, True, 2 * S_PAD)
    rank_fine = tl.where(is_nan, S + n, rank_fine)
    t_coarse = t0 + tl.zeros([BLOCK_R, S_PAD], WIDE)
    rank_coarse = s + _count_below(depths_ptr + row + S, t_coarse, N, False, 2 * N_PAD)
    tl.debug_barrier()  # the distribution and the fine depths are read
    tl.store(depths_ptr + row + rank_fine, t_fine, mask=exists & (n < N))
    tl.store(depths_ptr + row + rank_coarse, t_coarse, mask=exists & (s < S))
