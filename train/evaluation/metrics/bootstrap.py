"""Give the mean over clips an interval by the bootstrap, which draws clips again and again, with repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from triportrait.core.errors import InputError

RESAMPLES = 10_000
SHARE = 0.95
SEED = 0
_AT_ONCE = 1 << 20  # drawn numbers held at a time


@dataclass(frozen=True)
class Interval:
    """Holds a mean over clips and the ends of its interval, None for a single clip, which tells nothing of spread."""

    mean: float
    low: float | None
    high: float | None
    clips: int


def mean_over_clips(
    values: Sequence[float], resamples: int = RESAMPLES, share: float = SHARE, seed: int = SEED
) -> Interval:
    """Return the mean of a value of each clip, with the percentile interval of the bootstrap over clips.

    The frames of a clip resemble each other, so that clips are drawn, not frames. The seed is fixed: the same values in
    the same order give the same interval.

    Args:
        values: one of each clip; clips without a score are left out by the caller, who counts them.
        share: of the resampled means that lie inside, between 0 and 1.

    Raises:
        InputError: there is no value, or one is not finite.
    """
    clips = np.asarray(values, np.float64)
    if clips.ndim != 1 or not len(clips) or not np.isfinite(clips).all():
        raise InputError(
            f"clips: expected at least one finite value, one of each clip, got {list(values)!r}; leave out clips that"
            " have no score"
        )
    assert resamples > 0 and 0 < share < 1
    if len(clips) == 1:
        return Interval(float(clips[0]), None, None, 1)
    random, means = np.random.default_rng(seed), np.empty(resamples)
    step = max(1, _AT_ONCE // len(clips))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        means[start:stop] = clips[random.integers(len(clips), size=(stop - start, len(clips)))].mean(1)
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return Interval(float(clips.mean()), float(low), float(high), len(clips))
