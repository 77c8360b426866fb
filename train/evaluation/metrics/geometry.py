"""Define how near a reconstructed surface is to the true one: distances both ways, normals, and both after alignment.

A surface is triangles in millimetres. Points lie on it uniformly by area, from a fixed seed; from each of them the
distance goes to the nearest place on the triangles of the other surface, not to its nearest point, so that two samples
of one surface are at no distance. Letters: N points, U vertices, F triangles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.evaluation.image_metrics import OPAQUE
from triportrait.train.evaluation.metrics.measures import Measure

POINTS, STARTS = 20_000, 10_000  # on each surface, and how many of them distances start from
NEIGHBOURS = 8  # nearest points whose triangles a distance is measured to
F_SCORE_MM = 5.0
ALIGNMENT_POINTS, ALIGNMENT_ROUNDS = 2_000, 30
LEAST_DISTANCE_MM = 1.0  # nearer points pull no harder

MEASURES = (
    Measure(
        "accuracy_mm", "accuracy", "Mean distance from points of the reconstructed surface to the true one.",
        "mm", "lower",
    ),
    Measure(
        "completeness_mm", "completeness", "Mean distance from points of the true surface to the reconstructed one.",
        "mm", "lower",
    ),
    Measure("chamfer_mm", "chamfer", "Mean of accuracy and completeness.", "mm", "lower"),
    Measure(
        "f_score", f"F at {F_SCORE_MM:g} mm",
        f"Harmonic mean of two shares: of the reconstructed points that lie within {F_SCORE_MM:g} mm of the true"
        " surface, and of the true points that lie within it of the reconstructed one.",
        "", "higher",
    ),
    Measure(
        "normal_error_deg", "normals",
        "Mean angle between the outward normals at a point and at the nearest place on the other surface; the mean of"
        " both directions. Normals are interpolated between those of the vertices.",
        "°", "lower",
    ),
    Measure(
        "chamfer_aligned_mm", "chamfer, aligned",
        "The same as chamfer after the rotation and the shift, without a scale, that bring the reconstructed surface"
        " nearest to the true one (iterated closest points). Cameras are known, so that the figure without it is the"
        " error; this one says how much of it is shape.",
        "mm", "lower",
    ),
)  # fmt: skip

DEPTH_MEASURES = (
    Measure(
        "depth_error_mm", "depth",
        "Mean difference between the rendered depth along the ray and the true one, over rays of which the true head"
        f" covers more than {OPAQUE:g} and the result at least a half; what is missing is in the silhouette.",
        "mm", "lower",
    ),
    Measure(
        "depth_bias_mm", "depth, signed", "The same with its sign: positive where the result lies behind the truth.",
        "mm", None,
    ),
    Measure(
        "silhouette_iou", "silhouette IoU",
        "Intersection over union of where the head is more than half opaque and where the true one is.",
        "", "higher",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class SurfaceSamples:
    """A surface, and points on it.

    Attributes:
        triangles: [F, 3, 3] mm, all of the surface.
        corner_normals: [F, 3, 3], the unit normals at their corners.
        points: [N, 3] mm.
        face: [N], the triangle that each point lies on.
        counted: bool [N], the points whose own distance counts; others are only near what is measured.
    """

    triangles: np.ndarray
    corner_normals: np.ndarray
    points: np.ndarray
    face: np.ndarray
    counted: np.ndarray

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> SurfaceSamples:
        """Return the surface turned by [3, 3] about the origin and then shifted by [3] mm; the same points count."""
        points, triangles = self.points @ rotation.T + shift, self.triangles @ rotation.T + shift
        return replace(self, points=points, triangles=triangles, corner_normals=self.corner_normals @ rotation.T)


def sample_surface(vertices: np.ndarray, faces: np.ndarray, count: int = POINTS, seed: int = 0) -> SurfaceSamples:
    """Draw points uniformly by area.

    Args:
        vertices: [U, 3] mm.
        faces: [F, 3] whole numbers; seen from outside their corners go counterclockwise.
        count: N.
        seed: decides the points.

    Raises:
        InputError: there is no triangle with an area.
    """
    import trimesh

    mesh = trimesh.Trimesh(np.asarray(vertices, np.float64), faces, process=False)
    mesh.update_faces(mesh.area_faces > 0)
    if not len(mesh.faces):
        raise InputError("surface: expected triangles with an area, got none; give a surface that is not empty")
    points, face = trimesh.sample.sample_surface(mesh, count, seed=seed)
    normals = mesh.vertex_normals[mesh.faces]
    return SurfaceSamples(np.asarray(mesh.triangles), normals, np.asarray(points), face, np.ones(len(points), bool))


def compare_surfaces(result: SurfaceSamples, truth: SurfaceSamples) -> dict[str, float]:
    """Return every measure of `MEASURES` by its name.

    Raises:
        InputError: no point of one of the surfaces counts.
    """
    values = _distances(result, truth)
    aligned = _distances(result.moved(*alignment(result, truth)), truth)
    return values | {"chamfer_aligned_mm": aligned["chamfer_mm"]}


def _distances(result: SurfaceSamples, truth: SurfaceSamples) -> dict[str, float]:
    (there, there_deg), (back, back_deg) = _one_way(result, truth), _one_way(truth, result)
    within = [float((distance <= F_SCORE_MM).mean()) for distance in (there, back)]
    return {
        "accuracy_mm": float(there.mean()),
        "completeness_mm": float(back.mean()),
        "chamfer_mm": float(there.mean() + back.mean()) / 2,
        "f_score": 2 * within[0] * within[1] / max(sum(within), 1e-9),
        "normal_error_deg": float(there_deg.mean() + back_deg.mean()) / 2,
    }


def _one_way(start: SurfaceSamples, onto: SurfaceSamples) -> tuple[np.ndarray, np.ndarray]:
    """Measure from the points that count: distances [n] mm, angles [n] between the normals, degrees."""
    rows = _counted(start)
    distance, onto_normal = closest(start.points[rows], onto)
    cosine = (_normals(start, start.face[rows], start.points[rows]) * onto_normal).sum(1).clip(-1, 1)
    return distance, np.degrees(np.arccos(cosine))


def closest(points: np.ndarray, onto: SurfaceSamples) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest place on a surface.

    Args:
        points: [n, 3] mm.
        onto: the surface.

    Returns:
        distances [n] mm, and the normals [n, 3] of the surface there.
    """
    from scipy.spatial import cKDTree
    from trimesh.triangles import closest_point

    # points stand for large triangles, middles for small ones
    near_points = np.concatenate([onto.points, onto.triangles.mean(1)])
    of_face = np.concatenate([onto.face, np.arange(len(onto.triangles))])
    neighbours = min(NEIGHBOURS, len(near_points))
    _, near = cKDTree(near_points).query(points, k=neighbours)
    near = of_face[near].reshape(len(points), neighbours)
    places = closest_point(onto.triangles[near].reshape(-1, 3, 3), points.repeat(neighbours, 0))
    places = places.reshape(len(points), neighbours, 3)
    distance = np.linalg.norm(places - points[:, None], axis=2)
    best = distance.argmin(1)
    every = np.arange(len(points))
    return distance[every, best], _normals(onto, near[every, best], places[every, best])


def alignment(result: SurfaceSamples, truth: SurfaceSamples) -> tuple[np.ndarray, np.ndarray]:
    """Find the rotation [3, 3] and the shift [3] mm that bring one surface near another (iterated closest points).

    Raises:
        InputError: no point of one of the surfaces counts.
    """
    from scipy.spatial import cKDTree
    from scipy.spatial.transform import Rotation

    own, true = (side.points[_counted(side)] for side in (result, truth))
    own, true = (points[:: max(1, len(points) // ALIGNMENT_POINTS)] for points in (own, true))
    result_tree, truth_tree = cKDTree(result.points), cKDTree(truth.points)
    rotation, shift = np.eye(3), np.zeros(3)
    for _ in range(ALIGNMENT_ROUNDS):
        there, onto_truth = truth_tree.query(own @ rotation.T + shift)
        back, onto_result = result_tree.query((true - shift) @ rotation)
        moving = np.concatenate([own, result.points[onto_result]])
        fixed = np.concatenate([truth.points[onto_truth], true])
        # squares over distances: the sum of distances falls, and far outliers pull no harder than others
        weights = 1 / np.concatenate([there, back]).clip(LEAST_DISTANCE_MM)
        own_middle, true_middle = (np.average(points, 0, weights) for points in (moving, fixed))
        turned, _ = Rotation.align_vectors(fixed - true_middle, moving - own_middle, weights)
        rotation = turned.as_matrix()
        shift = true_middle - rotation @ own_middle
    return rotation, shift


def _counted(side: SurfaceSamples) -> np.ndarray:
    rows = side.counted.nonzero()[0]
    if not len(rows):
        raise InputError("surface: expected points in the measured region, got none; measure where the surface is")
    return rows[:: math.ceil(len(rows) / STARTS)]


def _normals(side: SurfaceSamples, face: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate normals [n, 3] at places [n, 3] on triangles [n]."""
    from trimesh.triangles import points_to_barycentric

    with np.errstate(divide="ignore", invalid="ignore"):
        weights = points_to_barycentric(side.triangles[face], places)
    weights = np.where(np.isfinite(weights).all(1, keepdims=True), weights, 1 / 3)  # of slivers, which have no inside
    normal = (side.corner_normals[face] * weights[..., None]).sum(1)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
