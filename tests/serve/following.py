"""Films of a moving head, and what finds it, for tests of following on the device."""

from __future__ import annotations

from functools import cache

import numpy as np

from tests.serve.raw import moving_head
from triportrait.core.faces.mesh import FaceMesh
from triportrait.core.faces.models import load_model
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.network_faces import NetworkFaces

SIZES = [(360, 480), (384, 380)]  # rows and columns of two films
FRAMES = 20
MEAN_LEVELS, MOST_LEVELS = 0.1, 6  # of a picture's numbers, apart; the face's place is not quite the same


@cache
def mesh() -> FaceMesh:
    return FaceMesh(load_model("mesh"))


@cache
def finder() -> NetworkFaces:
    return NetworkFaces()


@cache
def films() -> list[tuple[list[np.ndarray], Face]]:
    """Films of a moving head and of its mirror image, in frames of two sizes, and the face in the first of each."""
    (height, width), (high, wide) = SIZES
    frames, _, _ = moving_head(0, FRAMES, 240, (width, height))
    mirrored = [np.zeros((high, wide, 3), np.uint8) for _ in frames]
    for frame, image in zip(frames, mirrored, strict=True):
        image[:height] = frame[:, ::-1][:, :wide]
    return [(film, finder().find(film[0])[0]) for film in (frames, mirrored)]


class Found:
    """Finds a face by search, too, unless it is away."""

    def __init__(self) -> None:
        self.away, self.searched = False, 0

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        self.searched += 1
        return [] if self.away else finder().find(image, near, quick)

    def close(self) -> None: ...


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Levels by which pictures are apart: on average, and at most."""
    away = np.abs(one.astype(int) - other)
    return float(away.mean()), int(away.max())
