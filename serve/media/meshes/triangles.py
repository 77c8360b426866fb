"""What a mesh file holds: triangles with colours, and their texture.

Letters: U vertices, F faces, W vertices with seams, T side of the texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Triangles:
    """A coloured surface in metres: x to the head's left, y up, z to the viewer; the neck joint is the origin.

    Attributes:
        vertices: [U, 3] float32, metres.
        normals: [U, 3] float32, unit vectors outwards.
        colours: [U, 3] uint8, sRGB.
        faces: [F, 3] int64, counter-clockwise as seen from outside.
    """

    vertices: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True, eq=False)
class Texture:
    """The same surface cut along seams and laid flat on a picture.

    Attributes:
        places: [W] int64, the vertex that each one is.
        faces: [F, 3] int64, indices of these.
        uv: [W, 2] float32 in [0, 1], u to the right and v down from the picture's top left corner.
        image: [T, T, 3] uint8, sRGB.
    """

    places: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    image: np.ndarray
