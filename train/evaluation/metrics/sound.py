"""Define SyncNet's score: how well the lips of a result follow the sound, searched over shifts of up to 15 frames.

Letters: n windows of five frames.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.metrics.sync_score import ShiftSearch
from triportrait.train.evaluation.metrics.definition import Definition, Need, Score
from triportrait.train.evaluation.metrics.inputs import checked, checked_found
from triportrait.train.evaluation.metrics.reductions import NO_FRAME

FEWEST = 96  # windows of 100 frames; the published pipeline takes no shorter clips
READS = ("result.lip_embedding", "driving.sound_embedding")


class LipsAndSound:
    """Searches the shift at which the sound is nearest to the lips.

    Args:
        of: which of what the search found is the score.
    """

    def __init__(self, of: Literal["confidence", "distance", "offset"]) -> None:
        self.of = of
        self._search: ShiftSearch | None = None
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
        if self._search is None:
            self._width = sound.shape[1]
            self._search = ShiftSearch(self._width)
        for is_seen, heard in zip(seen, sound, strict=True):
            self._search.add(next(rows).copy() if is_seen else None, heard.copy())

    def score(self) -> Score:
        """See `Reduction`; its frames are the windows."""
        windows, missing = (0, 0) if self._search is None else (self._search.windows, self._search.missing)
        if self._search is None or not windows:
            return Score(None, 0, missing, NO_FRAME)
        short = (
            f"SyncNet's own pipeline leaves out clips under 100 frames; {windows} windows came, and zeros beyond them"
        )
        value = float(getattr(self._search.score(), self.of))
        return Score(value, windows, missing, short if windows < FEWEST else "")


_NEEDS: tuple[Need, ...] = ("faces", "sound", "weights:syncnet")

DEFINITIONS = (
    Definition(
        "syncnet_confidence", "SyncNet confidence",
        "Median less minimum, over shifts of -15 to 15 frames, of the mean distance between SyncNet's embeddings of the"
        " result's lips and of the driving sound; a table averages it over clips.",
        "paper", "", "higher", ("sound",), _NEEDS, READS, lambda: LipsAndSound("confidence"),
    ),
    Definition(
        "syncnet_distance", "SyncNet distance",
        "Minimum, over shifts of -15 to 15 frames, of the mean distance between SyncNet's embeddings of the result's"
        " lips and of the driving sound.",
        "field", "", "lower", ("sound",), _NEEDS, READS, lambda: LipsAndSound("distance"),
    ),
    Definition(
        "syncnet_offset", "SyncNet offset",
        "Shift at which SyncNet's mean distance is least: positive where the sound is earlier than the lips.",
        "field", "frames", None, ("sound",), _NEEDS, READS, lambda: LipsAndSound("offset"),
    ),
)  # fmt: skip
