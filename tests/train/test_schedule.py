"""Rates and averaging, by hand."""

from __future__ import annotations

import pytest

from triportrait.train.config import OptimizerConfig
from triportrait.train.schedule import averaging, learning_rate

CONFIG = OptimizerConfig(rate=2.0, last_rate=0.1, warm_up=9, average=0.75)


@pytest.mark.parametrize(
    "seen, rate",
    [(0, 0.2), (4, 1.0), (8, 1.8), (9, 2.0), (34, 1.736396), (59, 1.1), (84, 0.463604), (109, 0.2), (500, 0.2)],
)
def test_a_straight_warm_up_and_half_a_cosine(seen, rate):
    assert learning_rate(CONFIG, seen, 109) == pytest.approx(rate, rel=1e-6)


def test_without_a_warm_up_it_starts_at_the_rate():
    config = OptimizerConfig(rate=3.0, last_rate=0.0, warm_up=0)
    assert learning_rate(config, 0, 10) == 3.0 and learning_rate(config, 10, 10) == pytest.approx(0)


def test_a_training_that_is_all_warm_up_keeps_within_the_rate():
    rates = [learning_rate(CONFIG, seen, 5) for seen in range(12)]
    assert rates[:9] == pytest.approx([0.2 * (seen + 1) for seen in range(9)]) and rates[10:] == [0.2, 0.2]
    assert max(rates) <= 2.0


@pytest.mark.parametrize("steps, share", [(0, 0.1), (1, 2 / 11), (8, 0.5), (26, 0.75), (10_000, 0.75)])
def test_the_average_forgets_its_start(steps, share):
    assert averaging(CONFIG, steps) == pytest.approx(share)
