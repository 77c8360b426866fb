"""Admission control: a session is refused where the machine cannot keep its frame rate beside those that run."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass

RESERVE = 0.1  # share of the device's time that stays free
PACE_FPS = {"cuda": 30.0, "cpu": 10.0}  # frames per second that each session is promised
_KEEP = 0.98  # weight of the past in the running mean of a frame's time
_SHORTEST_S = 1e-6
_RETRY_S = (5, 120)  # a refused page is told to wait at least and at most this long


@dataclass(frozen=True)
class Refusal:
    """Say why a session cannot begin now, and when to try again."""

    sentence: str
    retry_s: int


@dataclass(frozen=True)
class HostCost:
    """What a part of the host takes for a frame.

    Attributes:
        seconds: of one thread, per frame.
        threads: how many threads do it at a time.
    """

    seconds: float
    threads: int


class Admission:
    """Counts sessions against the capacity of the machine.

    Capacity is the number of sessions whose frames, at the promised pace, take the time of the slowest part less a
    reserve: of the device, or of a part of the host.

    Args:
        frame_s: the device's time per frame in a full batch, seconds, as measured at the start.
        pace_fps: frames per second that each session is promised.
        max_sessions: the capacity, where the user sets it; else it follows from the costs.
        host: the parts of the host by name, see `host_costs`.
    """

    def __init__(
        self, frame_s: float, pace_fps: float, max_sessions: int | None = None,
        host: Mapping[str, HostCost] | None = None,
    ) -> None:  # fmt: skip
        self._lock = threading.Lock()
        self._frame_s = frame_s
        self._host = dict(host or {})
        self._max_sessions = max_sessions
        self.pace_fps = pace_fps
        self.active = 0
        self._mean_length_s = 60.0

    @property
    def capacity(self) -> int:
        """Count the sessions that fit; one always does."""
        if self._max_sessions is not None:
            return self._max_sessions
        return max(1, math.floor(min(self.sessions_by_part().values())))

    @property
    def bottleneck(self) -> str:
        """Name the part that lets in the fewest sessions."""
        fits = self.sessions_by_part()
        return min(fits, key=fits.__getitem__)

    def costs(self) -> dict[str, HostCost]:
        """Return what each part takes: the device, which does one batch at a time, and the parts of the host."""
        return {"device": HostCost(self._frame_s, 1), **self._host}

    def sessions_by_part(self) -> dict[str, float]:
        """Compute for each part how many sessions it keeps up with."""
        return {
            name: (1 - RESERVE) * cost.threads / (self.pace_fps * max(cost.seconds, _SHORTEST_S))
            for name, cost in self.costs().items()
        }

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
