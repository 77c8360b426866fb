"""Paint each point of a head from its paint coordinates, before light falls on it.

Letters: N fragments. Colours are [N, 3] in [0, 1]. Identity and expression come as one row per fragment, or as the
only row.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from triportrait.train.data.heads import features
from triportrait.train.data.heads.anatomy import Kind
from triportrait.train.data.heads.hair import over_hairline
from triportrait.train.data.heads.population import Expression, HairStyle, Identity
from triportrait.train.data.heads.shapes import beside, bump, dot, mix, scaled, smoothstep, unit

IRIS_ANGLE, PUPIL_ANGLE = 0.60, 0.28  # radians from the eye's axis
FLESH = (0.33, 0.08, 0.09)  # the dark of the mouth
GAZE_X_RANGE, GAZE_Y_RANGE = 0.42, 0.30  # radians that the eye turns at gaze ±1


class Part(IntEnum):
    """The classes of the segmentation."""

    BACKGROUND = 0
    SKIN = 1
    HAIR = 2
    EYES = 3
    BROWS = 4
    MOUTH = 5  # lips, teeth, tongue, the dark between them
    EARS = 6
    NECK = 7
    TORSO = 8
    GLASSES = 9


PART_OF_KIND = {
    Kind.SKIN: Part.SKIN, Kind.HAIR_SHELL: Part.HAIR, Kind.HAIR_BUN: Part.HAIR, Kind.HAIR_SHEET: Part.HAIR,
    Kind.EYE: Part.EYES, Kind.EAR: Part.EARS, Kind.NECK: Part.NECK, Kind.TORSO: Part.TORSO,
    Kind.MOUTH_BAG: Part.MOUTH, Kind.TEETH: Part.MOUTH, Kind.TONGUE: Part.MOUTH, Kind.GLASSES: Part.GLASSES,
}  # fmt: skip


class Surface(NamedTuple):
    """A painted point."""

    colour: Tensor  # [N, 3]
    gloss: Tensor  # [N] strength of the highlight
    sharpness: Tensor  # [N] its exponent
    part: Tensor  # [N] int8, a Part


def paint(kind: Tensor, point: Tensor, member: Tensor, identity: Identity, expression: Expression) -> Surface:
    """Paint N fragments.

    Args:
        kind: [N] a Kind. point: [N, 3] paint coordinates. member: [N] rows of `identity` and `expression` [B].
    """
    colour = torch.empty_like(point)
    gloss, sharpness = torch.empty_like(point[:, 0]), torch.empty_like(point[:, 0])
    part = torch.zeros(len(kind), dtype=torch.int8, device=kind.device)
    for each in Kind:
        chosen = (kind == each).nonzero()[:, 0]
        if not len(chosen):
            continue
        rows = member.index_select(0, chosen)
        p = beside(*(component.index_select(0, chosen) for component in point.unbind(-1)))
        who, face = identity.of(rows), expression.of(rows)
        shown_part: Tensor | int = int(PART_OF_KIND[each])
        shine: tuple[float, float] = (0.06, 18.0)
        if each == Kind.SKIN:
            painted, shown_part = _skin(p, who, face)
        elif each in (Kind.HAIR_SHELL, Kind.HAIR_BUN, Kind.HAIR_SHEET):
            painted, shine = _hair(p, each, who.hair_style, who.hair, who.hair_wave), (0.15, 9.0)
        elif each == Kind.EYE:
            painted, shine = _eye(p, who.iris, face.gaze_x, face.gaze_y), (0.10, 60.0)
        elif each == Kind.EAR:
            skin = who.skin
            hollow = bump((p[:, 1] - 0.12) / 0.45, (p[:, 2] - 0.25) / 0.42) * smoothstep(0.0, 0.4, p[:, 0].abs())
            painted = mix(skin * skin.new_tensor([1.0, 0.93, 0.91]), _dark(skin), 0.75 * hollow)
        elif each == Kind.NECK:
            painted = who.skin * 0.96
        elif each == Kind.TORSO:
            painted = _torso(p, who.skin, who.cloth)
        elif each == Kind.TEETH:
            gaps = smoothstep(0.22, 0.08, torch.sin(p[:, 0] * 15.7).abs())
            painted = scaled(p.new_tensor([[0.96, 0.94, 0.90]]), 1 - 0.10 * gaps)
            painted = mix(painted, p.new_tensor(FLESH), smoothstep(0.40, 0.88, p[:, 0].abs()))
        elif each == Kind.GLASSES:
            painted, shine = who.frame, (0.5, 30.0)
        else:
            flesh = (0.80, 0.37, 0.39) if each == Kind.TONGUE else FLESH
            painted, shine = p.new_tensor(flesh).expand_as(p), (0.0, 18.0)
        colour[chosen], part[chosen] = painted, torch.as_tensor(shown_part).to(part)
        gloss[chosen], sharpness[chosen] = shine
    return Surface(colour, gloss, sharpness, part)


def _dark(skin: Tensor) -> Tensor:
    """Return the colour of skin in its folds."""
    return skin * skin.new_tensor([0.62, 0.48, 0.45])


def _skin(point: Tensor, who: Identity, face: Expression) -> tuple[Tensor, Tensor]:
    """Return the colour and the part of the skull's skin, with lips, brows, lashes, beard and scalp on it."""
    x, y, z = point.unbind(-1)
    front = smoothstep(0.0, 0.06, z)
    dark, hair = _dark(who.skin), who.hair
    colour = _complexion(point, front, who)
    colour = _beard(colour, point, front, who)
    nostril = bump((x.abs() - 0.020 * who.nose_width) / 0.011, (y + 0.101) / 0.008)
    colour = mix(colour, dark * 0.7, 0.6 * front * nostril)
    colour, lip = _lips(colour, dark, x, y, front, who, face)
    colour = _lids(colour, dark, hair, x, y, front, who, face)
    brow = features.brow_cover(x, y, who, face) * front
    hairs = 0.72 + 0.06 * torch.sin(x * 310 + y * 240)
    colour = mix(colour, scaled(hair, hairs), brow * 0.95)
    over = over_hairline(point, who)
    colour = mix(colour, hair * 0.6, smoothstep(-0.012, 0.0, over) * 0.8)
    colour = mix(colour, colour * colour.new_tensor([0.72, 0.64, 0.62]), 0.55 * smoothstep(-0.05, 0.0, over))  # shade
    # what is left of a slit at a grazing look: nothing else of the head lies behind it
    mouth = features.mouth_slit(x, y, who, face).inside & (z > 0)
    eye = features.eye_slit(x, y, who, face).inside & (z > 0)
    colour = torch.where(mouth[:, None], colour.new_tensor(FLESH), colour)
    colour = torch.where(eye[:, None], dark * 0.8, colour)
    part = torch.full_like(x, int(Part.SKIN))
    part = torch.where((lip > 0.5) | mouth, int(Part.MOUTH), part)
    part = torch.where((brow > 0.5) & ~eye, int(Part.BROWS), part)
    part = torch.where(eye, int(Part.EYES), part)
    return colour, part.to(torch.int8)


def _complexion(point: Tensor, front: Tensor, who: Identity) -> Tensor:
    """Paint skin, rosy on cheeks and nose, with freckles and soft shade under nose and chin."""
    x, y, _ = point.unbind(-1)
    reach, skin = x.abs(), who.skin
    blush = 0.35 * (0.3 + who.blush) * front * bump((reach - 0.135) / 0.045, (y + 0.075) / 0.04)
    colour = mix(skin, skin * skin.new_tensor([1.05, 0.68, 0.64]), blush)
    colour = mix(colour, colour * skin.new_tensor([1.0, 0.82, 0.78]), 0.5 * front * bump(x / 0.04, (y + 0.07) / 0.03))
    spots = smoothstep(0.66, 0.80, torch.sin(x * 190 + 3 + y * 41) * torch.sin(y * 170 + 1 + x * 60))
    where = front * bump((reach - 0.09) / 0.07, (y + 0.06) / 0.035)
    colour = mix(colour, colour * skin.new_tensor([0.80, 0.62, 0.52]), spots * where * who.freckles)
    hollow = bump((reach - features.EYE_X + 0.045) / 0.03, (y - features.EYE_Y - 0.015) / 0.05)
    under_nose = bump(x / 0.05, (y + 0.116) / 0.016)
    under_lip = bump(x / 0.05, (y - features.MOUTH_Y + 0.050) / 0.012)
    shade = front * (0.20 * hollow + 0.30 * under_nose + 0.22 * under_lip)
    return mix(colour, _dark(skin), shade)


def _beard(colour: Tensor, point: Tensor, front: Tensor, who: Identity) -> Tensor:
    x, y, z = point.unbind(-1)
    stubble = 0.88 + 0.03 * torch.sin(x * 170 + 20 * torch.sin(y * 31)) * torch.sin(y * 150)
    edge = y - 0.9 * (x.abs() - 0.10).clamp(min=0) + 0.006 * torch.sin(x * 90)
    beard = smoothstep(-0.125, -0.158, edge) * smoothstep(-0.10, -0.02, z)
    chin = 0.85 * smoothstep(1.15, 0.75, (x / 0.10) ** 2 + ((y - features.MOUTH_Y + 0.004) / 0.052) ** 2)
    colour = mix(colour, scaled(who.hair, stubble), beard * (1 - chin) * who.beard)
    arc = (y + 0.138 + 1.6 * x * x) / 0.014
    moustache = torch.exp(-((x / 0.080) ** 4) - arc**4) * front
    return mix(colour, scaled(who.hair, stubble), moustache * torch.maximum(who.moustache, (who.beard > 0.7).float()))


def _lips(
    colour: Tensor, dark: Tensor, x: Tensor, y: Tensor, front: Tensor, who: Identity, face: Expression
) -> tuple[Tensor, Tensor]:
    """Paint both lips, the line between them and dimples; also return how much of a point is lip."""
    mouth = features.mouth_slit(x, y, who, face)
    upper, lower = features.lips(mouth, who)
    tint = colour * colour.new_tensor([0.86, 0.50, 0.52]) + colour.new_tensor([0.04, 0.0, 0.01])
    colour = mix(mix(colour, tint * 0.92, front * upper), tint * 1.05, front * lower)
    nearest = torch.minimum(mouth.over_upper.abs(), mouth.under_lower.abs())
    line = bump(nearest / 0.0042) * (mouth.across.abs() < 1.03)
    colour = mix(colour, dark * 0.55, 0.8 * front * line)
    corner = features.mouth_half_width(who, face) * 1.06
    dimple = bump((x.abs() - corner) / 0.008, (y - features.MOUTH_Y - 0.02 * face.smile) / 0.014)
    colour = mix(colour, dark, 0.6 * front * dimple * face.smile.clamp(0, 1))
    return colour, front * torch.maximum(upper, lower)


def _lids(
    colour: Tensor, dark: Tensor, hair: Tensor, x: Tensor, y: Tensor, front: Tensor, who: Identity, face: Expression
) -> Tensor:
    """Paint eye shadow, lashes, the lower rim and the crease over the lid."""
    eye = features.eye_slit(x, y, who, face)
    near = (eye.across.abs() < 1.12) * front
    colour = mix(colour, colour * 0.86, 0.6 * near * smoothstep(0.55, 0.0, eye.over_upper) * (eye.over_upper > 0))
    width = 0.15 + 0.06 * eye.across.clamp(-1, 1)
    lash = smoothstep(1.35, 0.75, eye.over_upper.abs() / width) * (eye.over_upper > -0.12)
    lash = lash * smoothstep(1.12, 0.92, eye.across.abs()) * near
    colour = mix(colour, hair * 0.25 + 0.03, 0.92 * lash)
    colour = mix(colour, dark, 0.5 * near * smoothstep(0.10, 0.03, (eye.over_lower + 0.02).abs()))
    crease = smoothstep(0.10, 0.03, (eye.up - (0.94 * eye.bend + 0.03)).abs()) * (eye.across.abs() < 0.95)
    return mix(colour, dark, 0.35 * crease * near)


def _hair(point: Tensor, kind: Kind, style: Tensor, hair: Tensor, wave: Tensor) -> Tensor:
    """Paint strands along the hair, with a soft band of light around the crown."""
    if kind == Kind.HAIR_SHEET:
        longitude, along = point[:, 0], point[:, 1]
        band = bump((along - 0.30) / 0.16)
    else:
        # rows, because an arc tangent of what lies in one piece may end in another bit
        x, y, z = point.contiguous().unbind(-1)
        longitude, along = torch.atan2(x, z), y * (3.0 if kind == Kind.HAIR_SHELL else 1)
        band = bump((along - 0.62) / 0.16)
    bend = 6 * torch.sin(along * 3) * wave
    coarse, fine = torch.sin(longitude * 34 + bend), torch.sin(longitude * 97 + 2.3 * bend + along * 3)
    shade = 0.86 + 0.10 * coarse + 0.05 * fine
    if kind == Kind.HAIR_SHEET:
        shade = shade * (0.92 - 0.16 * point[:, 1])
    curls = 0.86 + 0.12 * torch.sin(longitude * 19 + 9 * along) * torch.sin(along * 11 - longitude * 7)
    shade = torch.where(style == HairStyle.CURLY, curls, shade)
    fine = torch.where(style == HairStyle.CURLY, 0.0, fine)
    colour = scaled(hair, shade)
    return mix(colour, colour + 0.10 + 0.25 * hair, band * (0.35 + 0.25 * fine))


def _eye(point: Tensor, iris: Tensor, gaze_x: Tensor, gaze_y: Tensor) -> Tensor:
    """Paint white, iris, pupil and a glint; the gaze turns the iris."""
    axis, point = gaze_axis(gaze_x, gaze_y), unit(point)  # round, whatever the triangles
    angle = torch.acos(dot(point, axis).clamp(-1, 1))
    colour = mix(
        point.new_tensor([0.95, 0.95, 0.945]).expand_as(point),
        point.new_tensor([0.85, 0.64, 0.62]),
        0.4 * smoothstep(0.85, 1.35, angle),
    )
    rays = 1 + 0.10 * torch.sin(22 * torch.atan2(point[:, 1] - axis[:, 1], point[:, 0] - axis[:, 0]))
    disc = scaled(iris, (0.82 + 0.45 * smoothstep(0.54, 0.26, angle)) * rays)
    colour = mix(colour, disc, smoothstep(IRIS_ANGLE, IRIS_ANGLE - 0.05, angle))
    colour = mix(colour, iris * 0.40, 0.8 * smoothstep(0.06, 0.0, (angle - IRIS_ANGLE + 0.035).abs()))
    colour = mix(colour, torch.full_like(colour, 0.03), smoothstep(PUPIL_ANGLE + 0.02, PUPIL_ANGLE - 0.03, angle))
    glint = unit(axis * 0.8 + point.new_tensor([-0.26, 0.32, 0.0]))
    colour = mix(colour, torch.ones_like(colour), smoothstep(0.984, 0.992, dot(point, glint)))
    return scaled(colour, 1 - 0.34 * smoothstep(0.05, 0.70, point[:, 1]))  # the upper lid's shadow


def gaze_axis(gaze_x: Tensor, gaze_y: Tensor) -> Tensor:
    """Return the unit vector [..., 3] along which an eye looks, in the head's frame."""
    turn, nod = gaze_x * GAZE_X_RANGE, gaze_y * GAZE_Y_RANGE
    return torch.stack([turn.sin() * nod.cos(), nod.sin(), turn.cos() * nod.cos()], -1)


def _torso(point: Tensor, skin: Tensor, cloth: Tensor) -> Tensor:
    """Paint a round collar with a seam, and some knit."""
    around = ((point[:, 0] / 0.42) ** 2 + ((point[:, 2] - 0.1) / 0.75) ** 2).sqrt()
    knit = 1 - 0.035 * (0.5 + 0.5 * torch.sin(around * 120))
    colour = mix(skin * 0.96, scaled(cloth, knit), smoothstep(0.98, 1.0, around))
    return mix(colour, cloth * 0.75, smoothstep(0.06, 0.0, (around - 1.05).abs()))
