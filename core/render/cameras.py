"""Cameras of the paper: the fixed view, orbits around it, the sampled look-at views, the published label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from triportrait.core.types import PUBLISHED_FOCAL, Camera

FIXED_POSITION = (0.0, 0.01, 4.2)  # the published inference's camera, scene units


def intrinsics(focal: float = PUBLISHED_FOCAL, batch: int = 1) -> Tensor:
    """Make centred intrinsics [B, 3, 3] in picture widths; the default sees 12 degrees."""
    return torch.tensor([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]]).expand(batch, 3, 3).clone()


def fixed_camera() -> Camera:
    """Return the view of the published inference: in front of the face, 4.2 scene units away."""
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor(FIXED_POSITION)
    return Camera(pose[None], intrinsics())


def turned(camera: Camera, yaw: float, pitch: float) -> Camera:
    """Carry cameras around the world's origin.

    Args:
        camera: B cameras.
        yaw: radians; positive moves the fixed camera towards -x, as in the paper's sampler.
        pitch: radians; positive moves it up.
    """
    cy, sy, cp, sp = math.cos(-yaw), math.sin(-yaw), math.cos(-pitch), math.sin(-pitch)
    around_y = torch.tensor([[cy, 0, sy, 0], [0, 1, 0, 0], [-sy, 0, cy, 0], [0, 0, 0, 1]])
    around_x = torch.tensor([[1, 0, 0, 0], [0, cp, -sp, 0], [0, sp, cp, 0], [0, 0, 0, 1]])
    turn = (around_y @ around_x).to(camera.world_from_camera)
    return Camera(turn @ camera.world_from_camera, camera.intrinsics)


def orbit_deg(time: float, period: float, yaw_deg: float = 30.0, pitch_deg: float = 8.0) -> tuple[float, float]:
    """Return yaw and pitch, degrees, of a camera that sways around the head once in each period.

    Args:
        time, period: in one unit, seconds or frames.
        yaw_deg, pitch_deg: how far it goes to either side, and up and down.
    """
    phase = 2 * math.pi * time / period
    return yaw_deg * math.sin(phase), pitch_deg * math.sin(2 * phase)


Elevation = Literal["asin", "angle"]


@dataclass(frozen=True)
class LookAtRange:
    """The views from which training looks at a head (supplement A): uniform ranges in radians and scene units.

    Attributes:
        elevation: what a pitch p means: `asin` is an elevation of asin(2 p / π), as the published code has it; `angle`
            is an elevation of p, as the paper's words read.
    """

    yaw: tuple[float, float] = (-0.78, 0.78)
    pitch: tuple[float, float] = (-0.25, 0.65)
    roll: tuple[float, float] = (-0.25, 0.25)
    radius: tuple[float, float] = (3.65, 4.45)
    pivot_x: tuple[float, float] = (-0.03, 0.03)
    pivot_y: tuple[float, float] = (-0.03, 0.03)
    pivot_z: tuple[float, float] = (0.06, 0.12)
    elevation: Elevation = "asin"


def look_at(
    yaw: Tensor, pitch: Tensor, roll: Tensor, radius: Tensor, pivot: Tensor, elevation: Elevation = "asin"
) -> Camera:
    """Place cameras on a sphere around the origin that look at a pivot near it (supplement A).

    Args:
        yaw, pitch, roll: [B] radians.
        radius: [B] scene units.
        pivot: [B, 3] scene units.
        elevation: what a pitch means, see `LookAtRange`.
    """
    height = (2 * pitch / math.pi).clamp(-1, 1) if elevation == "asin" else pitch.sin()
    level = (1 - height**2).sqrt()
    position = radius[:, None] * torch.stack([-level * yaw.sin(), height, level * yaw.cos()], -1)  # [B, 3]
    forward = torch.nn.functional.normalize(pivot - position, dim=-1)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, forward.new_tensor([0.0, 1, 0]).expand_as(forward)), dim=-1
    )
    up = torch.linalg.cross(right, forward)
    up = up * roll.cos()[:, None] + right * roll.sin()[:, None]
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    up = torch.linalg.cross(right, forward)
    pose = torch.eye(4).to(position).repeat(len(position), 1, 1)
    pose[:, :3, :3] = torch.stack([right, up, -forward], -1)
    pose[:, :3, 3] = position
    return Camera(pose, intrinsics(batch=len(position)).to(position))


def sample_look_at(batch: int, generator: torch.Generator, ranges: LookAtRange | None = None) -> Camera:
    """Draw cameras from the paper's distribution, on the CPU; the generator alone decides which."""
    r = ranges or LookAtRange()
    draws = torch.rand(batch, 7, generator=generator)
    spans = torch.tensor([r.yaw, r.pitch, r.roll, r.radius, r.pivot_x, r.pivot_y, r.pivot_z])  # [7, 2]
    values = spans[:, 0] + draws * (spans[:, 1] - spans[:, 0])
    return look_at(values[:, 0], values[:, 1], values[:, 2], values[:, 3], values[:, 4:], r.elevation)


def camera_from_label(label: Tensor) -> Camera:
    """Read the published label [B, 25]: world_from_camera row by row (16), intrinsics row by row (9)."""
    return Camera(label[:, :16].reshape(-1, 4, 4), label[:, 16:25].reshape(-1, 3, 3))


def camera_label(camera: Camera) -> Tensor:
    """Return labels [B, 25], as the published networks read cameras: world_from_camera row by row, then intrinsics."""
    return torch.cat([camera.world_from_camera.flatten(1), camera.intrinsics.flatten(1)], 1)
