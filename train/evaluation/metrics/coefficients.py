"""Define AED, APD and AED_f: distances between what networks read off the faces of result and driver.

Papers print AED and APD without saying the norm, and scripts disagree by factors of 2 to 64: each norm here has its own
name, and a table says which it prints. Letters: N frames, C coefficients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from triportrait.train.evaluation.metrics.definition import DRIVEN, Definition, Whose
from triportrait.train.evaluation.metrics.identity import cosine
from triportrait.train.evaluation.metrics.reductions import FrameMean

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mean_square(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean over C of the squared differences of [N, C]: [N]."""
    return np.square(one - other).mean(1)


def mean_absolute(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean over C of the absolute differences of [N, C]: [N]."""
    return np.abs(one - other).mean(1)


def sum_absolute(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the sum over C of the absolute differences of [N, C]: [N]."""
    return np.abs(one - other).sum(1)


def root_mean_square(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the root of the mean over C of the squared differences of [N, C]: [N]."""
    return np.sqrt(mean_square(one, other))


def one_minus_cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return 1 - the cosine between vectors [N, C]: [N]."""
    return 1 - cosine(one, other)


def pose_with_translation(
    angles: np.ndarray, translation: np.ndarray, driving_angles: np.ndarray, driving_translation: np.ndarray
) -> np.ndarray:
    """Return the mean absolute difference over three angles and three translations, [N, 3] each: [N]."""
    result = np.concatenate([angles, translation], 1)
    return mean_absolute(result, np.concatenate([driving_angles, driving_translation], 1))


# norm -> the function, its title, what is said of it, whose reading it is
NORMS: dict[str, tuple[Distance, str, str, Whose]] = {
    "mean_square": (
        mean_square, "mean square", "the mean square difference, the reading that fits the size of Portrait4D-v2's"
        " figures; the paper does not state its norm", "paper",
    ),
    "mean_absolute": (
        mean_absolute, "mean absolute", "the mean absolute difference, as in the lines posted for GAGAvatar and in"
        " one of Next3D's versions", "field",
    ),
    "sum_absolute": (
        sum_absolute, "sum absolute", "the sum of the absolute differences, as GAGAvatar's author also recalled it",
        "field",
    ),
    "root_mean_square": (
        root_mean_square, "root mean square", "the root, frame by frame, of the mean square difference, as in the other"
        " of Next3D's versions", "field",
    ),
}  # fmt: skip
_EXPRESSIONS = ("result.expression", "driving.expression")
_ANGLES = ("result.angles", "driving.angles")
_POSES = ("result.angles", "result.translation", "driving.angles", "driving.translation")
_EMOTIONS = ("result.emotion", "driving.emotion")


def _of_norm(norm: str) -> tuple[Definition, Definition]:
    distance, title, said, whose = NORMS[norm]
    thousand = norm == "mean_square"  # the paper prints 10³ APD
    return (
        Definition(
            f"aed_{norm}", f"AED ({title})",
            f"Mean over frames, between result and driver, of the 64 expression coefficients of Deep3DFaceRecon:"
            f" {said}.",
            whose, "", "lower", DRIVEN, ("faces", "weights:recon3d"), _EXPRESSIONS,
            lambda: FrameMean(_EXPRESSIONS, distance),
        ),
        Definition(
            f"apd_{norm}", f"APD ({title})",
            f"Mean over frames, between result and driver, of the three head angles of Deep3DFaceRecon: {said}"
            f"{'; times 1000, as it is printed' if thousand else ''}.",
            whose, "1e-3 rad²" if thousand else "rad", "lower", DRIVEN, ("faces", "weights:recon3d"), _ANGLES,
            lambda: FrameMean(_ANGLES, distance, 1000.0 if thousand else 1.0),
        ),
    )  # fmt: skip


def _of_emotion(norm: str, distance: Distance, title: str, said: str, whose: Whose) -> Definition:
    return Definition(
        f"aed_f_{norm}", f"AED_f ({title})",
        f"Mean over frames, between result and driver, of the emotion feature (2048 numbers of EMOCA's ResNet-50):"
        f" {said}; the paper names EMOCA and states neither the norm nor which of its networks.",
        whose, "", "lower", DRIVEN, ("faces", "weights:emotion"), _EMOTIONS, lambda: FrameMean(_EMOTIONS, distance),
    )  # fmt: skip


DEFINITIONS = (
    *(definition for norm in NORMS for definition in _of_norm(norm)),
    Definition(
        "apd_translation_mean_absolute", "APD (angles and translation)",
        "Mean over frames, between result and driver, of the mean absolute difference of three head angles in radians"
        " and three translations in decimetres of Deep3DFaceRecon, joined, as OTAvatar's author also gave it.",
        "field", "", "lower", DRIVEN, ("faces", "weights:recon3d"), _POSES,
        lambda: FrameMean(_POSES, pose_with_translation),
    ),
    _of_emotion("mean_absolute", mean_absolute, "mean absolute", "the mean absolute difference", "paper"),
    _of_emotion(
        "mean_square", mean_square, "mean square", "the mean square difference, with which EMOCA trains", "field"
    ),
    _of_emotion("one_minus_cosine", one_minus_cosine, "1 - cosine", "1 - the cosine between the features", "field"),
)  # fmt: skip
