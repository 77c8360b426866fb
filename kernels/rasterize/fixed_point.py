"""The arithmetic of the rasteriser: whole numbers decide what is covered, so all implementations agree to the bit.

Vertices are rounded to 1/256 of a pixel. For the edge opposite to corner i, the edge function E_i(p) is twice the
signed area of the triangle that the edge makes with p, a pixel's centre, in units of 1/65536 of a square pixel; 64 bits
hold it exactly (Pineda 1988). With w_i = 1 / z_i the depth is Σ E_i / Σ E_i w_i, and the barycentrics are
E_i w_i / Σ E_j w_j.
Letters: B batch, U vertices, F faces, N faces or fragments in a flat list.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SUBPIXELS = 256
HALF = SUBPIXELS // 2  # from a pixel's corner to its centre
FARTHEST = 2.0**21  # pixels; products of two differences stay below 2^60
NEAREST_DEPTH, FARTHEST_DEPTH = 1e-30, 1e30
FACE_BITS = 32
EMPTY = (1 << 63) - 1  # the key of a pixel that nothing covers


class Vertices(NamedTuple):
    """Vertices as the rasteriser sees them."""

    place: Tensor  # [B, U, 2] int32, x and y in 1/256 of a pixel
    inverse_depth: Tensor  # [B, U] float64; 0 where a face with this vertex draws nothing


class Corners(NamedTuple):
    """The three corners of faces, one tensor a corner, and what follows from them; all broadcast against each other."""

    x: tuple[Tensor, Tensor, Tensor]  # int64
    y: tuple[Tensor, Tensor, Tensor]  # int64
    inverse_depth: tuple[Tensor, Tensor, Tensor]  # float64
    sign: Tensor  # int64: 1 for faces that run clockwise in the picture, -1 for the others, 0 for those without area


def snapped(points: Tensor) -> Vertices:
    """Round points [B, U, 3] to 1/256 of a pixel and turn their depths around."""
    x, y, z = points.double().unbind(-1)
    usable = (x.abs() <= FARTHEST) & (y.abs() <= FARTHEST) & (z >= NEAREST_DEPTH) & (z <= FARTHEST_DEPTH)
    place = torch.where(usable[..., None], points[..., :2].double() * SUBPIXELS, 0.0).round().to(torch.int32)
    return Vertices(place, torch.where(usable, 1 / z, 0.0))


def corners_of(place: Tensor, inverse_depth: Tensor) -> Corners:
    """Name the corners of faces.

    Args:
        place: [..., 3, 2] int32, as in `Vertices`, corner by corner.
        inverse_depth: [..., 3] float64.
    """
    x0, x1, x2 = place[..., 0].long().unbind(-1)
    y0, y1, y2 = place[..., 1].long().unbind(-1)
    w0, w1, w2 = inverse_depth.unbind(-1)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    return Corners((x0, x1, x2), (y0, y1, y2), (w0, w1, w2), area.sign())


def drawable(corners: Corners, cull: bool) -> Tensor:
    """Tell which faces can draw anything: they have an area and usable corners and, with `cull`, face the camera."""
    w0, w1, w2 = corners.inverse_depth
    usable = (w0 > 0) & (w1 > 0) & (w2 > 0)
    return usable & ((corners.sign < 0) if cull else (corners.sign != 0))


def edge_steps(corners: Corners) -> list[tuple[Tensor, Tensor, Tensor]]:
    """List for each corner the opposite edge as (dx, dy, least), turned so that its inner side is positive.

    A pixel's centre is covered where the edge function is at least `least` on all three: 0 for a top edge (level, with
    the face below) and for a left edge (with the face on its right), 1 for others, so that a centre on an edge that two
    faces share belongs to one of them.
    """
    steps = []
    for i in range(3):
        a, b = (i + 1) % 3, (i + 2) % 3
        dx = (corners.x[b] - corners.x[a]) * corners.sign
        dy = (corners.y[b] - corners.y[a]) * corners.sign
        top_or_left = (dy < 0) | ((dy == 0) & (dx > 0))
        steps.append((dx, dy, torch.where(top_or_left, 0, 1)))
    return steps


def edge_functions(corners: Corners, steps: list[tuple[Tensor, Tensor, Tensor]], x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the three edge functions, int64, at pixel centres x and y in 1/256 of a pixel."""
    functions = []
    for i, (dx, dy, _) in enumerate(steps):
        a = (i + 1) % 3
        functions.append(dx * (y - corners.y[a]) - dy * (x - corners.x[a]))
    return functions


def sum_from_first_to_last(weighted: Tensor) -> Tensor:
    """Add the three numbers of the last axis in an order that is part of the contract: it decides equal depths."""
    return weighted[..., 0] + weighted[..., 1] + weighted[..., 2]


def keys(area: Tensor, total: Tensor, face: Tensor) -> Tensor:
    """Pack depths, rounded to float32, above the numbers of faces: the smallest int64 is the face that is seen.

    Args:
        area: the sum of the edge functions, float64.
        total: the sum of the edge functions times the inverse depths, float64.
        face: int64.
    """
    depth = (area / total).float()
    return (depth.view(torch.int32).long() << FACE_BITS) | face
