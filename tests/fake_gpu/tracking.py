"""Fit landmarks on a fake GPU: python -m tests.fake_gpu.tracking OUT.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.fake_gpu.device import CUDA, FakeGpu, start_again_with_library
from triportrait.core.tracking.clip_fit import CAMERA
from triportrait.core.tracking.fit import Bends, Priors, fit_landmarks
from triportrait.core.tracking.head_model import load_head_model

CLIPS, FRAMES = 2, 4


def counted(iterations: int) -> dict[str, Any]:
    """Fit clips on the device, and return what it did."""
    landmarks, weights = torch.rand(CLIPS, FRAMES, 70, 2, dtype=torch.float64), torch.ones(CLIPS, FRAMES, 70).double()
    points = load_head_model().points()
    with FakeGpu() as gpu:
        points = points.to(CUDA)
        _ = points.condensed
        priors = Priors(noise_px=None, bends=Bends())
        fitted = fit_landmarks(points, landmarks.to(CUDA), weights.to(CUDA), CAMERA, priors, iterations=iterations)
        devices = sorted({str(part.device) for part in vars(fitted).values()})
        return gpu.take().summary() | {"devices": devices}


def main() -> None:
    """Fit with few and with many steps."""
    made = {str(iterations): counted(iterations) for iterations in (9, 15)}
    Path(sys.argv[1]).write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    start_again_with_library()
    main()
