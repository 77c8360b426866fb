"""The settings of a session, which the page shows as sliders: the camera, and how the head follows the face."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, get_args

from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, orbit_deg, turned
from triportrait.core.render.geometry_pictures import Shown
from triportrait.core.safe_text import shown_number
from triportrait.core.types import Camera
from triportrait.serve.controls import Controls

ORBIT_PERIOD_S = 6.0
RANGES = {  # least and most of each setting; the page's sliders read them, too
    "yaw_deg": (-60.0, 60.0),
    "pitch_deg": (-30.0, 30.0),
    "motion_strength": (0.0, 1.5),
    "gaze_x": (-1.0, 1.0),
    "gaze_y": (-1.0, 1.0),
}
_SWITCHES = ("orbit", "neck")


class Driving(Protocol):
    """A driving face."""

    @property
    def is_known(self) -> bool:
        """Tell whether the face was seen, in this frame or in one before."""
        ...


@dataclass(frozen=True)
class Settings:
    """The settings of a session.

    Attributes:
        yaw_deg, pitch_deg: angles of the camera around the head.
        orbit: let the camera sway around that view.
        neck: turn the neck as the driving face does.
        motion_strength: how much of the driving motion is taken, 1 as it is.
        gaze_x, gaze_y: added to the driving gaze, to the picture's right and up.
        show: what is shown of the head; not every server shows all, see `Engine.not_shown`.
    """

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    orbit: bool = False
    neck: bool = True
    motion_strength: float = 1.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    show: Shown = "picture"

    def changed(self, values: Mapping[str, object]) -> Settings:
        """Return settings with the values that a client sent.

        Raises:
            InputError: a name is unknown, or a value is out of its range.
        """
        changes: dict[str, object] = {}
        for name, value in values.items():
            is_kind = name == "show" and isinstance(value, str) and value in get_args(Shown)
            if is_kind or (name in _SWITCHES and isinstance(value, bool)):
                changes[name] = value
            elif name in RANGES and isinstance(value, int | float) and not isinstance(value, bool):
                least, most = RANGES[name]
                if not least <= value <= most:  # compared before it is converted: an integer may be of any size
                    came = shown_number(value)
                    raise InputError(f"{name}: expected {least:g} to {most:g}, got {came}; move the slider back")
                changes[name] = float(value)
            else:
                raise InputError(f"settings: {str(name)[:40]!r} is no setting with this value; see docs/live")
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def camera(self, time_s: float) -> Camera:
        """Return the camera at a time of the session."""
        sway_deg = orbit_deg(time_s, ORBIT_PERIOD_S) if self.orbit else (0.0, 0.0)
        yaw_deg, pitch_deg = self.yaw_deg + sway_deg[0], self.pitch_deg + sway_deg[1]
        return turned(fixed_camera(), math.radians(yaw_deg), math.radians(pitch_deg))

    def controls(self, time_s: float, face: Driving, neutral: Tensor | None = None) -> Controls:
        """Build the controls of a frame.

        Args:
            time_s: time since the session began.
            face: the driving face; until the first one is found the portrait keeps its own expression.
            neutral: the motion of the driving face at rest, where one is known.
        """
        strength = self.motion_strength if face.is_known else 0.0
        return Controls(self.camera(time_s), self.neck, strength, (self.gaze_x, self.gaze_y), neutral, self.show)
