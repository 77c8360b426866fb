"""Lets a camera go around a head that holds still, with the picture beside the geometry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.types import Head
from triportrait.serve.animation import AnimatedFrame, Origin
from triportrait.serve.reenactor import PreparedSource, Reenactor
from triportrait.serve.saving import FPS
from triportrait.serve.shown_geometry import check_show

SWAY_DEG = 120.0  # by default; one portrait does not tell how the back of a head looks
TURN_S = 6.0
FULL_DEG = 360.0
LONGEST_S = 600.0


def check_turntable(show: object, arc_deg: float, seconds: float, spell: Callable[[str], str] = str) -> None:
    """Check the options of a turntable.

    Args:
        show, arc_deg, seconds: as in `Pipeline.turntable`.
        spell: how a sentence writes an option's name.

    Raises:
        InputError: one cannot be used.
    """
    check_show(show, spell=spell)
    for name, value, most in (("arc_deg", arc_deg, FULL_DEG), ("seconds", seconds, LONGEST_S)):
        if not 0 < value <= most:
            raise InputError(f"{spell(name)}: expected more than 0 and up to {most:g}, got {value:g}; choose another")


def frame_count(seconds: float) -> int:
    """Count the frames of a turntable."""
    return max(1, round(seconds * FPS))


def turntable_frames(
    reenactor: Reenactor, head: Head, source: PreparedSource, show: Shown, arc_deg: float, seconds: float
) -> Iterator[AnimatedFrame]:
    """Make the frames of a turntable one by one: they begin in front, and the last one leads to the first again.

    Args:
        reenactor: the network.
        head: the head of one frame.
        source: whose head it is.
        show: what is beside the picture; "picture" is nothing.
        arc_deg, seconds: as in `Pipeline.turntable`.
    """
    origin, count = Origin.of(source), frame_count(seconds)
    shows: list[Shown] = ["picture"] if show == "picture" else ["picture", show]
    for index in range(count):
        phase = 2 * math.pi * index / count
        yaw = phase if arc_deg == FULL_DEG else math.radians(arc_deg / 2) * math.sin(phase)
        camera = turned(fixed_camera(), yaw, 0.0)
        image = np.concatenate(reenactor.views(head, [camera] * len(shows), shows), axis=1)
        yield AnimatedFrame(image, float(index / FPS), index, camera, source.face.found, origin)
