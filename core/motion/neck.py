"""The neck field: where a point of the driving pose was before the neck turned (supplement A).

A surface field (GNARF) on a coarse mesh, evaluated on two small grids: for a point p whose nearest triangle t has the
twin c in the mesh with a straight neck,

    p_c = Σ b_i c_i + ⟨p - Σ b_i t_i, n_t⟩ n_c,      b the barycentrics of p's foot on the triangle's plane, unclamped

and between the grid's nodes offsets p_c - p are interpolated. Far from the head a blurred coarse grid takes over.
Letters: B batch, P points, U vertices, F faces, G side of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triportrait.core.config import NeckConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import Flame, Tables, check_indices, kind_of
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.types import NeckGrid
from triportrait.kernels.march import Warp
from triportrait.kernels.nearest_face import Edges, mesh_edges, nearest_face

BLEND_RATE = 1000.0  # per square scene unit: how fast the coarse grid takes over
DETERMINANT_FLOOR = 1e-12
CLUSTER_SIDE = 0.09  # scene units, 3 cm: much smaller than a head, much larger than FLAME's triangles
COARSE = ("coarse_vertices", "coarse_barycentrics", "coarse_faces")


class NeckField(nn.Module):
    """The grids that undo the neck's rotation, from FLAME parameters alone.

    Args:
        config: grid sizes and thresholds.
        box_side: scene units.
        flame: the tables of `Flame`.
        mesh: the published index tables. `coarse_vertices` [U, 3] int64, `coarse_barycentrics` [U, 3] and
            `coarse_faces` [F, 3] int64 describe the coarse mesh; without them the FLAME mesh is clustered.
        identity: the head model that the tables are of; None where nobody said, as in published checkpoints.
    """

    edge_ends: Tensor
    edge_faces: Tensor

    def __init__(
        self,
        config: NeckConfig,
        box_side: float,
        flame: Mapping[str, Tensor],
        mesh: Mapping[str, Tensor],
        identity: ModelIdentity | None = None,
    ) -> None:
        super().__init__()
        self.identity = identity
        self.config, self.box_side = config, box_side
        self.flame = Flame(flame)
        directions = self.flame["shape_directions"].shape[-1]
        if directions != config.num_shape + config.num_expression:
            raise InputError(
                f"FLAME shape_directions: expected {config.num_shape} of shape and {config.num_expression} of "
                f"expression, got {directions}; give the FLAME file with all of them"
            )
        if "coarse_faces" not in mesh:
            mesh = {**mesh, **cluster_mesh(self.flame["template"], self.flame["faces"], CLUSTER_SIDE)}
        missing = [name for name in COARSE if name not in mesh]
        if missing:
            raise InputError(f"coarse mesh: the table {missing[0]} is missing; convert the weights again")
        self.mesh = Tables(mesh)
        barycentrics = self.mesh["coarse_barycentrics"]
        check_indices("coarse_vertices", self.mesh["coarse_vertices"], len(self.flame["template"]), 3)
        check_indices("coarse_faces", self.mesh["coarse_faces"], len(self.mesh["coarse_vertices"]), 3)
        if barycentrics.shape != self.mesh["coarse_vertices"].shape or not barycentrics.is_floating_point():
            raise InputError(
                f"coarse_barycentrics: expected real numbers {list(self.mesh['coarse_vertices'].shape)}, got "
                f"{list(barycentrics.shape)} of {kind_of(barycentrics)}; convert the weights again"
            )
        edges = mesh_edges(self.mesh["coarse_faces"])  # once: finding them waits for a GPU
        self.register_buffer("edge_ends", edges.ends, persistent=False)
        self.register_buffer("edge_faces", edges.first_face, persistent=False)

    def coarse_mesh(self, betas: Tensor, neck: Tensor, jaw: Tensor, eyes: Tensor) -> Tensor:
        """Compute the vertices [B, U, 3] of the coarse mesh from the arguments of `Flame.forward`."""
        vertices, _ = self.flame(betas, neck, jaw, eyes)
        return self.coarse_vertices(vertices)

    def coarse_vertices(self, vertices: Tensor) -> Tensor:
        """Place the vertices of the coarse mesh on those of FLAME, [B, U, 3] both."""
        corners = vertices[:, self.mesh["coarse_vertices"]]  # [B, U, 3 corners, 3]
        return (corners * self.mesh["coarse_barycentrics"][..., None]).sum(2)

    def forward(self, shape: Tensor, expression: Tensor, neck: Tensor, jaw: Tensor, eyes: Tensor) -> NeckGrid:
        """Compute the grids of B poses.

        Args:
            shape: [B, 300] of the source. expression: [B, 100], neck, jaw: [B, 3], eyes: [B, 6] of the driving frame.

        Returns:
            The grids; carries no gradient.
        """
        with torch.no_grad(), torch.autocast(shape.device.type, enabled=False):  # points stay float32
            betas = torch.cat([shape, expression], dim=-1)
            target = self.coarse_mesh(betas, neck, jaw, eyes)
            reference = self.coarse_mesh(betas, torch.zeros_like(neck), jaw, eyes)
            edges = Edges(self.edge_ends, self.edge_faces)
            return neck_grid(target, reference, self.mesh["coarse_faces"], self.config, self.box_side, edges)


def neck_grid(
    target: Tensor, reference: Tensor, faces: Tensor, config: NeckConfig, box_side: float, edges: Edges | None = None
) -> NeckGrid:
    """Compute the grids between two poses of one mesh, vertices [B, U, 3] of the driving pose and the straight neck.

    Args:
        edges: `mesh_edges(faces)`, where it is at hand.
    """
    edges = mesh_edges(faces) if edges is None else edges
    sizes = (config.fine_size, config.coarse_size)
    points = torch.cat([grid_points(size, box_side, target.device) for size in sizes])
    offsets, squared = surface_offsets(points, target, reference, faces, config.min_triangle_area, edges)
    fine, coarse = offsets.split([size**3 for size in sizes], 1)
    shape = (-1, config.fine_size, config.fine_size, config.fine_size, 4)
    smooth = coarse.mT.reshape(-1, 3, config.coarse_size, config.coarse_size, config.coarse_size)
    for _ in range(2):
        smooth = F.avg_pool3d(F.pad(smooth, (1,) * 6, mode="replicate"), 3, stride=1)
    return NeckGrid(
        fine=torch.cat([fine, squared[:, : fine.shape[1], None]], -1).reshape(shape),
        coarse=smooth.permute(0, 2, 3, 4, 1).contiguous(),
        box_side=box_side,
        near_squared_distance=config.near_squared_distance,
    )


def grid_points(size: int, box_side: float, device: torch.device | str = "cpu") -> Tensor:
    """Return the centres [G³, 3] of the cells of the box, x slowest and z fastest, in scene units."""
    centres = ((torch.arange(size, device=device) + 0.5) / size - 0.5) * box_side
    return torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij"), -1).flatten(0, 2)


def surface_offsets(
    points: Tensor,
    target: Tensor,
    reference: Tensor,
    faces: Tensor,
    min_triangle_area: float,
    edges: Edges | None = None,
) -> tuple[Tensor, Tensor]:
    """Return offsets [B, P, 3] of points from `target` to `reference`, and squared distances to `target` [B, P]."""
    batch = points.expand(len(target), -1, -1)
    squared_distance, face = nearest_face(batch, target, faces, min_triangle_area, edges)
    moved = carry_points(batch, _corners(target, faces, face), _corners(reference, faces, face))
    return moved - batch, squared_distance


def _corners(vertices: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    index = faces[face].flatten(1)[..., None].expand(-1, -1, 3)  # [B, P*3, 3]
    return vertices.gather(1, index).unflatten(1, (-1, 3))  # [B, P, 3 corners, 3]


def carry_points(points: Tensor, from_corners: Tensor, to_corners: Tensor) -> Tensor:
    """Carry points [B, P, 3] with their moving triangles [B, P, 3, 3]: they keep barycentrics and height."""
    a, b, c = from_corners.unbind(2)
    u, v, w = b - a, c - a, points - a
    uu, uv, vv, uw, vw = ((x * y).sum(-1) for x, y in ((u, u), (u, v), (v, v), (u, w), (v, w)))
    determinant = (uu * vv - uv * uv).clamp(min=DETERMINANT_FLOOR)
    beta, gamma = (vv * uw - uv * vw) / determinant, (uu * vw - uv * uw) / determinant
    bary = torch.stack([1 - beta - gamma, beta, gamma], -1)[..., None]  # [B, P, 3, 1]
    foot, carried = (bary * from_corners).sum(2), (bary * to_corners).sum(2)
    height = ((points - foot) * _normal(from_corners)).sum(-1, keepdim=True)
    return carried + height * _normal(to_corners)


def _normal(corners: Tensor) -> Tensor:
    a, b, c = corners.unbind(2)
    return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)


def warp_of(neck: NeckGrid | None) -> Warp | None:
    """Return the neck's warp for `kernels.march`, which moves the points of a ray where it samples them."""
    if neck is None:
        return None
    return Warp(neck.fine, neck.coarse, neck.box_side, neck.near_squared_distance, BLEND_RATE)


def cluster_mesh(template: Tensor, faces: Tensor, side: float) -> dict[str, Tensor]:
    """Make a coarse mesh by vertex clustering, in the form of the published tables.

    Args:
        template: [U, 3] scene units. faces: [F, 3] int64.
        side: edge of the clusters, scene units.

    Returns:
        coarse_vertices, coarse_barycentrics, coarse_faces as `NeckField` takes them: each coarse vertex is the vertex
        nearest to its cluster's mean; faces that collapse or repeat are gone. Vertices that belong to no face with an
        area, as landmarks of their own, are not asked.
    """
    solid = faces[_area(template, faces) > 1e-12]
    used, places = torch.unique(solid, return_inverse=True)
    if len(used) < len(template):
        coarse = cluster_mesh(template[used], places, side)
        return coarse | {"coarse_vertices": used[coarse["coarse_vertices"]]}
    _, cluster = torch.unique((template / side).floor().long(), dim=0, return_inverse=True)
    count = int(cluster.max()) + 1
    mean = (
        torch.zeros(count, 3).to(template).index_add_(0, cluster, template)
        / torch.bincount(cluster, minlength=count)[:, None]
    )
    distance = (template - mean[cluster]).norm(dim=-1)
    by_distance = torch.argsort(distance, stable=True)
    by_cluster = by_distance[torch.argsort(cluster[by_distance], stable=True)]  # within a cluster, the nearest first
    starts = torch.bincount(cluster, minlength=count).cumsum(0)
    chosen = by_cluster[torch.cat([starts.new_zeros(1), starts[:-1]])]
    corners = cluster[faces]
    corners = corners[_area(template[chosen], corners) > 1e-9]  # what collapsed has none
    turn = corners.argmin(1)
    corners = torch.stack([corners.gather(1, ((turn + i) % 3)[:, None])[:, 0] for i in range(3)], 1)  # smallest first
    barycentrics = torch.zeros(count, 3).to(template)
    barycentrics[:, 0] = 1
    return {
        "coarse_vertices": chosen[:, None].expand(-1, 3).contiguous(),
        "coarse_barycentrics": barycentrics,
        "coarse_faces": torch.unique(corners, dim=0),
    }


def _area(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return twice the areas [F] of faces."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1)
