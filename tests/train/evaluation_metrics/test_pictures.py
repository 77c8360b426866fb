"""Metrics of pictures on values with a known answer, and beside computations of their own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.pictures import flicker, ms_ssim, psnr, sharpness, ssim

NOISE = np.random.default_rng(0)


def smooth(side: int = 192) -> np.ndarray:
    """A frame uint8 [1, side, side, 3] of waves between 45 and 210."""
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x), np.sin(23 * x * y)], -1)
    return np.round(127.5 + 82 * waves).astype(np.uint8)[None]


def noisy(frame: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(np.round(frame + NOISE.normal(0, sigma, frame.shape)), 0, 255).astype(np.uint8)


def similarities(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM of mirrored planes [H, W, 3] in [0, 1], and its contrast part inside them, [3] each, in float64."""
    ramp = np.arange(11) - 5.0
    window = np.exp(-(ramp**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    padded = [np.pad(plane, ((5, 5), (5, 5), (0, 0)), "reflect") for plane in (one, other)]
    x, y = (sliding_window_view(plane, (11, 11), (0, 1)) for plane in padded)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.einsum("...ij,ij->...", values, window)

    mx, my = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    contrast = (2 * xy + 0.03**2) / (xx + yy + 0.03**2)
    whole = contrast * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
    return whole.mean((0, 1)), contrast[5:-5, 5:-5].mean((0, 1))


def halved(plane: np.ndarray) -> np.ndarray:
    side = plane.shape[0] // 2
    return plane[: 2 * side, : 2 * side].reshape(side, 2, side, 2, 3).mean((1, 3))


@pytest.mark.parametrize("levels, decibels", [(1, 48.1308), (5, 34.1514), (51, 13.9794)])
def test_psnr_of_a_constant_error(levels, decibels):
    """20 log10(255 / levels)."""
    one, other = (np.full((1, 8, 8, 3), level, np.uint8) for level in (100 + levels, 100))
    assert psnr(one, other) == pytest.approx([decibels], abs=1e-3)


def test_psnr_of_known_noise():
    truth = np.full((2, 200, 200, 3), 128, np.uint8)
    sigma = 6.0
    expected = 20 * np.log10(255 / np.sqrt(sigma**2 + 1 / 12))  # rounding adds its own
    assert psnr(noisy(truth, sigma), truth) == pytest.approx([expected] * 2, abs=0.05)


def test_structure_beside_windows_written_out():
    truth = smooth()
    result = noisy(truth, 12)
    one, other = result[0] / 255, truth[0] / 255
    assert ssim(result, truth)[0] == pytest.approx(similarities(one, other)[0].mean(), abs=1e-4)  # it is in float32
    contrasts = []
    for _ in range(4):
        contrasts.append(similarities(one, other)[1].mean())
        one, other = halved(one), halved(other)
    contrasts.append(similarities(one, other)[0].mean())
    expected = np.prod(np.array(contrasts) ** (0.0448, 0.2856, 0.3001, 0.2363, 0.1333))
    assert ms_ssim(result, truth)[0] == pytest.approx(expected, abs=1e-4)
    assert 0.3 < ssim(result, truth)[0] < ms_ssim(result, truth)[0] < 0.99


@pytest.mark.parametrize("measure", [psnr, ssim, ms_ssim])
def test_more_noise_is_worse_and_a_mirrored_pair_is_the_same(measure):
    truth = smooth()
    values = [measure(noisy(truth, sigma), truth)[0] for sigma in (0, 2, 8, 32)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(100 if measure is psnr else 1, abs=1e-5)
    result = noisy(truth, 8)
    assert measure(result[:, :, ::-1], truth[:, :, ::-1]) == pytest.approx(measure(result, truth), abs=1e-4)
    assert measure(truth, result) == pytest.approx(measure(result, truth), abs=1e-4)


def test_frames_of_another_size_or_too_small_are_refused():
    truth = smooth()
    for measure in (psnr, ssim, ms_ssim, sharpness):
        with pytest.raises(InputError, match=r"expected the size .*\[192, 192\].*got \[184, 192\]"):
            measure(truth[:, 8:], truth)
    with pytest.raises(InputError, match="MS-SSIM: expected frames of at least 176 x 176"):
        ms_ssim(truth[:, :175], truth[:, :175])
    assert ms_ssim(truth[:, :176, :176], truth[:, :176, :176]) == pytest.approx([1])
    with pytest.raises(InputError, match="SSIM: expected frames of at least 11 x 11"):
        ssim(truth[:, :10], truth[:, :10])


def test_sharpness_of_half_the_contrast():
    truth = smooth()
    half = np.round(127.5 + (truth - 127.5) / 2).astype(np.uint8)
    assert sharpness(half, truth) == pytest.approx([0.5], abs=0.02)
    assert sharpness(noisy(truth, 8), truth)[0] > 1.5
    with pytest.raises(InputError, match="expected a reference with detail"):
        sharpness(truth, np.full_like(truth, 7))


def test_flicker_of_alternating_and_of_steady_pictures():
    base = np.full((6, 4, 4, 3), 100, np.uint8)
    signs = np.array([1, -1, 1, -1, 1, -1]).reshape(6, 1, 1, 1)
    definition = METRICS["flicker"]

    def measured(frames: np.ndarray) -> float | None:
        return definition.score([{"result.frames": frames.astype(np.uint8)}]).value

    assert measured(base + 9 * signs) == pytest.approx(9)
    assert measured(base + np.arange(6).reshape(6, 1, 1, 1) * 20) == pytest.approx(0), "it gets steadily brighter"
    assert measured(base) == 0
    assert flicker((base + NOISE.normal(0, 10, base.shape))[:3]) > 1
    short = definition.score([{"result.frames": base[:2]}])
    assert short.value is None and "three successive frames" in short.note
    broken = {"result.frames": (base + 9 * signs).astype(np.uint8), "found": np.array([1, 1, 0, 1, 1, 0], bool)}
    assert definition.score([broken]).value is None, "frames on both sides of a gap are no neighbours"


def test_frame_rate_by_hand():
    rate = METRICS["frame_rate"]
    assert rate.score([{"result.seconds": np.array([0.5, 0.25])}, {"result.seconds": np.array([0.25])}]).value == 3
    assert "how long it took" in rate.score([{"result.seconds": np.zeros(3)}]).note
    with pytest.raises(InputError, match="at least 0"):
        rate.score([{"result.seconds": np.array([1.0, -1.0])}])


def test_a_source_stands_for_all_frames():
    source, frames = smooth(), np.concatenate([smooth(), smooth(), noisy(smooth(), 8)])
    score = METRICS["sharpness_to_source"].score([{"result.frames": frames, "source.frames": source}])
    assert score.frames == 3
    assert score.value == pytest.approx((2 + sharpness(frames[2:], source)[0]) / 3)
