"""The nearest triangle of a mesh for each of many points on a CPU; only what may be nearest is measured.

Edges are put into clusters that lie together, each within a sphere. The nearest cluster of a point bounds its distance
from above, and a sphere that lies farther away holds neither the nearest edge nor one that ties with it.
Letters: P points, E edges, F faces, K clusters, M edges of a cluster, N pairs of a point and a cluster or a face.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CLUSTER_EDGES = 16  # at most, in a cluster
POINTS = 1 << 9  # at a time: what is measured stays in a second cache
TIE = 1e-6  # relative; without it rounding would choose among the edges of a nearest corner, and frames would flicker
ROUNDING = 1e-9  # scene units: far above the rounding of float64


class _Clusters(NamedTuple):
    edges: Tensor  # [K, M] int64
    start: tuple[Tensor, ...]  # x, y, z of one end, [K, M] each
    along: tuple[Tensor, ...]  # from there to the other end
    length: Tensor  # [K, M] squared
    centre: Tensor  # [K, 3] of the spheres
    radius: Tensor  # [K]


class _Planes(NamedTuple):
    face: Tensor  # [L] int64, the faces that are large enough, ascending
    corner: tuple[Tensor, ...]  # x, y, z of the three corners [3, L] each
    normal: tuple[Tensor, ...]  # x, y, z of length 1, [L] each
    centre: Tensor  # [L, 3] of the spheres
    radius: Tensor  # [L]


def nearest_face_pruned(
    points: Tensor, vertices: Tensor, faces: Tensor, ends: Tensor, first_face: Tensor, min_area: float
) -> tuple[Tensor, Tensor]:
    """Find the triangle nearest to each point [P, 3] of one mesh, and the squared distance, both float64.

    Args:
        vertices: [U, 3] float64. faces: [F, 3]. ends: [E, 2], first_face: [E], as `kernels.nearest_face.mesh_edges`
            gives them.
        min_area: below this area a triangle counts as its edges only.
    """
    clusters, planes = _clusters(vertices, ends), _planes(vertices, faces, min_area)
    parts = [_query(chunk, clusters, planes, first_face, len(faces)) for chunk in points.split(POINTS)]
    squared, face = (torch.cat(values) for values in zip(*parts, strict=True))
    return squared, face


def _query(
    points: Tensor, clusters: _Clusters, planes: _Planes, first_face: Tensor, faces: int
) -> tuple[Tensor, Tensor]:
    at_least = _distance(points, clusters.centre) - clusters.radius  # [P, K]
    every = torch.arange(len(points), device=points.device)
    best = _edge_squared(points, every, clusters, at_least.argmin(1)).amin(1)
    point, cluster = (at_least <= _reach(best)[:, None]).nonzero(as_tuple=True)
    squared = _edge_squared(points, point, clusters, cluster)  # [N, M]
    best.scatter_reduce_(0, point, squared.amin(1), "amin")
    ties = squared <= _limit(best)[point, None]
    candidate = torch.where(ties, first_face[clusters.edges[cluster]], faces - 1).amin(1)
    face = torch.full_like(every, faces - 1).scatter_reduce_(0, point, candidate, "amin")
    if len(planes.face):
        at_least = _distance(points, planes.centre) - planes.radius
        point, plane = (at_least <= _reach(best)[:, None]).nonzero(as_tuple=True)
        squared = _plane_squared(points, point, planes, plane)  # [N]
        closest = torch.full_like(best, torch.inf).scatter_reduce_(0, point, squared, "amin")
        wins = closest < best * (1 - TIE) - TIE**2  # a foot on an edge belongs to the edge
        candidate = torch.where(squared == closest[point], planes.face[plane], faces)
        winner = torch.full_like(every, faces).scatter_reduce_(0, point, candidate, "amin")
        best, face = torch.minimum(closest, best), torch.where(wins, winner, face)
    return best, face


def _limit(best: Tensor) -> Tensor:
    """Return the squared distances up to which an edge ties with the best."""
    return best * (1 + TIE) + TIE**2


def _reach(best: Tensor) -> Tensor:
    """Return the distances beyond which nothing needs to be measured."""
    return _limit(best).sqrt() + ROUNDING


def _distance(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")


def _clusters(vertices: Tensor, ends: Tensor) -> _Clusters:
    """Halve the edges again and again, across the axis along which their middles lie farthest apart."""
    halvings = max(0, (-(-len(ends) // CLUSTER_EDGES) - 1).bit_length())
    padded = -(-len(ends) // 2**halvings) * 2**halvings  # the last edge is there several times
    edges = torch.arange(padded, device=ends.device).clamp(max=len(ends) - 1)[None]
    middle = vertices[ends].sum(1)  # [E, 3], twice
    for _ in range(halvings):
        places = middle[edges]  # [groups, edges of a group, 3]
        axis = (places.amax(1) - places.amin(1)).argmax(1)
        coordinate = places.gather(2, axis[:, None, None].expand(-1, places.shape[1], 1))[..., 0]
        edges = edges.gather(1, coordinate.argsort(dim=1, stable=True)).reshape(2 * len(edges), -1)
    a, b = vertices[ends[edges]].unbind(2)  # [K, M, 3]
    start, along = a.unbind(2), (b - a).unbind(2)
    length = (along[0] * along[0] + along[1] * along[1] + along[2] * along[2]).clamp(min=1e-30)
    return _Clusters(edges, start, along, length, *_spheres(torch.cat([a, b], 1)))


def _planes(vertices: Tensor, faces: Tensor, min_area: float) -> _Planes:
    a, b, c = vertices[faces].unbind(1)
    twice = torch.linalg.cross(b - a, c - a).norm(dim=1)
    large = ((twice / 2 >= min_area) & (twice > 0)).nonzero()[:, 0]
    corners = vertices[faces[large]]  # [L, 3, 3]
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a) / twice[large, None]
    return _Planes(large, corners.permute(2, 1, 0).contiguous().unbind(0), normal.unbind(1), *_spheres(corners))


def _spheres(places: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres [K, 3] and radii [K] of spheres around the places of each row, [K, V, 3]."""
    centre = (places.amin(1) + places.amax(1)) / 2
    return centre, (places - centre[:, None]).norm(dim=2).amax(1)


def _edge_squared(points: Tensor, point: Tensor, clusters: _Clusters, cluster: Tensor) -> Tensor:
    """Return squared distances [N, M] of points to the edges of clusters, indices [N] both."""
    from_start = [
        place[:, None] - start[cluster] for place, start in zip(points[point].unbind(1), clusters.start, strict=True)
    ]
    along = [component[cluster] for component in clusters.along]
    (x, y, z), (dx, dy, dz) = from_start, along
    t = ((x * dx + y * dy + z * dz) / clusters.length[cluster]).clamp_(0, 1)
    x, y, z = x - t * dx, y - t * dy, z - t * dz
    return x * x + y * y + z * z


def _plane_squared(points: Tensor, point: Tensor, planes: _Planes, plane: Tensor) -> Tensor:
    """Return squared distances [N] of points to planes, infinite where the foot lies outside; indices [N] both."""
    x, y, z = points[point].unbind(1)
    cx, cy, cz = (component[:, plane] for component in planes.corner)  # [3, N]
    nx, ny, nz = (component[plane] for component in planes.normal)
    inside = torch.ones_like(x, dtype=torch.bool)
    for i in range(3):
        j = (i + 1) % 3
        dx, dy, dz = cx[j] - cx[i], cy[j] - cy[i], cz[j] - cz[i]
        ix, iy, iz = ny * dz - nz * dy, nz * dx - nx * dz, nx * dy - ny * dx
        inside &= (x - cx[i]) * ix + (y - cy[i]) * iy + (z - cz[i]) * iz >= 0
    height = (x - cx[0]) * nx + (y - cy[0]) * ny + (z - cz[0]) * nz
    return torch.where(inside, height * height, torch.inf)
