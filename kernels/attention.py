"""Attention with heads wider than fused kernels take: two products over a bounded scratch of probabilities.

    o_n = Σ_k softmax_k(q_n · k_k / √D) v_k

With heads of 512 the sums of a tile of 128 queries fill all registers of a multiprocessor, so that one kernel for both
products has to compute the scores twice or to read the queries again for each block of keys. Here a piece of the
queries is taken at a time: one kernel writes p = 2^(s - largest of the row in its tile of keys) in the inputs' half
precision, with the largest and the sum of each row and tile; a small one brings the tiles of a row to one scale; one
multiplies by v. No tile waits for another. Backward the scores are computed again; all sums have a fixed order.
Letters: B batch, N queries, K keys, heads, D width of a head, T tiles of keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from triportrait.kernels.checks import shapes, wide_dtype
from triportrait.kernels.dispatch import INTERPRETED, runs_triton, same_dtype
from triportrait.kernels.language import device_of, tl, triton

MAX_HEAD_WIDTH = 512
SCRATCH = 64 << 20  # bytes of probabilities at a time, in the backward pass together with their gradients


def attend_wide(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute softmax attention over all keys, without a mask, scaled by the root of the head width.

    Args:
        query: [B, N, heads, D], D a multiple of 16 up to 512.
        key, value: [B, K, heads, D].

    Returns:
        [B, N, heads, D], the dtype of `query`; sums are float32. The matrix of scores is never whole in memory.

    Raises:
        ValueError: a shape or a dtype disagrees, heads are wider than 512, or tensors lie on several devices.

    Differentiable in everything. Saves the inputs, the result and a number per query and head.
    """
    n = shapes(query=(query, "B N heads D"), key=(key, "B K heads D"), value=(value, "B K heads D"))
    same_dtype(query=query, key=key, value=value)
    if not 0 < n["D"] <= MAX_HEAD_WIDTH or n["D"] % 16:
        raise ValueError(
            f"query: expected heads of a multiple of 16 up to {MAX_HEAD_WIDTH}, got {n['D']}; split them otherwise"
        )
    if n["K"] == 0:
        raise ValueError("key: expected [B, K, heads, D] with K >= 1, got K=0; nothing can be attended to")
    if runs_triton(query=query, key=key, value=value):
        with device_of(query):
            return _AttendWide.apply(query, key, value)  # type: ignore[no-any-return]
    return attend_wide_reference(query, key, value)


def attend_wide_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the definition in plain PyTorch."""
    scores = torch.einsum("bnhd,bkhd->bhnk", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bhnk,bkhd->bnhd", scores.softmax(-1), value)


class _Tiles(NamedTuple):
    """The sizes of the tiles.

    Attributes:
        n, k, d: queries and keys of a tile of scores, and the step along the head's width.
        back_k, back_d: where scores and their gradients are computed together; on sm_80 a step of 64 spills.
        v, step: columns of a product, and the step along its sum.
        sum_v: columns of the products that make gradients; 256 spill, and are too few programs.
        stages: loads in flight.
    """

    n: int = 128
    k: int = 256
    d: int = 64
    back_k: int = 128
    back_d: int = 32
    v: int = 256
    step: int = 64
    sum_v: int = 128
    stages: int = 3


HALF = _Tiles()
WIDE = _Tiles(n=64, k=64, d=32, back_k=64, v=64, step=32, sum_v=64, stages=1)  # no tensor core multiplies float32
COMBINE_N = 16
WARPS = 8


class _AttendWide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (_rows(x) for x in (query, key, value))
        (B, N, heads, D), K = query.shape, key.shape[1]
        out = torch.empty(B, N, heads, D, dtype=query.dtype, device=query.device)
        lse = torch.empty(B * heads, N, dtype=wide_dtype(query), device=query.device)
        size, options = _tiles(query), _options(query)
        tiles, scale = triton.cdiv(K, size.k), 1 / (math.sqrt(D) * math.log(2))
        for first, images, start, count in _pieces(query, K, size.n, matrices=1):
            q, k, v, o = (x[first : first + images] for x in (query, key, value, out))
            q, o = q[:, start : start + count], o[:, start : start + count]
            logs = lse[first * heads : (first + images) * heads]
            p = torch.empty(images * heads, count, K, dtype=query.dtype, device=query.device)
            top = torch.empty(images * heads, count, tiles, dtype=lse.dtype, device=query.device)
            total = torch.empty_like(top)
            _probability_kernel[triton.cdiv(count, size.n), tiles, images * heads](
                q, k, p, top, total, *_strides(q), *_strides(k), count, K, heads, scale, D, size.n, size.k, size.d,
                **options,
            )  # fmt: skip
            sums = torch.empty(images * heads, count, dtype=lse.dtype, device=query.device)
            _combine_kernel[triton.cdiv(count, COMBINE_N), images * heads](
                top, total, sums, logs, start, count, N, tiles, triton.next_power_of_2(tiles), COMBINE_N, num_stages=1
            )
            _value_kernel[triton.cdiv(count, size.n), triton.cdiv(D, size.v), images * heads](
                p, top, sums, v, o, *_strides(v), *_strides(o), count, K, heads, tiles, D, size.n, size.k, size.v,
                size.step, **options,
            )  # fmt: skip
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        query, key, value, out, lse = ctx.saved_tensors
        d_out = _rows(d_out)
        (B, N, heads, D), K = query.shape, key.shape[1]
        d_query = torch.empty_like(out)
        d_key, d_value = (torch.zeros(B, K, heads, D, dtype=lse.dtype, device=key.device) for _ in range(2))
        size, options = _tiles(query), _options(query)
        for first, images, start, count in _pieces(query, K, size.n, matrices=2):
            here = slice(first, first + images)
            k, v, d_k, d_v = (x[here] for x in (key, value, d_key, d_value))
            q, o, d_o, d_q = (x[here, start : start + count] for x in (query, out, d_out, d_query))
            logs = lse[first * heads : (first + images) * heads]
            delta = (o.to(lse.dtype) * d_o).sum(-1).permute(0, 2, 1).reshape(images * heads, count).contiguous()
            p, d_s = (torch.empty(images * heads, count, K, dtype=query.dtype, device=query.device) for _ in range(2))
            _score_gradient_kernel[triton.cdiv(count, size.n), triton.cdiv(K, size.back_k), images * heads](
                q, k, v, d_o, logs, delta, p, d_s, *_strides(q), *_strides(k), *_strides(v), *_strides(d_o), start,
                count, N, K, heads, 1 / math.sqrt(D), D, size.n, size.back_k, size.back_d, **options,
            )  # fmt: skip
            _product_kernel[triton.cdiv(count, size.n), triton.cdiv(D, size.sum_v), images * heads](
                d_s, k, d_q, count * K, K, 1, *_strides(k), *_strides(d_q), count, K, heads, False, D, size.n,
                size.sum_v, size.step, **options,
            )  # fmt: skip
            for scores, factor, total in ((d_s, q, d_k), (p, d_o, d_v)):
                _product_kernel[triton.cdiv(K, size.n), triton.cdiv(D, size.sum_v), images * heads](
                    scores, factor, total, count * K, 1, K, *_strides(factor), *_strides(total), K, count, heads, True,
                    D, size.n, size.sum_v, size.step, **options,
                )  # fmt: skip
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype)


def _rows(x: Tensor) -> Tensor:
    """Return the tensor itself where a head's numbers lie side by side, else a contiguous copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Return the strides of images, tokens and heads."""
    return x.stride(0), x.stride(1), x.stride(2)


def _pieces(query: Tensor, keys: int, tile: int, matrices: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the first image, images, first query and queries of each piece: bounded scratch, whole tiles."""
    B, N, heads, _ = query.shape
    tile_bytes = max(1, heads * keys * tile * query.element_size() * matrices)
    tiles = max(1, min(-(-N // tile), SCRATCH // tile_bytes))  # one image's queries go first: fewer pieces are summed
    images, rows = max(1, SCRATCH // (tiles * tile_bytes)), tiles * tile
    for first in range(0, B if query.numel() else 0, images):
        for start in range(0, N, rows):
            yield first, min(images, B - first), start, min(rows, N - start)


def _tiles(x: Tensor) -> _Tiles:
    return HALF if x.dtype in (torch.float16, torch.bfloat16) else WIDE


def _options(x: Tensor) -> dict[str, Any]:
    half = x.dtype in (torch.float16, torch.bfloat16)
    # Triton's interpreter multiplies bfloat16 wrongly
    lift = INTERPRETED and x.dtype == torch.bfloat16
    stages = _tiles(x).stages
    return {"PRECISION": "tf32" if half else "ieee", "LIFT": lift, "num_warps": WARPS, "num_stages": stages}


@triton.jit
def _load_rows(ptr, stride, n, number, d, D, LIFT: tl.constexpr):
    """Load [rows, columns] of a matrix whose rows are `stride` apart; beyond the matrix there are zeros."""
    mask = (n < number)[:, None] & (d < D)[None, :]
    x = tl.load(ptr + n.to(tl.int64)[:, None] * stride + d[None, :], mask=mask, other=0.0)
    return x.to(tl.float32) if LIFT else x


@triton.jit
def _image(ptr, stride_b, stride_h, heads):
    """Return where the head of an image that this program works on begins."""
    bh = tl.program_id(2).to(tl.int64)
    return ptr + bh // heads * stride_b + bh % heads * stride_h


@triton.jit
def _scores(
    a_ptr, a_n, b_ptr, b_k, n, k, N, K, WIDE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, LIFT: tl.constexpr,
):  # fmt: skip
    """Multiply rows n of one matrix with rows k of another, both of width D."""
    total = tl.zeros([n.shape[0], k.shape[0]], WIDE)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a, b = _load_rows(a_ptr, a_n, n, N, d, D, LIFT), _load_rows(b_ptr, b_k, k, K, d, D, LIFT)
        total += tl.dot(a, tl.trans(b), input_precision=PRECISION, out_dtype=WIDE)
    return total


@triton.jit
def _probability_kernel(
    q_ptr, k_ptr, p_ptr, top_ptr, total_ptr, q_b, q_n, q_h, k_b, k_n, k_h, N, K, heads, scale,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, LIFT: tl.constexpr,
):  # fmt: skip
    """Write p = 2^(s - top) of a tile, and the largest score and the sum of each row; s is in powers of two."""
    bh = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    q_ptr, k_ptr = _image(q_ptr, q_b, q_h, heads), _image(k_ptr, k_b, k_h, heads)
    WIDE: tl.constexpr = top_ptr.dtype.element_ty
    s = _scores(q_ptr, q_n, k_ptr, k_n, n, k, N, K, WIDE, D, BLOCK_D, PRECISION, LIFT)
    s = tl.where((k < K)[None, :], s * scale, float("-inf"))
    top = tl.max(s, 1)
    p = tl.exp2(s - top[:, None])
    at = bh * N + n
    tl.store(p_ptr + at[:, None] * K + k[None, :], p, mask=(n < N)[:, None] & (k < K)[None, :])
    tl.store(top_ptr + at * tl.num_programs(1) + tl.program_id(1), top, mask=n < N)
    tl.store(total_ptr + at * tl.num_programs(1) + tl.program_id(1), tl.sum(p, 1), mask=n < N)


@triton.jit
def _combine_kernel(
    top_ptr, total_ptr, sum_ptr, lse_ptr, start, N, ALL, tiles, T_PAD: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """Turn the tiles' largest scores into factors, and write each row's sum and log-sum in powers of two."""
    bh = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = tl.arange(0, T_PAD)[None, :]
    mask = (n < N)[:, None] & (t < tiles)
    at = (bh * N + n)[:, None] * tiles + t
    top = tl.load(top_ptr + at, mask=mask, other=float("-inf"))
    largest = tl.where(n < N, tl.max(top, 1), 0.0)
    factor = tl.where(mask, tl.exp2(top - largest[:, None]), 0.0)
    total = tl.sum(factor * tl.load(total_ptr + at, mask=mask, other=0.0), 1)
    tl.store(top_ptr + at, factor, mask=mask)
    tl.store(sum_ptr + bh * N + n, total, mask=n < N)
    tl.store(lse_ptr + bh * ALL + start + n, largest + tl.log2(tl.where(n < N, total, 1.0)), mask=n < N)


@triton.jit
def _value_kernel(
    p_ptr, factor_ptr, sum_ptr, v_ptr, o_ptr, v_b, v_n, v_h, o_b, o_n, o_h, N, K, heads, tiles,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, STEP_K: tl.constexpr,
    PRECISION: tl.constexpr, LIFT: tl.constexpr,
):  # fmt: skip
    """Multiply the probabilities with v and divide by each row's sum."""
    bh = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    v_ptr, o_ptr = _image(v_ptr, v_b, v_h, heads), _image(o_ptr, o_b, o_h, heads)
    WIDE: tl.constexpr = sum_ptr.dtype.element_ty
    at = bh * N + n
    o = tl.zeros([BLOCK_N, BLOCK_V], WIDE)
    for start in range(0, K, STEP_K):
        k = start + tl.arange(0, STEP_K)
        p = _load_rows(p_ptr + bh * N * K, K, n, N, k, K, LIFT)
        factor = tl.load(factor_ptr + at * tiles + start // BLOCK_K, mask=n < N, other=0.0)  # at most 1
        v = _load_rows(v_ptr, v_n, k, K, d, D, LIFT)
        o += tl.dot((p.to(WIDE) * factor[:, None]).to(v.dtype), v, input_precision=PRECISION, out_dtype=WIDE)
    o = o / tl.load(sum_ptr + at, mask=n < N, other=1.0)[:, None]
    tl.store(o_ptr + n.to(tl.int64)[:, None] * o_n + d[None, :], o, mask=(n < N)[:, None] & (d < D)[None, :])


@triton.jit
def _score_gradient_kernel(
    q_ptr, k_ptr, v_ptr, d_o_ptr, lse_ptr, delta_ptr, p_ptr, d_s_ptr, q_b, q_n, q_h, k_b, k_n, k_h, v_b, v_n, v_h,
    d_b, d_n, d_h, start, N, ALL, K, heads, scale, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr, LIFT: tl.constexpr,
):  # fmt: skip
    """Write the probabilities p and d_s = p (d_p - delta) / √D, where s is q · k."""
    bh = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    q_ptr, k_ptr = _image(q_ptr, q_b, q_h, heads), _image(k_ptr, k_b, k_h, heads)
    v_ptr, d_o_ptr = _image(v_ptr, v_b, v_h, heads), _image(d_o_ptr, d_b, d_h, heads)
    WIDE: tl.constexpr = lse_ptr.dtype.element_ty
    s = _scores(q_ptr, q_n, k_ptr, k_n, n, k, N, K, WIDE, D, BLOCK_D, PRECISION, LIFT)
    d_p = _scores(d_o_ptr, d_n, v_ptr, v_n, n, k, N, K, WIDE, D, BLOCK_D, PRECISION, LIFT)
    lse = tl.load(lse_ptr + bh * ALL + start + n, mask=n < N, other=0.0)
    delta = tl.load(delta_ptr + bh * N + n, mask=n < N, other=0.0)
    p = tl.exp2(s * (scale * 1.4426950408889634) - lse[:, None])
    at = (bh * N + n)[:, None] * K + k[None, :]
    mask = (n < N)[:, None] & (k < K)[None, :]
    tl.store(p_ptr + at, p, mask=mask)
    tl.store(d_s_ptr + at, p * (d_p - delta[:, None]) * scale, mask=mask)


@triton.jit
def _product_kernel(
    a_ptr, x_ptr, y_ptr, a_b, a_m, a_k, x_b, x_n, x_h, y_b, y_n, y_h, M, K, heads, ADDS: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, STEP_K: tl.constexpr,
    PRECISION: tl.constexpr, LIFT: tl.constexpr,
):  # fmt: skip
    """Write y = a x, or add a x to y, for a matrix a [M, K] of any strides and tokens x, y."""
    bh = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    x_ptr, y_ptr = _image(x_ptr, x_b, x_h, heads), _image(y_ptr, y_b, y_h, heads)
    WIDE: tl.constexpr = tl.float64 if a_ptr.dtype.element_ty == tl.float64 else tl.float32
    y = tl.zeros([BLOCK_M, BLOCK_V], WIDE)
    for start in range(0, K, STEP_K):
        k = start + tl.arange(0, STEP_K)
        mask = (m < M)[:, None] & (k < K)[None, :]
        a = tl.load(
            a_ptr + bh * a_b + m.to(tl.int64)[:, None] * a_m + k.to(tl.int64)[None, :] * a_k, mask=mask, other=0.0
        )
        a = a.to(tl.float32) if LIFT else a
        y += tl.dot(a, _load_rows(x_ptr, x_n, k, K, d, D, LIFT), input_precision=PRECISION, out_dtype=WIDE)
    at = y_ptr + m.to(tl.int64)[:, None] * y_n + d[None, :]
    mask = (m < M)[:, None] & (d < D)[None, :]
    if ADDS:
        y += tl.load(at, mask=mask, other=0.0)
    tl.store(at, y, mask=mask)
