"""Colours of points on a head's surface: pictures from many sides, each where it sees the point best.

Letters: P points, V views, S side of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.geometry.surface import Surface
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.mesh_pictures import picture_points
from triportrait.core.types import Camera
from triportrait.kernels.rasterize import rasterize

# yaw and pitch of the views, degrees, and how much each is trusted: the front most, the sides beyond what training
# looks at less, and where no view sees a point well, the field's own colour
VIEWS = (
    (0, 0, 8.0), (-30, 0, 2.0), (30, 0, 2.0), (0, 28, 1.0), (0, -25, 1.0), (-60, 0, 1.0), (60, 0, 1.0),
    (-95, 5, 0.3), (95, 5, 0.3), (-140, 5, 0.3), (140, 5, 0.3), (180, 5, 0.3), (0, 75, 0.3),
)  # fmt: skip
FIELD_TRUST = 0.01
GRAZING, SHARPNESS = 0.15, 4  # cosine from which a view counts, and the power with which it does
TOLERANCE = 0.012  # scene units (4 mm) that a point may lie behind what a view sees
STEP = 0.04  # scene units of depth between neighbouring pixels: an outline, whose colours are mixed
RIM = 2  # share of a picture's side in percent that outlines spoil

Colour = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class View:
    """A picture of a head and where it shows the surface.

    Attributes:
        image: [3, S, S] in [0, 1], sRGB.
        camera: one camera.
        depth: [S, S] of the surface along the camera's axis, scene units; 0 beside it.
        trust: how much the view counts.
    """

    image: Tensor
    camera: Camera
    depth: Tensor
    trust: float


def view_cameras() -> list[tuple[Camera, float]]:
    """List the cameras around a head from which its colours are taken, and how much each is trusted."""
    return [
        (turned(fixed_camera(), math.radians(yaw), math.radians(pitch)), trust) for yaw, pitch, trust in VIEWS
    ]  # fmt: skip


def view_of(surface: Surface, image: Tensor, camera: Camera, trust: float) -> View:
    """Find where a picture [3, S, S] in [0, 1] shows a surface."""
    side = image.shape[-1]
    points = picture_points(surface.vertices[None], camera, side)
    return View(image, camera, rasterize(points, surface.faces, side, side).depth[0], trust)


def point_colours(views: list[View], field_colour: Colour) -> Colour:
    """Return a function that colours points.

    Args:
        views: pictures of the head.
        field_colour: gives colours [P, 3] of points, which count where no view sees them well.

    Returns:
        A function of points [P, 3], scene units, and outward unit normals [P, 3], to colours [P, 3] in [0, 1], sRGB.
    """
    prepared = [(view, _clearness(view.depth)) for view in views]

    def colour(points: Tensor, normals: Tensor) -> Tensor:
        total = FIELD_TRUST * field_colour(points, normals)
        weight = torch.full_like(points[:, :1], FIELD_TRUST)
        for view, clearness in prepared:
            share = _share(view, clearness, points, normals)
            seen = share > 0
            total[seen] += share[seen, None] * _sampled(view.image, view, points[seen])
            weight[seen] += share[seen, None]
        return (total / weight).clamp(0, 1)

    return colour


def _clearness(depth: Tensor) -> Tensor:
    """Tell how far pixels are from outlines: [S, S] from 0 on an outline to 1 a few pixels beside it."""
    far = torch.where(depth > 0, depth, torch.full_like(depth, 1e3))[None, None]
    step = F.max_pool2d(far, 3, 1, 1) + F.max_pool2d(-far, 3, 1, 1)
    reach = max(1, round(RIM / 100 * depth.shape[-1]))
    spoilt = F.max_pool2d((step > STEP).float(), 2 * reach + 1, 1, reach)
    return 1 - F.avg_pool2d(spoilt, 2 * reach + 1, 1, reach, count_include_pad=False)[0, 0]


def _share(view: View, clearness: Tensor, points: Tensor, normals: Tensor) -> Tensor:
    """Compute how much a view counts at points, [P]."""
    towards = F.normalize(view.camera.world_from_camera[:, :3, 3] - points, dim=-1)
    facing = (((towards * normals).sum(-1) - GRAZING) / (1 - GRAZING)).clamp(min=0) ** SHARPNESS
    depth, clear = _sampled(torch.stack([view.depth, clearness]), view, points).unbind(-1)
    own = picture_points(points[None], view.camera, view.depth.shape[-1])[0, :, 2]
    visible = (own - depth).abs() < TOLERANCE
    return view.trust * facing * clear**2 * visible


def _sampled(image: Tensor, view: View, points: Tensor) -> Tensor:
    """Look points up in a picture [C, S, S] of a view, bilinearly: [P, C]; 0 outside."""
    at = picture_points(points[None], view.camera, 2)[0, :, :2] - 1  # [-1, 1] from edge to edge
    return F.grid_sample(image[None], at[None, None], align_corners=False)[0, :, 0].T
