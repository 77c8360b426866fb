"""How often a session may ask for something: so often a second, and a few more at a time."""

from __future__ import annotations

import time


class TokenBucket:
    """One of these is spent by each thing that is asked for, and comes back with time.

    Args:
        per_s: what comes back in a second.
        at_once: the most that is there.
    """

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left, self._at_s = at_once, time.monotonic()

    def spend(self, cost: float = 1.0) -> float:
        """Spend one, or more; gives the seconds after which the debt is paid, 0 where there is none."""
        self._refill()
        self._left -= cost
        return max(0.0, -self._left / self._per_s)

    def take(self) -> bool:
        """Spend one, where there is one."""
        self._refill()
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._at_once, self._left + (now - self._at_s) * self._per_s)
        self._at_s = now
