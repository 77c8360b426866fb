"""depthwise_gelu: facts of its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.dwconv import depthwise_gelu
from triportrait.kernels.tolerance import assert_agrees
from triportrait.profiling.cases import CASES, make_inputs

BACKENDS = ["reference", "triton"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_middle_tap_alone_leaves_gelu(backend):
    x, weight = torch.randn(1, 4, 5, 3), torch.zeros(3, 1, 3, 3)
    weight[:, 0, 1, 1] = 1
    with use_backend(backend):
        torch.testing.assert_close(depthwise_gelu(x, weight, torch.zeros(3)), F.gelu(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tap, moved", [((0, 1), (1, 0)), ((1, 2), (0, -1))], ids=["from above", "from the right"])
def test_a_tap_looks_where_it_stands(tap, moved, backend):
    x, weight = torch.rand(1, 4, 5, 1) + 3, torch.zeros(1, 1, 3, 3)  # gelu is nearly the identity here
    weight[0, 0, tap[0], tap[1]] = 1
    expected = F.gelu(torch.roll(x, moved, (1, 2)))
    with use_backend(backend):
        result = depthwise_gelu(x, weight, torch.zeros(1))
    inner = (slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(result[inner], expected[inner])
    edge = result[0, 0, :, 0] if moved == (1, 0) else result[0, :, -1, 0]
    assert (edge == 0).all(), "zeros outside"


def test_refuses_a_weight_of_another_width():
    with pytest.raises(ValueError, match=r"weight: expected \[C, 1, 3, 3\] with C=3 from x, got \[4, 1, 3, 3\]"):
        depthwise_gelu(torch.zeros(1, 2, 2, 3), torch.zeros(4, 1, 3, 3), torch.zeros(3))


def test_a_program_that_sums_over_several_tiles_agrees(monkeypatch):
    monkeypatch.setattr("triportrait.kernels.dwconv.PARTIALS", 2)
    sizes = {**CASES["dwconv"].odd[1], "H": 9, "W": 11}
    assert_agrees(CASES["dwconv"].op, make_inputs("dwconv", sizes, torch.float32), floor=1e-5)
