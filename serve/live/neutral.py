"""The driving face that counts as neutral without a click: the first one, or the first that holds still for a second.

Without it the shape of a driving face is read as motion. That deforms every portrait a little. With weights that never
saw a person it deforms them a lot: the head shuts its eyes.
"""

from __future__ import annotations

import numpy as np

from triportrait.serve.faces.face import AlignedFace

FIRST, STILL = "first", "still"
SETTLED_S = 0.2  # faces that were on their way when the wish came are those of the driving video before
STILL_S = 0.8
FEWEST = 4  # faces that are compared
# How far a point of a still face moves at most, the root mean square distance of all from their middle being 1; lids
# that blink and lips that part move by more.
TOLERANCE = 0.06
GREY_TOLERANCE = 12.0  # levels of one of 64 cells, where nobody finds points
_CELLS = 8


class NeutralWish:
    """Waits for the face that shall count as neutral. It is asked for each face once, in the order they came.

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
        """Whether this is the face; true once."""
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
    """What is compared: complex [68] landmarks without place and size; [64] grey levels where nobody finds any."""
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
    """Whether a face has moved by more than a still one does; where it lies in the picture does not count."""
    if before.dtype != now.dtype:
        return True
    if not np.iscomplexobj(now):
        return bool(np.abs(now - before).max() > GREY_TOLERANCE)
    turn = np.vdot(now, before)
    turn = turn / max(abs(turn), 1e-6)
    return bool(np.abs(now * turn - before).max() > TOLERANCE)
