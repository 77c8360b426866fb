"""SyncNet's score: how well, and at which shift, a face's windows fit those of the sound. Letters: D width, J = 31."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

REACH = 15  # windows, of 40 ms, by which the sound is shifted to either side
SHIFTS = 2 * REACH + 1
EPSILON = 1e-6  # added to every difference


@dataclass(frozen=True)
class SyncScore:
    """What the search over shifts found.

    Attributes:
        confidence: the median of the J mean distances less the smallest (Sync-C, LSE-C): higher is better.
        distance: the smallest mean distance (Sync-D, LSE-D): lower is better.
        offset: frames of 40 ms by which the sound comes early.
        mean_distances: [J], by shift.
    """

    confidence: float
    distance: float
    offset: int
    mean_distances: np.ndarray


def shifted_distances(face: np.ndarray, sounds: np.ndarray) -> np.ndarray:
    """Return the distances [J] of the embedding [D] of a face's window to those [J, D] of the sound around it."""
    return np.asarray(np.linalg.norm(face - sounds + EPSILON, axis=1))


class ShiftSearch:
    """Averages over windows the distances to the sound at each shift, in one walk; beyond the clip the sound is 0.

    Args:
        width: D of the embeddings.

    Attributes:
        missing: how many windows had no face.
    """

    def __init__(self, width: int) -> None:
        self.missing = 0
        self._total, self._counted = np.zeros(SHIFTS), 0
        self._silence = np.zeros(width)
        self._faces: deque[np.ndarray | None] = deque()  # those whose later sound has not come
        self._sounds: deque[np.ndarray] = deque([self._silence] * REACH)  # around the first of them

    @property
    def windows(self) -> int:
        """Return how many windows with a face came."""
        return self._counted + sum(face is not None for face in self._faces)

    def add(self, face: np.ndarray | None, sound: np.ndarray) -> None:
        """Take in the embeddings [D] of the next window; without a face the sound is heard all the same."""
        self._faces.append(face)
        self._sounds.append(sound)
        self.missing += face is None
        if len(self._sounds) == SHIFTS:
            first = self._faces.popleft()
            if first is not None:
                self._total = self._total + shifted_distances(first, np.stack(self._sounds))
                self._counted += 1
            self._sounds.popleft()

    def score(self) -> SyncScore:
        """Score everything so far, one window with a face at least, as if the clip ended here."""
        total, sounds = self._total, self._sounds.copy()
        for face in self._faces:
            sounds.extend([self._silence] * (SHIFTS - len(sounds)))
            if face is not None:
                total = total + shifted_distances(face, np.stack(sounds))
            sounds.popleft()
        means = total / self.windows
        nearest = float(means.min())
        return SyncScore(float(np.median(means)) - nearest, nearest, REACH - int(means.argmin()), means)
