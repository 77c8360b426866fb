"""From a posed head back to the canonical one, part by part: the neck first, then face, eyes and the mouth's inside.

The neck's rotation leaves as in the portrait network. What is left between the posed mesh and the canonical one is
carried by vertices: the nearest vertex v of a part's list has up to ten neighbours n, and

    x_c = x + Σ w_n (c_n - t_n),    w_n ∝ 1 / (|x - t_n|² + 1e-10)

with t the posed and c the canonical vertices. The mouth's inside does not follow the expression: its t is the mesh with
the jaw alone. Nothing here carries a gradient.
Letters: B batch, P points, U vertices, L vertices of a list, N places of a list of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.genhead.regions import FAR, PartRegions
from triportrait.core.motion.neck import NeckField, warp_of
from triportrait.core.types import Index, NeckGrid
from triportrait.kernels.checks import shapes
from triportrait.kernels.march import warped
from triportrait.kernels.nearest_face import nearest_vertex

WEIGHT_FLOOR = 1e-10  # square scene units
DISTANCE_FLOOR = 1e-12  # square scene units
EYE_BOX = 1.2  # side of the box around an eyeball, in extents of the eyeball


@dataclass(frozen=True)
class PosedHead:
    """What a pose of the head asks of the deformation and of the masks.

    Attributes:
        neck: how to undo the neck's rotation.
        target: [B, U, 3], the mesh with a straight neck: shape, expression, jaw and eyes. Scene units.
        mouth_target: [B, U, 3], the mesh with a straight neck, the shape and the jaw alone.
        vertices: [B, U, 3], the mesh as the camera sees it, with the neck turned.
    """

    neck: NeckGrid
    target: Tensor
    mouth_target: Tensor
    vertices: Tensor

    def take(self, rows: Index) -> PosedHead:
        """Select the poses that `rows` names."""
        return replace(
            self, neck=self.neck.take(rows), target=self.target[rows], mouth_target=self.mouth_target[rows],
            vertices=self.vertices[rows],
        )  # fmt: skip


def pose_head(
    field: NeckField,
    regions: PartRegions,
    shape: Tensor,
    expression: Tensor,
    pose: Tensor,
    eyes: Tensor,
    eyelid_expression: Tensor | None = None,
) -> PosedHead:
    """Pose the meshes that the deformation compares, and the neck's grids.

    Args:
        field: FLAME and the coarse mesh.
        regions: the lists of vertices.
        shape: [B, 300]. expression: [B, 100]. pose: [B, 6], rotation vectors of neck and jaw. eyes: [B, 6].
        eyelid_expression: [B, 100], an expression that the vertices of the eyelids take instead.

    Raises:
        InputError: there is an expression for the eyelids, and no list of them.
        ValueError: a shape disagrees.
    """
    shapes(
        shape=(shape, f"B {field.config.num_shape}"), expression=(expression, f"B {field.config.num_expression}"),
        pose=(pose, "B 6"), eyes=(eyes, "B 6"),
    )  # fmt: skip
    with torch.no_grad(), torch.autocast(shape.device.type, enabled=False):  # points stay float32
        neck, jaw = pose[:, :3], pose[:, 3:]
        straight, still = torch.zeros_like(neck), torch.zeros_like(eyes)
        betas = torch.cat([shape, expression], 1)
        vertices, _ = field.flame(betas, neck, jaw, eyes)
        target, _ = field.flame(betas, straight, jaw, eyes)
        mouth_target, _ = field.flame(torch.cat([shape, torch.zeros_like(expression)], 1), straight, jaw, still)
        if eyelid_expression is not None:
            if regions.eyelids is None:
                raise InputError(
                    "eyelid_expression: expected a model with a list of its eyelids' vertices, got one without; leave "
                    "it out"
                )
            lids, _ = field.flame(torch.cat([shape, eyelid_expression], 1), straight, jaw, eyes)
            target = target.index_copy(1, regions.eyelids, lids[:, regions.eyelids])
        return PosedHead(field(shape, expression, neck, jaw, eyes), target, mouth_target, vertices)


@torch.no_grad()
def straighten(points: Tensor, posed: PosedHead) -> Tensor:
    """Undo the neck's rotation: world points [B, P, 3] to the pose with a straight neck [B, P, 3], scene units."""
    return warped(points, warp_of(posed.neck))


@torch.no_grad()
def face_points(points: Tensor, posed: PosedHead, regions: PartRegions) -> Tensor:
    """Carry straightened points [B, P, 3] to the canonical face by the vertices of the face."""
    _, nearest = nearest_of(points, posed.target, regions.face)
    return carry_by_neighbours(points, nearest, posed.target, regions.canonical, regions.neighbours)


@torch.no_grad()
def eye_points(points: Tensor, posed: PosedHead, regions: PartRegions) -> Tensor:
    """Carry straightened points [B, P, 3] to the canonical face by the vertices of the eyeballs."""
    _, nearest = nearest_of(points, posed.target, regions.eyes.flatten())
    return carry_by_neighbours(points, nearest, posed.target, regions.canonical, regions.neighbours)


@torch.no_grad()
def mouth_points(points: Tensor, posed: PosedHead, regions: PartRegions) -> Tensor:
    """Carry straightened points [B, P, 3] to the canonical face by the lips of the mesh without expression."""
    _, nearest = nearest_of(points, posed.mouth_target, regions.lips)
    return carry_by_neighbours(points, nearest, posed.mouth_target, regions.canonical, regions.neighbours)


@torch.no_grad()
def inside_eye_boxes(points: Tensor, posed: PosedHead, regions: PartRegions) -> Tensor:
    """Tell which straightened points [B, P, 3] are in the box around an eyeball: [B, P] truth values.

    A box is aligned with the axes, centred on the mean of the eyeball's vertices in the posed mesh, and 1.2 times as
    large as they reach.
    """
    eyeballs = posed.target[:, regions.eyes]  # [B, 2, L, 3]
    half = (eyeballs.amax(2) - eyeballs.amin(2)) * (EYE_BOX / 2)  # [B, 2, 3]
    apart = (points[:, None] - eyeballs.mean(2)[:, :, None]).abs()  # [B, 2, P, 3]
    return (apart <= half[:, :, None]).all(-1).any(1)


@torch.no_grad()
def nearest_of(points: Tensor, vertices: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each point the nearest of the chosen vertices.

    Args:
        points: [B, P, 3]. vertices: [B, U, 3]. chosen: [L] int64.

    Returns:
        distance [B, P], sqrt(d² + 1e-12), and the vertex [B, P] int64 of U. Where several are nearest, to 1e-6 of the
        squared distance, any of them.
    """
    squared, row = nearest_vertex(points, vertices[:, chosen])
    return (squared + DISTANCE_FLOOR).sqrt(), chosen[row]


@torch.no_grad()
def carry_by_neighbours(
    points: Tensor, nearest: Tensor, target: Tensor, canonical: Tensor, neighbours: Tensor
) -> Tensor:
    """Carry points by the mean motion of their nearest vertex's neighbours.

    Args:
        points: [B, P, 3]. nearest: [B, P] int64. target: [B, U, 3]. canonical: [U, 3].
        neighbours: [U, N] int64, U where there is none: a vertex far away, which does not move.

    Returns:
        [B, P, 3].
    """
    B, P, _ = points.shape
    around = neighbours[nearest].flatten(1)  # [B, P N]
    posed = F.pad(target, (0, 0, 0, 1), value=FAR)  # [B, U + 1, 3]
    rest = F.pad(canonical, (0, 0, 0, 1), value=FAR)
    places = posed.gather(1, around[..., None].expand(-1, -1, 3)).view(B, P, -1, 3)
    motion = rest[around].view(B, P, -1, 3) - places
    weights = 1 / ((points[:, :, None] - places).square().sum(-1) + WEIGHT_FLOOR)  # [B, P, N]
    weights = weights / weights.sum(-1, keepdim=True)
    return points + (weights[..., None] * motion).sum(2)
