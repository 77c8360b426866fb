"""Follows one person through a film, and tells which frames may show somebody else."""

from __future__ import annotations

from enum import Enum

import numpy as np

from triportrait.serve.faces.alignment import align
from triportrait.serve.faces.face import AlignedFace, Face
from triportrait.serve.faces.searching import colour_histogram, is_cut
from triportrait.serve.faces.tracker import FaceTracker, cut_out, jumped


class LeftOut(Enum):
    """Why a frame is not one of the person that is followed, as a sentence about frames says it."""

    BEFORE = "come before the frame that is the portrait"
    NO_FACE = "show no face"
    ELSEWHERE = "show a face in another place, which may be somebody else's"
    OTHER_SHOT = "are of another shot"  # or of none, as a black frame is; whom it shows is not looked at


class OnePerson:
    """Follows one person, frame by frame.

    Nobody is known by looks. A face is this person's where it is near its place in the last frame that showed the
    person, about as large, and the colours of the frame are still those of that shot. Whoever takes the same seat
    before the same camera is not told apart.

    Args:
        tracker: finds the first face, and says how faces are cut out.
        start: the picture uint8 [H, W, 3] in which the person is seen first, and where; None begins with the largest
            face of the first frame that shows one.
    """

    def __init__(self, tracker: FaceTracker, start: tuple[np.ndarray, Face] | None = None) -> None:
        self._tracker, self._start = tracker, start
        self._last: Face | None = None
        self._colours: np.ndarray | None = None  # of the last frame with the person

    def look(self, image: np.ndarray, time_s: float) -> Face | LeftOut:
        """Find the person in the next frame, uint8 [H, W, 3]; every frame is to be looked at, at a rising time."""
        colours = colour_histogram(image)
        face = self._first(image, time_s) if self._last is None else self._next(image, colours)
        if isinstance(face, Face):
            self._last, self._colours = face, colours
        return face

    def cut_out(self, image: np.ndarray, face: Face) -> AlignedFace:
        """Cut out the face that `look` found in a frame."""
        placed = align(face.alignment)
        assert placed is not None, "faces without a place are left out"
        return cut_out(image, face, placed, self._tracker.size_px, flame=self._tracker.flame)

    def _first(self, image: np.ndarray, time_s: float) -> Face | LeftOut:
        if self._start is not None:
            picture, face = self._start
            return face if np.array_equal(picture, image) else LeftOut.BEFORE
        seen = self._tracker.seek(image, time_s, self._tracker.notice_cut(image))
        return LeftOut.NO_FACE if seen is None else seen[0]

    def _next(self, image: np.ndarray, colours: np.ndarray) -> Face | LeftOut:
        last, provider = self._last, self._tracker.provider
        assert last is not None and self._colours is not None and provider is not None
        if is_cut(self._colours, colours):
            return LeftOut.OTHER_SHOT
        found = [
            face
            for face in provider.find(image, last, quick=True)
            if (placed := align(face.alignment)) is not None and placed.fits(image)
        ]
        if not found:
            return LeftOut.NO_FACE
        nearest = min(found, key=lambda face: float(np.linalg.norm(face.centre - last.centre)))
        return LeftOut.ELSEWHERE if jumped(last, nearest) else nearest
