"""The nearest triangle of a mesh, or the nearest vertex, for each of many points.

The distance to a triangle is the distance to its plane where the foot of the point lies inside and the triangle is
large enough; otherwise it is the distance to the nearest of its three edges. With a minimum area above nearly all
triangles, as in the published network, it is the distance to the nearest edge. On a CPU `pruned_faces` measures only
those that may be nearest; the definition, which measures all, runs where it is asked for by name.
Letters: B batch, P points, U vertices, F faces, E edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.kernels.checks import shapes
from triportrait.kernels.dispatch import backend, runs_triton
from triportrait.kernels.language import device_of, tl, triton
from triportrait.kernels.pruned_faces import TIE, nearest_face_pruned

CHUNK = 1 << 22  # point-edge pairs at a time: about 200 MB of float64
CPU_CHUNK = 1 << 17  # on a CPU, what stays in its second cache: three times as fast

Find = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


class Edges(NamedTuple):
    """The edges of a mesh; they depend on its faces alone."""

    ends: Tensor  # [E, 2] int64 indices into the vertices
    first_face: Tensor  # [E] int64, the first face that has the edge


def nearest_face(
    points: Tensor, vertices: Tensor, faces: Tensor, min_triangle_area: float, edges: Edges | None = None
) -> tuple[Tensor, Tensor]:
    """Find the triangle nearest to each point, and its squared distance.

    Args:
        points: [B, P, 3] float32, scene units.
        vertices: [B, U, 3] float32, scene units.
        faces: [F, 3] int64, indices into the vertices, the same for the whole batch.
        min_triangle_area: below this area (square scene units) a triangle counts as its edges only.
        edges: `mesh_edges(faces)`, where it is at hand: finding it waits for the device.

    Returns:
        squared_distance [B, P] float32; face [B, P] int64. Triangles that share the nearest edge or corner tie: the
        one that stands first in `faces` is returned. All is computed in float64, without a gradient.

    Raises:
        ValueError: a shape disagrees, or there is no face.
    """
    shapes(points=(points, "B P 3"), vertices=(vertices, "B U 3"), faces=(faces, "F 3"))
    if not len(faces):
        raise ValueError("faces: expected at least one triangle, got none")
    with torch.no_grad():
        edges = mesh_edges(faces) if edges is None else edges
        if runs_triton(points=points, vertices=vertices, faces=faces, ends=edges.ends, first_face=edges.first_face):
            with device_of(points):
                return _nearest(points, vertices, faces, edges, min_triangle_area)
        find = nearest_face_pruned if _prunes(points) else _query
        return _each(find, points, vertices, faces, min_triangle_area, edges)


def nearest_vertex(points: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Find the vertex nearest to each point, and its squared distance.

    Args:
        points: [B, P, 3] float32, scene units.
        vertices: [B, U, 3] float32, scene units; U at least 1.

    Returns:
        squared_distance [B, P] float32; vertex [B, P] int64. Of vertices that tie, to 1e-6 of the squared distance, any
        is returned. All is computed in float64, without a gradient.

    Raises:
        ValueError: a shape disagrees, or there is no vertex.

    On a GPU a vertex is a triangle of one point, for the kernel of `nearest_face`.
    """
    if not shapes(points=(points, "B P 3"), vertices=(vertices, "B U 3"))["U"]:
        raise ValueError("vertices: expected at least one, got none")
    with torch.no_grad():
        if not runs_triton(points=points, vertices=vertices):
            return nearest_vertex_reference(points, vertices)
        rows = torch.arange(vertices.shape[1], device=vertices.device)
        edges = Edges(rows[:, None].expand(-1, 2), rows)
        with device_of(points):
            return _nearest(points, vertices, rows[:, None].expand(-1, 3), edges, torch.inf)


def nearest_vertex_reference(points: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the definition in plain PyTorch."""
    squared = torch.empty(points.shape[:2], device=points.device)
    vertex = torch.empty(points.shape[:2], dtype=torch.int64, device=points.device)
    size = max(1, (CPU_CHUNK if points.device.type == "cpu" else CHUNK) // vertices.shape[1])
    for b in range(len(points)):
        places = vertices[b].double()
        terms = torch.cat([-2 * places, places.square().sum(1, keepdim=True)], 1).T  # [4, U]
        for start in range(0, points.shape[1], size):
            rows = slice(start, start + size)
            chunk = points[b, rows].double()
            least, vertex[b, rows] = (F.pad(chunk, (0, 1), value=1.0) @ terms).min(1)  # less |point|²
            squared[b, rows] = (least + chunk.square().sum(1)).clamp(min=0).float()
    return squared, vertex


def nearest_face_reference(
    points: Tensor, vertices: Tensor, faces: Tensor, min_triangle_area: float, edges: Edges
) -> tuple[Tensor, Tensor]:
    """Compute the definition in plain PyTorch."""
    return _each(_query, points, vertices, faces, min_triangle_area, edges)


def _prunes(points: Tensor) -> bool:
    """Tell whether `nearest_face_pruned` runs: on a CPU, with no backend chosen by name and no compiler at work."""
    return points.device.type == "cpu" and backend() == "auto" and not torch.compiler.is_compiling()


def _each(
    find: Find, points: Tensor, vertices: Tensor, faces: Tensor, min_triangle_area: float, edges: Edges
) -> tuple[Tensor, Tensor]:
    """Find the nearest triangles in each mesh of the batch."""
    results = [
        find(p.double(), v.double(), faces, *edges, min_triangle_area) for p, v in zip(points, vertices, strict=True)
    ]
    if not results:
        return points.new_empty(points.shape[:2]), torch.empty(
            points.shape[:2], dtype=torch.int64, device=points.device
        )
    return torch.stack([r[0] for r in results]).float(), torch.stack([r[1] for r in results])


def mesh_edges(faces: Tensor) -> Edges:
    """List the edges of one face or more, [F, 3] int64, each once."""
    ends = torch.stack([faces, faces.roll(-1, 1)], -1).sort(-1).values.reshape(-1, 2)  # [3F, 2]
    stride = ends.max() + 1
    numbers, inverse = torch.unique(ends[:, 0] * stride + ends[:, 1], return_inverse=True)  # faster than of pairs
    edges = torch.stack([numbers // stride, numbers % stride], 1)
    owner = torch.arange(len(faces), device=faces.device).repeat_interleave(3)
    first = torch.full((len(edges),), len(faces), device=faces.device)
    return Edges(edges, first.scatter_reduce(0, inverse, owner, "amin"))


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
            wins = closest < best * (1 - TIE) - TIE**2  # a foot on an edge belongs to the edge
            best, face = torch.minimum(closest, best), torch.where(wins, large[index], face)
        distances.append(best.clamp(min=0))
        nearest.append(face)
    return torch.cat(distances), torch.cat(nearest)


def _plane_distance(points: Tensor, corners: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared distances of points to the planes of triangles [P, F], and whether the foot lies inside [P, F]."""
    unit = normal / normal.norm(dim=-1, keepdim=True)
    height = points @ unit.T - (corners[:, 0] * unit).sum(-1)
    inside = torch.ones_like(height, dtype=torch.bool)
    for i in range(3):
        a, b = corners[:, i], corners[:, (i + 1) % 3]
        inward = torch.linalg.cross(unit, b - a)
        inside &= points @ inward.T >= (a * inward).sum(-1)
    return height**2, inside


BLOCK_P, BLOCK_E = 16, 32  # points of a program, edges or faces of a step; 64 points spill


def _nearest(points: Tensor, vertices: Tensor, faces: Tensor, edges: Edges, min_area: float) -> tuple[Tensor, Tensor]:
    points, vertices = points.double().contiguous(), vertices.double().contiguous()
    (B, P, _), U = points.shape, vertices.shape[1]
    squared = torch.empty(B, P, dtype=torch.float32, device=points.device)
    face = torch.empty(B, P, dtype=torch.int64, device=points.device)
    if squared.numel():
        _nearest_kernel[triton.cdiv(P, BLOCK_P), B](
            points, vertices, faces.contiguous(), edges.ends.contiguous(), edges.first_face.contiguous(), squared, face,
            P, U, len(faces), len(edges.ends), min_area, BLOCK_P, BLOCK_E, num_stages=1,
        )  # fmt: skip
    return squared, face


@triton.jit
def _corner(vertices_ptr, index, mask):
    """Load x, y and z of vertices as rows."""
    at = vertices_ptr + index * 3
    return (
        tl.load(at, mask=mask, other=0.0)[None, :],
        tl.load(at + 1, mask=mask, other=0.0)[None, :],
        tl.load(at + 2, mask=mask, other=0.0)[None, :],
    )


@triton.jit
def _edge_squared(vertices_ptr, ends_ptr, x, y, z, e, mask_e):
    """Return squared distances [BLOCK_P, BLOCK_E] to edges, infinite beyond the last one."""
    ax, ay, az = _corner(vertices_ptr, tl.load(ends_ptr + e * 2, mask=mask_e, other=0), mask_e)
    bx, by, bz = _corner(vertices_ptr, tl.load(ends_ptr + e * 2 + 1, mask=mask_e, other=0), mask_e)
    dx, dy, dz = bx - ax, by - ay, bz - az
    length = tl.maximum(dx * dx + dy * dy + dz * dz, 1e-30)
    px, py, pz = x - ax, y - ay, z - az
    t = (px * dx + py * dy + pz * dz) / length
    t = tl.minimum(tl.maximum(t, 0.0), 1.0)
    px, py, pz = px - t * dx, py - t * dy, pz - t * dz
    return tl.where(mask_e[None, :], px * px + py * py + pz * pz, float("inf"))


@triton.jit
def _outside(x, y, z, ax, ay, az, bx, by, bz, nx, ny, nz):
    """Tell whether a point lies beyond the edge from a to b of a triangle with this normal."""
    dx, dy, dz = bx - ax, by - ay, bz - az
    ix, iy, iz = ny * dz - nz * dy, nz * dx - nx * dz, nx * dy - ny * dx
    return (x - ax) * ix + (y - ay) * iy + (z - az) * iz < 0


@triton.jit
def _plane_squared(vertices_ptr, faces_ptr, x, y, z, f, mask_f, min_area):
    """Return squared distances [BLOCK_P, BLOCK_E] to planes of large triangles, infinite where the foot is outside."""
    ax, ay, az = _corner(vertices_ptr, tl.load(faces_ptr + f * 3, mask=mask_f, other=0), mask_f)
    bx, by, bz = _corner(vertices_ptr, tl.load(faces_ptr + f * 3 + 1, mask=mask_f, other=0), mask_f)
    cx, cy, cz = _corner(vertices_ptr, tl.load(faces_ptr + f * 3 + 2, mask=mask_f, other=0), mask_f)
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    twice = tl.sqrt(nx * nx + ny * ny + nz * nz)
    large = mask_f[None, :] & (twice * 0.5 >= min_area) & (twice > 0)
    safe = tl.where(twice > 0, twice, 1.0)
    nx, ny, nz = nx / safe, ny / safe, nz / safe
    out = _outside(x, y, z, ax, ay, az, bx, by, bz, nx, ny, nz)
    out = out | _outside(x, y, z, bx, by, bz, cx, cy, cz, nx, ny, nz)
    out = out | _outside(x, y, z, cx, cy, cz, ax, ay, az, nx, ny, nz)
    height = (x - ax) * nx + (y - ay) * ny + (z - az) * nz
    return tl.where(large & (~out), height * height, float("inf"))


@triton.jit
def _nearest_kernel(
    points_ptr, vertices_ptr, faces_ptr, ends_ptr, first_face_ptr, squared_ptr, face_ptr, P, U, F, E, min_area,
    BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Find the nearest edge, then the first face that has it or one that ties, then large triangles that are nearer."""
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_p = p < P
    at = points_ptr + (b * P + p) * 3
    x = tl.load(at, mask=mask_p, other=0.0)[:, None]
    y = tl.load(at + 1, mask=mask_p, other=0.0)[:, None]
    z = tl.load(at + 2, mask=mask_p, other=0.0)[:, None]
    vertices_ptr += b * U * 3
    best = tl.full((BLOCK_P,), float("inf"), tl.float64)
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        best = tl.minimum(best, tl.min(_edge_squared(vertices_ptr, ends_ptr, x, y, z, e, e < E), 1))
    limit = best * (1 + 1e-6) + 1e-12
    face = tl.full((BLOCK_P,), 0, tl.int64) + F - 1
    for start in range(0, E, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        ties = _edge_squared(vertices_ptr, ends_ptr, x, y, z, e, e < E) <= limit[:, None]
        first = tl.load(first_face_ptr + e, mask=e < E, other=0)[None, :]
        face = tl.minimum(face, tl.min(tl.where(ties, first, F - 1), 1))
    for start in range(0, F, BLOCK_E):
        f = start + tl.arange(0, BLOCK_E)
        plane = _plane_squared(vertices_ptr, faces_ptr, x, y, z, f, f < F, min_area)
        closest = tl.min(plane, 1)
        wins = closest < best * (1 - 1e-6) - 1e-12
        which = tl.min(tl.where(plane == closest[:, None], f[None, :].to(tl.int64), F), 1)
        best, face = tl.minimum(closest, best), tl.where(wins, which, face)
    tl.store(squared_ptr + b * P + p, best, mask=mask_p)
    tl.store(face_ptr + b * P + p, face, mask=mask_p)
