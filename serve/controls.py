"""What a program or a page asks of a frame: how the source follows the driving face, from where, and what is shown."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.types import Camera


@dataclass(frozen=True, eq=False)
class Controls:
    """Says how a source follows a driving frame, from where it is seen, and what is shown of it.

    Attributes:
        camera: one camera; None is the fixed view in front of the face, with the intrinsics of the driving frame's
            published parameters where it has some.
        neck: turn the neck as the driving frame does, where its pose is known; else the neck is still.
        motion_strength: s in v = v_s + s (v_d - v_s): 0 keeps the source's expression, 1 takes the driving one.
        gaze: added to where the eyes look, to the head's left and up; 1 is from the middle to the rim of the eye. It
            has no effect where `can_steer_gaze` is False.
        neutral: [1, M], the motion of the driving face at rest. Then v = v_s + s (v_d - neutral), so that the shape
            of the driving face stays behind.
        show: the picture, or instead of it the depth or the normals of the head, or a shaded mesh of it.
    """

    camera: Camera | None = None
    neck: bool = True
    motion_strength: float = 1.0
    gaze: tuple[float, float] = (0.0, 0.0)
    neutral: Tensor | None = None
    show: Shown = "picture"


DEFAULT_CONTROLS = Controls()
