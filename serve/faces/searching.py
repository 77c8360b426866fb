"""Decides when a video is searched slowly for a face that a quick look misses, and whether it shows one at all.

A slow search of a large frame takes as long as twenty quick looks. It is made where it may find something new: at the
first frame, after a cut, when a face was lost, and then at growing distances up to a second, within an allowance that
grows with time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from triportrait.serve.faces.alignment import align
from triportrait.serve.faces.face import Face, FaceProvider
from triportrait.serve.media.video.clips import Frame

FIRST_GAP_S, LONGEST_GAP_S = 0.25, 1.0  # between searches that found nothing
GAP_GROWTH = 1.3  # from one gap to the next: a short film is searched a few times
AT_ONCE, PER_S = 8, 1.0  # searches that a film may begin with, and how many each of its seconds adds
PIECE_GAP_S = 0.1  # between pieces of a search that is spread over frames
MOST_TILES = 16  # along a side: three quarters more than a picture of 16 : 9 has
SMALLEST_TILE_PX = 350  # in smaller pieces of a picture no face is looked for
LOOK_GAP_S = 0.2  # a face that is shown for less does not make a film one with a face
CUT_SHARE = 0.35  # of the pixels change their colours from one shot to another
SAMPLED = 48  # rows and columns that are looked at for a cut
LEVELS = 6  # per colour
MOST_LOOKED_AT = 750  # frames that are decoded to see whether a film shows a face


class Searches:
    """Tells when to search a video slowly; times are those of its frames and rise."""

    def __init__(self) -> None:
        self._start_s: float | None = None
        self._count = 0
        self.restart()

    def restart(self) -> None:
        """Search at once where no face is followed next: one was there, or the shot was cut."""
        self._gap_s, self._next_s = FIRST_GAP_S, -math.inf

    def due(self, time_s: float) -> bool:
        """Tell whether to search now that no face is followed; if so, that counts as done."""
        if self._start_s is None:
            self._start_s = time_s
        if time_s < self._next_s or self._count >= AT_ONCE + PER_S * (time_s - self._start_s):
            return False
        self._count += 1
        self._next_s, self._gap_s = time_s + self._gap_s, min(GAP_GROWTH * self._gap_s, LONGEST_GAP_S)
        return True


class PieceByPiece:
    """Spreads a slow search over frames, a piece in each, so that no frame waits for it."""

    def __init__(self) -> None:
        self._number, self._next_s = 0, -math.inf

    def __call__(self, provider: FaceProvider, image: np.ndarray, time_s: float) -> list[Face]:
        """Find the faces in the next piece of uint8 [H, W, 3], if it is time for one."""
        if time_s < self._next_s:
            return []
        self._next_s = time_s + PIECE_GAP_S
        levels = [pieces for pieces in (1, 2, 3) if pieces == 1 or min(image.shape[:2]) / pieces >= SMALLEST_TILE_PX]
        all_tiles = [tile for pieces in levels for tile in tiles(image, pieces)]
        tile, x, y = all_tiles[self._number % len(all_tiles)]
        self._number += 1
        return [_moved(face, x, y) for face in provider.find(np.ascontiguousarray(tile), quick=True)]


def _moved(face: Face, x: int, y: int) -> Face:
    points, alignment = face.points.copy(), face.alignment.copy()
    points[:, :2] += (x, y)
    return Face(points, alignment + np.array((x, y), np.float32), face.turn)


def tiles(image: np.ndarray, pieces: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Cut a picture into squares of a `pieces`-th of the shorter side, each half over the next; give their places too.

    Along a strip they become longer than wide, so that they stay few.
    """
    height, width = image.shape[:2]
    side = min(height, width) // pieces
    for y, high in _starts(height, side):
        for x, wide in _starts(width, side):
            yield image[y : y + high, x : x + wide], x, y


def _starts(length: int, side: int) -> list[tuple[int, int]]:
    """List where the tiles along a side begin, and how long each is."""
    side = max(side, math.ceil(2 * length / (MOST_TILES + 1)))
    count = max(1, math.ceil((length - side) / (side / 2)) + 1)
    return [(round(i * (length - side) / max(1, count - 1)), side) for i in range(count)]


@dataclass(frozen=True, eq=False)
class Looked:
    """Tells what a look through a video gave.

    Attributes:
        frame: the first that shows a face, None where none does.
        count: how many frames were decoded. whole: whether those were all.
    """

    frame: Frame | None
    count: int
    whole: bool


def first_face(
    frames: Iterable[Frame], provider: FaceProvider, least_faces: int = 1, gap_s: float = 0.0,
    most: int = MOST_LOOKED_AT,
) -> Looked:  # fmt: skip
    """Look for the first frame with a face.

    Args:
        least_faces: how many faces the frame must show.
        gap_s: least time between frames that are looked at.
        most: how many frames are decoded at most.
    """
    searches, next_s, count = Searches(), -math.inf, 0
    histogram: np.ndarray | None = None
    for count, frame in enumerate(frames, start=1):
        if count > most:
            return Looked(None, most, False)
        if frame.time_s < next_s:
            continue
        next_s = frame.time_s + gap_s
        previous, histogram = histogram, colour_histogram(frame.image)
        if previous is not None and is_cut(previous, histogram):
            searches.restart()
        faces = _placed(provider.find(frame.image, quick=True), frame.image)
        if len(faces) < least_faces and searches.due(frame.time_s):
            faces = _placed(provider.find(frame.image), frame.image)
        if len(faces) >= least_faces:
            return Looked(frame, count, False)
    return Looked(None, count, True)


def _placed(faces: list[Face], image: np.ndarray) -> list[Face]:
    """Keep the faces that lie in the picture."""
    return [face for face in faces if (at := align(face.alignment)) is not None and at.fits(image)]


def colour_histogram(image: np.ndarray) -> np.ndarray:
    """Compute the colour histogram [LEVELS³] of a picture, from a grid of its pixels; its sum is 1."""
    height, width = image.shape[:2]
    rows, columns = (np.linspace(0, n - 1, min(n, SAMPLED)).astype(int) for n in (height, width))
    r, g, b = np.moveaxis(image[rows[:, None], columns].astype(np.int64) * LEVELS // 256, -1, 0)
    counts = np.bincount((r * LEVELS + g).ravel() * LEVELS + b.ravel(), minlength=LEVELS**3)
    return counts / counts.sum()


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Tell whether the histograms of two frames are those of two shots."""
    changed_share = np.abs(before - after).sum() / 2  # the least that must have another colour
    return bool(changed_share > CUT_SHARE)
