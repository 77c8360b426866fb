"""Cut surfaces down to what views see, so that a reconstruction and the truth are compared where both can be known.

A closed surface and the mesh of a procedural head differ in what nobody sees: skin under hair, the inside of a mouth,
the back of the head. A triangle counts where a pixel of one of the views shows it, or triangles at all its corners.
Letters: U vertices, F triangles, V views, N pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from triportrait.core.geometry.surface import Surface, compacted
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.types import Camera
from triportrait.kernels.rasterize import Raster, rasterize
from triportrait.train.data.heads.anatomy import NECK_BENDS
from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.heads.shapes import dot
from triportrait.train.evaluation.metrics.geometry import POINTS, SurfaceSamples, sample_surface
from triportrait.train.evaluation.metrics.measures import MM

SEEN_FROM_DEG = ((0, 0), (-30, 0), (30, 0), (-45, 0), (45, 0), (-20, 20), (20, 20), (0, -10))  # yaw, pitch
SEEN_SIDE_PX = 256
LOWEST = NECK_BENDS[0]  # scene units: below it the torso begins


def seen_from() -> Camera:
    """Return the views that decide what counts: the range in which training looks at heads."""
    views = [turned(fixed_camera(), math.radians(yaw), math.radians(pitch)) for yaw, pitch in SEEN_FROM_DEG]
    return Camera.cat(views)


def seen_head(renderer: HeadRenderer, identity: Identity, expression: Expression, cameras: Camera) -> Surface:
    """Return what views see of the true surface of one head, its neck straight; triangles face those that see them."""
    straight = expression.replace(neck=torch.zeros_like(expression.neck))
    views = len(cameras.intrinsics)
    posed = renderer.mesh.pose(identity, straight)
    one_for_each = torch.zeros(views, dtype=torch.long)
    posed = replace(
        posed, vertices=posed.vertices[one_for_each], straight=posed.straight[one_for_each],
        present=posed.present[one_for_each], rotation=posed.rotation[one_for_each],
    )  # fmt: skip
    fragments = renderer.fragments(
        identity.take(one_for_each), straight.take(one_for_each), cameras, posed, SEEN_SIDE_PX
    )
    vertices, faces = posed.vertices[0], renderer.mesh.faces
    a, b, c = vertices[faces[fragments.face]].unbind(1)
    towards = cameras.world_from_camera[fragments.member, :3, 3] - a
    facing = dot(torch.linalg.cross(b - a, c - a), towards).sign()
    votes = torch.zeros(len(faces)).index_add_(0, fragments.face, facing)
    faces = torch.where((votes < 0)[:, None], faces.flip(1), faces)  # sheets of hair are seen from either side
    return _shown(Surface(vertices, faces), fragments.face, ~renderer.opened(identity, straight))


def seen(surface: Surface, cameras: Camera) -> Surface:
    """Return what views see of a closed surface."""
    face = pixels_of(surface, cameras, SEEN_SIDE_PX).face
    return _shown(surface, face[face >= 0], torch.ones(len(surface.faces), dtype=torch.bool))


def _shown(surface: Surface, face: Tensor, there: Tensor) -> Surface:
    """Keep the triangles that pixels show, and small ones between them.

    Args:
        face: [N], the triangles of pixels.
        there: bool [F], the triangles that may be kept.
    """
    corner_shown = torch.zeros(len(surface.vertices), dtype=torch.bool)
    corner_shown[surface.faces[face[there[face]]].flatten()] = True
    return compacted(Surface(surface.vertices, surface.faces[corner_shown[surface.faces].all(1) & there]))


def pixels_of(surface: Surface, cameras: Camera, size: int) -> Raster:
    """Find what V views of size² pixels see of a closed surface."""
    vertices = surface.vertices.expand(len(cameras.intrinsics), -1, -1)
    return rasterize(picture_points(vertices, cameras, size), surface.faces, size, size, cull="back")


def samples(surface: Surface, box_side: float, seed: int) -> SurfaceSamples:
    """Draw points on a surface in scene units; those inside the render box and above the torso count."""
    drawn = sample_surface(surface.vertices.numpy() * MM, surface.faces.numpy(), POINTS, seed)
    inside = (abs(drawn.points) < box_side / 2 * MM).all(1) & (drawn.points[:, 1] > LOWEST * MM)
    return replace(drawn, counted=inside)
