"""What the sliders of the page say: from where the head is seen, and how it follows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Camera

ORBIT_PERIOD_S = 6.0
ORBIT_YAW_DEG, ORBIT_PITCH_DEG = 30.0, 8.0
RANGES = {  # name -> least and most; the sliders of the page read them, too
    "yaw_deg": (-60.0, 60.0),
    "pitch_deg": (-30.0, 30.0),
    "motion_strength": (0.0, 1.5),
    "gaze_x": (-1.0, 1.0),
    "gaze_y": (-1.0, 1.0),
}
_SWITCHES = ("orbit", "neck")
_SPOKEN = 10**9


@dataclass(frozen=True)
class Settings:
    """A session's sliders.

    Attributes:
        yaw_deg, pitch_deg: of the camera around the head.
        orbit: let the camera sway around that view.
        neck: turn the neck as the driving face does.
        motion_strength: how much of the driving motion is taken, 1 as it is.
        gaze_x, gaze_y: added to the driving gaze, to the picture's right and up.
    """

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    orbit: bool = False
    neck: bool = True
    motion_strength: float = 1.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0

    def changed(self, values: Mapping[str, object]) -> Settings:
        """With the values of a client; names that we do not know are refused.

        Raises:
            InputError: a name or a value that cannot be.
        """
        taken: dict[str, float | bool] = {}
        for name, value in values.items():
            if name in _SWITCHES and isinstance(value, bool):
                taken[name] = value
            elif name in RANGES and isinstance(value, int | float) and not isinstance(value, bool):
                least, most = RANGES[name]
                if not least <= value <= most:  # compared before it is converted: an integer may be of any size
                    came = f"{value:g}" if abs(value) < _SPOKEN else "a number far beyond"
                    raise InputError(f"{name}: expected {least:g} to {most:g}, got {came}; move the slider back")
                taken[name] = float(value)
            else:
                raise InputError(f"settings: {str(name)[:40]!r} is no setting with this value; see docs/live")
        return dataclasses.replace(self, **taken)  # type: ignore[arg-type]

    def camera(self, time_s: float) -> Camera:
        """The view at a time of the session."""
        yaw, pitch = self.yaw_deg, self.pitch_deg
        if self.orbit:
            phase = 2 * math.pi * time_s / ORBIT_PERIOD_S
            yaw += ORBIT_YAW_DEG * math.sin(phase)
            pitch += ORBIT_PITCH_DEG * math.sin(2 * phase)
        return turned(fixed_camera(), math.radians(yaw), math.radians(pitch))
