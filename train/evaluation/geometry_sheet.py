"""A sheet shows reconstructed surfaces beside the true ones, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.geometry.surface import Surface
from triportrait.core.render.mesh_pictures import mesh_picture
from triportrait.core.types import Camera
from triportrait.train.evaluation.contact_sheets import Row, group_title, write_sheet
from triportrait.train.evaluation.geometry_measure import GeometryRow
from triportrait.train.evaluation.geometry_scene import FRONT, VIEWS_DEG, views
from triportrait.train.evaluation.measure import GroupResult
from triportrait.train.evaluation.metrics.geometry import closest, sample_surface
from triportrait.train.evaluation.metrics.measures import MM

FARTHEST_MM = 15.0  # what is farther off has the last colour
_COLOURS = ((0.93, 0.94, 0.92), (0.99, 0.84, 0.42), (0.92, 0.42, 0.18), (0.50, 0.06, 0.18))  # near to far


def write_geometry_sheet(path: Path, results: Sequence[GroupResult]) -> None:
    """Write some heads of each group as PNG: pictures, surfaces from three sides, their distance from the truth."""
    sides = [f" {yaw:+.0f}°" if yaw else "" for yaw in VIEWS_DEG]
    shapes = [f"{what}{side}" for side in sides for what in ("surface", "true")]
    columns = ["source", "driving", "result", "truth", *shapes, f"0 to {FARTHEST_MM:g} mm"]
    blocks: list[tuple[str, list[Row]]] = [
        (group_title(result), [("", _tiles(row)) for row in result.surfaces]) for result in results
    ]
    write_sheet(path, columns, blocks)


def _tiles(row: GeometryRow) -> list[Tensor]:
    pictures = [row.source, row.driving, row.results[FRONT], row.truths[FRONT]]
    size = row.source.shape[-1]
    shapes = [_shown(surface, camera, size) for camera in views() for surface in (row.surface, row.true_surface)]
    off = _shown(row.surface, views()[FRONT], size, _distance_colours(row.surface, row.true_surface))
    return [*pictures, *shapes, off]


def _shown(surface: Surface, camera: Camera, size: int, colours: Tensor | None = None) -> Tensor:
    picture = mesh_picture(surface.vertices[None], surface.faces, camera, size, colours)
    return picture.permute(0, 3, 1, 2).float() / 127.5 - 1


def _distance_colours(surface: Surface, truth: Surface) -> Tensor:
    """Return the colours [U, 3] of the vertices' distances from the truth."""
    onto = sample_surface(truth.vertices.numpy() * MM, truth.faces.numpy())
    points = surface.vertices.numpy().astype(np.float64) * MM
    off_mm = torch.from_numpy(closest(points, onto)[0]).float()
    place = (off_mm / FARTHEST_MM).clamp(max=1) * (len(_COLOURS) - 1)
    before = place.long().clamp(max=len(_COLOURS) - 2)
    table = torch.tensor(_COLOURS)
    return torch.lerp(table[before], table[before + 1], (place - before)[:, None])
