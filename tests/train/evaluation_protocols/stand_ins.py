"""What finds the faces of painted discs, stands for metric networks, and reads a number off scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from triportrait.serve.faces.alignment import alignment_points
from triportrait.serve.faces.face import Face


def cell(folder: Path, kind: str, metric: str) -> float | None:
    cells = json.loads((folder / "scores.json").read_text())["cells"]
    (value,) = (c["value"] for c in cells if (c["kind"], c["metric"]) == (kind, metric))
    return value


def upright_face() -> np.ndarray:
    """The 68 points of a face of some 24 px, [68, 3] about the middle between its eyes."""

    def arc(count, x, y, rx, ry, start, stop):
        angles = np.radians(np.linspace(start, stop, count, endpoint=abs(stop - start) < 360))
        return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles), 0 * angles], 1)

    def line(count, x0, y0, x1, y1):
        return np.linspace((x0, y0, 0), (x1, y1, 0), count)

    parts = [arc(17, 0, 2, 12, 14, 180, 0), line(5, -9, -4, -3, -5), line(5, 3, -5, 9, -4), line(4, 0, 0, 0, 5)]
    parts += [line(5, -3, 6, 3, 6), arc(6, -5, 0, 2, 1, 180, 540), arc(6, 5, 0, 2, 1, 180, 540)]
    return np.concatenate([*parts, arc(12, 0, 10, 5, 2, 180, 540), arc(8, 0, 10, 4, 1, 180, 540)])


class Faces:
    """Finds a face where the dark spots are; counts the pictures that it looked at."""

    def __init__(self):
        self.pictures = 0

    def find(self, image, near=None, quick=False):
        self.pictures += 1
        dark = np.argwhere((image < 14).all(2))
        if not len(dark):
            return []
        y, x = dark.mean(0)
        points = (upright_face() + np.array([x, y, 0])).astype(np.float32)
        return [Face(points, alignment_points(points))]

    def close(self):
        pass


class Means(nn.Module):
    """Stands for a network: the mean colour of each of 4 x 4 parts of a crop, spread over its outputs."""

    def __init__(self, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.outputs = outputs

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.adaptive_avg_pool2d(crop, 4).flatten(1) + 2
        return means.repeat(1, self.outputs // means.shape[1] + 1)[:, : self.outputs]


class Distance(nn.Module):
    """Stands for LPIPS: the mean absolute difference."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, one, other):
        return (one - other).abs().mean((1, 2, 3))

    def at_pixels(self, one, other):
        return (one - other).abs().mean(1)
