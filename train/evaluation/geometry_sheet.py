"""A sheet shows reconstructed surfaces beside the true ones, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from triportrait.core.geometry.surface import Surface
from triportrait.core.types import Camera
from triportrait.train.data.heads.shapes import dot, unit
from triportrait.train.evaluation.contact_sheets import Row, group_title, write_sheet
from triportrait.train.evaluation.geometry_measure import GeometryRow
from triportrait.train.evaluation.geometry_scene import FRONT, VIEWS_DEG, views
from triportrait.train.evaluation.measure import GroupResult
from triportrait.train.evaluation.metrics.geometry import closest, sample_surface
from triportrait.train.evaluation.metrics.measures import MM
from triportrait.train.evaluation.seen_surfaces import surface_fragments

FARTHEST_MM = 15.0  # what is farther off has the last colour
_ANTIALIAS = 3
_CLAY, _PAPER = (0.80, 0.77, 0.73), (1.0, 1.0, 1.0)
_KEY, _FILL = (0.35, 0.55, 0.76), (-0.75, 0.10, 0.65)  # towards the lights, in the camera's axes
_COLOURS = ((0.93, 0.95, 0.93), (0.99, 0.85, 0.45), (0.93, 0.45, 0.20), (0.55, 0.08, 0.20))  # near to far


def write_geometry_sheet(path: Path, results: Sequence[GroupResult]) -> None:
    """Write some heads of each group as PNG: pictures, then surfaces from three sides, then the distance from the truth."""
    sides = [f" {yaw:+.0f}°" if yaw else "" for yaw in VIEWS_DEG]
    shapes = [f"{what}{side}" for side in sides for what in ("surface", "true")]
    columns = ["source", "driving", "result", "truth", *shapes, f"0 … {FARTHEST_MM:g} mm"]
    blocks: list[tuple[str, list[Row]]] = []
    for result in results:
        blocks.append((group_title(result), [("", _tiles(row)) for row in result.surfaces]))
    write_sheet(path, columns, blocks)


def _tiles(row: GeometryRow) -> list[Tensor]:
    size = row.source.shape[-1]
    pairs = [
        clay(surface, camera, size) for camera in views() for surface in (row.surface, row.true_surface)
    ]  # fmt: skip
    off = distances(row.surface, row.true_surface, views()[FRONT], size)
    return [row.source, row.driving, row.results[FRONT], row.truths[FRONT], *pairs, off]


def clay(surface: Surface, camera: Camera, size: int) -> Tensor:
    """Show a surface as matt clay under two lights: [1, 3, size, size] in [-1, 1]."""

    def colour(position: Tensor, normal: Tensor) -> Tensor:
        in_camera = normal @ camera.world_from_camera[0, :3, :3]
        lit = [dot(in_camera, unit(in_camera.new_tensor(light))).clamp(min=0) for light in (_KEY, _FILL)]
        return (0.18 + 0.72 * lit[0] + 0.22 * lit[1])[:, None] * in_camera.new_tensor(_CLAY)

    return _painted(surface, camera, size, _ANTIALIAS, colour)


def distances(surface: Surface, truth: Surface, camera: Camera, size: int) -> Tensor:
    """Show a surface in the colours of its distance from the truth: [1, 3, size, size] in [-1, 1]."""
    onto = sample_surface(truth.vertices.numpy() * MM, truth.faces.numpy())

    def colour(position: Tensor, normal: Tensor) -> Tensor:
        points = position.numpy().astype(np.float64) * MM
        here = replace(onto, points=points, counted=np.ones(len(points), bool))
        off_mm, _ = closest(here, onto)
        place = torch.from_numpy(off_mm).float().clamp(max=FARTHEST_MM) / FARTHEST_MM * (len(_COLOURS) - 1)
        before = place.long().clamp(max=len(_COLOURS) - 2)
        table = torch.tensor(_COLOURS)
        return torch.lerp(table[before], table[before + 1], (place - before)[:, None])

    return _painted(surface, camera, size, 1, colour)
