"""Follows the faces of a film and cuts it into runs: consecutive frames of one shot that show one face.

Frames are read one by one; a run keeps of them what is aligned, up to the window's number, never the film.
Letters: T frames of a run, S side of the aligned pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.faces.face import AlignedFace, Face, FaceProvider
from triportrait.serve.faces.fit_points import fit_points
from triportrait.serve.faces.network_faces import SAME_FACE
from triportrait.serve.faces.tracker import FaceTracker
from triportrait.serve.media.video.clips import Frame
from triportrait.train.data.films.options import FilmOptions

LONGEST_GAP = 10  # frames that may lack the face within a run
LOOKED_FOR_OTHERS = 25  # frames from one look at the whole picture to the next
SMALLEST_OTHER = 0.25  # of the face's size: smaller ones within its square are seldom faces
POINTS, LANDMARKS = 70, 68


@dataclass(eq=False)
class Run:
    """T consecutive frames of one shot with one face.

    Attributes:
        first: number of its first frame in the film.
        frames: numbers of its frames in the film; damaged ones are left out there. times_s: when they are shown.
        crops: of each frame uint8 [S, S, 3]; None where the face is not seen.
        points, weights: [70, 2] and [70], what the head model is fitted to; of weight 0 where the face is not seen.
        landmarks: [68, 2] smoothed, in pixels of the 512² aligned picture, which the motion encoder reads by.
        enlarged: S over the side of the square in the film.
        outside: share of the square that lies beyond the film's picture.
        two_people: another face was seen that is as good as this one.
    """

    first: int
    frames: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    crops: list[np.ndarray | None] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    landmarks: list[np.ndarray] = field(default_factory=list)
    enlarged: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    two_people: bool = False

    def __len__(self) -> int:
        return len(self.frames)

    def add(self, frame: Frame, seen: AlignedFace, face: Face) -> None:
        """Add a frame that shows the face, unsmoothed `face`."""
        points, weights = fit_points(face, seen.placed)
        assert seen.tracking.landmarks is not None
        self._append(frame, seen.crop, points, weights, seen.tracking.landmarks[0, :, :2].numpy())
        self.enlarged.append(len(seen.crop) / seen.placed.side)
        self.outside.append(_outside(seen.placed, frame.image))

    def add_gap(self, frame: Frame) -> None:
        """Add a frame that does not show the face."""
        self._append(frame, None, np.zeros((POINTS, 2)), np.zeros(POINTS), np.zeros((LANDMARKS, 2), np.float32))
        self.enlarged.append(0.0)
        self.outside.append(0.0)

    def ended(self) -> Run:
        """Drop the gap at the end."""
        while self.crops[-1] is None:
            for column in (self.frames, self.times_s, self.crops, self.points, self.weights, self.landmarks,
                           self.enlarged, self.outside):  # fmt: skip
                column.pop()  # type: ignore[attr-defined]
        return self

    def _append(
        self, frame: Frame, crop: np.ndarray | None, points: np.ndarray, weights: np.ndarray, landmarks: np.ndarray
    ) -> None:
        self.frames.append(frame.index)
        self.times_s.append(frame.time_s)
        self.crops.append(crop)
        self.points.append(points)
        self.weights.append(weights)
        self.landmarks.append(landmarks)


def runs_of(
    frames: Iterable[Frame],
    provider: FaceProvider | None,
    known: Callable[[int], Sequence[Face]] | None,
    options: FilmOptions,
) -> Iterator[Run]:
    """Cut a film into runs, each given as soon as it ends; of a shot that has filled a window no more is looked at.

    Args:
        frames: of the film, in order.
        provider: what finds faces; None where they are known.
        known: gives the faces of the frame of that number.
    """
    tracker = FaceTracker(None if known is not None else provider, options.size)
    run: Run | None = None
    gap, full = 0, False
    for frame in frames:
        cut = tracker.notice_cut(frame.image)
        if cut:
            if run is not None:
                yield run.ended()
            run, full = None, False
        if full:
            continue
        cuts = tracker.cuts
        faces = None if known is None else known(frame.index)
        seen = tracker.follow(frame.image, frame.time_s, faces, cut=cut)
        if run is not None and tracker.cuts > cuts:  # the face jumped: a cut between shots of the same colours
            yield run.ended()
            run = None
        if not seen.found:
            if run is None:
                continue
            run.add_gap(frame)
            gap += 1
            if gap > LONGEST_GAP:
                yield run.ended()
                run = None
        else:
            assert tracker.near is not None
            gap = 0
            if run is None:
                run = Run(frame.index)
            if known is None and provider is not None and len(run) % LOOKED_FOR_OTHERS == 0:
                run.two_people |= _shows_another(provider, frame.image, tracker.near, seen.placed, options.other_face)
            run.add(frame, seen, tracker.near)
        if run is not None and len(run) >= options.window:
            yield run.ended()
            run, full = None, True
    if run is not None:
        yield run.ended()


def _shows_another(provider: FaceProvider, image: np.ndarray, face: Face, placed: Alignment, share: float) -> bool:
    """Tell whether a picture shows another face of comparable size, or one within the square of this one."""
    for other in provider.find(image, quick=True):
        apart = math.dist(other.centre, face.centre)
        if apart <= SAME_FACE * max(face.size_px, other.size_px):
            continue
        x, y = other.centre - (placed.left, placed.top)
        within = 0 <= x <= placed.side and 0 <= y <= placed.side
        if other.size_px >= (SMALLEST_OTHER if within else share) * face.size_px:
            return True
    return False


def _outside(placed: Alignment, image: np.ndarray) -> float:
    """Return the share of a square that lies beyond a picture [H, W, 3]."""
    height, width = image.shape[:2]
    wide = min(placed.left + placed.side, width) - max(placed.left, 0)
    high = min(placed.top + placed.side, height) - max(placed.top, 0)
    return 1 - max(wide, 0) * max(high, 0) / placed.side**2
