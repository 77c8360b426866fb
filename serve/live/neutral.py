"""The driving face that counts as neutral without a click: the first one, or the first that holds still for a second.

Without it the shape of a driving face is read as motion. That deforms every portrait a little. With weights that never
saw a person it deforms them a lot: the head shuts its eyes.
"""

from __future__ import annotations

import numpy as np

from triportrait.serve.faces.face import AlignedFace

FIRST, STILL = "first", "still"
SETTLED_S = 0.2  # faces that arrive sooner after the wish may be those of the driving video before
STILL_S = 0.8
FEWEST = 4  # faces that are compared with the first one, at least
# How far a point of a still face moves at most, the root mean square distance of all from their middle being 1; lids
# that blink and lips that part move by more.
TOLERANCE = 0.06
GREY_TOLERANCE = 12.0  # grey levels of one of 64 cells, where no face finder is installed
_CELLS = 8


class NeutralWish:
    """Wait for the driving face that will count as neutral; `is_met_by` is called once for each face, in order.

    Args:
        when: `FIRST` takes the first face, `STILL` the first that has held still for a second.
        now_s: the time of the wish, on the clock of the faces.
    """

    def __init__(self, when: str, now_s: float) -> None:
        self.when = when
        self._begin_s = now_s + SETTLED_S
        self._since: tuple[float, np.ndarray] | None = None  # the face that those after it are compared with
        self._compared = 0
        self._met = False

    def is_met_by(self, face: AlignedFace, at_s: float) -> bool:
        """Return whether this is the face; only once is it so."""
        if self._met or at_s < self._begin_s:
            return False
        if not face.found:
            self._since = None
            return False
        self._met = self.when == FIRST or self._is_still(face, at_s)
        return self._met

    def _is_still(self, face: AlignedFace, at_s: float) -> bool:
        shape = shape_of(face)
        if self._since is None or has_moved(self._since[1], shape):
            self._since, self._compared = (at_s, shape), 0
            return False
        self._compared += 1
        return self._compared >= FEWEST and at_s - self._since[0] >= STILL_S


def shape_of(face: AlignedFace) -> np.ndarray:
    """Describe a face for comparison: complex [68] landmarks without place and size, else the picture's grey [64]."""
    points = face.tracking.landmarks
    if points is None:
        grey = face.crop.mean(-1)
        side = grey.shape[0] // _CELLS
        cells = grey[: side * _CELLS, : side * _CELLS].reshape(_CELLS, side, _CELLS, side)
        return np.asarray(cells.mean((1, 3))).reshape(-1)
    flat = points[0, :, :2].double().numpy()
    shape = flat[:, 0] + 1j * flat[:, 1]
    shape = shape - shape.mean()
    return np.asarray(shape / max(float(np.sqrt((np.abs(shape) ** 2).mean())), 1e-6))


def has_moved(before: np.ndarray, now: np.ndarray) -> bool:
    """Return whether a face has moved by more than a still one does; its place in the picture does not count."""
    if before.dtype != now.dtype:
        return True
    if not np.iscomplexobj(now):
        return bool(np.abs(now - before).max() > GREY_TOLERANCE)
    turn = np.vdot(now, before)
    turn = turn / max(abs(turn), 1e-6)
    return bool(np.abs(now * turn - before).max() > TOLERANCE)
