"""Describes one face in a raw picture, and the interface of what finds it.

Landmarks are in pixels of that picture, x right, y down, the middle of the first pixel at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from triportrait.serve.faces.alignment import Alignment, middle_square
from triportrait.serve.faces.views import View
from triportrait.serve.tracking_files import Tracking


@dataclass(frozen=True, eq=False)
class Face:
    """Describes one face in a raw picture.

    Attributes:
        points: float32 [68, 3], the 68 landmarks in the order of the published files; z in the scale of x and y,
            smaller is nearer to the camera; all 0 where only the plane is known.
        alignment: float32 [5, 2], what the picture is aligned by: the middle of each eye (the picture's left one
            first), the tip of the nose, the corners of the mouth.
        turn: float32 [3], the head's rotation vector in the axes of the neck (x right, y up, z to the viewer;
            radians), where it is known and need not be read off the points.
        view: the square in which a mesh was fitted to it, where one was.
        mesh: float32 [478, 3], that mesh, in pixels as `points`; expressions are read off it.
    """

    points: np.ndarray
    alignment: np.ndarray
    turn: np.ndarray | None = None
    view: View | None = None
    mesh: np.ndarray | None = None

    @property
    def size_px(self) -> float:
        """Return how large the face is: the root of the area of its landmarks' box."""
        extent = np.ptp(self.points[:, :2], axis=0)
        return float(np.sqrt(extent[0] * extent[1]))

    @property
    def centre(self) -> np.ndarray:
        """Return the middle [2] of its landmarks' box."""
        return (self.points[:, :2].min(0) + self.points[:, :2].max(0)) / 2


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """Holds one face as the network takes it, of a source picture or of a driving frame.

    Attributes:
        crop: uint8 [S, S, 3], aligned.
        tracking: landmarks [1, 68, 3] in pixels of the 512² aligned picture, and FLAME parameters; either may be
            missing.
        found: whether the picture shows the face. A tracker repeats the crop and the tracking of the last frame that
            did; before the first it takes the middle square.
        placed: where the crop lies in its picture.
    """

    crop: np.ndarray
    tracking: Tracking
    found: bool
    placed: Alignment

    @property
    def is_known(self) -> bool:
        """Tell whether the face was seen, in this picture or in one before whose pose is held."""
        return self.found or self.tracking.landmarks is not None

    @classmethod
    def whole(cls, image: np.ndarray, tracking: Tracking | None = None) -> Self:
        """Take a picture uint8 [S, S, 3] that is aligned and has the network's size already."""
        return cls(image, tracking or Tracking(), True, middle_square(image))

    @classmethod
    def middle(cls, image: np.ndarray, size_px: int, tracking: Tracking | None = None) -> Self:
        """Cut out the middle square of uint8 [H, W, 3], which counts as aligned where nothing finds faces."""
        square = middle_square(image)
        return cls(square.crop(image, size_px), tracking or Tracking(), True, square)


class FaceProvider(Protocol):
    """Finds faces in pictures; each picture by itself, so that one provider may serve many videos in turn."""

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        """Find the faces of uint8 [H, W, 3] RGB, the largest first.

        Args:
            near: where a face was a moment ago. A provider may look there first, and if it is still there give that
                one alone.
            quick: the picture is a frame of many: small faces in large pictures may be missed.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
