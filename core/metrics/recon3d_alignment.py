"""Deep3DFaceRecon's alignment: five points of a face say how its picture is scaled and cropped.

The points are fitted to those of a mean head by a scaled orthographic camera (POS, DeMenthon 1995); the picture is not
turned. Two forms are in use, which give other coefficients: `portrait4d` and `upstream`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from triportrait.core.errors import InputError

Form = Literal["portrait4d", "upstream"]
FORMS: tuple[Form, ...] = ("portrait4d", "upstream")
CROP = 224  # pixels
SCALE = 102.0  # pixels of the crop to a decimetre of the head
# eyes (the one on the left of the picture first), tip of the nose, corners of the mouth; decimetres, x right, y up
MEAN_HEAD = np.array([
    (-0.31148657, 0.29036078, 0.13377953), (0.30979887, 0.28972036, 0.13179526),
    (0.0032534988, -0.046179324, 0.55244243),
    (-0.25216928, -0.38133916, 0.22405732), (0.2484662, -0.38128236, 0.22235769),
])  # fmt: skip
LOWER = {"portrait4d": 0.2, "upstream": 0.0}  # decimetres by which the points lie lower
LARGEST_PX = 100_000_000  # of the scaled picture; a face of a few pixels would ask for more


@dataclass(frozen=True)
class Aligned:
    """One aligned face.

    Attributes:
        face: uint8 [224, 224, 3], black beyond the picture.
        points: the five points in the crop, [5, 2] pixels, y **up**.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        scale: pixels of the crop to a pixel of the picture.
        centre: where the head's origin lies in the picture, [2] pixels, y **up**.
    """

    face: np.ndarray
    points: np.ndarray
    width: int
    height: int
    scale: float
    centre: np.ndarray


def align(image: np.ndarray, points: np.ndarray, form: Form = "portrait4d") -> Aligned:
    """Scale and crop a picture around the five points of a face.

    Args:
        image: uint8 [H, W, 3], RGB.
        points: [5, 2] pixels, x to the right and y down; the eye at the picture's left first, the other one, the tip of
            the nose, the corner of the mouth at the picture's left, the other one.
        form: `portrait4d` lowers the mean head's points by 0.2 and scales bilinearly, `upstream` scales bicubically.
            Take the form that the user's weights were trained with.

    Raises:
        InputError: the points are no face, or one of a few pixels.
    """
    from PIL import Image

    height, width = image.shape[:2]
    flipped = np.array(points, np.float64)
    if flipped.shape != (5, 2) or not np.isfinite(flipped).all():
        raise InputError(f"points: expected five finite points [5, 2], got {list(flipped.shape)}; find the face again")
    flipped[:, 1] = height - 1 - flipped[:, 1]
    pixels_per_decimetre, centre = _fit(flipped, MEAN_HEAD - (0, LOWER[form], 0))
    if not pixels_per_decimetre > 0 or width * height * (SCALE / pixels_per_decimetre) ** 2 > LARGEST_PX:
        raise InputError(
            f"points: expected a face that fills the crop when the picture grows to {LARGEST_PX:,} pixels at most, got "
            f"one of {pixels_per_decimetre:.2g} pixels to a decimetre; leave this face out"
        )
    scale = SCALE / pixels_per_decimetre
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    from_middle = (centre - (width / 2, height / 2)) * scale
    left, up = int(size[0] / 2 - CROP / 2 + from_middle[0]), int(size[1] / 2 - CROP / 2 - from_middle[1])
    kernel = Image.Resampling.BILINEAR if form == "portrait4d" else Image.Resampling.BICUBIC
    scaled = Image.fromarray(image).resize(size, kernel)
    face = np.asarray(scaled.crop((left, up, left + CROP, up + CROP)))
    placed = (flipped - centre + (width / 2, height / 2)) * scale - (np.array(size) / 2 - CROP / 2)
    return Aligned(face, placed, width, height, scale, centre)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Return the five points [5, 2] of 68 landmarks [68, 2 or 3]: eyes by their corners, nose, corners of the mouth."""
    points = landmarks[:, :2]
    return np.stack([points[[36, 39]].mean(0), points[[42, 45]].mean(0), points[30], points[48], points[54]])


def _fit(points: np.ndarray, head: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit scale and shift [2] of a scaled orthographic camera that sees the head [5, 3] at the points [5, 2]."""
    rows, *_ = np.linalg.lstsq(np.column_stack([head, np.ones(len(head))]), points, rcond=None)  # [4, 2]
    return float(np.linalg.norm(rows[:3], axis=0).mean()), rows[3]
