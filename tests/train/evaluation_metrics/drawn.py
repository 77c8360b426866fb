"""Inputs of metrics for the tests: a real face's landmarks, and random arrays of every kind that a definition reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from triportrait.core.faces.landmarks import LANDMARKS
from triportrait.serve.faces.head_pose import matrix_of
from triportrait.train.evaluation.metrics.definition import Definition
from triportrait.train.evaluation.metrics.inputs import FIELDS

SIDE = 20  # pixels of drawn frames; MS-SSIM gets larger ones
LARGE = 176
_FOUND = Path(__file__).parents[2] / "data" / "faces" / "mediapipe.npz"


def real_face() -> np.ndarray:
    """The landmarks [68, 3] of the photograph, in its pixels."""
    with np.load(_FOUND) as arrays:
        return arrays["photograph/mesh"][list(LANDMARKS)].astype(np.float64)


def moved(points: np.ndarray, scale: float = 1.0, turn: float = 0.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Points [..., 2 or 3] scaled, turned in the plane of the picture by radians, and shifted."""
    points = points.copy()
    c, s = np.cos(turn), np.sin(turn)
    points[..., :2] = scale * points[..., :2] @ np.array([[c, s], [-s, c]]) + shift
    points[..., 2:] *= scale
    return points


def face(mouth: float = 0.1, lids: float = 0.1, brows: float = 0.4) -> np.ndarray:
    """Landmarks [68, 2] whose eyes lie 100 pixels apart, with openings and brow heights in eye distances."""
    points = np.zeros((68, 2))
    angles = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([100 + 90 * np.cos(angles), 100 + 130 * np.sin(angles)], 1)
    for eye, brow, x in ((36, 17, 50.0), (42, 22, 150.0)):
        points[eye], points[eye + 3] = (x - 20, 100), (x + 20, 100)
        for upper, lower, dx in ((eye + 1, eye + 5, -8), (eye + 2, eye + 4, 8)):
            points[upper], points[lower] = (x + dx, 100 - 50 * lids), (x + dx, 100 + 50 * lids)
        points[brow : brow + 5] = np.stack([x + np.linspace(-25, 25, 5), np.full(5, 100 - 100 * brows)], 1)
    points[27:36] = np.stack([100 + np.array([0, 0, 0, 0, -15, -8, 0, 8, 15]), np.linspace(105, 150, 9)], 1)
    around = np.linspace(np.pi, 3 * np.pi, 13)[:-1]
    points[48:60] = np.stack([100 + 40 * np.cos(around), 180 + (15 + 50 * mouth) * np.sin(around)], 1)
    points[60], points[64] = (75, 180), (125, 180)
    for upper, lower, dx in ((61, 67, -12), (62, 66, 0), (63, 65, 12)):
        points[upper], points[lower] = (100 + dx, 180 - 50 * mouth), (100 + dx, 180 + 50 * mouth)
    return points


def draw(definition: Definition, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a definition, `count` rows each; its driver stands still between the first two frames."""
    random = np.random.default_rng(seed)
    return {name: _row_by_row(definition, name.partition(".")[2], count, random) for name in definition.reads}


def _row_by_row(definition: Definition, field: str, count: int, random: np.random.Generator) -> np.ndarray:
    side = LARGE if definition.name == "ms_ssim" else SIDE
    if field == "frames":
        return random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    if field == "landmarks":
        points = np.stack([face(*random.uniform(0.05, 0.4, 3)) for _ in range(count)])
        points[1:2] = points[:1] + 0.3
        return points + random.normal(0, 0.1, points.shape)
    if field == "turn":
        return np.stack([matrix_of(vector) for vector in random.normal(0, 0.3, (count, 3))])
    if field == "head_mask":
        mask = random.uniform(size=(count, side, side)) < 0.5
        mask[:, 0, 0] = True
        return mask
    row = FIELDS[field].row
    if field.endswith("_map"):
        return random.uniform(0, 1, (count, side, side))
    if row == ():
        return random.uniform(0.1, 1, count)
    return random.normal(0, 1, (count, *(24 if length is None else length for length in row))).astype(np.float32)
