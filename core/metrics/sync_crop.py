"""SyncNet's crop is a square about the speaker, 2.8 times half the face's box, with the face in its upper middle.

The published pipeline compresses the crops on the way, which changes scores slightly; this one does not.
Letters: T frames.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from triportrait.core.errors import InputError
from triportrait.core.metrics.syncnet import CROP

MARGIN = 0.4
SMOOTHED = 13  # frames
GREY = 110  # beyond the picture
LARGEST = 4  # sides of the picture that half a box may have


def face_track(boxes: np.ndarray) -> np.ndarray:
    """Smooth the boxes of a speaker's face [T, 4] (left, top, right, bottom, pixels).

    Returns:
        Centre x, centre y and half the longer side of each, [T, 3] pixels, median filtered over 13 frames.

    Raises:
        InputError: there are too few, so that the filter's zeros beyond the ends would be the median.
    """
    fewest = SMOOTHED // 2 + 1
    if len(boxes) < fewest:
        raise InputError(
            f"SyncNet: expected a clip of {fewest} frames and more at 25 a second, got {len(boxes)}; leave this clip "
            "out"
        )
    left, top, right, bottom = boxes.T.astype(np.float64)
    half = np.maximum(right - left, bottom - top) / 2
    track = ((left + right) / 2, (top + bottom) / 2, half)
    return np.stack([median_filter(values, SMOOTHED) for values in track], 1)


def sync_crop(image: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """Crop a frame for SyncNet.

    Args:
        image: uint8 [H, W, 3].
        x: centre of the face, pixels.
        y: centre of the face, pixels, downwards.
        half: half the longer side of its box, pixels.

    Returns:
        uint8 [224, 224, 3], grey beyond the picture.

    Raises:
        InputError: the box is empty, or far larger than the picture.
    """
    height, width = image.shape[:2]
    if not (1 <= half <= LARGEST * max(height, width) and np.isfinite((x, y)).all()):
        raise InputError(
            f"face: expected a box in a picture of {width} x {height}, got half a side of {half:.3g} pixels about "
            f"({x:.4g}, {y:.4g}); leave this clip out"
        )
    tall, wide = half * (1 + 2 * MARGIN), half * (1 + MARGIN)
    top, bottom = int(np.floor(y - half)), int(np.floor(y + tall))
    left, right = int(np.floor(x - wide)), int(np.floor(x + wide))
    crop = np.full((bottom - top, right - left, 3), GREY, np.uint8)
    rows, columns = _overlap(top, bottom, height), _overlap(left, right, width)
    crop[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = image[rows, columns]
    planes = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
    resized = F.interpolate(planes, (CROP, CROP), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).round().byte().numpy()


def _overlap(low: int, high: int, size: int) -> slice:
    """Return which of the pixels low to high - 1 a side of `size` has, an empty slice inside the crop if none."""
    start = min(max(low, 0), high)
    return slice(start, max(min(high, size), start))


def median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Return the running median of values [N] over an odd width, with zeros beyond the ends."""
    padded = np.pad(values, width // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
