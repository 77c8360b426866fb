"""Define SyncNet's score: how well the lips of a result follow the sound, searched over shifts of up to 15 frames.

Letters: n windows of five frames, J = 31 shifts.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.definition import Definition, Need, Score
from triportrait.train.evaluation.metrics.inputs import checked, checked_found
from triportrait.train.evaluation.metrics.reductions import NO_FRAME

REACH = 15  # frames to either side
FEWEST = 96  # windows of 100 frames; the published pipeline takes no shorter clips
SMALL = 1e-6  # PyTorch's pairwise_distance adds it to each difference
READS = ("result.lip_embedding", "driving.sound_embedding")


class ShiftSearch:
    """Averages over windows the distances [J] between the lips and the sound at each shift, in one walk.

    d[i, j] = |V_i - A_(i + j - 15) + 1e-6|, where windows of sound beyond the clip are zeros. m is the mean over i.

    Args:
        of: the score is the least m (distance), the median of m less the least (confidence), or 15 - the least's place
            (offset, in frames; positive where the sound is early).
    """

    def __init__(self, of: Literal["confidence", "distance", "offset"]) -> None:
        self.of = of
        self.total = np.zeros(2 * REACH + 1)
        self.frames, self.missing = 0, 0
        self._lips: deque[np.ndarray | None] = deque()  # those whose later sound has not come; None: not found
        self._sound: deque[np.ndarray] = deque()  # of the first waiting window's shifts, as far as it came
        self._width = 0

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """See `Reduction`: a row for each window; the sound of windows without a face is heard all the same."""
        lips, sound = (np.asarray(array) for array in inputs)
        sound = checked(READS[1], sound)
        seen = checked_found(found, len(sound))
        if lips.ndim == 0 or len(lips) != len(sound):
            raise InputError(
                f"{READS[0]}: expected {len(sound)} windows, as many as of the sound, got {list(lips.shape)}; give the"
                " same windows of each"
            )
        rows = iter(checked(READS[0], lips[seen]) if seen.any() else ())
        if lips.ndim != 2 or lips.shape[1] != sound.shape[1] or self._width not in (0, sound.shape[1]):
            raise InputError(
                f"{READS[0]}: expected embeddings as long as the sound's, {sound.shape[1]}, got {list(lips.shape)};"
                " take both from one SyncNet"
            )
        if not self._width:
            self._width = sound.shape[1]
            self._sound.extend(np.zeros(self._width) for _ in range(REACH))
        for is_seen, heard in zip(seen, sound, strict=True):
            self._lips.append(next(rows).copy() if is_seen else None)
            self.missing += not is_seen
            self._sound.append(heard.copy())
            if len(self._sound) == 2 * REACH + 1:
                self.frames, self.total = self._walked(self._lips.popleft(), self._sound, self.frames, self.total)
                self._sound.popleft()

    def means(self) -> np.ndarray:
        """Return m, [J], of everything so far as if the clip ended here."""
        frames, total, sound = self.frames, self.total, self._sound.copy()
        for lips in self._lips:
            while len(sound) < 2 * REACH + 1:
                sound.append(np.zeros(self._width))
            frames, total = self._walked(lips, sound, frames, total)
            sound.popleft()
        return total / frames

    @staticmethod
    def _walked(
        lips: np.ndarray | None, sound: deque[np.ndarray], frames: int, total: np.ndarray
    ) -> tuple[int, np.ndarray]:
        if lips is None:
            return frames, total
        return frames + 1, total + np.linalg.norm(lips - np.stack(sound) + SMALL, axis=1)

    def score(self) -> Score:
        """See `Reduction`; its frames are the windows."""
        frames = self.frames + sum(lips is not None for lips in self._lips)
        if not frames:
            return Score(None, 0, self.missing, NO_FRAME)
        means = self.means()
        values = {
            "confidence": np.median(means) - means.min(),
            "distance": means.min(),
            "offset": REACH - means.argmin(),
        }
        short = (
            f"SyncNet's own pipeline leaves out clips under 100 frames; {frames} windows came, and zeros beyond them"
        )
        return Score(float(values[self.of]), frames, self.missing, short if frames < FEWEST else "")


_NEEDS: tuple[Need, ...] = ("faces", "sound", "weights:syncnet")

DEFINITIONS = (
    Definition(
        "syncnet_confidence", "SyncNet confidence",
        "Median less minimum, over shifts of -15 to 15 frames, of the mean distance between SyncNet's embeddings of the"
        " result's lips and of the driving sound; a table averages it over clips.",
        "paper", "", "higher", ("sound",), _NEEDS, READS, lambda: ShiftSearch("confidence"),
    ),
    Definition(
        "syncnet_distance", "SyncNet distance",
        "Minimum, over shifts of -15 to 15 frames, of the mean distance between SyncNet's embeddings of the result's"
        " lips and of the driving sound.",
        "field", "", "lower", ("sound",), _NEEDS, READS, lambda: ShiftSearch("distance"),
    ),
    Definition(
        "syncnet_offset", "SyncNet offset",
        "Shift at which SyncNet's mean distance is least: positive where the sound is earlier than the lips.",
        "field", "frames", None, ("sound",), _NEEDS, READS, lambda: ShiftSearch("offset"),
    ),
)  # fmt: skip
