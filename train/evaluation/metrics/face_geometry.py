"""Define what is measured by the geometry of landmarks: where a face is, how it is turned, mouth, lids, brows, jitter.

These are defaults of ours: they need faces and no weights beyond those that found them. Everything is divided by the
distance between the middles of the eyes, so that the size of a picture changes no number. Letters: N frames.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.evaluation.metrics.definition import DRIVEN, Definition
from triportrait.train.evaluation.metrics.reductions import FrameMean, Movement, Successive

RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)  # the face's own right is on the left of the picture
LIDS = (((37, 41), (38, 40)), ((43, 47), (44, 46)))  # right, left: upper and lower point of each pair
CORNERS = ((36, 39), (42, 45))
BROWS = (slice(17, 22), slice(22, 27))
LIPS = ((61, 67), (62, 66), (63, 65))  # the inner edges
STILL_DRIVER = 0.01  # of the distance between the eyes, as the mean over points; a driver that moves less stands still
ROTATION_ERROR = 1e-3


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """Return the distance between the middles of the eyes of [N, 68, 2 or 3], in the picture: [N] pixels.

    Raises:
        InputError: it is 0, the points are no face.
    """
    right, left = (landmarks[:, eye, :2].mean(1) for eye in (RIGHT_EYE, LEFT_EYE))
    distance = np.linalg.norm(left - right, axis=1)
    if not (distance > 0).all():
        raise InputError(
            "landmarks: expected a distance between the eyes, got both at one place; mark such frames as not found"
        )
    return distance


def landmark_distance(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean distance of the 68 points [N, 68, 2 or 3], in the picture, over the truth's eye distance: [N]."""
    return np.linalg.norm(result[..., :2] - truth[..., :2], axis=2).mean(1) / eye_distance(truth)


def head_pose_distance(result: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """Return the angle between rotations [N, 3, 3], [N] degrees.

    Raises:
        InputError: a matrix is no rotation.
    """
    for name, turn in (("result.turn", result), ("driving.turn", driving)):
        product = turn @ np.swapaxes(turn, 1, 2)
        if np.abs(product - np.eye(3)).max() > ROTATION_ERROR or (np.linalg.det(turn) < 0).any():
            raise InputError(f"{name}: expected rotations [N, 3, 3], got another matrix; take them from head_pose")
    between = result @ np.swapaxes(driving, 1, 2)
    sine = np.linalg.norm(between - np.swapaxes(between, 1, 2), axis=(1, 2)) / np.sqrt(8)
    return np.degrees(np.arctan2(sine, (np.trace(between, axis1=1, axis2=2) - 1) / 2))


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Return the mean distance between three pairs of points of the inner lips over the eye distance: [N, 1]."""
    return _gaps(landmarks, LIPS)[:, None]


def lid_openings(landmarks: np.ndarray) -> np.ndarray:
    """Return the mean distance of two pairs of points of the lids over the eye distance: [N, 2], right and left."""
    return np.stack([_gaps(landmarks, pairs) for pairs in LIDS], 1)


def brow_heights(landmarks: np.ndarray) -> np.ndarray:
    """Return how far the brows' five points lie above the middle of the eye's corners: [N, 2], right and left.

    Above means across the line between the eyes; the height is over the eye distance.
    """
    right, left = (landmarks[:, eye, :2].mean(1) for eye in (RIGHT_EYE, LEFT_EYE))
    distance = eye_distance(landmarks)[:, None]
    along = (left - right) / distance
    up = np.stack([along[:, 1], -along[:, 0]], 1)  # rows count downwards
    heights = [
        ((landmarks[:, brow, :2].mean(1) - landmarks[:, corners, :2].mean(1)) * up).sum(1)
        for brow, corners in zip(BROWS, CORNERS, strict=True)
    ]
    return np.stack(heights, 1) / distance


def mouth_opening_distance(result: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """Return the absolute difference of the mouth openings of landmarks [N, 68, 2 or 3]: [N] eye distances."""
    return np.abs(mouth_opening(result) - mouth_opening(driving)).mean(1)


def lid_distance(result: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """Return the absolute difference of the lids' openings of landmarks [N, 68, 2 or 3], mean of both eyes: [N]."""
    return np.abs(lid_openings(result) - lid_openings(driving)).mean(1)


def jitter_of_still_driver(result: np.ndarray, driving: np.ndarray) -> float | None:
    """Return the mean square of the points' move between two frames [2, 68, 2 or 3], over the squared eye distance.

    None where the driver's points move by more than STILL_DRIVER of its eye distance on average.
    """
    if (_step(driving) / eye_distance(driving[:1])).mean() > STILL_DRIVER:
        return None
    return float(np.square(_step(result) / eye_distance(result[:1])).mean())


def _step(pair: np.ndarray) -> np.ndarray:
    return np.linalg.norm(pair[1, :, :2] - pair[0, :, :2], axis=1)


def _gaps(landmarks: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    upper, lower = (landmarks[:, list(side), :2] for side in zip(*pairs, strict=True))
    return np.linalg.norm(upper - lower, axis=2).mean(1) / eye_distance(landmarks)


_TRUTH = ("result.landmarks", "truth.landmarks")
_DRIVING = ("result.landmarks", "driving.landmarks")
_TURNS = ("result.turn", "driving.turn")


def _movements() -> tuple[Definition, ...]:
    parts = (
        ("mouth", "mouth", mouth_opening, "the opening of the mouth (three pairs of points of the inner lips)"),
        ("lids", "lids", lid_openings, "the openings of both eyes (two pairs of points of the lids each)"),
        ("brows", "brows", brow_heights, "the heights of both brows above the eyes"),
    )
    still = f"none where the driver's vary by less than {STILL_DRIVER:g} (root mean square), as landmarks do at rest"
    definitions = []
    for name, subject, measure, what in parts:
        definitions += [
            Definition(
                f"{name}_correlation", f"{name} correlation",
                f"Correlation over a clip's frames, between result and driver, of {what}, in eye distances;"
                f" {still}.",
                "default", "", "higher", DRIVEN, ("faces",), _DRIVING,
                partial(Movement, _DRIVING, measure, "correlation", subject, STILL_DRIVER),
            ),
            Definition(
                f"{name}_gain", f"{name} gain",
                f"Slope of the least-squares line, over a clip's frames, from the driver to the result, of {what}, in"
                f" eye distances: 1 is the full movement, 0 none; {still}.",
                "default", "", None, DRIVEN, ("faces",), _DRIVING,
                partial(Movement, _DRIVING, measure, "gain", subject, STILL_DRIVER),
            ),
        ]  # fmt: skip
    return tuple(definitions)


DEFINITIONS = (
    Definition(
        "landmark_distance", "landmark distance",
        "Mean over frames and over the 68 points of their distance in the picture from the truth's, divided by the"
        " distance between the middles of the truth's eyes.",
        "default", "eye distances", "lower", ("self",), ("truth", "faces"), _TRUTH,
        lambda: FrameMean(_TRUTH, landmark_distance),
    ),
    Definition(
        "head_pose_distance", "head-pose distance",
        "Mean over frames of the angle of the rotation between the heads of result and driver, each read off 13 points"
        " that no expression moves much.",
        "default", "degrees", "lower", DRIVEN, ("faces",), _TURNS, lambda: FrameMean(_TURNS, head_pose_distance),
    ),
    Definition(
        "mouth_opening_distance", "mouth-opening distance",
        "Mean over frames of the absolute difference, between result and driver, of the opening of the mouth, in eye"
        " distances.",
        "default", "eye distances", "lower", DRIVEN, ("faces",), _DRIVING,
        lambda: FrameMean(_DRIVING, mouth_opening_distance),
    ),
    Definition(
        "lid_distance", "lid distance",
        "Mean over frames and both eyes of the absolute difference, between result and driver, of the lids' opening, in"
        " eye distances; people's eyes differ at rest.",
        "default", "eye distances", "lower", DRIVEN, ("faces",), _DRIVING, lambda: FrameMean(_DRIVING, lid_distance),
    ),
    *_movements(),
    Definition(
        "jitter_of_still_driver", "jitter of a still driver",
        "Root of the mean square of the 68 points' move between successive frames of the result, in eye distances,"
        f" where the driver's points move by {STILL_DRIVER:g} of its eye distance or less on average; a result that"
        " never moves has none.",
        "default", "eye distances", "lower", DRIVEN, ("faces",), _DRIVING,
        lambda: Successive(
            _DRIVING, jitter_of_still_driver, 2, root=True, nothing="the driver stands still between no two frames"
        ),
    ),
)  # fmt: skip
