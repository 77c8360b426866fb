"""Films of a moving head and a provider that finds it by the mesh alone, for tests of following on the device."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from tests.core.faces.networks import face_graph
from tests.serve.raw import moving_head
from triportrait.core.faces.mesh import LEAST_PRESENCE, FaceMesh
from triportrait.serve.faces.alignment import alignment_points
from triportrait.serve.faces.face import Face
from triportrait.serve.faces.following import region_around
from triportrait.serve.faces.mediapipe_faces import LANDMARKS

SIZES = [(360, 480), (384, 380)]  # rows and columns of two films
FRAMES = 20


@cache
def mesh() -> FaceMesh:
    return FaceMesh(face_graph("mesh"))


class MeshNear:
    """Finds the face near another, by the same mesh."""

    def find(self, image: np.ndarray, near: Face | None = None, quick: bool = False) -> list[Face]:
        assert near is not None
        regions = region_around(torch.from_numpy(near.points)[None])
        factor = next((factor for factor in (4, 2) if float(regions.side) / 192 > factor / 1.5), 1)
        fitted = mesh()(torch.from_numpy(image.copy()).permute(2, 0, 1)[None], regions, oversampling=factor)
        if fitted.presence[0] < LEAST_PRESENCE:
            return []
        points = fitted.points[0, LANDMARKS].numpy()
        return [Face(points, alignment_points(points))]

    def close(self) -> None: ...


@cache
def films() -> list[tuple[list[np.ndarray], Face]]:
    """Films of a moving head and of its mirror image, in frames of two sizes, and the mesh of the first frame of each.

    The first frame's true landmarks are flat; the mesh beside them is not.
    """
    (height, width), (high, wide) = SIZES
    frames, faces, _ = moving_head(0, FRAMES, 240, (width, height))
    first = MeshNear().find(frames[0], faces[0])[0]
    mirrored = [np.zeros((high, wide, 3), np.uint8) for _ in frames]
    for frame, image in zip(frames, mirrored, strict=True):
        image[:height] = frame[:, ::-1][:, :wide]
    flat = faces[0].points * (-1.0, 1.0, 1.0) + (width - 1.0, 0.0, 0.0)
    order = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46]
    order += [39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
    near = flat[order].astype(np.float32)
    return [(frames, first), (mirrored, MeshNear().find(mirrored[0], Face(near, alignment_points(near)))[0])]
