"""Draws how pose, jaw, expression and error go through a film, as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.tracking.records import columns_of
from triportrait.serve.tracked.fitted_frames import FittedFrames

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 190, 64, 16, 30, 24  # px of a panel
FINER = 2
COLOURS = ("#1f6fb4", "#c8501e", "#2e8b57")
INK, FAINT = "#333333", "#c8c8c8"
LONGEST_LINE = 4000  # points of a line; a longer film is thinned out

Panel = Mapping[str, np.ndarray]


def panels_of(fitted: FittedFrames) -> dict[str, Panel]:
    """Return the panels by their title, and in each the lines [N] by their name."""
    parts = columns_of(fitted.records)
    turns = rotation_matrices(parts["neck"].double()).numpy()  # [N, 3, 3], Rz Ry Rx
    nod = np.degrees(np.arctan2(turns[:, 2, 1], turns[:, 2, 2]))
    yaw = np.degrees(np.arcsin(np.clip(-turns[:, 2, 0], -1, 1)))
    roll = np.degrees(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
    eyes = np.degrees(parts["eyes"].double().numpy())
    jaw = np.degrees(parts["jaw"].double().numpy()[:, 0])
    return {
        "head, degrees": {"nod": nod, "turn": yaw, "tilt": roll},
        "jaw and eyes, degrees": {"jaw": jaw, "eyes up-down": eyes[:, 0], "eyes left-right": eyes[:, 1]},
        "expression, length of its coefficients": {"": parts["expression"].double().norm(dim=-1).numpy()},
        "error of the landmarks, px of 512": {"": fitted.error_px},
    }


def write_curves(path: Path, fitted: FittedFrames) -> None:
    """Write the panels as a PNG; the time of the film runs to the right, and lines break where the face is away.

    Raises:
        OSError: the disk refuses.
    """
    panels = panels_of(fitted)
    picture = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER * len(panels)), "white")
    pen = ImageDraw.Draw(picture)
    for place, (title, lines) in enumerate(panels.items()):
        _draw(pen, place * HEIGHT, title, lines, fitted)
    picture.save(path)


def _draw(pen: ImageDraw.ImageDraw, top: int, title: str, lines: Panel, fitted: FittedFrames) -> None:
    faces = fitted.faces
    values = np.concatenate(list(lines.values()))
    low, high = float(values.min()), float(values.max())
    margin = max((high - low) * 0.08, 0.5 if "degrees" in title else 0.05)
    low, high = low - margin, high + margin
    end_s = max(float(faces.times_s[-1]), 1e-3)
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at(time_s: np.ndarray, value: np.ndarray) -> np.ndarray:
        x = LEFT + (right - LEFT) * time_s / end_s
        y = top + base - (base - TOP) * (value - low) / (high - low)
        return np.stack([x, y], -1) * FINER

    def text(x: float, y: float, words: str, anchor: str, colour: str = INK, size: int = 12) -> None:
        font = ImageFont.load_default(size * FINER)
        pen.text((x * FINER, y * FINER), words, fill=colour, anchor=anchor, font=font)

    axes = ((LEFT, top + TOP), (LEFT, top + base), (right, top + base))
    pen.line([(x * FINER, y * FINER) for x, y in axes], FAINT, FINER)
    if low < 0 < high:
        pen.line([tuple(p) for p in at(np.array([0.0, end_s]), np.zeros(2)).tolist()], FAINT, FINER)
    text(LEFT, top + 15, title, "lm", size=13)
    text(LEFT - 6, top + base, f"{low:.3g}", "rm")
    text(LEFT - 6, top + TOP, f"{high:.3g}", "rm")
    text(right, top + base + 13, f"{end_s:.1f} s", "rm")
    for place, name in enumerate(reversed(list(lines))):
        text(right - 105 * place, top + 15, name, "rm", COLOURS[len(lines) - 1 - place])
    step = -(-len(faces) // LONGEST_LINE)
    breaks = (np.diff(faces.numbers) > 1) | (np.diff(faces.shots) != 0)
    pieces = np.split(np.arange(len(faces)), np.flatnonzero(breaks) + 1)
    for (_, line), colour in zip(lines.items(), COLOURS, strict=False):
        for rows in pieces:
            kept = rows[::step]
            spots = [tuple(p) for p in at(faces.times_s[kept], line[kept]).tolist()]
            if len(spots) > 1:
                pen.line(spots, colour, FINER * 2 - 1, joint="curve")
            else:
                (x, y) = spots[0]
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
