"""Define LPIPS on whole pictures and on the head, whose mask is a rule of ours. Letters: N frames, H, W their size."""

from __future__ import annotations

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.definition import Definition
from triportrait.train.evaluation.metrics.face_geometry import LEFT_EYE, RIGHT_EYE, eye_distance
from triportrait.train.evaluation.metrics.reductions import FrameMean

CHIN, JAW_ENDS = 8, (0, 16)
BELOW, ABOVE, BESIDE = 1.1, 1.5, 0.75
MASK_RULE = (
    "the head is an ellipse of the truth's landmarks, upright to the line between the eyes: from the middle of the eyes"
    f" it reaches {BELOW:g} times the chin's distance below that line and {ABOVE:g} times above it, and to either side"
    f" {BESIDE:g} times the distance between the ends of the jaw line"
)


def head_mask(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return where the head is by `MASK_RULE`, bool [N, H, W], of the 68 points [N, 68, 2 or 3].

    Args:
        height, width: of the pictures, pixels; the centre of the first pixel is at 0.
    """
    points = np.asarray(landmarks, np.float64)[..., :2]
    right, left = points[:, RIGHT_EYE].mean(1), points[:, LEFT_EYE].mean(1)
    middle = (right + left) / 2
    across = (left - right) / eye_distance(points)[:, None]
    down = np.stack([-across[:, 1], across[:, 0]], 1)
    chin = ((points[:, CHIN] - middle) * down).sum(1)  # below the line between the eyes
    if not (chin > 0).all():
        raise InputError("landmarks: expected the chin below the eyes, got it above; mark such frames as not found")
    jaw = np.linalg.norm(points[:, JAW_ENDS[1]] - points[:, JAW_ENDS[0]], axis=1)
    centre = middle + down * ((BELOW - ABOVE) / 2 * chin)[:, None]
    rows, columns = np.mgrid[:height, :width]
    mask = np.empty((len(points), height, width), bool)
    for i in range(len(points)):
        x, y = columns - centre[i, 0], rows - centre[i, 1]
        aside = (x * across[i, 0] + y * across[i, 1]) / (BESIDE * jaw[i])
        along = (x * down[i, 0] + y * down[i, 1]) / ((BELOW + ABOVE) / 2 * chin[i])
        mask[i] = aside**2 + along**2 <= 1
    return mask


def black_beyond(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return frames uint8 [N, H, W, 3] that are black where the mask bool [N, H, W] is False."""
    return frames * mask[..., None]


def mean_within(distances: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mean of maps [N, H, W] over masks bool [N, H, W]: [N].

    Raises:
        InputError: the shapes differ, or a mask is empty.
    """
    if distances.shape != mask.shape or not mask.any((1, 2)).all():
        raise InputError(
            f"truth.head_mask: expected a head inside the picture for maps {list(distances.shape)}, got"
            f" {list(mask.shape)} with {int(mask.sum())} pixels; mark such frames as not found"
        )
    return np.where(mask, distances, 0).sum((1, 2)) / mask.sum((1, 2))


def _as_given(distance: np.ndarray) -> np.ndarray:
    return distance


_MAP = ("pair.lpips_alex_map", "truth.head_mask")

DEFINITIONS = (
    Definition(
        "lpips_alex", "LPIPS (alex)",
        "Mean over frames of LPIPS 0.1 with AlexNet between result and truth, whole picture in its own size; the paper"
        " does not state its network, and this is the package's default.",
        "paper", "", "lower", ("self",), ("truth", "weights:lpips_alex"), ("pair.lpips_alex",),
        lambda: FrameMean(("pair.lpips_alex",), _as_given),
    ),
    Definition(
        "lpips_vgg", "LPIPS (vgg)",
        "Mean over frames of LPIPS 0.1 with VGG-16 between result and truth, whole picture in its own size.",
        "field", "", "lower", ("self",), ("truth", "weights:lpips_vgg"), ("pair.lpips_vgg",),
        lambda: FrameMean(("pair.lpips_vgg",), _as_given),
    ),
    Definition(
        "lpips_h_alex_within_mask", "LPIPS_h (alex, mean in mask)",
        "Mean over frames, and over the head's pixels, of the map of LPIPS 0.1 with AlexNet between the whole pictures;"
        f" {MASK_RULE}; the paper does not state its mask.",
        "paper", "", "lower", ("self",), ("truth", "faces", "weights:lpips_alex"), _MAP,
        lambda: FrameMean(_MAP, mean_within),
    ),
    Definition(
        "lpips_h_alex_black_beyond", "LPIPS_h (alex, black beyond)",
        f"Mean over frames of LPIPS 0.1 with AlexNet between result and truth, both made black beyond the head;"
        f" {MASK_RULE}; the paper does not state its mask.",
        "paper", "", "lower", ("self",), ("truth", "faces", "weights:lpips_alex"), ("pair.lpips_alex_of_heads",),
        lambda: FrameMean(("pair.lpips_alex_of_heads",), _as_given),
    ),
)  # fmt: skip
