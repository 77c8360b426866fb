"""Hair is a shell over the skull that ends at an implicit hairline, a long sheet behind the head, and a bun.

All lengths are in template units. An identity is given as columns, or as one row per point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from triportrait.train.data.heads.population import HairStyle, Identity
from triportrait.train.data.heads.shapes import bump, grid_faces, smoothstep, sphere
from triportrait.train.data.heads.skull import RADII

SHEET_COLUMNS, SHEET_ROWS = 40, 22
BUN_COLUMNS, BUN_ROWS = 24, 16


def _is(identity: Identity, *styles: HairStyle) -> Tensor:
    matches = identity.hair_style == styles[0]
    for style in styles[1:]:
        matches = matches | (identity.hair_style == style)
    return matches.float()


def over_hairline(template: Tensor, identity: Identity) -> Tensor:
    """Return the height of template points [..., 3] over the hairline: positive in hair, far below 0 on bald heads."""
    x, y, z = template.unbind(-1)
    around = torch.atan2(x / RADII[0], z / RADII[2]).abs()  # 0 in front, π behind
    fringe = _is(identity, HairStyle.FRINGE, HairStyle.LONG)
    crest, long_ = _is(identity, HairStyle.CREST), _is(identity, HairStyle.LONG)
    parting, wave = identity.hair_parting, identity.hair_wave
    forehead = 0.185 + 0.03 * identity.hair_height - 0.035 * bump(x / 0.05) * _is(identity, HairStyle.SHORT)
    locks = 0.018 * torch.sin(x * 14 + 2 * parting + 1.3 * wave) + 0.006 * torch.sin(x * 61 + 4 * parting)
    open_ = 0.10 * bump((x - 0.09 * parting) / 0.05) * long_
    forehead = forehead - fringe * (0.045 + locks - open_)
    forehead = forehead + (1 - fringe) * (0.010 * torch.sin(x * 33 + 5 * parting) * wave + 0.003 * torch.sin(x * 120))
    ear = -0.10 * long_ + 0.005 * torch.sin(z * 90) * (1 - long_)
    nape = -0.20 + 0.25 * crest + 0.005 * torch.sin(x * 70)
    line = forehead + (ear - forehead) * smoothstep(0.80, 1.45, around)
    line = line + (nape - line) * smoothstep(1.55, 2.4, around)
    line = torch.where(crest > 0, torch.maximum(line, 2.2 * x.abs() - 0.03), line)
    return torch.where(identity.hair_style == HairStyle.BALD, y - 9.0, y - line)


def shell_thickness(template: Tensor, identity: Identity) -> Tensor:
    """Return how far the hair stands off the skull at template points; it thins out towards the hairline."""
    x, y, z = template.unbind(-1)
    height = over_hairline(template, identity)
    longitude, latitude = torch.atan2(x, z), torch.asin((y / RADII[1]).clamp(-1, 1))
    curly, crest = _is(identity, HairStyle.CURLY), _is(identity, HairStyle.CREST)
    swept = _is(identity, HairStyle.SHORT, HairStyle.FRINGE)
    volume, wave, parting = identity.hair_volume, identity.hair_wave, identity.hair_parting
    low_top = 1 - 0.6 * curly * smoothstep(0.05, 0.33, y)  # curls grow sideways, so that they stay in the picture
    full = (0.032 + 0.085 * curly) * volume * low_top + 0.02 * _is(identity, HairStyle.LONG)
    full = full + 0.032 * crest * volume * smoothstep(0.12, 0.0, x.abs())
    thickness = 0.010 + full * smoothstep(0.0, 0.10, height)
    waves = 0.006 * torch.sin(9 * longitude + 3 * parting) * wave
    curls = 0.013 * curly * torch.sin(13 * longitude + 4 * latitude) * torch.sin(17 * latitude + parting)
    sweep = 0.014 * bump((x - 0.10 * parting) / 0.05) * swept
    return thickness + smoothstep(0.0, 0.1, height) * (waves + curls + sweep)


def shell(template: Tensor, resting_skin: Tensor, identity: Identity) -> Tensor:
    """Push the resting skin of the template's points out along the ellipsoid's normal: the shell [B, U, 3]."""
    radii = template.new_tensor(RADII)
    normal = torch.nn.functional.normalize(template / radii**2, dim=-1)
    return resting_skin + normal * shell_thickness(template, identity)[..., None]


def bun(identity: Identity) -> Tensor:
    """Place a knot of hair behind the top of the head, [B, U, 3]."""
    ball, _ = sphere(BUN_COLUMNS, BUN_ROWS)
    ball = ball.to(identity.hair_wave.device)
    twist = 1 + 0.05 * torch.sin(9 * torch.atan2(ball[:, 0], ball[:, 2]) + 6 * ball[:, 1])
    knot = ball * twist[:, None] * ball.new_tensor([0.105, 0.092, 0.10])
    centre = torch.stack(
        [torch.zeros_like(identity.forehead), 0.285 * identity.forehead, torch.full_like(identity.forehead, -0.225)], -1
    )
    return centre + knot * (0.8 + 0.25 * identity.hair_volume[..., None])


def bun_faces() -> tuple[Tensor, Tensor]:
    """Return the paint coordinates [U, 3] (a unit sphere) and the faces of the bun."""
    return sphere(BUN_COLUMNS, BUN_ROWS)


def sheet_paint() -> tuple[Tensor, Tensor]:
    """Return the paint coordinates [U, 3] (longitude, fraction of the length, 0) and the faces of the long sheet."""
    longitude = torch.linspace(-2.12, 2.12, SHEET_COLUMNS) + math.pi
    down, longitude = torch.meshgrid(torch.linspace(0, 1, SHEET_ROWS), longitude, indexing="ij")
    paint = torch.stack([longitude, down, torch.zeros_like(down)], -1).reshape(-1, 3)
    return paint, grid_faces(SHEET_COLUMNS, SHEET_ROWS, closed=False)


def sheet(identity: Identity) -> Tensor:
    """Place the long hair that hangs beside and behind the head, [B, U, 3]."""
    paint, _ = sheet_paint()
    longitude, down = paint.to(identity.hair_wave.device)[:, :2].unbind(-1)
    edge = smoothstep(1.5, 2.12, (longitude - math.pi).abs())
    radius = 0.300 + 0.035 * torch.sin(down * 3.0) - 0.03 * edge * down
    radius = radius + (0.006 + 0.006 * identity.hair_wave) * torch.sin(longitude * 11 + down * 3)
    radius = radius + 0.012 * identity.hair_wave * torch.sin(down * 9 + longitude * 2)
    bottom = 0.56 + 0.05 * identity.hair_height + 0.010 * torch.sin(longitude * 16)
    x = radius * longitude.sin() * 0.98 * identity.head_width
    y = (0.14 - bottom * down).expand_as(x)
    z = radius * longitude.cos() * 1.02 - 0.02 - 0.03 * down
    return torch.stack([x, y, z], -1)
