"""The skull is a template ellipsoid, which formulas deform into a face.

Lengths are in template units, with the skull's centre at 0, x to the head's left, y up, z forward. `to_world` brings
what sits on the skull into the world (neck joint at the origin, scene units).
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.train.data.heads.features import BROW_Y, EYE_X, EYE_Y, MOUTH_Y
from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.heads.shapes import bump, smoothstep

RADII = (0.262, 0.335, 0.305)  # of the template ellipsoid
HEAD_SCALE = 0.90  # scene units per template unit
HEAD_CENTRE = (0.0, 0.02, 0.0)  # the skull's centre in the world, scene units
EYEBALL_RADIUS = 0.076
LID_THICKNESS = 0.055  # of the eyeball's radius
EYE_DEPTH = 0.80  # the eyeball's centre lies this many radii behind the skin
EAR_X, EAR_Y, EAR_Z = 0.262, -0.03, -0.02


def to_world(points: Tensor) -> Tensor:
    """Convert template units to scene units."""
    return points * HEAD_SCALE + points.new_tensor(HEAD_CENTRE)


def lift(x: Tensor, y: Tensor) -> Tensor:
    """Return the points [..., 3] of the template's front at (x, y)."""
    z = (1 - (x / RADII[0]) ** 2 - (y / RADII[1]) ** 2).clamp(min=0).sqrt() * RADII[2]
    return torch.stack([x, y, z], -1)


def deform(template: Tensor, identity: Identity, expression: Expression) -> Tensor:
    """Deform points of the template skull [U, 3] or [B, U, 3] into B faces [B, U, 3], template units.

    `identity` and `expression` come as columns ([B, 1] each). `over_eyeballs` lays the eyelids over the eyeballs.
    """
    x, y, z = template.unbind(-1)
    face = _Face(template, identity, expression)
    dx, dy, dz = face.shape()
    for part in (face.brow_and_socket(), face.cheeks(), face.nose(), face.mouth(), face.jaw()):
        dx, dy, dz = dx + part[0], dy + part[1], dz + part[2]
    return torch.stack([x + dx, y + dy, z + dz], -1)


Offsets = tuple[Tensor | float, Tensor | float, Tensor | float]


class _Face:
    """The offsets that each region of the face adds to the template."""

    def __init__(self, template: Tensor, identity: Identity, expression: Expression) -> None:
        self.x, self.y, self.z = template.unbind(-1)
        self.side, self.reach = self.x.sign(), self.x.abs()
        self.front = smoothstep(-0.02, 0.12, self.z)  # 1 on the face, 0 behind the ears
        self.identity, self.expression = identity, expression
        self.laugh = expression.smile.clamp(min=0)

    def shape(self) -> tuple[Tensor, Tensor, Tensor]:
        """Shape the proportions of skull, jaw and chin."""
        who, x, y, z, front = self.identity, self.x, self.y, self.z, self.front
        low = smoothstep(0.06, -0.30, y)
        width = who.head_width * (1 - (1 - who.jaw_width) * low)
        corner = bump((y + 0.20) / 0.075, (z - 0.04) / 0.13) * smoothstep(0.06, 0.16, self.reach)
        stretch = torch.where(y < 0, who.chin_length, who.forehead)
        occiput = torch.where(z < 0, 0.06 * smoothstep(-0.2, 0.15, y), torch.zeros_like(y))
        flat = smoothstep(0.18, 0.0, self.reach) * smoothstep(-0.02, 0.12, y)
        chin = bump(x / 0.07, (y + 0.285) / 0.05)
        depth = z * (who.head_depth * (1 + occiput) - 1)
        receding = 0.035 * flat + 0.020 * smoothstep(-0.10, -0.32, y)
        forward = depth + front * ((0.016 + 0.016 * who.chin_forward) * chin - receding)
        temple = bump((y - 0.10) / 0.07, (z - 0.13) / 0.08) * smoothstep(0.12, 0.2, self.reach)
        sideways = x * (width - 1) + self.side * (0.016 * who.jaw_corner * corner - 0.008 * temple)
        return sideways, y * (stretch - 1), forward

    def brow_and_socket(self) -> Offsets:
        """Shape the ridge of the brows, raised with them, and the eyes' hollows and distance."""
        who, reach, y = self.identity, self.reach, self.y
        socket = bump((reach - EYE_X) / 0.06, (y - EYE_Y) / 0.05) * self.front
        ridge = bump((reach - EYE_X) / 0.09, (y - BROW_Y) / 0.035) * self.front
        raised = torch.where(self.x > 0, self.expression.brow_left, self.expression.brow_right)
        apart = EYE_X * (who.eye_spacing - 1) * bump((reach - EYE_X) / 0.085, (y - EYE_Y) / 0.12) * self.front
        return self.side * apart, 0.012 * raised * ridge, 0.012 * ridge - 0.022 * socket

    def cheeks(self) -> Offsets:
        """Shape the cheekbones, which a smile lifts."""
        full = self.identity.cheek
        cheek = bump((self.reach - 0.135) / 0.06, (self.y + 0.085) / 0.06) * self.front
        hollow = bump((self.reach - 0.165) / 0.05, (self.y + 0.15) / 0.05) * self.front
        sideways = self.side * (0.020 * full * cheek - 0.008 * (1 - full) * hollow)
        return sideways, 0.012 * self.laugh * cheek, (0.012 * full + 0.018 * self.laugh) * cheek

    def nose(self) -> Offsets:
        """Shape the bridge, the tip and the wings of the nose."""
        who, y = self.identity, self.y
        bridge = bump(self.x / (0.026 * who.nose_width.sqrt())) * smoothstep(0.085, -0.06, y)
        bridge = bridge * smoothstep(-0.115, -0.075, y)
        tip = bump(self.x / (0.034 * who.nose_width), (y + 0.066) / 0.034)
        wing = bump((self.reach - 0.034 * who.nose_width) / 0.018, (y + 0.082) / 0.02)
        forward = who.nose_length * (0.050 * bridge + 0.050 * tip + 0.020 * wing)
        return 0.0, self.front * 0.018 * who.nose_tip * tip, self.front * forward

    def mouth(self) -> Offsets:
        """Shape the lips: fullness, pucker, corners pulled by a smile."""
        face, y = self.expression, self.y
        around = bump(self.x / 0.075, (y - MOUTH_Y) / 0.055) * self.front
        corner = bump((self.reach - 0.085) / 0.05, (y - MOUTH_Y) / 0.05) * self.front
        forward = (0.014 * self.identity.lip_fullness + 0.045 * face.pucker - 0.008 * self.laugh) * around
        hollow = bump(self.x / 0.06, (y - MOUTH_Y + 0.055) / 0.018) * self.front  # between lower lip and chin
        return 0.0, 0.016 * face.smile * corner, forward - 0.007 * hollow

    def jaw(self) -> Offsets:
        """Drop what is below the mouth's line, and move it back."""
        hinge = jaw_share(self.y, self.z)
        return 0.0, -0.085 * self.expression.jaw * hinge, -0.035 * self.expression.jaw * hinge


def jaw_share(y: Tensor, z: Tensor) -> Tensor:
    """Return how much of the jaw's way a point of the template goes, 0 to 1."""
    return smoothstep(MOUTH_Y + 0.012, MOUTH_Y - 0.055, y) * smoothstep(-0.16, 0.06, z)


def anchors(identity: Identity) -> dict[str, Tensor]:
    """Return where parts are fixed on the resting face: eye_left, eye_right, mouth, ear_left, ear_right, each [B, 3].

    `identity` comes as columns. Lengths are in template units; eyes are the eyeballs' centres.
    """
    device = identity.jaw_width.device
    front = lift(
        torch.tensor([EYE_X, -EYE_X, 0.0], device=device), torch.tensor([EYE_Y, EYE_Y, MOUTH_Y], device=device)
    )
    ears = torch.tensor([[EAR_X, EAR_Y, EAR_Z], [-EAR_X, EAR_Y, EAR_Z]], device=device)
    resting = Expression.neutral(1).to(device).columns()
    points = deform(torch.cat([front, ears]), identity, resting)  # [B, 5, 3]
    back = torch.zeros_like(points[:, 0])
    back[:, 2] = EYE_DEPTH * EYEBALL_RADIUS * identity.eye_size[:, 0]
    names = ("eye_left", "eye_right", "mouth", "ear_left", "ear_right")
    anchor = dict(zip(names, points.unbind(1), strict=True))
    return {**anchor, "eye_left": anchor["eye_left"] - back, "eye_right": anchor["eye_right"] - back}


def over_eyeballs(points: Tensor, template: Tensor, identity: Identity, eyes: tuple[Tensor, Tensor]) -> Tensor:
    """Push skin [B, U, 3] out to where it lies on the eyeballs, so that lids bulge; eyes are two centres [B, 3]."""
    radius = EYEBALL_RADIUS * identity.eye_size * (1 + LID_THICKNESS)  # [B, 1]
    x, y, z = points.unbind(-1)
    for centre in eyes:
        squared = (x - centre[:, None, 0]) ** 2 + (y - centre[:, None, 1]) ** 2
        ball = (radius**2 - squared).clamp(min=0).sqrt() + centre[:, None, 2]
        z = torch.where((squared < radius**2) & (template[..., 2] > 0), torch.maximum(z, ball), z)
    return torch.stack([x, y, z], -1)


def face_points(template: Tensor, identity: Identity, expression: Expression) -> Tensor:
    """Place template points [U, 3] or [B, U, 3] on the skin: [B, U, 3] in the world, the neck straight.

    `identity` and `expression` come as columns.
    """
    anchor = anchors(identity)
    skin = deform(template, identity, expression)
    return to_world(over_eyeballs(skin, template, identity, (anchor["eye_left"], anchor["eye_right"])))
