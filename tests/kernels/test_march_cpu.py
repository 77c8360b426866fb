"""The march without gradients on a CPU: it shows what the definition shows."""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.march import cpu
from triportrait.kernels.march import operator as march
from triportrait.profiling.cases import CASES, make_inputs

SIZES = [
    dict(B=2, R=37, width=37, S=6, N=9, H=8, W=6, C=20, K=24, E=7, G=6, g=3),
    dict(B=1, R=50, width=10, S=8, N=8, H=16, W=16, C=16, K=32, E=16, G=5, g=4),
    dict(B=1, R=1, width=1, S=4, N=1, H=4, W=5, C=3, K=5, E=2, G=3, g=2),
]


def plain(name: str, inputs: list[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return CASES[name].op(*inputs)  # type: ignore[return-value]


def truth(name: str, inputs: list[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in inputs]
    with torch.no_grad(), use_backend("reference"):
        return CASES[name].op(*wide)  # type: ignore[return-value]


@pytest.fixture
def called(monkeypatch) -> list[int]:
    """One entry for each time that it ran."""
    calls: list[int] = []
    original = march.march_cpu
    monkeypatch.setattr(march, "march_cpu", lambda *a: calls.append(1) or original(*a))
    return calls


@pytest.mark.parametrize("name", ["march", "march_train"])
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"{s['B']}x{s['R']}")
def test_it_agrees_with_the_definition(name, sizes, called):
    inputs = list(make_inputs(name, sizes, torch.float32))
    result, expected = plain(name, inputs), truth(name, inputs)
    assert called
    most = cpu.SKIPPED
    for one, other, allowed in zip(result, expected, (most, 2e-4, 1e-4), strict=True):
        assert one.dtype == torch.float32
        assert one.shape == other.shape
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=allowed)


@pytest.mark.parametrize("most", [0.0, 1e-4, 0.3])
def test_no_pixel_misses_more_than_may_be_left_out(monkeypatch, most):
    inputs = list(make_inputs("march", SIZES[1], torch.float32))
    expected = truth("march", inputs)
    monkeypatch.setattr(cpu, "SKIPPED", most)
    off = [(one - other).abs().max() for one, other in zip(plain("march", inputs), expected, strict=True)]
    assert off[0] < most + 1e-5
    assert off[1] < 1e-4
    assert off[2] < 1e-5
    assert most < 0.1 or off[0] > 0.01, "something was left out"


def test_pieces_of_the_image_change_nothing(monkeypatch):
    inputs = list(make_inputs("march", SIZES[0], torch.float32))
    whole = plain("march", inputs)
    monkeypatch.setattr(cpu, "CHUNK", 15 * 24 * 7)  # rays of 15 samples, 24 units: 7 rays
    for one, other in zip(whole, plain("march", inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_it_runs_only_in_inference_mode_and_where_nothing_else_was_asked_for(called):
    inputs = list(make_inputs("march", SIZES[1], torch.float32))
    assert inputs[0] is not None
    with use_backend("reference"):
        plain("march", inputs)
    plain("march", [x.double() if x is not None and x.is_floating_point() else x for x in inputs])
    planes = inputs[0].clone().requires_grad_()
    CASES["march"].op(planes, *inputs[1:])[0].sum().backward()
    with torch.no_grad():  # a frozen network that another one learns from
        CASES["march"].op(*inputs)
    assert not called
    assert planes.grad is not None
    assert planes.grad.abs().max() > 0
    plain("march", [planes, *inputs[1:]])
    assert called


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_seen(value):
    inputs = list(make_inputs("march", SIZES[1], torch.float32))
    assert inputs[0] is not None
    inputs[0] = torch.full_like(inputs[0], value)
    assert not plain("march", inputs)[0].isfinite().any()
