"""AED, APD and AED_f in each definition, on differences that are known."""

from __future__ import annotations

import numpy as np
import pytest

from triportrait.train.evaluation.metrics.catalogue import METRICS

RANDOM = np.random.default_rng(0)
EXPRESSION, ANGLES = RANDOM.normal(0, 1, (5, 64)), RANDOM.normal(0, 0.3, (5, 3))


def of(name: str, *inputs: np.ndarray) -> float | None:
    return METRICS[name].score([dict(zip(METRICS[name].reads, inputs, strict=True))]).value


@pytest.mark.parametrize("norm, value", [
    ("mean_square", 0.04), ("mean_absolute", 0.2), ("sum_absolute", 12.8), ("root_mean_square", 0.2),
])  # fmt: skip
def test_aed_where_each_coefficient_is_off_by_a_fifth(norm, value):
    signs = np.where(np.arange(64) % 2, 1, -1)
    assert of(f"aed_{norm}", EXPRESSION + 0.2 * signs, EXPRESSION) == pytest.approx(value)


@pytest.mark.parametrize("norm, value", [
    ("mean_square", 1000 * 0.06**2 / 3), ("mean_absolute", 0.02), ("sum_absolute", 0.06),
    ("root_mean_square", 0.06 / np.sqrt(3)),
])  # fmt: skip
def test_apd_where_one_angle_is_off(norm, value):
    """The four definitions of one error lie between 0.02 and 1.2, so they must not share a name."""
    assert of(f"apd_{norm}", ANGLES + np.array([0, -0.06, 0]), ANGLES) == pytest.approx(value)


def test_the_root_is_taken_of_each_frame():
    result = EXPRESSION.copy()
    result[0] += 1
    assert of("aed_root_mean_square", result, EXPRESSION) == pytest.approx(1 / 5)
    assert of("aed_mean_square", result, EXPRESSION) == pytest.approx(1 / 5)
    result[0] += 1
    assert of("aed_root_mean_square", result, EXPRESSION) == pytest.approx(2 / 5)
    assert of("aed_mean_square", result, EXPRESSION) == pytest.approx(4 / 5)


def test_noise_of_known_size():
    """E |x| of a normal difference is σ √(2/π)."""
    noise = RANDOM.normal(0, 0.1, (400, 64))
    zeros = np.zeros_like(noise)
    assert of("aed_mean_square", noise, zeros) == pytest.approx(0.01, rel=0.03)
    assert of("aed_mean_absolute", noise, zeros) == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.03)


def test_pose_with_translation_averages_six_numbers():
    zeros = np.zeros((2, 3))
    value = of("apd_translation_mean_absolute", zeros + 0.3, zeros - 0.9, zeros, zeros)
    assert value == pytest.approx((0.3 * 3 + 0.9 * 3) / 6)


def test_emotion_features():
    one, other = np.zeros((3, 2048)), np.zeros((3, 2048))
    one[:, 0], other[:, 1] = 4, 4
    assert of("aed_f_mean_absolute", one, other) == pytest.approx(8 / 2048)
    assert of("aed_f_mean_square", one, other) == pytest.approx(32 / 2048)
    assert of("aed_f_one_minus_cosine", one, other) == pytest.approx(1)
    assert of("aed_f_one_minus_cosine", one, 3 * one) == pytest.approx(0), "lengths do not matter to it"


@pytest.mark.parametrize("name", [name for name in METRICS if name.startswith(("aed", "apd"))])
def test_a_distance_has_no_direction(name):
    length = {"expression": 64, "emotion": 2048}
    arrays = [RANDOM.uniform(0, 1, (4, length.get(read.partition(".")[2], 3))) for read in METRICS[name].reads]
    half = len(arrays) // 2
    assert of(name, *arrays) == pytest.approx(of(name, *arrays[half:], *arrays[:half]))


def test_the_readings_fit_the_paper_s_size_of_figures():
    """Errors of two degrees give an APD near the printed .58 as mean squares, not as mean absolute values."""
    error = np.radians(RANDOM.normal(0, 1.4, (2000, 3)))
    zeros = np.zeros_like(error)
    assert 0.4 < of("apd_mean_square", error, zeros) < 0.8
    assert of("apd_mean_absolute", error, zeros) < 0.03
