"""This module holds small pieces of geometry: smooth steps and bumps, grids of triangles, spheres, rotations.

Letters: B batch, U vertices, F faces.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def smoothstep(start: float, end: float, x: Tensor) -> Tensor:
    """Return 0 before `start` and 1 after `end`, smooth between; it falls where `end` lies before `start`."""
    t = ((x - start) / (end - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def bump(*ratios: Tensor) -> Tensor:
    """Return exp(-Σ ratio²): 1 where all offsets, each over its width, are 0."""
    return torch.exp(-sum((ratio * ratio for ratio in ratios[1:]), ratios[0] * ratios[0]))


def beside(*components: Tensor) -> Tensor:
    """Put C components [N] beside each other as [N, C]; in memory each stays in one piece, where arithmetic is fast."""
    return torch.stack(components).mT


def scaled(colour: Tensor, factor: Tensor) -> Tensor:
    """Multiply colours, [N, 3] or [1, 3], by factors [N]."""
    return (colour.mT * factor).mT


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Interpolate colours from `a` (share 0) to `b` (share 1), each [N, 3], [1, 3] or [3]; share is [N]."""
    a, b = (torch.atleast_2d(colour).mT for colour in (a, b))
    return (a + (b - a) * share).mT


def grid_faces(columns: int, rows: int, closed: bool) -> Tensor:
    """Return triangles [F, 3] of a grid of vertices in reading order; `closed` joins the last column to the first."""
    column = torch.arange(columns if closed else columns - 1)
    row = torch.arange(rows - 1)
    corner = (row[:, None] * columns + column).flatten()
    right = (row[:, None] * columns + (column + 1) % columns).flatten()
    upper = torch.stack([corner, right, corner + columns], -1)
    lower = torch.stack([right, right + columns, corner + columns], -1)
    return torch.cat([upper, lower])


def sphere(columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """Make a unit sphere: vertices [U, 3] from the south pole up, and faces [F, 3] that turn outwards."""
    longitude = torch.linspace(-math.pi, math.pi, columns + 1)[:-1]
    latitude = torch.linspace(-math.pi / 2, math.pi / 2, rows)
    return directions(longitude, latitude), grid_faces(columns, rows, closed=True)


def directions(longitude: Tensor, latitude: Tensor) -> Tensor:
    """Return unit vectors [rows * columns, 3]; longitude 0 looks along z, latitude π/2 along y (radians)."""
    lat, lon = torch.meshgrid(latitude, longitude, indexing="ij")
    return torch.stack([lat.cos() * lon.sin(), lat.sin(), lat.cos() * lon.cos()], -1).reshape(-1, 3)


def rotation_matrix(vector: Tensor) -> Tensor:
    """Convert rotation vectors [B, 3] (radians, axis times angle) to matrices [B, 3, 3] (Rodrigues)."""
    angle = (vector.square().sum(-1) + 1e-20).sqrt()
    x, y, z = (vector / angle[:, None]).unbind(-1)
    sine, versine = angle.sin(), 1 - angle.cos()
    rows = [
        [1 - versine * (y * y + z * z), versine * x * y - sine * z, versine * x * z + sine * y],
        [versine * x * y + sine * z, 1 - versine * (x * x + z * z), versine * y * z - sine * x],
        [versine * x * z - sine * y, versine * y * z + sine * x, 1 - versine * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rotate(points: Tensor, matrix: Tensor) -> Tensor:
    """Turn points [B, U, 3] by matrices [B, 3, 3]; sums are written out, so that a batch is its members bit by bit."""
    x, y, z = points.unbind(-1)
    return torch.stack(
        [matrix[:, i, 0, None] * x + matrix[:, i, 1, None] * y + matrix[:, i, 2, None] * z for i in range(3)], -1
    )


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return Σ a b over the last axis of length 3, in a fixed order."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def unit(a: Tensor) -> Tensor:
    """Scale vectors [..., 3] to length 1 (0 stays 0)."""
    return a / dot(a, a).sqrt().clamp(min=1e-12)[..., None]
