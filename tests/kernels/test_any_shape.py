"""Kernels against their definitions at sizes, layouts and values that nobody chose."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("hypothesis")  # a GPU's image may lack it
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.tolerance import assert_agrees
from triportrait.profiling.cases import CASES, make_inputs

RANGES = {  # operator -> size -> smallest and largest; what depends on others is drawn below
    "triplane": {"B": (0, 3), "P": (0, 40), "H": (1, 9), "W": (1, 9), "C": (1, 20)},
    "field": {"B": (0, 2), "P": (0, 20), "H": (1, 6), "W": (1, 6), "C": (1, 20), "K": (1, 20), "E": (1, 12)},
    "composite": {"B": (0, 2), "R": (0, 20), "S": (1, 12), "E": (1, 20)},
    "importance": {"B": (0, 2), "R": (0, 20), "S": (4, 12), "N": (1, 20)},
    "merge": {"B": (0, 2), "R": (0, 12), "S": (1, 12), "N": (1, 12), "E": (1, 9)},
    "grid": {"B": (0, 2), "P": (0, 40), "X": (1, 6), "Y": (1, 6), "Z": (1, 6), "C": (1, 5)},
    "bias_act": {"B": (0, 2), "C": (1, 9), "H": (1, 9), "W": (1, 9)},
    "fir_smooth": {"B": (0, 2), "C": (1, 9), "H": (2, 9), "W": (2, 9)},
    "fir_up": {"B": (0, 2), "C": (1, 9), "H": (1, 9), "W": (1, 9)},
    "dwconv": {"B": (0, 2), "H": (1, 6), "W": (1, 6), "C": (1, 40)},
    "rasterize": {"B": (0, 2), "rings": (2, 4), "sectors": (3, 6), "H": (1, 14), "W": (1, 14)},
    "attention": {"B": (0, 2), "N": (1, 20), "K": (1, 20), "heads": (1, 2), "D": (1, 4)},
}


@pytest.mark.parametrize("name", sorted(RANGES))
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=some.data())
def test_any_size(name, data):
    sizes = {key: data.draw(some.integers(*limits), label=key) for key, limits in RANGES[name].items()}
    if name == "attention":
        sizes["D"] *= 16
    seed = data.draw(some.integers(0, 1000), label="seed")
    assert_agrees(CASES[name].op, make_inputs(name, sizes, torch.float32, seed), floor=max(CASES[name].floor, 1e-5))


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    rays=some.integers(1, 20),
    width=some.integers(1, 9),
    samples=some.integers(4, 9),
    fine=some.integers(1, 9),
    density=some.sampled_from([-1e4, -30.0, 0.0, 30.0, 1e4]),
    aside=some.sampled_from([0.0, 3.0, 1e6]),
    coincide=some.booleans(),
)
def test_any_march(rays, width, samples, fine, density, aside, coincide):
    """Rays beside the box, densities at both ends, depths that coincide, images of any width."""
    sizes = {**CASES["march"].odd[0], "R": rays, "width": width, "S": samples, "N": fine}
    inputs = list(make_inputs("march", sizes, torch.float32))
    inputs[1] = inputs[1] + aside  # origins
    inputs[10] = torch.full_like(inputs[10], density)  # the bias of the density
    if coincide:
        inputs[3] = inputs[3].clone()
        inputs[3][:, 1] = inputs[3][:, 2]
    with torch.no_grad(), use_backend("triton"):
        result = CASES["march"].op(*inputs)
    with torch.no_grad(), use_backend("reference"):
        expected = CASES["march"].op(*inputs)
    for kernel, definition in zip(result, expected, strict=True):
        assert torch.equal(kernel.isfinite(), definition.isfinite())
        finite = definition.isfinite()
        torch.testing.assert_close(kernel[finite], definition[finite], rtol=1e-4, atol=1e-4)
