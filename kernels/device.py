"""Several kernels share these device functions: activations, taps of grids, the dtype that sums are kept in."""

from __future__ import annotations

from triportrait.kernels.language import tl, triton

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def lift(x):
    """Convert to float32, in which everything is computed; float64 stays."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def softplus(x, EXACT: tl.constexpr):
    """Return log(1 + e^x).

    EXACT takes `tl.log`: float64, and gradients that are checked by finite differences, need it. Otherwise one special
    function and a polynomial for log1p on [0, 1] are enough, 4e-7 off at most and 5e-6 of the value: `tl.log` is 25
    instructions.
    """
    y = tl.exp2(-tl.abs(x) * LOG2E)
    if EXACT:
        log1p = tl.where(y < 1e-4, y * (1 - y * (0.5 - y / 3)), tl.log(1 + y))
    else:
        p = y * 0.012132947 - 0.060053867
        p = p * y + 0.141622823
        p = p * y - 0.230800440
        p = p * y + 0.330026272
        p = p * y - 0.499780218
        p = p * y + 1.0
        log1p = p * y
    return tl.maximum(x, 0.0) + log1p  # NaN stays NaN: `log1p` is NaN then


@triton.jit
def interval_depth(s0, s1, length, EXACT: tl.constexpr):
    """Return the optical depth of an interval between two raw densities, at most 50.

    What is behind such an interval counts e^-50, and no infinities are left to be subtracted.
    """
    return tl.minimum(softplus(0.5 * (s0 + s1) - 1, EXACT) * length, 50.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def larger(a, b):
    """Return the larger of two numbers, NaN where one is NaN: a GPU's own maximum would drop it."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + tl.exp2(-x * LOG2E))


@triton.jit
def lerp_weight(fraction, d: tl.constexpr):
    """Return the weight of the near (d = 0) or far (d = 1) of two taps."""
    return fraction if d == 1 else 1.0 - fraction


@triton.jit
def axis_tap(at, size, d: tl.constexpr):
    """Return one of the two nodes around `at` on an axis, whether it is on the grid, and its weight.

    The node is no integer yet, because that of a far point would overflow: see `node_index`.
    """
    low = tl.floor(at)
    node = low + d
    return node, (node >= 0) & (node < size), lerp_weight(at - low, d)


@triton.jit
def node_index(node, inside):
    """Convert a node to an integer, 0 where it is not inside."""
    return tl.where(inside, node, 0).to(tl.int64)


@triton.jit
def store_vectors(ptr, x, y, z, mask):
    """Store three coordinates side by side."""
    tl.store(ptr, x, mask=mask)
    tl.store(ptr + 1, y, mask=mask)
    tl.store(ptr + 2, z, mask=mask)


@triton.jit
def texel_coordinates(u, v, H, W):
    """Convert plane units to texels of a plane [H, W]: texels are cells, and their centres lie half a cell inside."""
    return ((u + 1) * W - 1) * 0.5, ((v + 1) * H - 1) * 0.5
