"""Made-up pictures, parameters and landmarks in the published layouts."""

from __future__ import annotations

import numpy as np
from PIL import Image

from triportrait.serve.tracking_files import LENGTHS


def picture(seed: int, size: tuple[int, int] = (128, 128)) -> np.ndarray:
    """A smooth uint8 picture [H, W, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def parameters(neck=(0.0, 0.0, 0.0), **changes) -> np.ndarray:
    """The 437 numbers of a frontal head; `changes` replaces whole parts."""
    parts = {name: np.zeros(length, np.float32) for name, length in LENGTHS.items()}
    pose = np.eye(4, dtype=np.float32)
    pose[:3, 3] = (0.0, 0.01, 4.2)
    focal = 4.757182
    parts["camera"] = np.concatenate([pose.ravel(), [focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1]]).astype(np.float32)
    parts["neck"] = np.asarray(neck, np.float32)
    parts |= changes
    return np.concatenate(list(parts.values()))


def landmarks(shift: float = 0.0) -> np.ndarray:
    """68 landmarks [68, 2] whose anchors are a plausible face."""
    points = np.full((68, 2), 256.0)
    points[36:42], points[42:48], points[60:68] = (200, 222), (312, 222), (256, 343)
    return points + shift
