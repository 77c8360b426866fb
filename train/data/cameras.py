"""This module defines the ranges of the cameras that see heads in training.

Ranges are of yaw, pitch, roll (radians), distance and pivot (scene units). The paper's are `LookAtRange()`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from triportrait.core.render.cameras import LookAtRange
from triportrait.train.config_checks import share

PAPER = LookAtRange()
NEAR_FRONT = LookAtRange(yaw=(-0.5, 0.5), pitch=(-0.15, 0.35))  # where a small motion encoder still sees the face
FILMED = LookAtRange(  # of cameras by which people film themselves
    yaw=(-0.3, 0.3), pitch=(-0.10, 0.22), roll=(-0.08, 0.08), radius=(3.9, 4.2), pivot_x=(-0.02, 0.02)
)
NO_PRESET = "another"  # stands for cameras that no preset has
CameraPreset = Literal["tiny", "paper", "published"]
ThetaP = Literal["paper", "near-front"]
THETA_P: dict[ThetaP, LookAtRange] = {"paper": PAPER, "near-front": NEAR_FRONT}


@dataclass(frozen=True)
class SetCameras:
    """The ranges of the cameras of a multi-view set.

    Attributes:
        sampled: the range of its views.
        filmed: a range that stands for the cameras of real photographs.
        first_filmed: whether the first view of each expression is from `filmed`.
        filmed_share: share of the views that are from `filmed`, each at random; 0 with `first_filmed`.
    """

    sampled: LookAtRange = PAPER
    filmed: LookAtRange = FILMED
    first_filmed: bool = False
    filmed_share: float = share(0.0)


SET_CAMERAS: dict[CameraPreset, SetCameras] = {
    "tiny": SetCameras(first_filmed=True),
    "paper": SetCameras(),
    "published": SetCameras(filmed_share=0.5),
}


def shown_range(cameras: LookAtRange) -> str:
    """Describe a range in words: yaw and pitch, radians, and their elevation, degrees."""
    yaw, pitch = (f"{low:g} to {high:g}" for low, high in (cameras.yaw, cameras.pitch))
    degrees = [math.degrees(math.asin(2 * p / math.pi) if cameras.elevation == "asin" else p) for p in cameras.pitch]
    return f"yaw {yaw}, pitch {pitch} (elevation {degrees[0]:.1f} to {degrees[1]:.1f} deg)"


def shown_cameras(cameras: SetCameras) -> str:
    """Describe the cameras of a set in words."""
    wide = shown_range(cameras.sampled)
    if cameras.first_filmed:
        return f"the first view of each expression {shown_range(cameras.filmed)}, the others {wide}"
    if cameras.filmed_share:
        return f"{cameras.filmed_share:.0%} of the views {shown_range(cameras.filmed)}, the others {wide}"
    return f"all views {wide}"


def camera_preset_of(cameras: SetCameras) -> str:
    """Return the preset that has these cameras, or NO_PRESET."""
    return next((name for name, preset in SET_CAMERAS.items() if preset == cameras), NO_PRESET)
