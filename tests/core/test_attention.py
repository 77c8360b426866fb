"""Attention: the definition, the choice of who computes it, and the blocks' order."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.core.reconstruct import attention
from triportrait.core.reconstruct.attention import Attention, ConvMlp, CrossBlock, attend, backend_for


def by_hand(query, key, value):
    scores = torch.einsum("bnhw,bkhw->bhnk", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bhnk,bkhw->bnhw", scores.softmax(-1), value).flatten(2)


@pytest.mark.parametrize("N, K, heads, width", [(9, 5, 2, 8), (1, 7, 4, 3), (6, 6, 1, 16)])
def test_attention_is_its_definition(N, K, heads, width):
    query = torch.randn(2, N, heads, width, dtype=torch.float64)
    key, value = torch.randn(2, 2, K, heads, width, dtype=torch.float64)
    torch.testing.assert_close(attend(query, key, value), by_hand(query, key, value))


@pytest.mark.parametrize("installed", [True, False])
def test_who_computes_it(installed, monkeypatch):
    """xFormers narrow heads on CUDA where it is installed, our kernel wide ones in half precision."""
    monkeypatch.setattr(attention, "has_xformers", lambda: installed)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert backend_for("cuda", 256, dtype) == ("xformers" if installed else "torch")
        assert backend_for("cuda", 512, dtype) == ("torch" if dtype == torch.float32 else "wide")
        for device, width in (("cuda", 528), ("cuda", 260), ("cpu", 64), ("cpu", 512)):
            assert backend_for(device, width, dtype) == "torch", (device, width)


@pytest.mark.gpu
def test_xformers_agrees_with_torch():
    pytest.importorskip("xformers", reason="needs xFormers: no wheel of it loads beside the torch of CI")
    query = torch.randn(2, 100, 4, 256, device="cuda", dtype=torch.float16)
    key, value = torch.randn(2, 2, 64, 4, 256, device="cuda", dtype=torch.float16)
    expected = by_hand(query.double(), key.double(), value.double())
    torch.testing.assert_close(attend(query, key, value).double(), expected, atol=2e-3, rtol=0)


def test_reduced_keys_see_the_map_in_cells():
    """With a reduction of 2 there is a key for each 2 x 2 cell of the grid, a quarter of the tokens."""
    module = Attention(8, 2, reduction=2)
    seen = []
    module.kv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    tokens = torch.randn(1, 24, 8)
    module(tokens, grid=(4, 6))
    assert seen == [(1, 6, 8)]
    expected = module.reduce(tokens.transpose(1, 2).reshape(1, 8, 4, 6)).flatten(2).transpose(1, 2)
    context = module.reduce_norm(expected)
    key, value = module.kv(context).view(1, 6, 2, 2, 4).unbind(2)
    query = module.q(tokens).view(1, 24, 2, 4)
    torch.testing.assert_close(module(tokens, grid=(4, 6)), module.proj(by_hand(query, key, value)))


def test_the_mlp_s_convolution_runs_over_the_grid():
    module = ConvMlp(4, 8)
    impulse = torch.zeros(1, 5 * 7, 4)
    impulse[0, 2 * 7 + 3] = 1.0  # row 2, column 3
    change = (module(impulse, (5, 7)) - module(torch.zeros_like(impulse), (5, 7))).abs().sum(-1).view(5, 7)
    touched = (change > 1e-7).nonzero().tolist()
    assert touched
    assert all(1 <= row <= 3 and 2 <= column <= 4 for row, column in touched)


def test_a_block_attends_to_the_motion_before_itself():
    block = CrossBlock(8, 2, 16)
    calls = []
    for name in ("cross_attention", "self_attention", "mlp"):
        getattr(block, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    tokens, motion = torch.randn(1, 6, 8), torch.randn(1, 3, 8)
    moved = block(tokens, (2, 3), motion)
    assert calls == ["cross_attention", "self_attention", "mlp"]
    assert (block(tokens, (2, 3), None) - moved).abs().max() > 1e-4
