"""nearest_vertex, against a table of all distances."""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.nearest_face import nearest_vertex


@pytest.fixture(autouse=True, params=["triton", "reference"])
def both_ways(request):
    with use_backend(request.param):
        yield


@pytest.mark.parametrize("count", [1, 40])
def test_against_all_distances(count):
    points, vertices = torch.rand(2, 70, 3) * 2 - 1, torch.rand(2, count, 3) * 2 - 1
    squared, vertex = nearest_vertex(points, vertices)
    table = (points.double()[:, :, None] - vertices.double()[:, None]).square().sum(-1)
    assert torch.equal(vertex, table.argmin(2))
    torch.testing.assert_close(squared, table.amin(2).float(), atol=1e-7, rtol=1e-6)


def test_on_a_vertex_the_distance_is_zero():
    vertices = torch.rand(1, 20, 3)
    squared, vertex = nearest_vertex(vertices, vertices)
    assert vertex[0].tolist() == list(range(20)) and squared.max() < 1e-12


def test_nothing_to_find():
    assert nearest_vertex(torch.rand(1, 0, 3), torch.rand(1, 5, 3))[1].shape == (1, 0)
    with pytest.raises(ValueError, match="vertices: expected at least one, got none"):
        nearest_vertex(torch.rand(1, 3, 3), torch.rand(1, 0, 3))
