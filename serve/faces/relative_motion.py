"""Makes motion relative: the portrait starts as it is and changes as the driving face does since its first frame.

    v = v_s + (v_d - v_d0),   R = R_d R_d0ᵀ R_s

so that what belongs to the driving face, its shape and how it carries its head, stays behind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from triportrait.core.types import Camera
from triportrait.serve.faces.face import AlignedFace
from triportrait.serve.faces.head_pose import matrix_of, parameters_of
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.tracking_files import HeadParameters, Tracking


class Relative:
    """Takes the first driving face as neutral.

    Args:
        reenactor: reads its motion.
        source: what is known of the portrait's face: how its head is turned; upright where that is unknown.
    """

    def __init__(self, reenactor: Reenactor, source: Tracking) -> None:
        self._reenactor, self._source = reenactor, source
        upright = parameters_of(np.eye(3), reenactor.has_flame_neck)
        self._start = _turn(upright if source.parameters is None else source.parameters)
        self._first: AlignedFace | None = None
        self._neutral: Tensor | None = None

    def __call__(self, face: AlignedFace) -> tuple[AlignedFace, Tensor | None]:
        """Return the driving face with the turn of its neck made relative, and v_d0 (None for a static source)."""
        if self._first is None:
            self._first = face
            self._neutral = None if self._reenactor.static else self._reenactor.motion(face)
        now, first = face.tracking.parameters, self._first.tracking.parameters
        if now is None or first is None:
            return face, self._neutral
        moved = parameters_of(_turn(now) @ _turn(first).T @ self._start)
        camera = Camera(moved.camera.world_from_camera, now.camera.intrinsics)
        parameters = replace(now, neck=moved.neck, camera=camera)
        return replace(face, tracking=replace(face.tracking, parameters=parameters)), self._neutral


def _turn(parameters: HeadParameters) -> np.ndarray:
    return matrix_of(parameters.neck[0].cpu().numpy())
