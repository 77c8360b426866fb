"""decode_field: the mean plane feature through the MLP."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.kernels.field import FieldWeights, decode_field
from triportrait.kernels.tolerance import assert_agrees
from triportrait.profiling.cases import CASES, make_inputs


def make(dtype=torch.float32, C=3, K=5, E=4):
    weights = FieldWeights(*(torch.randn(shape, dtype=dtype) for shape in ((K, C), (K,), (1, K), (1,), (E, K), (E,))))
    return torch.randn(2, 3, 4, 6, C, dtype=dtype), torch.rand(2, 7, 3, dtype=dtype) * 2 - 1, weights


def test_numbers_by_hand():
    planes = torch.full((1, 3, 4, 4, 1), 0.5)
    weights = FieldWeights(*(torch.tensor(v) for v in ([[2.0]], [-1.0], [[3.0]], [0.25], [[1.0], [-1.0]], [0.0, 2.0])))
    raw_density, feature = decode_field(planes, torch.zeros(1, 1, 3), weights)
    hidden = math.log(1 + math.exp(2 * 0.5 - 1))  # softplus(0) = ln 2
    assert raw_density.item() == pytest.approx(3 * hidden + 0.25)
    expected = [1.002 / (1 + math.exp(-x)) - 0.001 for x in (hidden, 2 - hidden)]
    assert feature[0, 0].tolist() == pytest.approx(expected)


def test_density_may_be_negative_and_features_stay_in_range():
    planes, points, weights = make()
    weights = weights._replace(density_bias=torch.tensor([-1000.0]))
    raw_density, feature = decode_field(planes * 100, points, weights)
    assert raw_density.min() < 0
    assert feature.min() >= -0.001
    assert feature.max() <= 1.001


def test_density_is_float32_for_half_planes():
    planes, points, weights = make(torch.bfloat16)
    raw_density, feature = decode_field(planes, points.float(), weights)
    assert (raw_density.dtype, feature.dtype) == (torch.float32, torch.bfloat16)
    exact = FieldWeights(*(w.double() for w in weights))
    expected, _ = decode_field(planes.double(), points.double(), exact)
    torch.testing.assert_close(raw_density.double(), expected, atol=1e-5, rtol=1e-5)


def test_refuses_weights_that_do_not_fit_the_planes():
    planes, points, weights = make()
    with pytest.raises(ValueError, match=r"hidden_weight: expected \[K, C\] with C=3 from planes, got \[5, 2\]"):
        decode_field(planes, points, weights._replace(hidden_weight=torch.zeros(5, 2)))


def test_a_program_that_sums_over_several_tiles_agrees(monkeypatch):
    monkeypatch.setattr("triportrait.kernels.field.PARTIALS", 2)
    sizes = {**CASES["field"].odd[1], "P": 200}
    assert_agrees(CASES["field"].op, make_inputs("field", sizes, torch.float32), floor=1e-5)
