"""What is known of the frames of a film once its face was followed and a head model fitted to it.

All of it is small: some kilobytes a frame, while the pictures stay in the film.
Letters: N frames that show the face.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from triportrait.core.render.cameras import camera_from_label, fixed_camera
from triportrait.core.tracking.head_model import ModelIdentity
from triportrait.core.tracking.records import WIDTHS, columns_of
from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.video.clips import Frame
from triportrait.serve.tracking_files import HeadParameters, Tracking


class Unseen(NamedTuple):
    """A frame without the face: when it is shown, and why there is none, in a word or two."""

    time_s: float
    why: str


@dataclass(frozen=True, eq=False)
class FollowedFaces:
    """Where the face was in a film.

    Attributes:
        numbers: int64 [N], the frames that show it, from 0, rising.
        times_s: float64 [N]. shots: int64 [N], the same number for frames between which no shot was cut.
        placed: float64 [N, 3], `left`, `top` and `side` of the aligned picture in the frame.
        landmarks: float32 [N, 68, 2], pixels of the 512² aligned picture, smoothed where the square is.
        points: float64 [N, 70, 2] and weights: float64 [N, 70], what is fitted, as of `fit_points`.
        unseen: the frames that do not show it, by their number.
        cuts: how often the shot was cut. most_faces: the most faces in one frame that was searched.
    """

    numbers: np.ndarray
    times_s: np.ndarray
    shots: np.ndarray
    placed: np.ndarray
    landmarks: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    unseen: dict[int, Unseen]
    cuts: int
    most_faces: int

    def __len__(self) -> int:
        return len(self.numbers)

    def alignment(self, row: int) -> Alignment:
        """Return where the aligned picture of one of the N frames lies."""
        left, top, side = (float(number) for number in self.placed[row])
        return Alignment(left, top, side)


@dataclass(eq=False)
class FittedFrames:
    """The parameters of a film's face, as something that tells of each frame where its face is and what it does.

    Attributes:
        faces: where the face was.
        records: float32 [N, 437], the published numbers.
        error_px: float64 [N], root mean squared distance of the landmarks that count, pixels of the aligned picture.
        outliers: int64 [N], landmarks that do not fit.
        model: whose parameters these are.
    """

    faces: FollowedFaces
    records: Tensor
    error_px: np.ndarray
    outliers: np.ndarray
    model: ModelIdentity
    _last: AlignedFace | None = field(default=None, init=False, repr=False)

    def face(self, frame: Frame, tracker: FaceTracker) -> AlignedFace:
        """Cut out the face of a frame, in the order of the film; one without a face holds the last.

        Args:
            frame: of the film.
            tracker: says how large crops are, and counts as if it had followed the face.
        """
        row = int(np.searchsorted(self.faces.numbers, frame.index, side="right")) - 1
        found = row >= 0 and int(self.faces.numbers[row]) == frame.index
        tracker.cuts, tracker.most_faces = self.faces.cuts, self.faces.most_faces
        tracker.seen += found
        tracker.lost += not found
        tracker.before += row < 0
        if found:
            placed = self.faces.alignment(row)
            self._last = AlignedFace(placed.crop(frame.image, tracker.size_px), self.tracking(row), True, placed)
            return self._last
        if row < 0:
            at_rest = Tracking(parameters_at_rest(self.model))  # without landmarks the face counts as unknown
            return replace(AlignedFace.middle(frame.image, tracker.size_px, at_rest), found=False)
        assert self._last is not None, "frames come in order"
        return replace(self._last, found=False)

    def tracking(self, row: int) -> Tracking:
        """Return what the published files of one of the N frames say."""
        landmarks = torch.from_numpy(self.faces.landmarks[row])[None]
        return Tracking(parameters_of_record(self.records[row], self.model), landmarks)


def parameters_at_rest(model: ModelIdentity) -> HeadParameters:
    """Return those of a mean face at rest that looks at the fixed camera."""
    shape, expression, neck, jaw, eyes = (torch.zeros(1, width) for width in list(WIDTHS.values())[1:])
    return HeadParameters(fixed_camera(), shape, expression, neck, jaw, eyes, model)


def parameters_of_record(record: Tensor, model: ModelIdentity) -> HeadParameters:
    """Split the 437 numbers of one frame, [437], which are parameters of `model`."""
    parts = columns_of(record[None])
    camera = camera_from_label(parts["camera"])
    shape, expression, neck, jaw, eyes = (parts[name] for name in ("shape", "expression", "neck", "jaw", "eyes"))
    return HeadParameters(camera, shape, expression, neck, jaw, eyes, model)
