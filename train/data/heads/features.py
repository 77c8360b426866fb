"""Eyes, mouth and brows are implicit shapes in paint coordinates, at the same places of the template on every head.

Paint coordinates are positions on the template before any deformation (template units, the skull's centre at 0), so a
slit keeps pixel-sharp edges at any size. All functions are elementwise: identity and expression broadcast with x and y.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from triportrait.train.data.heads.population import Expression, Identity
from triportrait.train.data.heads.shapes import bump, smoothstep

EYE_X, EYE_Y = 0.108, 0.03  # centres of the eye slits, ± x
EYE_HALF_WIDTH = 0.066
BROW_Y, BROW_HALF_WIDTH = 0.125, 0.075
MOUTH_Y, MOUTH_HALF_WIDTH = -0.178, 0.098
SHUT = 0.97  # from this blink on no slit is left


class EyeSlit(NamedTuple):
    """A point's place about the nearer eye, in units of the slit's half width."""

    inside: Tensor  # bool
    across: Tensor  # -1 inner corner … 1 outer corner
    up: Tensor  # height over the line between the corners
    over_upper: Tensor  # height over the upper lid's edge
    over_lower: Tensor  # height over the lower lid's edge
    bend: Tensor  # 1 at the middle … 0 at the corners


class MouthSlit(NamedTuple):
    """A point's place about the mouth, in template units."""

    inside: Tensor  # bool
    across: Tensor  # -1 right corner … 1 left corner
    over_upper: Tensor  # height over the upper lip's inner edge
    under_lower: Tensor  # depth under the lower lip's inner edge
    gap: Tensor  # how open, 0 … 1.2


def side(x: Tensor) -> Tensor:
    """Return 1 on the head's left (+x), -1 on its right."""
    return torch.where(x > 0, 1.0, -1.0)


def _left_or_right(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.where(x > 0, left, right)


def lid_heights(x: Tensor, expression: Expression) -> tuple[Tensor, Tensor]:
    """Return the heights of both lids at the middle of the eye, in half widths; the sign of x chooses the eye."""
    blink = _left_or_right(x, expression.blink_left, expression.blink_right)
    brow = _left_or_right(x, expression.brow_left, expression.brow_right)
    upper = 0.62 + 0.09 * brow.clamp(min=0) + 0.13 * expression.gaze_y
    lower = -0.56 + 0.17 * expression.smile.clamp(min=0) - 0.07 * expression.gaze_y.clamp(max=0)
    upper = upper + (-0.48 - upper) * blink
    return upper, torch.minimum(lower, upper)


def lid_edges(across: Tensor, upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the heights of both lids' edges at `across` (-1 … 1), and the bend, from the heights at the middle."""
    bend = 1 - across.abs().clamp(max=1) ** 2.2
    # the upper lid is highest towards the nose, the lower one lowest away from it
    high = upper * bend * (1 - 0.10 * across)
    return high, torch.minimum(lower * bend * (1 + 0.10 * across), high), bend


def eye_slit(x: Tensor, y: Tensor, identity: Identity, expression: Expression) -> EyeSlit:
    """Place the points (x, y) about the nearer eye."""
    half = EYE_HALF_WIDTH * identity.eye_size
    across = (x * side(x) - EYE_X) / half
    up = (y - EYE_Y) / half - across * identity.eye_tilt
    upper, lower = lid_heights(x, expression)
    high, low, bend = lid_edges(across, upper, lower)
    open_ = _left_or_right(x, expression.blink_left, expression.blink_right) < SHUT
    inside = (across.abs() < 1) & (up > low) & (up < high) & open_
    return EyeSlit(inside, across, up, up - high, up - low, bend)


def mouth_half_width(identity: Identity, expression: Expression) -> Tensor:
    """Return half the distance between the mouth's corners, template units."""
    return MOUTH_HALF_WIDTH * identity.mouth_width * (1 + 0.22 * expression.smile) * (1 - 0.48 * expression.pucker)


def mouth_edges(across: Tensor, expression: Expression) -> tuple[Tensor, Tensor, Tensor]:
    """Return the heights of both lips' inner edges at `across` (-1 … 1), and how open the mouth is."""
    reach = (across * across).clamp(max=1)
    gap = expression.jaw + 0.22 * (expression.smile - 0.25).clamp(min=0)
    middle = MOUTH_Y + (0.006 + 0.028 * expression.smile) * (across * across - 0.35).clamp(max=1.2)
    bend = (1 - reach).clamp(min=1e-9).sqrt() * 0.35 + 0.65 * (1 - reach)
    pucker = expression.pucker * (0.3 + gap)
    return middle + (0.020 * gap + 0.008 * pucker) * bend, middle - (0.030 * gap + 0.010 * pucker) * bend, gap


def mouth_slit(x: Tensor, y: Tensor, identity: Identity, expression: Expression) -> MouthSlit:
    """Place the points (x, y) about the opening between the lips."""
    across = x / mouth_half_width(identity, expression)
    upper, lower, gap = mouth_edges(across, expression)
    inside = (across.abs() < 1) & (y < upper) & (y > lower) & (gap + expression.pucker > 0.04)
    return MouthSlit(inside, across, y - upper, lower - y, gap)


def lip_heights(across: Tensor, identity: Identity) -> tuple[Tensor, Tensor]:
    """Return how far both lips reach beyond the opening at `across` (-1 … 1), template units."""
    lens = (1 - (across / 1.05) ** 2).clamp(min=1e-6)
    bow = 1 - 0.20 * bump(across / 0.16) + 0.06 * bump((across.abs() - 0.3) / 0.2)
    return 0.021 * identity.lip_fullness * lens**0.6 * bow, 0.026 * identity.lip_fullness * lens**0.5


def lips(mouth: MouthSlit, identity: Identity) -> tuple[Tensor, Tensor]:
    """Return how much of a point is upper lip, and lower lip, 0 … 1."""
    across = mouth.across
    upper, lower = lip_heights(across, identity)
    within = (across.abs() < 1.05).float()
    return (
        smoothstep(1.12, 0.88, mouth.over_upper / (upper + 1e-4)) * (mouth.over_upper > -0.003) * within,
        smoothstep(1.12, 0.88, mouth.under_lower / (lower + 1e-4)) * (mouth.under_lower > -0.003) * within,
    )


def brow_line(along: Tensor, identity: Identity, raised: Tensor) -> Tensor:
    """Return the height of the brow's middle at `along` (-1 inner … 1 outer end) for a brow raised by -1 … 1."""
    frown = -0.016 * raised.clamp(max=0) * along  # a lowered brow dips at the nose
    return BROW_Y + 0.018 * raised - 0.016 * along**2 + 0.05 * identity.brow_arch * along + frown


def brow_cover(x: Tensor, y: Tensor, identity: Identity, expression: Expression) -> Tensor:
    """Return how much of a point is brow, 0 … 1."""
    along = (x * side(x) - EYE_X) / BROW_HALF_WIDTH
    raised = _left_or_right(x, expression.brow_left, expression.brow_right)
    thick = 0.0130 * identity.brow_thickness * (1 - 0.5 * smoothstep(-0.2, 1.0, along))
    ends = smoothstep(1.08, 0.92, along.abs())
    return smoothstep(1.25, 0.8, (y - brow_line(along, identity, raised)).abs() / thick) * ends
