"""Fits a head model to a portrait and to what drives it, before a network shows the one as the other.

Parameters in files are taken as they are; what has none is fitted with the head model of the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from triportrait.core.errors import InputError
from triportrait.core.tracking.head_model import HeadModel, load_head_model
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.providers import LazyProvider
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.picture_inputs import PictureStream
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.source_and_driving import DrivingFrames, Progress, SourcePicture
from triportrait.serve.tracked.film_fit import fit_film, fit_picture
from triportrait.serve.tracked.following_pass import check_can_follow, follow_faces
from triportrait.serve.tracking_files import TrackedFolder

TrackKind = Literal["quick", "fit"]
_CROP_PX = 16  # of the crops that a first pass makes and nobody looks at

logger = logging.getLogger(__name__)


def head_model_of(network: Reenactor, weights: str) -> HeadModel:
    """Load the head model whose parameters a network takes: that of its weights, else the open head.

    Raises:
        InputError: the weights' tables cannot be used.
    """
    if network.has_flame_neck:
        return load_head_model(weights)
    model = load_head_model()
    used = "its parameters move them" if network.reads_parameters else "of its parameters the turn of the head is used"
    logger.info("%s: the weights bring no head model: the %s is fitted; %s", weights, model.identity.name, used)
    return model


def check_fit(track: object, name: str = "track") -> None:
    """Check which kind of tracking is asked for. Raises: `InputError`."""
    if track not in ("quick", "fit"):
        raise InputError(f"{name}: expected quick or fit, got {track}; choose one")


def first_tracker(driving: DrivingFrames, finder: LazyProvider, smooth: bool, face: int | None) -> FaceTracker:
    """Make the tracker of the first pass: it follows as that of an animation does."""
    provider = finder() if driving.known is None else None
    return FaceTracker(provider, _CROP_PX, smooth=smooth and not driving.clip.is_pictures, face=face)


def check_can_fit(driving: DrivingFrames, tracker: FaceTracker, frames: int | None) -> None:
    """Refuse, before any work, frames whose face cannot be followed twice.

    Raises:
        InputError: as of `check_can_follow`; or the frames can be read once only.
    """
    if has_parameters(driving):
        return
    if isinstance(driving.clip, PictureStream) and driving.clip.frame_count is None:
        raise InputError(
            "driving: expected a path or a list of pictures, which are read twice to be fitted, got what gives its "
            "pictures once; save them, or track them by quick"
        )
    check_can_follow(driving, tracker, frames)


def has_parameters(driving: DrivingFrames) -> bool:
    """Tell whether files bring the parameters of the driving frames."""
    return isinstance(driving.known, TrackedFolder) and driving.known.parameters is not None


def fit_driving(
    driving: DrivingFrames,
    model: Callable[[], HeadModel],
    tracker: FaceTracker,
    frames: int | None,
    network: Reenactor,
    progress: Progress = lambda frames, total: frames,
) -> None:
    """Follow the face through the whole film and fit its parameters, which `driving` has from then on.

    Args:
        driving: parameters in files stay.
        model: gives the head model.
        tracker: of `first_tracker`.
        frames: the first so many; None: all.
        network: whose device solves.
        progress: wraps the frames in a bar.

    Raises:
        InputError: the film shows no face, or cannot be read twice.
    """
    check_can_fit(driving, tracker, frames)
    if has_parameters(driving):
        logger.info("%s: its parameter files are taken as they are", driving.name)
        return
    faces = follow_faces(driving, tracker, frames, progress=progress)
    fitted = fit_film(
        faces, model(), provider=tracker.provider, film=not driving.clip.is_pictures, device=network.device
    )
    driving.fitted = fitted
    logger.info(
        "%s: %s fitted to %d frames, its landmarks are %.1f px of 512 off in the worst",
        driving.name, fitted.model.name, len(faces), float(fitted.error_px.max()),
    )  # fmt: skip


def fitted_source(
    picture: SourcePicture, aligned: AlignedFace, model: Callable[[], HeadModel], finder: LazyProvider
) -> AlignedFace:
    """Return the face of a portrait with fitted parameters, its shape among them; those of files stay.

    Args:
        picture: the portrait. aligned: its face.
        model: gives the head model.
        finder: found the face, unless a file told where it is.
    """
    if picture.tracking is not None and picture.tracking.parameters is not None:
        return aligned
    if picture.face is None:
        name = picture.name.name if isinstance(picture.name, Path) else picture.name
        logger.info("%s: no landmarks that could be fitted; its shape is that of a mean face", name)
        return aligned
    provider = None if picture.faces is None else finder()
    parameters = fit_picture(picture.face, aligned.placed, model(), provider)
    return replace(aligned, tracking=replace(aligned.tracking, parameters=parameters))
