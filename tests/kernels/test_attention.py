"""attend_wide: facts of its own, the bounded scratch, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from triportrait.kernels import attention
from triportrait.kernels.attention import attend_wide
from triportrait.kernels.dispatch import use_backend

BACKENDS = ["reference", "triton"]


def drawn(B=1, N=5, K=7, heads=2, D=32):
    return torch.randn(B, N, heads, D), torch.randn(B, K, heads, D), torch.randn(B, K, heads, D)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_scaled_dot_product_attention(backend):
    q, k, v = drawn(K=300)
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    with use_backend(backend):
        torch.testing.assert_close(attend_wide(q, k, v), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_values_come_out_as_they_are(backend):
    q, k, _ = drawn()
    with use_backend(backend):
        torch.testing.assert_close(attend_wide(q, k, torch.full_like(k, 3.0)), torch.full_like(q, 3.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_score_wins_and_nothing_overflows(backend):
    q, k, v = drawn(heads=1)
    k[0, 3, 0] = q[0, 0, 0] * 1e4
    with use_backend(backend):
        out = attend_wide(q, k, v)
    torch.testing.assert_close(out[0, 0, 0], v[0, 3, 0])
    assert out.isfinite().all()


def test_pieces_of_the_queries_change_nothing(monkeypatch):
    q, k, v = (x.requires_grad_() for x in drawn(N=300, K=140, heads=1, D=16))
    seen = []
    with use_backend("triton"):
        for scratch in (32 << 20, 1):
            monkeypatch.setattr(attention, "SCRATCH", scratch)
            out = attend_wide(q, k, v)
            seen.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for whole, pieces in zip(*seen, strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((1, 2, 1, 528), (1, 3, 1, 528)), "query: expected heads of a multiple of 16 up to 512, got 528"),
        (((1, 2, 1, 24), (1, 3, 1, 24)), "query: expected heads of a multiple of 16 up to 512, got 24"),
        (((1, 2, 1, 16), (1, 0, 1, 16)), "key: expected .* with K >= 1, got K=0"),
        (((1, 2, 1, 16), (1, 3, 2, 16)), r"key: expected \[B, K, heads, D\] with .*heads=1.* from query, got"),
    ],
)
def test_refusals(shapes, message):
    q, k = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        attend_wide(q, k, k)


def test_refuses_mixed_dtypes():
    q, k, v = drawn()
    with pytest.raises(
        ValueError, match=r"value: expected torch\.float32 as query has, got torch\.float16; convert it"
    ):
        attend_wide(q, k, v.half())
