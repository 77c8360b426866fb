"""Mel-frequency cepstral coefficients (MFCC) as SyncNet reads sound: 13 numbers for every 10 ms, in float64."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from triportrait.core.errors import InputError

RATE = 16_000  # samples a second
WINDOW, STEP = 400, 160  # samples
BINS = 512  # of the Fourier transform
NUM_FILTERS, NUM_COEFFICIENTS = 26, 13
PRE_EMPHASIS = 0.97
LIFTER = 22
FLOOR = np.finfo(np.float64).eps  # replaces energies of 0, before the logarithm


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Return the coefficients [13, K] of sound, K = 1 + ceil((L - 400) / 160), of which the first is the log energy.

    Args:
        samples: int16 [L], mono, 16 kHz. They are not scaled to [-1, 1], as energies count.

    Raises:
        InputError: there are none, or they are of another kind.
    """
    if samples.ndim != 1 or samples.dtype != np.int16 or not len(samples):
        raise InputError(
            f"sound: expected mono samples of 16 bits, int16 [L], got {samples.dtype} {list(samples.shape)}; read the "
            "sound of the clip so"
        )
    filters, cosines = _mel_filters().T, _cosines().T
    count = 1 + max(0, -(-(len(samples) - WINDOW) // STEP))
    parts = []
    for first in range(0, count, 1000):  # ten seconds at a time
        last = min(first + 1000, count)
        power = np.square(np.abs(np.fft.rfft(_windows(samples, first, last), BINS))) / BINS
        energy, bands = power.sum(1), power @ filters
        coefficients = np.log(np.where(bands == 0, FLOOR, bands)) @ cosines
        coefficients[:, 0] = np.log(np.where(energy == 0, FLOOR, energy))
        parts.append(coefficients.T)
    return np.concatenate(parts, 1)


def _windows(samples: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the pre-emphasised windows first to last of sound, [last - first, 400], zeros beyond the end."""
    start, end = first * STEP, (last - 1) * STEP + WINDOW
    part = samples[start:end].astype(np.float64)
    before = samples[max(start - 1, 0) : end - 1].astype(np.float64)[: len(part)]
    if start == 0:
        before = np.concatenate([[0.0], before])[: len(part)]
    sharpened = np.zeros(end - start)
    sharpened[: len(part)] = part - PRE_EMPHASIS * before
    return sliding_window_view(sharpened, WINDOW)[::STEP]


def _mel_filters() -> np.ndarray:
    """Return triangles, evenly spaced in mel from 0 to 8 kHz: [26, 257]."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), NUM_FILTERS + 2)
    corners = np.floor((BINS + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE)
    filters, place = np.zeros((NUM_FILTERS, BINS // 2 + 1)), np.arange(BINS // 2 + 1)
    for row, (low, middle, high) in zip(filters, sliding_window_view(corners, 3), strict=True):
        rising, falling = (place >= low) & (place < middle), (place >= middle) & (place < high)
        row[rising] = (place[rising] - low) / (middle - low)
        row[falling] = (high - place[falling]) / (high - middle)
    return filters


def _cosines() -> np.ndarray:
    """Return the first rows of the orthonormal cosine transform (DCT-II), each times its lifter: [13, 26]."""
    order = np.arange(NUM_COEFFICIENTS)[:, None]
    rows = np.cos(np.pi * order * (np.arange(NUM_FILTERS) + 0.5) / NUM_FILTERS) * np.sqrt(2 / NUM_FILTERS)
    rows[0] /= np.sqrt(2)
    return rows * (1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER))
