"""The first tests on a GPU, of what serves pictures: `pytest -m first`; the others are tests/test_first_on_gpu.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import first
from triportrait.core.psnr import psnr
from triportrait.serve.precision import GATE_DB

pytestmark = [pytest.mark.gpu, pytest.mark.first]
DEVICE = "cuda"


def alike(pictures: list[np.ndarray], others: list[np.ndarray], levels: int) -> None:
    """Two lists of pictures differ by so many of 255 levels at most."""
    for one, other in zip(pictures, others, strict=True):
        assert np.abs(one.astype(int) - other).max() <= levels


def test_a_frame_of_the_demo_is_the_cpu_s():
    """A portrait is prepared and driven by two faces, one with a turned neck."""
    alike(first.demo_frames(first.engine(DEVICE)), first.demo_frames(first.engine("cpu")), 2)


def test_half_precision_shows_the_same_frame():
    half, whole = (first.demo_frames(first.engine(DEVICE, dtype)) for dtype in (first.HALF, None))
    for one, other in zip(half, whole, strict=True):
        assert psnr(torch.from_numpy(one), torch.from_numpy(other), 255.0) >= GATE_DB


def test_a_captured_frame_is_the_frame():
    plain, captured = first.captured_frames(first.engine(DEVICE, first.HALF))
    alike(captured, plain, 1)


def test_a_live_batch_is_its_members():
    alone, together = first.live_batch(first.engine(DEVICE))
    alike(together, alone, 2)
