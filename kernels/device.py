"""Device functions that several kernels share: activations, taps of a plane, and the type that sums are kept in."""

from __future__ import annotations

from triportrait.kernels.language import tl, triton

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def lift(x):
    """float32, or float64 as it is: where everything is computed."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def softplus(x, EXACT: tl.constexpr):
    """log(1 + e^x).

    EXACT: by `tl.log`, for float64 and for gradients that are checked by finite differences. Otherwise one special
    function and a polynomial for log1p on [0, 1], 4e-7 off at most and 5e-6 of the value: `tl.log` is 25 instructions.
    """
    y = tl.exp2(-tl.abs(x) * LOG2E)
    if EXACT:
        rest = tl.where(y < 1e-4, y * (1 - y * (0.5 - y / 3)), tl.log(1 + y))
    else:
        p = y * 0.012132947 - 0.060053867
        p = p * y + 0.141622823
        p = p * y - 0.230800440
        p = p * y + 0.330026272
        p = p * y - 0.499780218
        p = p * y + 1.0
        rest = p * y
    return tl.maximum(x, 0.0) + rest  # no number stays none: `rest` is


@triton.jit
def interval_depth(s0, s1, length, EXACT: tl.constexpr):
    """Optical depth of an interval between two raw densities, at most 50: what is behind counts e^-50 and no infinities
    are left to be subtracted."""
    return tl.minimum(softplus(0.5 * (s0 + s1) - 1, EXACT) * length, 50.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def larger(a, b):
    """The larger of two numbers, none where one is none: a GPU's own maximum would drop that."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp2(-x * LOG2E))


@triton.jit
def lerp_weight(fraction, d: tl.constexpr):
    """The weight of the near (d = 0) or far (d = 1) tap."""
    return fraction if d == 1 else 1.0 - fraction


@triton.jit
def texel_coordinates(u, v, H, W):
    """Where plane units fall among the texels of a plane [H, W]: texels are cells, their centres half a cell inside."""
    return ((u + 1) * W - 1) * 0.5, ((v + 1) * H - 1) * 0.5
