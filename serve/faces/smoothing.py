"""The One-Euro filter (Casiez et al. 2012): a low pass that opens with speed, so that still things stand still and
fast ones do not lag.

    x̂ ← x̂ + α(f_c) (x - x̂),   f_c = f_min + β |ẋ|,   α(f) = 1 / (1 + 1 / (2π f Δt))
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FRAMES_PER_S = 25.0  # the published parameters count frames


class OneEuro:
    """Filters a signal of any shape [..., D], whose D numbers share one speed.

    Args:
        min_cutoff: f_min, cycles per frame of 1/25 s.
        beta: β, cycles per unit of the signal.
        derivative_cutoff: of the low pass on the speed, cycles per frame.
        groups: rows of the signal [N, D] that move together: their mean speed, in which noise cancels, opens the
            filter of each of them. By default each row by itself.
    """

    def __init__(
        self,
        min_cutoff: float,
        beta: float,
        derivative_cutoff: float = 1.0,
        groups: Sequence[slice] | None = None,
    ) -> None:
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self.groups = groups
        self.value: np.ndarray | None = None

    def reset(self) -> None:
        """Take the next value as it is."""
        self.value = None

    def __call__(self, value: np.ndarray, time_s: float) -> np.ndarray:
        """Return the smoothed signal at a time, later than the one before."""
        value = np.asarray(value, np.float64)
        if self.value is None or self.value.shape != value.shape:
            self.value, self.speed, self.time_s = value, np.zeros_like(value), time_s
            return value
        step = max((time_s - self.time_s) * FRAMES_PER_S, 1e-3)
        speed = (value - self.value) / step
        self.speed = self.speed + _alpha(self.derivative_cutoff, step) * (speed - self.speed)
        moving = self.speed
        if self.groups is not None:
            moving = np.empty_like(self.speed)
            for group in self.groups:
                moving[group] = self.speed[group].mean(0)
        fast = np.linalg.norm(moving, axis=-1, keepdims=True)
        self.value = self.value + _alpha(self.min_cutoff + self.beta * fast, step) * (value - self.value)
        self.time_s = time_s
        return self.value

    def hold_within(self, value: np.ndarray, most: float) -> np.ndarray:
        """Let the smoothed signal lag behind `value` by at most `most` in each number."""
        assert self.value is not None
        self.value = np.clip(self.value, value - most, value + most)
        return self.value


def _alpha(cutoff: np.ndarray | float, step: float) -> np.ndarray | float:
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))
