"""Density and feature of 3D points: planes, then a small MLP (paper, Eq. 1; the published decoder).

    h = softplus(W_h f + b_h),   raw_density = w_d · h + b_d,   feature = 1.002 sigmoid(W_f h + b_f) - 0.001

with f the mean plane feature. The density is raw here: the activation belongs to the compositing, on midpoints.
Letters: B batch, P points, H W height and width of a plane, C plane channels, K hidden units, E feature channels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from triportrait.kernels.checks import check_choice, lifted, shapes, wide_dtype
from triportrait.kernels.device import lift, sigmoid, softplus
from triportrait.kernels.dispatch import runs_triton
from triportrait.kernels.language import device_of, tile_side, tl, triton
from triportrait.kernels.triplane import SampleTriplane, plane_mean, sample_triplane_reference

FEATURE_MARGIN = 0.001  # the sigmoid is widened so that 0 and 1 can be reached
Precision = Literal["exact", "tf32"]  # of the products on a GPU


class FieldWeights(NamedTuple):
    """The weights of the MLP as they multiply (any gain already applied)."""

    hidden_weight: Tensor  # [K, C]
    hidden_bias: Tensor  # [K]
    density_weight: Tensor  # [1, K]
    density_bias: Tensor  # [1]
    feature_weight: Tensor  # [E, K]
    feature_bias: Tensor  # [E]


def decode_field(
    planes: Tensor, points: Tensor, weights: FieldWeights, precision: Precision | None = None
) -> tuple[Tensor, Tensor]:
    """Compute raw density and feature of 3D points.

    Args:
        planes: [B, 3, H, W, C], as in `sample_triplane`.
        points: [B, P, 3], plane units.
        weights: the MLP.
        precision: of the products in the kernel: exact float32, or TF32 on tensor cores; if it is not given, TF32 for
            half planes and exact for others.

    Returns:
        raw_density [B, P] float32 (float64 for float64 planes), before the softplus; feature [B, P, E] in the dtype of
        `planes`, in [-0.001, 1.001].

    Raises:
        ValueError: a shape disagrees, or tensors lie on several devices.

    Differentiable in everything. Saves the inputs; the backward pass computes features and hidden units again.
    """
    shapes(planes=(planes, "B 3 H W C"), points=(points, "B P 3"))
    check_weights(planes, weights)
    if precision is not None:
        check_choice("precision", precision, Precision)
    if runs_triton(planes=planes, points=points, **weights._asdict()):
        with device_of(planes):
            return _DecodeField.apply(precision or _default_precision(planes), planes, points, *weights)  # type: ignore[no-any-return]
    return decode_field_reference(planes, points, weights)


def decode_field_reference(planes: Tensor, points: Tensor, weights: FieldWeights) -> tuple[Tensor, Tensor]:
    """Compute the definition in plain PyTorch."""
    w = FieldWeights(*(lifted(weight) for weight in weights))
    hidden = F.softplus(F.linear(sample_triplane_reference(lifted(planes), points), w.hidden_weight, w.hidden_bias))
    raw_density = F.linear(hidden, w.density_weight, w.density_bias)[..., 0]  # [B, P]
    feature = torch.sigmoid(F.linear(hidden, w.feature_weight, w.feature_bias))  # [B, P, E]
    return raw_density, (feature * (1 + 2 * FEATURE_MARGIN) - FEATURE_MARGIN).to(planes.dtype)


def check_weights(planes: Tensor, weights: FieldWeights) -> None:
    """Check the shapes of the weights. Raises: `ValueError` for one that does not fit the planes or the others."""
    shapes(
        planes=(planes, "B 3 H W C"),
        hidden_weight=(weights.hidden_weight, "K C"),
        hidden_bias=(weights.hidden_bias, "K"),
        density_weight=(weights.density_weight, "1 K"),
        density_bias=(weights.density_bias, "1"),
        feature_weight=(weights.feature_weight, "E K"),
        feature_bias=(weights.feature_bias, "E"),
    )


class _DecodeField(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, precision: Precision, planes: Tensor, points: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(planes, points, *weights)
        ctx.precision = precision  # type: ignore[attr-defined]
        return _decode(planes, points, FieldWeights(*weights), precision)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_raw: Tensor, d_feature: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        planes, points, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        weights = FieldWeights(*saved)
        planes, points = planes.detach().requires_grad_(), points.detach().requires_grad_()
        with torch.enable_grad():
            sampled = SampleTriplane.apply(lifted(planes), points)
        d_sampled, d_weights = _mlp_backward(
            sampled.detach(), weights, d_raw, d_feature, ctx.precision  # type: ignore[attr-defined]
        )  # fmt: skip
        d_planes, d_points = torch.autograd.grad(sampled, (planes, points), d_sampled)
        return None, d_planes, d_points, *(d.to(w.dtype) for d, w in zip(d_weights, saved, strict=True))


def _default_precision(planes: Tensor) -> Precision:
    return "tf32" if planes.dtype in (torch.float16, torch.bfloat16) else "exact"


BLOCK_P, BACK_P, EXACT_P = 64, 32, 16  # rows of a tile; backward and with exact products more of them spill
PARTIALS = 256  # programs that sum weight gradients: their partial sums are added in order, so runs are equal


def _decode(planes: Tensor, points: Tensor, weights: FieldWeights, precision: Precision) -> tuple[Tensor, Tensor]:
    planes, points = planes.contiguous(), points.to(wide_dtype(planes)).contiguous()
    w = FieldWeights(*(weight.to(points.dtype).contiguous() for weight in weights))
    (B, _, H, W, C), P = planes.shape, points.shape[1]
    K, E = w.hidden_weight.shape[0], w.feature_weight.shape[0]
    raw_density, feature = points.new_empty(B, P), planes.new_empty(B, P, E)
    block = EXACT_P if precision == "exact" else BLOCK_P
    if raw_density.numel():
        _decode_kernel[triton.cdiv(P, block), B](
            planes, points, *w, raw_density, feature, P, H, W, C, K, E,
            tile_side(C), tile_side(K), tile_side(E), precision == "exact",
            "ieee" if precision == "exact" else "tf32", block, num_stages=1,
        )  # fmt: skip
    return raw_density, feature


def _mlp_backward(
    sampled: Tensor, weights: FieldWeights, d_raw: Tensor, d_feature: Tensor, precision: Precision
) -> tuple[Tensor, FieldWeights]:
    """Return the gradients of the mean plane features [B, P, C] and of the weights."""
    w = FieldWeights(*(weight.to(sampled.dtype).contiguous() for weight in weights))
    K, C = w.hidden_weight.shape
    E = w.feature_weight.shape[0]
    flat = sampled.reshape(-1, C)
    d_sampled = torch.empty_like(flat)
    block = EXACT_P if precision == "exact" else BACK_P
    programs = min(PARTIALS, max(1, triton.cdiv(len(flat), block)))
    parts = FieldWeights(*(weight.new_empty(programs, *weight.shape) for weight in w))
    _mlp_backward_kernel[programs,](
        flat, *w, d_raw.reshape(-1).contiguous(), d_feature.reshape(-1, E).contiguous(), d_sampled, *parts, len(flat),
        C, K, E, tile_side(C), tile_side(K), tile_side(E), precision == "exact",
        "ieee" if precision == "exact" else "tf32", block, num_stages=1,
    )  # fmt: skip
    return d_sampled.view_as(sampled), FieldWeights(*(part.sum(0) for part in parts))


@triton.jit
def _load_matrix(ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load a matrix [rows, columns] as [ROWS, COLUMNS]; beyond the matrix there are zeros."""
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return tl.load(ptr + r * columns + c, mask=(r < rows) & (c < columns), other=0.0)


@triton.jit
def _decode_kernel(
    planes_ptr, points_ptr, w_h_ptr, b_h_ptr, w_d_ptr, b_d_ptr, w_f_ptr, b_f_ptr, raw_ptr, feature_ptr,
    P, H, W, C: tl.constexpr, K: tl.constexpr, E: tl.constexpr,
    C_PAD: tl.constexpr, K_PAD: tl.constexpr, E_PAD: tl.constexpr, EXACT: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Sample the planes at points and run the MLP."""
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k, e = tl.arange(0, K_PAD), tl.arange(0, E_PAD)
    mask_p = p < P
    w_h = _load_matrix(w_h_ptr, K, C, K_PAD, C_PAD)
    b_h = tl.load(b_h_ptr + k, mask=k < K, other=0.0)
    w_d = tl.load(w_d_ptr + k, mask=k < K, other=0.0)  # zero beyond K, where h is softplus(0)
    f = plane_mean(planes_ptr + b * 3 * H * W * C, points_ptr + b * P * 3, p, mask_p, H, W, C, C_PAD, BLOCK_P)
    h = softplus(tl.dot(f, tl.trans(w_h), input_precision=PRECISION, out_dtype=f.dtype) + b_h[None, :], EXACT)
    raw = tl.sum(h * w_d[None, :], 1) + tl.load(b_d_ptr)
    tl.store(raw_ptr + b * P + p, raw, mask=mask_p)
    w_f = _load_matrix(w_f_ptr, E, K, E_PAD, K_PAD)
    b_f = tl.load(b_f_ptr + e, mask=e < E, other=0.0)
    out = sigmoid(tl.dot(h, tl.trans(w_f), input_precision=PRECISION, out_dtype=f.dtype) + b_f[None, :])
    to = feature_ptr + ((b * P + p) * E)[:, None] + e[None, :]
    tl.store(to, out * 1.002 - 0.001, mask=mask_p[:, None] & (e < E)[None, :])


@triton.jit
def _mlp_backward_kernel(
    f_ptr, w_h_ptr, b_h_ptr, w_d_ptr, b_d_ptr, w_f_ptr, b_f_ptr, d_raw_ptr, d_feature_ptr, d_f_ptr,
    d_w_h_ptr, d_b_h_ptr, d_w_d_ptr, d_b_d_ptr, d_w_f_ptr, d_b_f_ptr,
    P, C: tl.constexpr, K: tl.constexpr, E: tl.constexpr, C_PAD: tl.constexpr, K_PAD: tl.constexpr,
    E_PAD: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Run the MLP again and write the gradient of its input, and a part of the sums for each weight."""
    c, k, e = tl.arange(0, C_PAD), tl.arange(0, K_PAD), tl.arange(0, E_PAD)
    w_h = _load_matrix(w_h_ptr, K, C, K_PAD, C_PAD)
    w_f = _load_matrix(w_f_ptr, E, K, E_PAD, K_PAD)
    b_h = tl.load(b_h_ptr + k, mask=k < K, other=0.0)
    w_d = tl.load(w_d_ptr + k, mask=k < K, other=0.0)
    b_f = tl.load(b_f_ptr + e, mask=e < E, other=0.0)
    d_w_h = tl.zeros((K_PAD, C_PAD), w_h.dtype)
    d_w_f = tl.zeros((E_PAD, K_PAD), w_h.dtype)
    d_b_h = tl.zeros((K_PAD,), w_h.dtype)
    d_w_d = tl.zeros((K_PAD,), w_h.dtype)
    d_b_f = tl.zeros((E_PAD,), w_h.dtype)
    d_b_d = tl.zeros((1,), w_h.dtype)
    step = tl.num_programs(0) * BLOCK_P
    for start in range(tl.program_id(0) * BLOCK_P, P, step):
        p = start + tl.arange(0, BLOCK_P).to(tl.int64)
        mask_p = p < P
        f = tl.load(f_ptr + p[:, None] * C + c[None, :], mask=mask_p[:, None] & (c < C)[None, :], other=0.0)
        d_raw = tl.load(d_raw_ptr + p, mask=mask_p, other=0.0)
        mask_e = mask_p[:, None] & (e < E)[None, :]
        d_feature = lift(tl.load(d_feature_ptr + p[:, None] * E + e[None, :], mask=mask_e, other=0.0))
        before = tl.dot(f, tl.trans(w_h), input_precision=PRECISION, out_dtype=f.dtype) + b_h[None, :]
        h = softplus(before, EXACT)
        out = sigmoid(tl.dot(h, tl.trans(w_f), input_precision=PRECISION, out_dtype=f.dtype) + b_f[None, :])
        d_out = 1.002 * d_feature * out * (1 - out)
        d_h = tl.dot(d_out, w_f, input_precision=PRECISION, out_dtype=f.dtype) + d_raw[:, None] * w_d[None, :]
        d_before = d_h * sigmoid(before)
        d_f = tl.dot(d_before, w_h, input_precision=PRECISION, out_dtype=f.dtype)
        tl.store(d_f_ptr + p[:, None] * C + c[None, :], d_f, mask=mask_p[:, None] & (c < C)[None, :])
        d_w_h += tl.dot(tl.trans(d_before), f, input_precision=PRECISION, out_dtype=f.dtype)
        d_w_f += tl.dot(tl.trans(d_out), h, input_precision=PRECISION, out_dtype=f.dtype)
        d_b_h += tl.sum(d_before, 0)
        d_w_d += tl.sum(d_raw[:, None] * h, 0)
        d_b_f += tl.sum(d_out, 0)
        d_b_d += tl.sum(d_raw, 0)
    part = tl.program_id(0)
    rows = k[:, None]
    tl.store(d_w_h_ptr + (part * K + rows) * C + c[None, :], d_w_h, mask=(rows < K) & (c < C)[None, :])
    rows = e[:, None]
    tl.store(d_w_f_ptr + (part * E + rows) * K + k[None, :], d_w_f, mask=(rows < E) & (k < K)[None, :])
    tl.store(d_b_h_ptr + part * K + k, d_b_h, mask=k < K)
    tl.store(d_w_d_ptr + part * K + k, d_w_d, mask=k < K)
    tl.store(d_b_f_ptr + part * E + e, d_b_f, mask=e < E)
    tl.store(d_b_d_ptr + part + tl.arange(0, 1), d_b_d)
