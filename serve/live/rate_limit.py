"""Rate limits of a session, each a token bucket: a mean rate and a burst above it."""

from __future__ import annotations

import time


class TokenBucket:
    """Each request takes a token out of the bucket, which fills again at a constant rate.

    Args:
        rate_per_s: tokens that come back in a second.
        burst: the most tokens that the bucket holds; it begins full.
    """

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s, self._burst = rate_per_s, burst
        self._tokens, self._refilled_s = burst, time.monotonic()

    def spend(self, cost: float = 1.0) -> float:
        """Take tokens, into debt where too few are left; return the seconds to wait until the debt is paid."""
        self._refill()
        self._tokens -= cost
        return max(0.0, -self._tokens / self._rate_per_s)

    def take(self) -> bool:
        """Take a token, and return whether there was one."""
        self._refill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _refill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_s) * self._rate_per_s)
        self._refilled_s = now
