"""nearest_face, against triangles sampled densely and segments measured one by one."""

from __future__ import annotations

import pytest
import torch

from triportrait.kernels import nearest_face as module
from triportrait.kernels import pruned_faces
from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.nearest_face import nearest_face


@pytest.fixture(autouse=True, params=["triton", "reference", "auto"])  # on a CPU `auto` prunes
def each_way(request):
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


def head_like(rng):
    """Make a closed mesh, [1, U, 3] and [F, 3], of many small triangles and some large ones, and points about it."""
    columns, rows = 24, 18
    lat, lon = torch.meshgrid(torch.linspace(-1.5, 1.5, rows), torch.linspace(-3, 3, columns) ** 3 / 9, indexing="ij")
    ball = 0.4 * torch.stack([lat.cos() * lon.sin(), lat.sin(), lat.cos() * lon.cos()], -1).reshape(-1, 3)
    corner = (torch.arange(rows - 1)[:, None] * columns + torch.arange(columns - 1)).flatten()
    upper = torch.stack([corner, corner + 1, corner + columns], 1)
    faces = torch.cat([upper, torch.stack([corner + 1, corner + columns + 1, corner + columns], 1)])
    points = torch.rand(1, 400, 3, generator=rng) * 1.6 - 0.8
    on_it = (ball[faces[::9]] * torch.tensor([0.5, 0.25, 0.25])[:, None]).sum(1)
    return torch.cat([points, ball[None, ::5], on_it[None]], 1), ball[None], faces


@pytest.mark.parametrize("each_way", ["auto"], indirect=True)
@pytest.mark.parametrize("min_area", [0.0, 2e-3, 1e9])
def test_what_is_pruned_does_not_change_the_result(min_area):
    points, vertices, faces = head_like(torch.Generator().manual_seed(3))
    squared, face = nearest_face(points, vertices, faces, min_area)
    with use_backend("reference"):
        expected, expected_face = nearest_face(points, vertices, faces, min_area)
    assert torch.equal(face, expected_face)
    torch.testing.assert_close(squared, expected, rtol=2e-7, atol=1e-15)


@pytest.mark.parametrize("each_way", ["auto"], indirect=True)
def test_most_edges_are_never_measured(monkeypatch):
    points, vertices, faces = head_like(torch.Generator().manual_seed(3))
    measured, original = [], pruned_faces._edge_squared
    monkeypatch.setattr(
        pruned_faces, "_edge_squared", lambda *given: (pairs := original(*given), measured.append(pairs.numel()))[0]
    )
    nearest_face(points, vertices, faces, 2e-3)
    assert sum(measured) < 0.25 * points.shape[1] * len(module.mesh_edges(faces).ends)


def test_refuses_a_bad_shape_by_name():
    points, vertices, faces = make()
    with pytest.raises(ValueError, match=r"vertices: expected \[B, U, 3\] with B=2 from points, got \[1, 36, 3\]"):
        nearest_face(points, vertices[:1], faces, 0.0)


def test_refuses_a_mesh_without_faces():
    points, vertices, faces = make()
    with pytest.raises(ValueError, match="faces: expected at least one triangle, got none"):
        nearest_face(points, vertices, faces[:0], 0.0)
