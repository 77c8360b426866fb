"""What is known of one face in a raw picture, and who finds it.

Landmarks are in pixels of that picture, x right, y down, the middle of the first pixel at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a raw picture.

    Attributes:
        points: float32 [68, 3], the 68 landmarks in the order of the published files; z in the scale of x and y,
            smaller is nearer to the camera; all 0 where only the plane is known.
        alignment: float32 [5, 2], what the picture is aligned by: the middle of each eye (the picture's left one
            first), the tip of the nose, the corners of the mouth.
        turn: float32 [3], the head's rotation vector in the axes of the neck (x right, y up, z to the viewer;
            radians), where it is known and need not be read off the points.
    """

    points: np.ndarray
    alignment: np.ndarray
    turn: np.ndarray | None = None

    @property
    def size_px(self) -> float:
        """How large the face is: the root of the area of its landmarks' box."""
        extent = np.ptp(self.points[:, :2], axis=0)
        return float(np.sqrt(extent[0] * extent[1]))

    @property
    def centre(self) -> np.ndarray:
        """[2] the middle of its landmarks' box."""
        return (self.points[:, :2].min(0) + self.points[:, :2].max(0)) / 2


class FaceProvider(Protocol):
    """Finds faces in pictures; each picture by itself, so that one provider may serve many videos in turn."""

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        """The faces of uint8 [H, W, 3] RGB, the largest first.

        Args:
            near: where a face was a moment ago. A provider may look there first, and if it is still there give that
                one alone.
            quick: the picture is a frame of many: small faces in large pictures may be missed.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
