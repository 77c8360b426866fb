"""Fit a head model to the landmarks of one clip, and say how well each frame fits.

Letters: T frames, P landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.core.tracking.fit import OUTLIER, Bends, Fitted, Priors, fit_landmarks
from triportrait.core.tracking.head_model import HeadModel, ModelIdentity
from triportrait.core.tracking.pinhole import Pinhole
from triportrait.core.tracking.records import records_of
from triportrait.core.types import PUBLISHED_FOCAL

CAMERA = Pinhole.square(PUBLISHED_FOCAL, ALIGNED_SIZE)  # of aligned pictures


@dataclass(frozen=True)
class ClipFit:
    """The parameters of the T frames of a clip.

    Attributes:
        records: float32 [T, 437], the published numbers; frames without a face hold what their neighbours say.
        fitted: the same as tensors of the solve, N = 1.
        error_px: [T], root mean squared distance of the landmarks that count, pixels of the aligned picture; NaN where
            no landmarks were given.
        outliers: [T] int64, landmarks that were given and do not fit.
        model: whose parameters these are.
    """

    records: Tensor
    fitted: Fitted
    error_px: Tensor
    outliers: Tensor
    model: ModelIdentity


def fit_clip(
    model: HeadModel,
    landmarks: Tensor,
    weights: Tensor,
    *,
    film: bool = True,
    shape: Tensor | None = None,
) -> ClipFit:
    """Fit one clip.

    Args:
        landmarks: [T, 70, 2] pixels of the 512² aligned pictures, y down: 68 landmarks and the pupils, right before
            left. weights: [T, 70], 0 where a landmark is unknown (all of a frame without a face), else up to 1.
        film: the frames follow each other at 25 a second or more; False for stills of one person.
        shape: [S] where the person is known.

    Raises:
        InputError: no frame has six landmarks, or one that counts is not finite.
    """
    priors = Priors(bends=Bends()) if film else Priors()
    given = None if shape is None else shape[None].double()
    fitted = fit_landmarks(model.points(), landmarks[None].double(), weights[None].double(), CAMERA, priors, given)
    seen = weights > 0
    error = torch.where(seen.any(-1), fitted.error_px[0], torch.nan)
    outliers = (seen & (fitted.weights[0] < OUTLIER * weights)).sum(-1)
    return ClipFit(records_of(fitted)[0], fitted, error, outliers, model.identity)
