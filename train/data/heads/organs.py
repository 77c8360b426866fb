"""Eyes, ears, the inside of the mouth, glasses, neck and torso sit on the skull or under it.

Each part has a function for its paint coordinates and faces (the same for every head) and one that places it on B
heads. Head parts are in template units, neck and torso in the world. Identity and expression come as columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.heads.shapes import grid_faces, smoothstep, sphere
from triportrait.train.data.heads.skull import EYEBALL_RADIUS

BALL = (24, 16)  # columns, rows of spheres
SHOULDERS = (48, 32)
BAG = (16, 10)
TEETH = (16, 4)
TUBE_SIDES, RING_COLUMNS, TEMPLE_COLUMNS = 8, 33, 5
WIRE = 0.0095  # radius of the glasses' wire


def patch(columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """Make a square [-1, 1]²: paint coordinates [U, 3] and faces."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return torch.stack([u, v, torch.zeros_like(u)], -1).reshape(-1, 3), grid_faces(columns, rows, closed=False)


def eyeball(centre: Tensor, paint: Tensor, identity: Identity) -> Tensor:
    """Place an eyeball [B, U, 3] around centre [B, 3]; it does not turn, its iris is painted where it looks."""
    return centre[:, None] + paint * (EYEBALL_RADIUS * identity.eye_size)[..., None]


def ear(anchor: Tensor, paint: Tensor, side: float, identity: Identity) -> Tensor:
    """Place an ear [B, U, 3], a flattened ball with a lobe, turned away from the skull; side is +1 on the left."""
    lobe = 1 - 0.38 * smoothstep(0.2, -1.0, paint[:, 1])
    rim = 1 + 0.10 * smoothstep(0.2, 1.0, paint[:, 1])
    flat = paint * (lobe * rim)[:, None] * paint.new_tensor([0.022, 0.068, 0.044]) * identity.ear_size[..., None]
    cosine, sine = math.cos(0.55), math.sin(0.55)
    x = side * (flat[..., 0] * cosine * side - flat[..., 2] * sine)
    z = flat[..., 2] * cosine + flat[..., 0] * side * sine
    offset = torch.stack([x + side * 0.004, flat[..., 1], z], -1)
    return anchor[:, None] + offset


def mouth_bag(mouth: Tensor, paint: Tensor, expression: Expression) -> Tensor:
    """Place the dark behind the lips, [B, U, 3]."""
    u, v = paint[:, 0], paint[:, 1]
    bag = torch.stack([0.108 * u, 0.060 * v - 0.012, -0.070 - 0.06 * u**2], -1)
    return mouth[:, None] + bag - expression.jaw[..., None] * paint.new_tensor([0, 0.03, 0.012])


def _teeth(paint: Tensor) -> Tensor:
    u, v = paint[:, 0], paint[:, 1]
    return torch.stack([0.056 * u, v * 0.020 * (1 - 0.5 * u**4), -0.040 - 0.050 * u**2], -1)


def upper_teeth(mouth: Tensor, paint: Tensor, identity: Identity, expression: Expression) -> Tensor:
    """Place the upper teeth [B, U, 3], which are fixed to the skull."""
    wide = identity.mouth_width[..., None].sqrt() * paint.new_tensor([1, 0, 0]) + paint.new_tensor([0, 1, 1])
    arch = paint.new_tensor([0, 0.012, 0]) * (paint[:, :1] ** 2) * (1 + expression.smile[..., None].clamp(min=0))
    return mouth[:, None] + _teeth(paint) * wide + arch + paint.new_tensor([0, 0.010, 0])


def lower_teeth(mouth: Tensor, paint: Tensor, expression: Expression) -> Tensor:
    """Place the lower teeth [B, U, 3], which go with the jaw."""
    row = _teeth(paint) * paint.new_tensor([0.8, -0.7, 1]) + paint.new_tensor([0, -0.030, -0.012])
    return mouth[:, None] + row - expression.jaw[..., None] * paint.new_tensor([0, 0.070, 0.026])


def tongue(mouth: Tensor, paint: Tensor, expression: Expression) -> Tensor:
    """Place the tongue [B, U, 3] on the floor of the mouth."""
    body = paint * paint.new_tensor([0.045, 0.018, 0.04]) + paint.new_tensor([0, -0.035, -0.055])
    return mouth[:, None] + body - expression.jaw[..., None] * paint.new_tensor([0, 0.055, 0.015])


def glasses_paint() -> list[tuple[Tensor, Tensor]]:
    """Return paint coordinates (unused) and faces of five tubes: two rings, a bridge and two temples."""
    # a tube runs along its rows; its columns go around the wire
    counts = [RING_COLUMNS, RING_COLUMNS, TEMPLE_COLUMNS, TEMPLE_COLUMNS, TEMPLE_COLUMNS]
    return [(torch.zeros(n * TUBE_SIDES, 3), grid_faces(TUBE_SIDES, n, closed=True)) for n in counts]


def glasses(anchor: dict[str, Tensor], identity: Identity) -> list[Tensor]:
    """Place the five tubes of the glasses, [B, U, 3] each, at the anchors that `skull.anchors` gives."""
    left, right = anchor["eye_left"], anchor["eye_right"]
    size = 0.088 * identity.glasses_size  # [B, 1] half width of a lens
    # in front of the lids and of the nose's bridge
    plane = (left[:, 2:] + right[:, 2:]) / 2 + EYEBALL_RADIUS * identity.eye_size + 0.033
    around = torch.linspace(0, 2 * math.pi, TUBE_SIDES + 1, device=size.device)[:-1]
    turn = torch.linspace(0, 2 * math.pi, RING_COLUMNS, device=size.device)[:, None]
    power = (1 - 0.45 * identity.glasses_square)[..., None]  # [B, 1, 1]
    cosine = turn.cos().sign() * turn.cos().abs() ** power
    sine = turn.sin().sign() * turn.sin().abs() ** power
    tubes = []
    for eye in (left, right):
        reach = size[..., None] + WIRE * around.cos()  # [B, 1, sides]
        x, y = eye[:, 0, None, None] + cosine * reach, eye[:, 1, None, None] + 0.84 * sine * reach
        off_cheek = 0.38 * (eye[:, 1, None, None] - y).clamp(min=0)
        z = plane[..., None] + WIRE * around.sin() - _wrap(x) + off_cheek
        tubes.append(torch.stack([x, y, z], -1).flatten(1, 2))
    bridge_y, temple_y = left[:, 1] + 0.022, left[:, 1] + 0.012
    inner_l, inner_r = left[:, 0] - size[:, 0], right[:, 0] + size[:, 0]
    outer_l, outer_r = left[:, 0] + size[:, 0], right[:, 0] - size[:, 0]

    def on_plane(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x, y, plane[:, 0] - _wrap(x)], -1)

    tubes.append(_tube(on_plane(inner_r, bridge_y), on_plane(inner_l, bridge_y), 0.018))
    for outer, name, side in ((outer_l, "ear_left", 1.0), (outer_r, "ear_right", -1.0)):
        hinge = on_plane(outer, temple_y)
        behind = torch.stack([anchor[name][:, 0] + side * 0.016, temple_y, anchor[name][:, 2] - 0.01], -1)
        tubes.append(_tube(hinge, behind, 0.0))
    return tubes


def _wrap(x: Tensor) -> Tensor:
    """Return how far lenses bend backwards with the face."""
    return 0.9 * (x.abs() - 0.04).clamp(min=0) ** 2


def _tube(start: Tensor, end: Tensor, bow: float) -> Tensor:
    """Place a wire [B, U, 3] from start to end [B, 3], bowed upwards in its middle and thick in all directions."""
    t = torch.linspace(0, 1, TEMPLE_COLUMNS, device=start.device)[:, None]
    around = torch.linspace(0, 2 * math.pi, TUBE_SIDES + 1, device=start.device)[:-1]
    axis = torch.nn.functional.normalize(end - start, dim=-1)
    up = start.new_tensor([0.0, 1.0, 0.0]).expand_as(axis)
    across = torch.nn.functional.normalize(torch.linalg.cross(axis, up), dim=-1)
    middle = start[:, None] + (end - start)[:, None] * t + bow * (4 * t * (1 - t)) * up[:, None]  # [B, T, 3]
    ring = around.cos()[:, None] * across[:, None] + around.sin()[:, None] * up[:, None]  # [B, sides, 3]
    return (middle[:, :, None] + WIRE * ring[:, None]).flatten(1, 2)


def neck_paint(columns: int = 24, rows: int = 12) -> tuple[Tensor, Tensor]:
    """Return the paint coordinates [U, 3] (longitude, fraction of the way down, 0) and the faces of the neck."""
    longitude = torch.linspace(-math.pi, math.pi, columns + 1)[:-1]
    down, longitude = torch.meshgrid(torch.linspace(0, 1, rows), longitude, indexing="ij")
    paint = torch.stack([longitude, down, torch.zeros_like(down)], -1).reshape(-1, 3)
    return paint, grid_faces(columns, rows, closed=True).flip(1)


def neck(paint: Tensor, identity: Identity) -> Tensor:
    """Place the neck [B, U, 3] in the world, a tube from inside the skull into the torso."""
    longitude, down = paint[:, 0], paint[:, 1]
    radius = 0.108 + 0.065 * smoothstep(0.62, 1.0, down) + 0.012 * smoothstep(0.3, 0.0, down)
    x = radius * longitude.sin() * identity.neck_width
    z = (radius * longitude.cos() * 0.95 - 0.045) * identity.neck_width
    return torch.stack([x, (-0.10 - 0.33 * down).expand_as(x), z], -1)


def torso(paint: Tensor, identity: Identity) -> Tensor:
    """Place the shoulders [B, U, 3] in the world; they reach out of the picture."""
    rounded = paint.sign() * paint.abs() ** 0.8
    wide = identity.neck_width[..., None].sqrt() * paint.new_tensor([1, 0, 0]) + paint.new_tensor([0, 1, 1])
    return rounded * paint.new_tensor([0.47, 0.20, 0.20]) * wide + paint.new_tensor([0, -0.565, -0.03])


def ball() -> tuple[Tensor, Tensor]:
    """Make the sphere that becomes eyes, ears and tongue: paint coordinates [U, 3] and faces."""
    return sphere(*BALL)


def torso_paint(columns: int = SHOULDERS[0], rows: int = SHOULDERS[1]) -> tuple[Tensor, Tensor]:
    """Make the sphere that becomes the torso: paint coordinates [U, 3] and faces."""
    return sphere(columns, rows)
