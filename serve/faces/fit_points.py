"""Names the points of a face to which a head model is fitted: 68 landmarks and the pupils."""

from __future__ import annotations

import numpy as np

from triportrait.serve.faces.alignment import Alignment
from triportrait.serve.faces.face import Face

RIGHT_PUPIL, LEFT_PUPIL = 468, 473  # of the mesh with irises: the middles of the rings
MESH_WITH_IRISES = 478


def fit_points(face: Face, placed: Alignment) -> tuple[np.ndarray, np.ndarray]:
    """Return the points that `fit_clip` takes of one face, and their weights.

    Args:
        face: in the raw picture, unsmoothed.
        placed: where the aligned picture lies in it.

    Returns:
        float64 [70, 2], pixels of the 512² aligned picture, y down, and [70]: 1, or 0 for pupils that nobody saw.
    """
    points, weights = np.zeros((70, 2)), np.ones(70)
    points[:68] = placed.to_aligned(face.points)[:, :2]
    if face.mesh is not None and len(face.mesh) == MESH_WITH_IRISES:
        points[68:] = placed.to_aligned(face.mesh[[RIGHT_PUPIL, LEFT_PUPIL]])[:, :2]
    else:
        weights[68:] = 0
    return points, weights
