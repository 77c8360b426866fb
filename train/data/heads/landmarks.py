"""Place the usual 68 landmarks on the curves that cut eyes, mouth and brows.

Their order: 0-16 jaw from the head's right to its left, 17-21 and 22-26 brows, 27-30 bridge of the nose, 31-35
nostrils, 36-41 right eye, 42-47 left eye, 48-59 outer and 60-67 inner rim of the lips. Hidden landmarks have a place,
too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from triportrait.train.data.heads import features
from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.heads.skull import RADII, face_points, lift


def landmarks(identity: Identity, expression: Expression) -> Tensor:
    """Place the landmarks on the skin of B heads: [B, 68, 3] in the world with the neck straight, scene units."""
    return face_points(landmark_template(identity, expression), identity.columns(), expression.columns())


def landmark_template(identity: Identity, expression: Expression) -> Tensor:
    """Return where the landmarks of B heads lie on the template before any deformation, [B, 68, 3] template units."""
    who, face = identity.columns(), expression.columns()
    curves = [_brow(who, face, -1.0), _brow(who, face, 1.0), *_nose(who), *_eyes(who, face), *_lips(who, face)]
    pairs = [torch.stack(torch.broadcast_tensors(x, y), -1) for x, y in curves]
    flat = torch.cat([pair.expand(len(identity), -1, -1) for pair in pairs], 1)  # [B, 51, 2]
    return torch.cat([_jaw().to(flat).expand(len(flat), -1, -1), lift(flat[..., 0], flat[..., 1])], 1)


def _jaw() -> Tensor:
    """Return template points [17, 3] along the face's contour, over the chin."""
    along = torch.linspace(-1, 1, 17)
    longitude = along * math.radians(84)
    latitude = -math.radians(61) * (1 - along.abs() ** 2.4) + math.radians(2)
    unit = torch.stack(
        [latitude.cos() * longitude.sin(), latitude.sin(), latitude.cos() * longitude.cos()],
        -1,
    )
    return unit * torch.tensor(RADII)


def _brow(who: Identity, face: Expression, side: float) -> tuple[Tensor, Tensor]:
    """Return five points of one brow, from the left to the right of a frontal picture."""
    along = who.jaw_width.new_tensor([0.95, 0.475, 0.0, -0.475, -0.95]) * -side  # from outer to inner on the right
    raised = face.brow_left if side > 0 else face.brow_right
    x = side * (features.EYE_X + features.BROW_HALF_WIDTH * along)
    return x[None], features.brow_line(along, who, raised)


def _nose(who: Identity) -> list[tuple[Tensor, Tensor]]:
    """Return four points down the bridge, and five along the nostrils."""
    down = who.jaw_width.new_tensor([[0.045, 0.005, -0.035, -0.066]])
    across = who.jaw_width.new_tensor([-1.0, -0.5, 0.0, 0.5, 1.0]) * 0.038 * who.nose_width
    low = who.jaw_width.new_tensor([-0.092, -0.101, -0.106, -0.101, -0.092])[None]
    return [(torch.zeros_like(down), down), (across, low)]


def _eyes(who: Identity, face: Expression) -> list[tuple[Tensor, Tensor]]:
    """Return six points around each eye: a corner, two above, the other corner, two below."""
    curves = []
    for side in (-1.0, 1.0):
        across = who.jaw_width.new_tensor([-1.0, -0.4, 0.4, 1.0, 0.4, -0.4]) * side  # -1 inner … 1 outer corner
        upper, lower = features.lid_heights(torch.full_like(who.jaw_width, side), face)
        above = who.jaw_width.new_tensor([0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
        below = who.jaw_width.new_tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
        high, low, _ = features.lid_edges(across, upper, lower)
        half = features.EYE_HALF_WIDTH * who.eye_size
        up = above * high + below * low + across * who.eye_tilt
        curves.append((side * (features.EYE_X + half * across), features.EYE_Y + half * up))
    return curves


def _lips(who: Identity, face: Expression) -> list[tuple[Tensor, Tensor]]:
    """Return twelve points around the lips (clockwise from the right corner), and eight around the opening."""
    half = features.mouth_half_width(who, face)
    top = who.jaw_width.new_tensor([-1.0, -0.66, -0.3, 0.0, 0.3, 0.66, 1.0])
    bottom = who.jaw_width.new_tensor([0.66, 0.33, 0.0, -0.33, -0.66])
    high = features.mouth_edges(top, face)[0] + features.lip_heights(top, who)[0]
    low = features.mouth_edges(bottom, face)[1] - features.lip_heights(bottom, who)[1]
    inner_top = who.jaw_width.new_tensor([-0.95, -0.4, 0.0, 0.4, 0.95])
    inner_bottom = who.jaw_width.new_tensor([0.4, 0.0, -0.4])
    return [
        (half * top, high),
        (half * bottom, low),
        (half * inner_top, features.mouth_edges(inner_top, face)[0]),
        (half * inner_bottom, features.mouth_edges(inner_bottom, face)[1]),
    ]
