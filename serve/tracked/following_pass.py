"""Follows the face through a film once and keeps what a fit needs: points, not pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing

import numpy as np
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.faces.models import COMMAND
from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.fit_points import fit_points
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.video.clips import Clip, Frame
from triportrait.serve.source_and_driving import DrivingFrames, Progress
from triportrait.serve.tracked.fitted_frames import FollowedFaces, Unseen
from triportrait.serve.tracking_files import TrackedFolder

MOST_FRAMES = 200_000  # two hours at 25 a second, for which 700 MB of points are kept
NO_FACE, NO_LANDMARKS = "no face", "no landmarks"

Take = Callable[[Frame, AlignedFace], None]

logger = logging.getLogger(__name__)


def check_can_follow(driving: DrivingFrames, tracker: FaceTracker, frames: int | None) -> None:
    """Refuse, before any work, a film whose face nobody finds, or which is too long.

    Args:
        frames: how many are asked for; None: all.

    Raises:
        InputError: nothing finds faces, there are parameters already, or the film has too many frames.
    """
    known = driving.known
    if isinstance(known, TrackedFolder) and known.landmarks is None:
        raise InputError(f"{known.root}: expected landmarks that can be fitted, it has parameters alone; take those")
    if known is None and tracker.provider is None:
        raise InputError(
            f"{driving.name}: expected something that finds its face, got nothing; run `{COMMAND}` once, or give "
            "landmark files"
        )
    _check_length(driving.clip, min(frames or MOST_FRAMES + 1, driving.clip.frame_count or 0))


def _check_length(clip: Clip, count: int) -> None:
    if count > MOST_FRAMES:
        raise InputError(
            f"{clip.path}: expected at most {MOST_FRAMES:,} frames, it has more; cut the film, or pass --frames"
        )


def follow_faces(
    driving: DrivingFrames,
    tracker: FaceTracker,
    frames: int | None = None,
    take: Take = lambda frame, face: None,
    progress: Progress = lambda frames, total: frames,
) -> FollowedFaces:
    """Follow the face from the first frame to the last.

    Args:
        driving: the film, and landmark files where there are some.
        tracker: a new one.
        frames: the first so many; None: all.
        take: is given each frame that shows the face, with the face.
        progress: wraps the frames in a bar.

    Raises:
        InputError: as of `check_can_follow`; or no frame shows a face.
    """
    check_can_follow(driving, tracker, frames)
    total = min(frames or MOST_FRAMES, driving.clip.frame_count or MOST_FRAMES)
    rows: list[tuple[int, float, int, Alignment, np.ndarray, np.ndarray, np.ndarray]] = []
    unseen: dict[int, Unseen] = {}
    with closing(driving.clip.frames(frames)) as film, closing(progress(film, total)) as shown:
        for frame in shown:
            _check_length(driving.clip, frame.index)
            face = driving.face(frame, tracker)
            if not face.found:
                unseen[frame.index] = Unseen(frame.time_s, NO_FACE)
                continue
            if (landmarks := face.tracking.landmarks) is None:
                unseen[frame.index] = Unseen(frame.time_s, NO_LANDMARKS)
                continue
            points, weights = _points(tracker, face, landmarks)
            flat = landmarks[0, :, :2].float().numpy()
            rows.append((frame.index, frame.time_s, tracker.cuts, face.placed, flat, points, weights))
            take(frame, face)
    if not rows:
        count = len(unseen)
        which = f"any of {count:,} frames" if count != 1 else "its one frame"
        raise InputError(f"{driving.name}: expected a face, found none in {which}; give another")
    numbers, times, shots, placed, flats, points_of, weights_of = zip(*rows, strict=True)
    return FollowedFaces(
        np.array(numbers), np.array(times), np.array(shots), np.array([[a.left, a.top, a.side] for a in placed]),
        np.stack(flats), np.stack(points_of), np.stack(weights_of), unseen, tracker.cuts, tracker.most_faces,
    )  # fmt: skip


def _points(tracker: FaceTracker, face: AlignedFace, landmarks: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return what is fitted: the face as it was found, or the landmarks [1, 68, 2 or 3] of a published file."""
    if tracker.near is not None:
        return fit_points(tracker.near, face.placed)
    points, weights = np.zeros((70, 2)), np.ones(70)
    points[:68], weights[68:] = landmarks[0, :, :2].numpy(), 0
    return points, weights
