"""Light painted points, with the head's soft shadow on neck and shoulders, and paint the background behind them.

Letters: N fragments, B batch. Light and rotation come as one row per fragment, or as the only row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.train.data.heads.anatomy import INNER_KINDS, Kind
from triportrait.train.data.heads.paint import Surface
from triportrait.train.data.heads.population import Light
from triportrait.train.data.heads.shapes import beside, dot, smoothstep, unit
from triportrait.train.data.heads.skull import HEAD_CENTRE, HEAD_SCALE, RADII

WRAP = 0.45  # how far the key light reaches around


def shade(
    surface: Surface,
    kind: Tensor,
    position: Tensor,
    normal: Tensor,
    view: Tensor,
    rotation: Tensor,
    light: Light,
) -> Tensor:
    """Light N points by a wrapped key light, ambient light from above, highlights and a soft rim.

    Args:
        kind: [N]. position, normal, view: [N, 3], world; normal and view have length 1, view points to the camera.
        rotation: [N, 3, 3] of the head. light: N rows.

    Returns:
        Colours [N, 3] in [0, 1].
    """
    key = (dot(normal, light.direction) + WRAP).clamp(min=0) / (1 + WRAP)
    key = key * (1 - 0.55 * head_shadow(kind, position, rotation, light.direction))
    ambient = light.ambient * (0.88 + 0.16 * normal[:, 1])
    below = ((kind == Kind.NECK) | (kind == Kind.TORSO)).float()
    closeness = 1 - 0.32 * below * smoothstep(-0.46, -0.20, position[:, 1])
    inner = torch.zeros_like(below)
    for each in INNER_KINDS:
        inner = torch.maximum(inner, (kind == each).float())
    closeness = closeness * (1 - 0.20 * inner)
    warm = 1 + light.warmth[:, None] * position.new_tensor([1.0, 0.2, -1.0])
    lit = ((ambient + (1.10 - light.ambient) * key) * closeness)[:, None] * warm
    half = unit(light.direction + view)
    highlight = surface.gloss * dot(normal, half).clamp(min=1e-3) ** surface.sharpness
    rim = 0.10 * (1 - dot(normal, view).clamp(min=0)) ** 3 * (1 - inner) * (1 - 0.6 * below)
    return (surface.colour * lit + (highlight + rim)[:, None] * (0.6 + 0.4 * surface.colour)).clamp(0, 1)


def head_shadow(kind: Tensor, position: Tensor, rotation: Tensor, towards: Tensor) -> Tensor:
    """Return how much the skull's ellipsoid hides the key light from neck, torso and hanging hair: [N], 0 … 1, soft.

    A ray from the point towards the light is taken into the ellipsoid's unit space; its smallest distance to the
    centre, ahead of the point, decides.
    """
    centre = position.new_tensor(HEAD_CENTRE)
    radii = position.new_tensor(RADII) * HEAD_SCALE
    start = (_turn_back(position, rotation) - centre) / radii
    along = unit(_turn_back(towards, rotation) / radii)
    ahead = (-dot(start, along)).clamp(min=0)
    nearest = start + ahead[:, None] * along
    distance = dot(nearest, nearest).sqrt()
    receives = (kind == Kind.NECK) | (kind == Kind.TORSO) | (kind == Kind.HAIR_SHEET)
    return smoothstep(1.15, 0.75, distance) * smoothstep(0.0, 0.4, ahead) * receives


def _turn_back(vector: Tensor, rotation: Tensor) -> Tensor:
    """Return Rᵀ v, per fragment."""
    return beside(*(dot(rotation[:, :, axis], vector) for axis in range(3)))


def background(light: Light, size: int) -> Tensor:
    """Paint backgrounds [B, S, S, 3] in [0, 1]: a ramp of two colours with a soft vignette, whatever the camera."""
    step = (torch.arange(size, device=light.ambient.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(step, step, indexing="ij")
    cosine, sine = light.background_angle.cos(), light.background_angle.sin()
    share = (0.5 + 0.5 * (x * cosine[:, None, None] + y * sine[:, None, None])).clamp(0, 1)[..., None]
    a, b = light.background_a[:, None, None], light.background_b[:, None, None]
    return ((a + (b - a) * share) * (1 - 0.10 * (x * x + y * y))[..., None]).clamp(0, 1)
