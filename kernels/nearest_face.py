"""The nearest triangle of a mesh for each of many points.

The distance to a triangle is the distance to its plane where the foot of the point lies inside and the triangle is
large enough; otherwise it is the distance to the nearest of its three edges. With a minimum area above nearly all
triangles, as in the published network, it is the distance to the nearest edge.
Letters: B batch, P points, U vertices, F faces, E edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.kernels.checks import shapes

TIE = 1e-6  # relative; without it rounding would choose among the edges of a nearest corner, and frames would flicker
CHUNK = 1 << 22  # point-edge pairs at a time: about 200 MB of float64
CPU_CHUNK = 1 << 17  # on a CPU, what stays in its second cache: three times as fast


def nearest_face(points: Tensor, vertices: Tensor, faces: Tensor, min_triangle_area: float) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest triangle, and which one it is.

    Args:
        points: [B, P, 3] float32, scene units.
        vertices: [B, U, 3] float32, scene units.
        faces: [F, 3] int64, indices into the vertices, the same for the whole batch.
        min_triangle_area: below this area (square scene units) a triangle counts as its edges only.

    Returns:
        squared_distance [B, P] float32; face [B, P] int64. Triangles that share the nearest edge or corner tie: the
        one that stands first in `faces` is returned. Computed in float64, carries no gradient.

    Raises:
        ValueError: a shape disagrees.
    """
    shapes(points=(points, "B P 3"), vertices=(vertices, "B U 3"), faces=(faces, "F 3"))
    with torch.no_grad():
        edges, first_face = _edges(faces)
        results = [
            _query(p.double(), v.double(), faces, edges, first_face, min_triangle_area)
            for p, v in zip(points, vertices, strict=True)
        ]
        return torch.stack([r[0] for r in results]).float(), torch.stack([r[1] for r in results])


def _edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Each edge once [E, 2], and the first face that has it [E]."""
    all_edges = torch.stack([faces, faces.roll(-1, 1)], -1).sort(-1).values.reshape(-1, 2)  # [3F, 2]
    edges, inverse = torch.unique(all_edges, dim=0, return_inverse=True)
    owner = torch.arange(len(faces), device=faces.device).repeat_interleave(3)
    first = torch.full((len(edges),), len(faces), device=faces.device)
    return edges, first.scatter_reduce(0, inverse, owner, "amin")


def _query(
    points: Tensor, vertices: Tensor, faces: Tensor, edges: Tensor, first_face: Tensor, min_area: float
) -> tuple[Tensor, Tensor]:
    start, along = vertices[edges[:, 0]], vertices[edges[:, 1]] - vertices[edges[:, 0]]  # [E, 3]
    length = (along**2).sum(-1).clamp(min=1e-30)  # squared
    corners = vertices[faces]  # [F, 3, 3]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    large = (normal.norm(dim=-1) / 2 >= min_area).nonzero()[:, 0]
    distances, nearest = [], []
    pairs = CPU_CHUNK if points.device.type == "cpu" else CHUNK
    for chunk in points.split(max(1, pairs // len(edges))):
        offset = chunk @ along.T - (start * along).sum(-1)  # [P, E], (p - a) · d
        squared = (chunk**2).sum(-1, keepdim=True) - 2 * chunk @ start.T + (start**2).sum(-1)
        t = (offset / length).clamp_(0, 1)
        squared += t * (t * length - 2 * offset)
        best = squared.amin(-1)
        ties = squared <= (best * (1 + TIE) + TIE**2)[:, None]
        face = torch.where(ties, first_face, len(faces) - 1).amin(-1)
        if len(large):
            plane, inside = _plane_distance(chunk, corners[large], normal[large])
            closest, index = plane.masked_fill(~inside, torch.inf).min(-1)
            wins = closest < best
            best, face = torch.where(wins, closest, best), torch.where(wins, large[index], face)
        distances.append(best.clamp(min=0))
        nearest.append(face)
    return torch.cat(distances), torch.cat(nearest)


def _plane_distance(points: Tensor, corners: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of points to the planes of triangles [P, F], and whether the foot lies inside [P, F]."""
    unit = normal / normal.norm(dim=-1, keepdim=True)
    height = points @ unit.T - (corners[:, 0] * unit).sum(-1)
    inside = torch.ones_like(height, dtype=torch.bool)
    for i in range(3):
        a, b = corners[:, i], corners[:, (i + 1) % 3]
        inward = torch.linalg.cross(unit, b - a)
        inside &= points @ inward.T >= (a * inward).sum(-1)
    return height**2, inside
