"""Admission control: a session is refused where the device cannot keep its frame rate beside those that run."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

RESERVE = 0.1  # share of the device's time that stays free
PACE_FPS = {"cuda": 30.0, "cpu": 10.0}  # frames per second that each session is promised
_KEEP = 0.98  # weight of the past in the running mean of a frame's time
_RETRY_S = (5, 120)  # a refused page is told to wait at least and at most this long


@dataclass(frozen=True)
class Refusal:
    """Say why a session cannot begin now, and when to try again."""

    sentence: str
    retry_s: int


class Admission:
    """Counts sessions against the capacity of the device.

    Capacity is the number of sessions whose frames, at the promised pace, take the device's time less a reserve.

    Args:
        frame_s: the device's time per frame in a full batch, seconds, as measured at the start.
        pace_fps: frames per second that each session is promised.
        max_sessions: the capacity, where the user sets it; else it follows from `frame_s`.
    """

    def __init__(self, frame_s: float, pace_fps: float, max_sessions: int | None = None) -> None:
        self._lock = threading.Lock()
        self._frame_s = frame_s
        self._max_sessions = max_sessions
        self.pace_fps = pace_fps
        self.active = 0
        self._mean_length_s = 60.0

    @property
    def capacity(self) -> int:
        """Count the sessions that fit; one always does."""
        if self._max_sessions is not None:
            return self._max_sessions
        return max(1, math.floor((1 - RESERVE) / (self.pace_fps * self._frame_s)))

    def measured(self, frame_s: float) -> None:
        """Update the running mean with a frame that took this long."""
        with self._lock:
            self._frame_s = _KEEP * self._frame_s + (1 - _KEEP) * frame_s

    def enter(self) -> Refusal | None:
        """Count one more session as running, or return why it cannot run."""
        with self._lock:
            if self.active < self.capacity:
                self.active += 1
                return None
            return self.refusal()

    def refusal(self) -> Refusal:
        """Build the answer to a page for which there is no room."""
        # With n sessions of mean length L the next one ends after L / n, on average.
        retry_s = round(min(max(self._mean_length_s / max(1, self.active), _RETRY_S[0]), _RETRY_S[1]))
        sessions = "session is" if self.active == 1 else "sessions are"
        why = f"one more would slow them below {self.pace_fps:g} frames per second"
        if self._max_sessions is not None:
            why = f"it was told to take no more than {self._max_sessions}"
        full = f"the server is full: {self.active} {sessions} running and {why}"
        return Refusal(f"{full}; try again in {retry_s} s", retry_s)

    def leave(self, length_s: float) -> None:
        """Count a session as ended after this long."""
        with self._lock:
            self.active -= 1
            self._mean_length_s = 0.8 * self._mean_length_s + 0.2 * length_s
