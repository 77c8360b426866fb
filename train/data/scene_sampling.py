"""The expressions, cameras and motions of each head follow from the seed and the head's number.

A larger set therefore begins with a smaller one.
Letters: B batch, T frames, E expressions of a head, V views of an expression.
"""

from __future__ import annotations

import torch
from torch import Tensor

from triportrait.core.render.cameras import sample_look_at
from triportrait.core.types import Camera
from triportrait.train.data.cameras import FILMED, SET_CAMERAS, SetCameras
from triportrait.train.data.heads.population import (
    Expression,
    Identity,
    Light,
    cast,
    sample_expression,
    sample_light,
    stream,
)
from triportrait.train.data.heads.render import HeadRenderer, HeadView
from triportrait.train.data.set_config import FaceKind

EIGHT = 8
CHUNK = 8  # pictures at a time
DROWSY = 0.5  # how far lids stay down between the blinks of a moving face
KEY_S = 0.55  # seconds between the expressions that a moving face passes through
_LIGHT, _EXPRESSION, _CAMERA, _FILMED, _BLINK, _COIN = 1, 2, 3, 4, 5, 6


def population(seed: int, count: int) -> tuple[Identity, Light]:
    """Return the first `count` heads of a seed, and the light in which each of them always stands."""
    return cast(seed, count), sample_light(count, stream(seed, _LIGHT))


def expressions(seed: int, count: int, each: int) -> Expression:
    """Sample [count * each] expressions, `each` per head, head after head."""
    return sample_expression(count * each, stream(seed, _EXPRESSION))


def eight_expressions() -> Expression:
    """Return a face at rest, and each control by itself: jaw, smile, pucker, blink, brows, gaze to either side."""
    rows = [
        {},
        {"jaw": 0.8},
        {"smile": 0.9},
        {"pucker": 0.9},
        {"blink_left": 1.0, "blink_right": 1.0},
        {"brow_left": 0.8, "brow_right": 0.8},
        {"gaze_x": 0.8},
        {"gaze_x": -0.8},
    ]
    return Expression.cat([Expression.neutral(1).replace(**row) for row in rows])


def faces(kind: FaceKind, seed: int, count: int, each: int) -> Expression:
    """Return [count * each] expressions, `each` per head: random ones, or the first of `eight_expressions`."""
    if kind == "random":
        return expressions(seed, count, each)
    return eight_expressions().take(torch.arange(each).repeat(count))


def cameras(seed: int, count: int, expressions_each: int, views: int, kind: SetCameras = SET_CAMERAS["tiny"]) -> Camera:
    """Sample the [count * E * V] cameras of a set, the views of an expression one after the other."""
    number = count * expressions_each * views
    seen = sample_look_at(number, stream(seed, _CAMERA), kind.sampled)
    if kind.first_filmed:
        front = sample_look_at(number // views, stream(seed, _FILMED), kind.filmed)
        seen.world_from_camera[::views] = front.world_from_camera
    elif kind.filmed_share:
        filmed = torch.rand(number, generator=stream(seed, _COIN)) < kind.filmed_share
        front = sample_look_at(number, stream(seed, _FILMED), kind.filmed)
        seen.world_from_camera[filmed] = front.world_from_camera[filmed]
    return seen


def filming_cameras(seed: int, count: int) -> Camera:
    """Sample [count] cameras from where people film themselves."""
    return sample_look_at(count, stream(seed, _FILMED), FILMED)


def motion(seed: int, head: int, frames: int, fps: float) -> Expression:
    """Sample a face [T] that moves smoothly through random expressions and blinks now and then.

    Args:
        head: the head's number among those of the seed: each moves in its own way.
    """
    generator = stream(seed, _EXPRESSION).manual_seed(seed * 1_000_003 + head * 16 + _BLINK)
    count = int(frames / fps / KEY_S) + 3
    keys = sample_expression(count, generator, neutral_share=0.15)
    starts, spans = torch.rand(2, frames // 20 + 1, generator=generator)
    time = torch.arange(frames) / fps / KEY_S
    before = time.floor().long()
    share = time - before
    share = share * share * (3 - 2 * share)
    vector = torch.lerp(keys.vector[before], keys.vector[before + 1], share[:, None])
    neck = torch.lerp(keys.neck[before], keys.neck[before + 1], share[:, None])
    face = Expression.from_vector(vector, neck)
    face = face.replace(blink_left=DROWSY * face.blink_left, blink_right=DROWSY * face.blink_right)
    # blinks last 0.2 to 0.35 s, wherever they fall
    moment = torch.arange(frames)[:, None] / fps
    centre = starts * frames / fps
    blink = (1.4 - 1.4 * ((moment - centre) / (0.10 + 0.075 * spans)).abs()).clamp(0, 1).amax(-1)
    return face.replace(
        blink_left=torch.maximum(face.blink_left, blink), blink_right=torch.maximum(face.blink_right, blink)
    )


def take_pictures(
    renderer: HeadRenderer,
    identity: Identity,
    expression: Expression,
    light: Light,
    camera: Camera,
    size: int,
    antialias: int = 2,
) -> HeadView:
    """Render any number of rows, a few at a time."""
    views = []
    for start in range(0, len(identity), CHUNK):
        part = slice(start, start + CHUNK)
        rows = identity.take(part), expression.take(part), light.take(part), camera.take(part)
        views.append(renderer.render(*rows, size, antialias))
    return HeadView.cat(views)


def to_uint8(image: Tensor) -> Tensor:
    """Convert [B, 3, S, S] in [-1, 1] to uint8 [B, S, S, 3]."""
    return ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
