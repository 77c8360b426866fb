"""bias_leaky_relu: facts of its own, second derivatives, layouts."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradgradcheck

from triportrait.kernels import bias_act
from triportrait.kernels.bias_act import GAIN, LEAK, bias_leaky_relu
from triportrait.kernels.dispatch import use_backend

BACKENDS = ["reference", "triton"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_values_by_hand(backend):
    x, bias = torch.tensor([[[[1.0]], [[-3.0]]]]), torch.tensor([0.5, 1.0])
    with use_backend(backend):
        result = bias_leaky_relu(x, bias)
    assert result.flatten().tolist() == pytest.approx([1.5 * GAIN, -2.0 * LEAK * GAIN])


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_differentiable_twice_as_r1_needs(backend):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    with use_backend(backend):
        assert gradgradcheck(bias_leaky_relu, (x, bias), fast_mode=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_more_values_than_32_bits_count_have_the_same_bits(layout, monkeypatch):
    x, bias = torch.randn(2, 6, 15, 17).contiguous(memory_format=layout), torch.randn(6)  # three programs
    with use_backend("triton"):
        wanted = bias_leaky_relu(x, bias)
        monkeypatch.setattr(bias_act, "NARROW", 0)  # as if they were
        assert torch.equal(bias_leaky_relu(x, bias), wanted)
    assert torch.equal(wanted, bias_leaky_relu(x, bias))


def test_the_layout_of_the_input_is_kept():
    x, bias = torch.randn(2, 5, 4, 3), torch.randn(5)
    last = x.contiguous(memory_format=torch.channels_last)
    with use_backend("triton"):
        result, plain = bias_leaky_relu(last, bias), bias_leaky_relu(x, bias)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert plain.is_contiguous()
    assert torch.equal(result, plain)


def test_refuses_a_bias_of_another_width():
    with pytest.raises(ValueError, match=r"bias: expected \[C\] with C=3 from x, got \[4\]"):
        bias_leaky_relu(torch.zeros(1, 3, 2, 2), torch.zeros(4))


@pytest.mark.parametrize("numbers", [{"leak": 0.0}, {"gain": -1.0}])
def test_refuses_what_hides_the_sign(numbers):
    with pytest.raises(ValueError, match="leak, gain: expected numbers above 0, got"):
        bias_leaky_relu(torch.zeros(1, 2, 3, 3), torch.zeros(2), **numbers)
