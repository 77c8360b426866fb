"""Whether one more session fits: by what frames cost here, measured at the start and ever since."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

RESERVE = 0.1  # of the device's time stays free
PACE_FPS = {"cuda": 30.0, "cpu": 10.0}  # what each session is promised
_KEEP = 0.98  # of the running mean, at each frame
_RETRY_S = (5, 120)


@dataclass(frozen=True)
class Refusal:
    """Why a session cannot begin now, and when to ask again."""

    sentence: str
    retry_s: int


class Admission:
    """Counts sessions against the capacity of the device.

    Capacity is the number of sessions whose frames, at the promised pace, take the device's time less a reserve.

    Args:
        frame_s: seconds of the device per frame, measured at the start, in the batches that sessions would make.
        pace_fps: frames per second that each session is promised.
        most: capacity where somebody sets it instead of measuring.
    """

    def __init__(self, frame_s: float, pace_fps: float, most: int | None = None) -> None:
        self._lock = threading.Lock()
        self._frame_s = frame_s
        self._most = most
        self.pace_fps = pace_fps
        self.active = 0
        self._mean_length_s = 60.0

    @property
    def capacity(self) -> int:
        """How many sessions fit; one always does."""
        if self._most is not None:
            return self._most
        return max(1, math.floor((1 - RESERVE) / (self.pace_fps * self._frame_s)))

    def measured(self, frame_s: float) -> None:
        """A frame has taken this long."""
        with self._lock:
            self._frame_s = _KEEP * self._frame_s + (1 - _KEEP) * frame_s

    def enter(self) -> Refusal | None:
        """Begin a session, or say why not."""
        with self._lock:
            if self.active < self.capacity:
                self.active += 1
                return None
            return self.refusal()

    def refusal(self) -> Refusal:
        """Why nobody more can begin now."""
        # With n sessions of mean length L the next one ends after L / n, on average.
        retry_s = round(min(max(self._mean_length_s / max(1, self.active), _RETRY_S[0]), _RETRY_S[1]))
        who = "session is" if self.active == 1 else "sessions are"
        why = f"one more would slow them below {self.pace_fps:g} frames per second"
        if self._most is not None:
            why = f"it was told to take no more than {self._most}"
        return Refusal(f"the server is full: {self.active} {who} running and {why}; try again in {retry_s} s", retry_s)

    def leave(self, length_s: float) -> None:
        """A session has ended."""
        with self._lock:
            self.active -= 1
            self._mean_length_s = 0.8 * self._mean_length_s + 0.2 * length_s
