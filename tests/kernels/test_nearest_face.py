"""nearest_face, against triangles sampled densely and segments measured one by one."""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels import nearest_face as module
from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.nearest_face import nearest_face


@pytest.fixture(autouse=True, params=["triton", "reference"])
def both_ways(request):
    with use_backend(request.param):
        yield


def make(F=12, P=50):
    vertices = torch.rand(2, 3 * F, 3) * 2 - 1
    return torch.rand(2, P, 3) * 2 - 1, vertices, torch.arange(3 * F).view(F, 3)


def edge_distances(points, corners):
    """[P, F] squared distances to the edges of triangles [F, 3, 3], float64."""
    best = torch.full((len(points), len(corners)), torch.inf, dtype=torch.float64)
    for i in range(3):
        a, d = corners[:, i].double(), (corners[:, (i + 1) % 3] - corners[:, i]).double()
        t = (((points.double()[:, None] - a) * d).sum(-1) / (d * d).sum(-1)).clamp(0, 1)
        best = torch.minimum(best, ((a + t[..., None] * d - points.double()[:, None]) ** 2).sum(-1))
    return best


def triangle_distances(points, corners, steps=80):
    """[P, F] squared distances to triangles, by a dense grid of their points: an upper bound, close."""
    a, b = torch.meshgrid(torch.linspace(0, 1, steps), torch.linspace(0, 1, steps), indexing="ij")
    inside = (a + b) <= 1 + 1e-6
    bary = torch.stack([1 - a - b, a, b], -1)[inside]  # [Q, 3]
    dense = torch.einsum("qk,fkc->fqc", bary, corners)  # [F, Q, 3]
    return torch.stack([((dense - p) ** 2).sum(-1).amin(1) for p in points])


def test_below_the_minimum_area_a_triangle_is_its_edges():
    points, vertices, faces = make()
    squared, face = nearest_face(points, vertices, faces, min_triangle_area=1e9)
    for b in range(2):
        expected, index = edge_distances(points[b], vertices[b][faces]).min(1)
        torch.testing.assert_close(squared[b], expected.float())
        assert torch.equal(face[b], index)


def test_above_it_the_foot_inside_counts():
    points, vertices, faces = make()
    squared, face = nearest_face(points, vertices, faces, min_triangle_area=0.0)
    edges_only, _ = nearest_face(points, vertices, faces, min_triangle_area=1e9)
    for b in range(2):
        table = triangle_distances(points[b], vertices[b][faces])
        near = table.gather(1, face[b][:, None])[:, 0]
        assert (squared[b].sqrt() <= table.amin(1).sqrt() + 1e-5).all()
        assert ((near.sqrt() - squared[b].sqrt()).abs() < 0.03).all()  # the grid of points is that fine
    assert (squared < edges_only - 1e-4).any()


def test_a_shared_edge_belongs_to_the_first_face():
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]])
    point = torch.tensor([[[0.5, 0.5, 0.1]]])  # over the diagonal
    for faces, expected in (([[0, 1, 2], [3, 2, 1]], 0), ([[3, 2, 1], [0, 1, 2]], 0)):
        squared, face = nearest_face(point, vertices, torch.tensor(faces), 5e9)
        assert (squared.item(), face.item()) == (pytest.approx(0.01), expected)


def test_chunks_do_not_change_the_result(monkeypatch):
    points, vertices, faces = make()
    whole = nearest_face(points, vertices, faces, 0.05)
    monkeypatch.setattr(module, "CHUNK", 100)
    for a, b in zip(whole, nearest_face(points, vertices, faces, 0.05), strict=True):
        assert torch.equal(a, b)


def test_refuses_a_bad_shape_by_name():
    points, vertices, faces = make()
    with pytest.raises(ValueError, match=r"vertices: expected \[B, U, 3\] with B=2 from points, got \[1, 36, 3\]"):
        nearest_face(points, vertices[:1], faces, 0.0)
