"""Pixel shuffle with channels last: PyTorch's numbers, and where they lie."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from triportrait.core.pixel_shuffle import pixel_shuffle, shuffled_channels_last


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 12, 3, 5), (1, 64, 4, 4)])
def test_pixels_are_shuffled_as_pytorch_does(shape):
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    shuffled, wanted = shuffled_channels_last(x), F.pixel_shuffle(x, 2)
    assert torch.equal(shuffled, wanted)
    assert shuffled.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(wanted)
    (d,), (d_wanted,) = (torch.autograd.grad((y * weights).sum(), x) for y in (shuffled, wanted))
    assert torch.equal(d, d_wanted)


def test_a_view_of_tokens_has_its_channels_last():
    tokens = torch.randn(2, 6, 16)
    assert torch.equal(
        shuffled_channels_last(tokens.mT.unflatten(2, (2, 3))), pixel_shuffle(tokens.mT.unflatten(2, (2, 3)))
    )
