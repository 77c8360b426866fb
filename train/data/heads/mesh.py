"""The coarse mesh of a head has few triangles, which tell the neck's field how the head turned.

It follows the same formulas as the fine mesh, at a few hundred points of skin, neck and torso; hair, ears and glasses
are carried along by the nearest skin. Letters: B batch, U vertices, F faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from triportrait.core.config import NeckConfig
from triportrait.core.motion.neck import neck_grid
from triportrait.core.motion.polynomial_neck import fit_polynomial_neck
from triportrait.core.types import NeckGrid
from triportrait.train.data.heads import organs
from triportrait.train.data.heads.anatomy import mean_identity, neck_share, skull_template
from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.heads.shapes import rotate, rotation_matrix
from triportrait.train.data.heads.skull import face_points

LARGEST_FACES = 1500
SKULL_GRID, NECK_GRID, TORSO_GRID = (28, 20), (12, 6), (12, 8)  # columns, rows


@dataclass(frozen=True)
class CoarsePose:
    """B coarse heads.

    Attributes:
        target: [B, U, 3] with the neck turned, world, scene units.
        reference: [B, U, 3] with the neck straight.
        faces: [F, 3] int64, F at most 1,500, turned outwards.
    """

    target: Tensor
    reference: Tensor
    faces: Tensor


def coarse_pose(identity: Identity, expression: Expression) -> CoarsePose:
    """Make the coarse meshes of B heads, as `core.motion.neck.neck_grid` takes them."""
    device = identity.jaw_width.device
    (skull, skull_faces), (neck, neck_faces), (torso, torso_faces) = (
        skull_template(*SKULL_GRID),
        organs.neck_paint(*NECK_GRID),
        organs.torso_paint(*TORSO_GRID),
    )
    skull, neck, torso = skull.to(device), neck.to(device), torso.to(device)
    who = identity.columns()
    on_head = face_points(skull, who, expression.columns())
    below = organs.neck(neck, who)
    shoulders = organs.torso(torso, who)
    reference = torch.cat([on_head, below, shoulders], 1)
    share = torch.cat(
        [torch.ones_like(on_head[..., 0]), neck_share(below[..., 1]), torch.zeros_like(shoulders[..., 0])], 1
    )
    turned = rotate(reference, rotation_matrix(expression.neck))
    faces = torch.cat([skull_faces, neck_faces + len(skull), torso_faces + len(skull) + len(neck)]).to(device)
    faces = _with_area(faces, reference)
    assert len(faces) <= LARGEST_FACES
    return CoarsePose(reference + share[..., None] * (turned - reference), reference, faces)


def _with_area(faces: Tensor, vertices: Tensor) -> Tensor:
    """Leave out the faces that collapsed at a pole."""
    a, b, c = vertices[0][faces].unbind(1)
    return faces[torch.linalg.cross(b - a, c - a).norm(dim=-1) > 1e-7]


def head_neck_grid(identity: Identity, expression: Expression, config: NeckConfig, box_side: float) -> NeckGrid:
    """Make the grids that undo the necks of B heads.

    Args:
        config: sizes and thresholds of the grids. box_side: scene units, 1.3 in the published network.
    """
    pose = coarse_pose(identity, expression)
    return neck_grid(pose.target, pose.reference, pose.faces, config, box_side)


@cache
def mean_neck(config: NeckConfig, box_side: float) -> dict[str, Tensor]:
    """Fit how the population's mean head turns, for heads without a mesh: the tables of a `PolynomialNeck`."""
    who, rest = mean_identity(), Expression.neutral(1)
    return fit_polynomial_neck(lambda rotation: head_neck_grid(who, rest.replace(neck=rotation), config, box_side))
