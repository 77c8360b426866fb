"""Follows a face through a video, across losses and cuts: where its square lies, how its head is turned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.serve.faces.alignment import Alignment, align
from triportrait.serve.faces.face import AlignedFace, Face, FaceProvider
from triportrait.serve.faces.head_pose import matrix_of, parameters_of, turn_of, vector_of
from triportrait.serve.faces.searching import PieceByPiece, Searches, colour_histogram, is_cut
from triportrait.serve.faces.smoothing import OneEuro
from triportrait.serve.tracking_files import Tracking

# The published filters of the square's scale, over its first, and of its middle, in pixels of the aligned picture.
SCALE_CUTOFF, SCALE_BETA = 1e-4, 5e-3
MIDDLE_CUTOFF, MIDDLE_BETA = 1e-3, 5e-2
# The square may lag by this much: a twentieth in size, a thirtieth of its side.
MOST_SCALE_LAG, MOST_MIDDLE_LAG = 0.05, ALIGNED_SIZE / 30
# Points, in pixels of the aligned picture; what moves together shares a speed: jaw, brows, nose, each eye, lips, their
# inner rim, and the five that align.
POINT_CUTOFF, POINT_BETA = 0.02, 0.1
GROUPS = [slice(a, b) for a, b in ((0, 17), (17, 27), (27, 36), (36, 42), (42, 48), (48, 60), (60, 68), (68, 73))]
# The head's turn, in pixels that its surface moves by.
TURN_CUTOFF, TURN_BETA, PIXELS_PER_RADIAN = 0.02, 0.05, 100.0
SPEED_CUTOFF = 0.15
JUMP = 0.75  # of its size: another shot, if the face is there at once


class FaceTracker:
    """Follows one face, frame by frame.

    Args:
        provider: what finds faces; None where every frame brings its own.
        size_px: S, side of the crops.
        smooth: take jitter out. Still faces then stand still, at the price of a lag that fast motion shortens.
        face: which face is followed, counted from the left, from 1; the largest by default.
        flame: whether the neck of the weights is FLAME's.
        spread: spread a slow search over many frames, where each frame is waited for; else search at once.

    Attributes:
        lost: how many frames showed no face. before: those of them before the first face.
        seen: how many frames showed one.
        cuts: how often the shot was cut.
        most_faces: the most faces in one frame that was searched.
        near: the face where it was last; None where the whole frame is searched next.
    """

    def __init__(
        self,
        provider: FaceProvider | None,
        size_px: int,
        *,
        smooth: bool = True,
        face: int | None = None,
        flame: bool = False,
        spread: bool = False,
    ) -> None:
        self.provider, self.size_px, self.smooth, self.face, self.flame = provider, size_px, smooth, face, flame
        self.lost = self.before = self.seen = self.cuts = self.most_faces = 0
        self._searches, self._pieces = Searches(), PieceByPiece() if spread else None
        self._last: AlignedFace | None = None
        self.near: Face | None = None
        self._previous: Face | None = None  # in this shot
        self._histogram: np.ndarray | None = None
        self._was_cut = False  # since the face was last seen
        self._filters = _Filters()

    def follow(
        self, image: np.ndarray, time_s: float, faces: Sequence[Face] | None = None, cut: bool | None = None
    ) -> AlignedFace:
        """Follow the face into the next frame, uint8 [H, W, 3], at a later time.

        Args:
            faces: those in it, if known.
            cut: what `notice_cut` said of the frame, where it was asked before.
        """
        seen = self.seek(image, time_s, self.notice_cut(image) if cut is None else cut, faces)
        if seen is None:
            return replace(self._last or AlignedFace.middle(image, self.size_px), found=False)
        face, placed, is_anew = seen
        if is_anew:
            self._filters.reset()
        turn = turn_of(face)
        if self.smooth:
            face, placed, turn = self._filters(face, placed, turn, time_s)
        self._last = cut_out(image, face, placed, self.size_px, turn, self.flame)
        return self._last

    def notice_cut(self, image: np.ndarray) -> bool:
        """Look whether the next frame begins another shot; then no face is followed into it."""
        before, self._histogram = self._histogram, colour_histogram(image)
        cut = before is not None and is_cut(before, self._histogram)
        if cut:
            self._was_cut = True
            self.near = self._previous = None
            self._searches.restart()
        return cut

    def seek(
        self, image: np.ndarray, time_s: float, cut: bool, faces: Sequence[Face] | None = None
    ) -> tuple[Face, Alignment, bool] | None:
        """Find the face in a frame at which `notice_cut` has looked, unsmoothed; arguments are those of `follow`.

        Returns:
            The face, its square, and whether what is known of its motion no longer counts; None where no face is.
        """
        face = self._choose(image, time_s, faces)
        placed = None if face is None else align(face.alignment)
        if face is None or placed is None or not placed.fits(image):
            self.lost += 1
            self.before += not self.seen
            self.cuts += cut
            self.near = None
            return None
        is_elsewhere = self._previous is not None and jumped(self._previous, face)
        self.cuts += cut or is_elsewhere
        is_anew = self._was_cut or is_elsewhere
        self.saw(face)
        return face, placed, is_anew

    def saw(self, face: Face) -> None:
        """Note that a frame shows the face here, unsmoothed: it is followed from there."""
        self.seen += 1
        self._was_cut = False
        self._searches.restart()
        self.near = self._previous = face

    def _choose(self, image: np.ndarray, time_s: float, faces: Sequence[Face] | None) -> Face | None:
        if faces is None:
            assert self.provider is not None, "no provider and no faces"
            if self.near is None and self._pieces is None and self._searches.due(time_s):
                faces = self.provider.find(image)
            else:
                faces = self.provider.find(image, self.near, quick=True)
                if not faces and self._pieces is not None:
                    faces = self._pieces(self.provider, image, time_s)
            if self.near is None:
                self.most_faces = max(self.most_faces, len(faces))
        if not faces:
            return None
        if (near := self.near) is not None:
            nearest = min(faces, key=lambda face: float(np.linalg.norm(face.centre - near.centre)))
            if not jumped(near, nearest):
                return nearest
        return chosen(faces, self.face) or faces[0]


class _Filters:
    """Smooths a face: first its points, so that the square and all else rest on quiet ones."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Take the next frame as it is."""
        self._scale = OneEuro(SCALE_CUTOFF, SCALE_BETA)
        self._middle = OneEuro(MIDDLE_CUTOFF, MIDDLE_BETA)
        self._points = OneEuro(POINT_CUTOFF, POINT_BETA, SPEED_CUTOFF, GROUPS)
        self._turn = OneEuro(TURN_CUTOFF, TURN_BETA, SPEED_CUTOFF)
        self._unit: float | None = None  # aligned pixels per pixel of the picture, in the first frame

    def __call__(
        self, face: Face, placed: Alignment, turn: np.ndarray, time_s: float
    ) -> tuple[Face, Alignment, np.ndarray]:
        """Smooth the face, its square and the turn of its head."""
        if self._unit is None:
            self._unit = placed.scale
        unit = self._unit
        five = np.pad(face.alignment, ((0, 0), (0, 1)))
        points = self._points(np.concatenate([face.points, five]) * unit, time_s) / unit
        face = replace(face, points=points[:68].astype(np.float32), alignment=points[68:, :2].astype(np.float32))
        placed = align(face.alignment) or placed
        scale, middle = np.array([placed.scale / unit]), np.array(placed.middle) * unit
        self._scale(scale, time_s)
        self._middle(middle, time_s)
        quiet = float(self._scale.hold_within(scale, MOST_SCALE_LAG * float(scale[0]))[0]) * unit
        x, y = self._middle.hold_within(middle, MOST_MIDDLE_LAG) / unit
        turn = matrix_of(self._turn(vector_of(turn) * PIXELS_PER_RADIAN, time_s) / PIXELS_PER_RADIAN)
        return face, Alignment.around((float(x), float(y)), quiet), turn


def cut_out(
    image: np.ndarray, face: Face, placed: Alignment, size_px: int, turn: np.ndarray | None = None, flame: bool = False
) -> AlignedFace:
    """Cut out one face of one picture, unsmoothed."""
    points = torch.from_numpy(placed.to_aligned(face.points)).float()[None]
    tracking = Tracking(parameters_of(turn_of(face) if turn is None else turn, flame), points)
    return AlignedFace(placed.crop(image, size_px), tracking, True, placed)


def chosen(faces: Sequence[Face], number: int | None) -> Face | None:
    """Choose the face of that number counted from the left, the largest without one; None where there are fewer."""
    if number is None:
        return max(faces, key=lambda face: face.size_px, default=None)
    return sorted(faces, key=lambda face: float(face.centre[0]))[number - 1] if number <= len(faces) else None


def jumped(before: Face, now: Face) -> bool:
    """Tell whether a face is so far from the one before, or so much larger or smaller, that it is another shot's."""
    size = max(before.size_px, now.size_px, 1e-6)
    return bool(
        np.linalg.norm(now.centre - before.centre) > JUMP * size or min(before.size_px, now.size_px) < size / (1 + JUMP)
    )
