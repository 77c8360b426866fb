"""Relative motion: the portrait starts as it is and changes as the driving face does since its first frame.

    v = v_s + (v_d - v_d0),   R = R_d R_d0ᵀ R_s

so that what belongs to the driving face, its shape and how it carries its head, stays behind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from triportrait.core.motion.neck import NeckField
from triportrait.core.types import Camera
from triportrait.serve.faces.pose import matrix_of, parameters_of
from triportrait.serve.faces.tracker import Followed
from triportrait.serve.parameters import HeadParameters, Tracking
from triportrait.serve.reenactor import Reenactor


class Relative:
    """Takes the first driving face as neutral.

    Args:
        reenactor: reads its motion.
        source: what is known of the portrait's face: how its head is turned; upright where that is unknown.
    """

    def __init__(self, reenactor: Reenactor, source: Tracking) -> None:
        self._reenactor, self._source = reenactor, source
        upright = parameters_of(np.eye(3), isinstance(reenactor.portrait.neck, NeckField))
        self._start = _turn(upright if source.parameters is None else source.parameters)
        self._first: Followed | None = None
        self._rest: Tensor | None = None

    def __call__(self, face: Followed) -> tuple[Tracking, Tensor | None]:
        """What the engine is to be told of a driving frame: its tracking with the neck made relative, and v_d0."""
        if self._first is None:
            self._first = face
            self._rest = None if self._reenactor.static else self._reenactor.motion(face.crop, face.tracking)
        now, first = face.tracking.parameters, self._first.tracking.parameters
        if now is None or first is None:
            return face.tracking, self._rest
        moved = parameters_of(_turn(now) @ _turn(first).T @ self._start)
        camera = Camera(moved.camera.world_from_camera, now.camera.intrinsics)
        return replace(face.tracking, parameters=replace(now, neck=moved.neck, camera=camera)), self._rest


def _turn(parameters: HeadParameters) -> np.ndarray:
    return matrix_of(parameters.neck[0].cpu().numpy())
