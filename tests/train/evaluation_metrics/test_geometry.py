"""Distances and normals between surfaces: spheres and planes, whose figures are known, and what must not count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.geometry import (
    MEASURES,
    SurfaceSamples,
    alignment,
    closest,
    compare_surfaces,
    sample_surface,
)

trimesh = pytest.importorskip("trimesh")
FEW = 4_000


def sphere(radius: float, seed: int = 0) -> SurfaceSamples:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    return sample_surface(ball.vertices, ball.faces, FEW, seed)


def sheet(half: float = 50.0, seed: int = 0, flip: bool = False) -> SurfaceSamples:
    """A square in the plane z = 0 that faces z, in 2 · 20² triangles."""
    u, v = np.meshgrid(np.linspace(-half, half, 21), np.linspace(-half, half, 21))
    corner = (np.arange(20)[:, None] * 21 + np.arange(20)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 21], 1), np.stack([corner + 1, corner + 22, corner + 21], 1)]
    )
    vertices = np.stack([u.ravel(), v.ravel(), np.zeros(u.size)], 1)
    return sample_surface(vertices, faces[:, ::-1] if flip else faces, FEW, seed)


def inner(side: SurfaceSamples, half: float) -> SurfaceSamples:
    return replace(side, counted=(abs(side.points[:, :2]) < half).all(1))


def turn(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def test_one_sphere_in_another():
    found = compare_surfaces(sphere(104, 1), sphere(100))
    for name in ("accuracy_mm", "completeness_mm", "chamfer_mm", "chamfer_aligned_mm"):
        assert found[name] == pytest.approx(4, abs=0.1), name
    assert found["normal_error_deg"] < 2
    assert found["f_score"] == 1
    assert compare_surfaces(sphere(106, 1), sphere(100))["f_score"] == 0, "6 mm are not within 5"
    assert set(found) == {measure.name for measure in MEASURES}


def test_two_samples_of_one_surface_are_at_no_distance():
    """Distances end on triangles and not on points, between which it is 0.8 mm in the mean here."""
    found = compare_surfaces(sheet(seed=1), sheet(seed=2))
    assert found["chamfer_mm"] < 0.05
    assert found["f_score"] == 1
    assert compare_surfaces(sphere(100, 1), sphere(100, 2))["chamfer_mm"] < 0.1


@pytest.mark.parametrize("shift", [3.0, -12.0])
def test_a_shift_along_the_normal_is_the_distance_and_one_within_the_plane_is_none(shift):
    truth = inner(sheet(seed=1), 40)
    off = inner(sheet(), 40).moved(np.eye(3), np.array([0, 0, shift]))
    found = compare_surfaces(off, truth)
    assert found["accuracy_mm"] == pytest.approx(abs(shift), abs=0.01)
    assert found["completeness_mm"] == pytest.approx(abs(shift), abs=0.01)
    assert found["normal_error_deg"] == pytest.approx(0, abs=1e-3)
    assert found["f_score"] == (1 if abs(shift) < 5 else 0)
    assert found["chamfer_aligned_mm"] < 0.05
    aside = inner(sheet(), 30).moved(np.eye(3), np.array([8.0, 0, 0]))
    assert compare_surfaces(aside, inner(truth, 30))["chamfer_mm"] < 0.01


def test_normals_are_compared_as_they_look():
    assert compare_surfaces(sheet(flip=True), sheet(seed=1))["normal_error_deg"] == pytest.approx(180)
    tilted = sheet().moved(turn(10), np.zeros(3))
    assert compare_surfaces(tilted, sheet(seed=1))["normal_error_deg"] == pytest.approx(10, abs=1e-3)


def test_each_direction_says_its_own():
    """What is there is right, and half is missing; and the other way round."""
    right = sheet(seed=1)
    right = replace(right, counted=right.points[:, 0] > 0)
    keep = right.counted
    there = right.triangles[..., 0].min(1) >= 0
    half = replace(right, triangles=right.triangles[there], corner_normals=right.corner_normals[there])
    half = replace(
        half, points=right.points[keep], face=(there.cumsum() - 1)[right.face[keep]], counted=right.counted[keep]
    )
    missing = compare_surfaces(half, sheet())
    assert missing["accuracy_mm"] < 0.05
    assert missing["completeness_mm"] == pytest.approx(12.5, abs=0.5)  # half of it is 0, the other half 25 in the mean
    assert missing["chamfer_mm"] == pytest.approx((missing["accuracy_mm"] + missing["completeness_mm"]) / 2)
    share = 0.5 + 5 / 100
    assert missing["f_score"] == pytest.approx(2 * share / (1 + share), abs=0.02)
    surplus = compare_surfaces(sheet(), half)
    assert surplus["accuracy_mm"] == pytest.approx(missing["completeness_mm"])


def test_alignment_finds_the_motion_and_no_scale():
    box = trimesh.creation.box((80, 120, 160)).subdivide().subdivide().subdivide()
    truth = sample_surface(box.vertices, box.faces, FEW, 1)
    moved = sample_surface(box.vertices, box.faces, FEW).moved(turn(4), np.array([3.0, -2.0, 1.0]))
    rotation, shift = alignment(moved, truth)
    np.testing.assert_allclose(rotation @ turn(4), np.eye(3), atol=5e-3)
    np.testing.assert_allclose(
        moved.points @ rotation.T + shift, sample_surface(box.vertices, box.faces, FEW).points, atol=0.5
    )
    found = compare_surfaces(moved, truth)
    assert found["chamfer_mm"] > 2
    assert found["chamfer_aligned_mm"] < 0.2
    larger = sample_surface(box.vertices * 1.1, box.faces, FEW)
    assert compare_surfaces(larger, truth)["chamfer_aligned_mm"] > 3, "a scale is no motion"


def test_points_are_drawn_by_area_and_by_seed():
    fine = trimesh.creation.icosphere(subdivisions=5, radius=10)  # 20,480 triangles
    coarse = trimesh.creation.box((100, 100, 100)).apply_translation((200, 0, 0))  # 12 triangles
    both = trimesh.util.concatenate([fine, coarse])
    drawn = sample_surface(both.vertices, both.faces, FEW)
    assert (drawn.points[:, 0] < 100).mean() == pytest.approx(fine.area / both.area, abs=0.005)
    np.testing.assert_array_equal(drawn.points, sample_surface(both.vertices, both.faces, FEW).points)
    assert not np.array_equal(drawn.points, sample_surface(both.vertices, both.faces, FEW, 1).points)


def test_distances_are_those_of_another_implementation():
    """Every triangle is tried here."""
    ball = trimesh.creation.icosphere(subdivisions=2, radius=100)
    points = np.random.default_rng(0).normal(size=(50, 3)) * 90
    onto = sample_surface(ball.vertices, ball.faces, FEW)
    found, _ = closest(points, onto)
    every = np.stack(
        [trimesh.triangles.closest_point(ball.triangles, np.repeat(p[None], len(ball.faces), 0)) for p in points]
    )
    wanted = np.linalg.norm(every - points[:, None], axis=2).min(1)
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert (found >= wanted - 1e-9).all()


def test_slivers_have_a_normal():
    side = sheet()
    sliver = np.array([[0, 0, 0], [1, 1e-160, 0], [2, 0, 0]])
    with_slivers = replace(
        side,
        triangles=np.concatenate([side.triangles, np.stack([sliver + [x, 0, 2.0] for x in range(-40, 40)])]),
        corner_normals=np.concatenate([side.corner_normals, np.tile([0.0, 0, 1], (80, 3, 1))]),
    )
    found = compare_surfaces(sheet(seed=1).moved(np.eye(3), np.array([0, 0, 1.5])), with_slivers)
    assert found["normal_error_deg"] == pytest.approx(0, abs=1e-3)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="surface: expected triangles with an area, got none"):
        sample_surface(np.zeros((3, 3)), np.zeros((0, 3), np.int64))
    with pytest.raises(InputError, match="surface: expected triangles with an area, got none"):
        sample_surface(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    nothing = replace(sheet(), counted=np.zeros(FEW, bool))
    for pair in ((nothing, sheet()), (sheet(), nothing)):
        with pytest.raises(InputError, match="expected points in the measured region, got none"):
            compare_surfaces(*pair)
