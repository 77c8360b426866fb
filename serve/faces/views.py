"""Squares on faces: in which the mesh is fitted, and when the next frame is looked at in another one."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

MARGIN = 1.4  # of the square over the box of the landmarks and the forehead
BROW_SHARE = 0.35  # of the height from the chin to the brows, that the forehead adds
# A square is kept while that of the last landmarks lies within this part of its side, and this many radians.
KEPT_SHARE, KEPT_RADIANS = 0.06, math.radians(4)


class View(NamedTuple):
    """Places a square on a face.

    Attributes:
        x, y: its middle, pixels; the middle of the first pixel is at 0.
        side: pixels.
        roll: radians; a positive one turns from x to y.
    """

    x: float
    y: float
    side: float
    roll: float


def view_of(points: np.ndarray) -> View:
    """Choose the square in which the mesh sees a face with these landmarks [68, 2 or 3] best.

    The network knows faces upright, with the forehead and some room; the 68 landmarks end at the brows.
    """
    flat = points[:, :2].astype(np.float64)
    along = flat[42:48].mean(0) - flat[36:42].mean(0)
    roll = math.atan2(along[1], along[0])
    right = np.array([math.cos(roll), math.sin(roll)])
    down = np.array([-right[1], right[0]])
    across, high = flat @ right, flat @ down
    brows, chin = high[17:27].min(), high[:17].max()
    top = brows - BROW_SHARE * (chin - brows)
    side = MARGIN * max(np.ptp(across), chin - top)
    x, y = (across.min() + across.max()) / 2 * right + (top + chin) / 2 * down
    return View(float(x), float(y), float(side), roll)


def kept(last: View, wanted: View) -> View:
    """Keep the last square while the wanted one is close to it.

    Landmarks move a little with the square that they are fitted in: in one that stands still a still face trembles
    less.
    """
    share = max(math.hypot(wanted.x - last.x, wanted.y - last.y), abs(wanted.side - last.side)) / last.side
    turn = math.remainder(wanted.roll - last.roll, 2 * math.pi)
    return last if share <= KEPT_SHARE and abs(turn) <= KEPT_RADIANS else wanted
