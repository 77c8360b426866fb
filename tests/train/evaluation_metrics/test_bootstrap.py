"""Intervals over clips: repeatable, as wide as they must be, and beside scipy's."""

from __future__ import annotations

import numpy as np
import pytest

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.bootstrap import mean_over_clips

CLIPS = np.random.default_rng(0).normal(0.8, 0.05, 100)


def test_the_same_clips_give_the_same_interval():
    assert mean_over_clips(CLIPS) == mean_over_clips(list(CLIPS))
    assert mean_over_clips(CLIPS) != mean_over_clips(CLIPS, seed=1)


def test_the_interval_is_as_wide_as_theory_says():
    interval = mean_over_clips(CLIPS)
    assert interval.mean == pytest.approx(CLIPS.mean()) and interval.clips == 100
    half = 1.96 * CLIPS.std() / 10
    assert interval.high - interval.mean == pytest.approx(half, rel=0.05)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.05)
    narrow = mean_over_clips(CLIPS, share=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.6745 * CLIPS.std() / 10, rel=0.05)


def test_scipy_agrees():
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.bootstrap((CLIPS,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    ours = mean_over_clips(CLIPS)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=4e-4)


def test_it_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(7)
    covered = 0
    for i in range(200):
        interval = mean_over_clips(random.normal(3, 1, 60), resamples=500, seed=i)
        covered += interval.low <= 3 <= interval.high
    assert 180 <= covered <= 199


def test_scale_and_shift_go_through():
    base, other = mean_over_clips(CLIPS), mean_over_clips(1000 * CLIPS - 5)
    assert other.low == pytest.approx(1000 * base.low - 5) and other.high == pytest.approx(1000 * base.high - 5)
    same = mean_over_clips([0.5] * 9)
    assert (same.mean, same.low, same.high) == (0.5, 0.5, 0.5)


def test_one_clip_has_no_interval_and_none_is_refused():
    alone = mean_over_clips([0.25])
    assert (alone.mean, alone.low, alone.high, alone.clips) == (0.25, None, None, 1)
    for bad in ([], [1.0, float("nan")], [float("inf")], [[1.0]]):
        with pytest.raises(InputError, match="clips: expected at least one finite value"):
            mean_over_clips(bad)


def test_many_clips_are_drawn_in_parts():
    """The parts change nothing: 30,000 clips would otherwise be 2.4 GB of places."""
    many = np.random.default_rng(0).normal(0, 1, 30_000)
    interval = mean_over_clips(many, resamples=100)
    assert interval.high - interval.low == pytest.approx(3.92 / np.sqrt(30_000), rel=0.3)
