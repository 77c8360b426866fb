"""Measure whether a picture moves when the face does: correlation and gain of its change.

A face at rest P_0 and one that moved along one axis P_a give a change Δ = P_a - P_0, in truth and as predicted:

    gain = ⟨Δ_predicted, Δ_true⟩ / ⟨Δ_true, Δ_true⟩        correlation = the cosine between them

inside the face. A gain of 1 is the full motion; PSNR hardly notices a gain of 0, as eyes and mouth are few pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.core.types import Camera
from triportrait.train.data.heads.paint import Part
from triportrait.train.data.heads.population import Expression, Identity, Light
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.pictures import Pictures, neck_grids, photograph

AXES = {  # name -> the fields that move, and from where to where
    "jaw": (("jaw",), 0.0, 0.8),
    "smile": (("smile",), 0.0, 0.9),
    "pucker": (("pucker",), 0.0, 0.9),
    "blink left": (("blink_left",), 0.0, 1.0),
    "blink right": (("blink_right",), 0.0, 1.0),
    "blink": (("blink_left", "blink_right"), 0.0, 1.0),
    "brow left": (("brow_left",), -0.8, 0.8),
    "brow right": (("brow_right",), -0.8, 0.8),
    "gaze x": (("gaze_x",), -0.8, 0.8),
    "gaze y": (("gaze_y",), -0.8, 0.8),
}
FACE = (Part.SKIN, Part.EYES, Part.BROWS, Part.MOUTH)


@dataclass(frozen=True)
class Response:
    """The response of a picture along one axis; both numbers are 1 at best."""

    correlation: float
    gain: float


@dataclass(frozen=True)
class Probe:
    """The pictures of B heads: sources, and for each axis the same head before and after, seen by one camera.

    Attributes:
        source: B pictures with any expression.
        ends: axis -> B pictures before, B pictures after: the truth.
        driving: axis -> driving pictures before and after: other heads that do the same before the same cameras,
            with the neck poses of the truth. None: the truth itself drives.
    """

    source: Pictures
    ends: dict[str, tuple[Pictures, Pictures]]
    driving: dict[str, tuple[Pictures, Pictures]] | None = None

    def driving_pair(self, axis: str) -> tuple[Pictures, Pictures]:
        """Return the driving pictures along an axis, before and after."""
        return self.ends[axis] if self.driving is None else self.driving[axis]


def take_probe(
    renderer: HeadRenderer,
    identity: Identity,
    light: Light,
    source_expression: Expression,
    camera: Camera,
    model: ModelConfig,
    axes: tuple[str, ...] = tuple(AXES),
    others: tuple[Identity, Light] | None = None,
) -> Probe:
    """Render B heads for a probe, all seen by the same B cameras.

    Args:
        others: B other heads, which drive; by default each head drives itself.
    """
    neutral = Expression.neutral(len(identity))
    source = photograph(renderer, identity, source_expression, light, camera, model)
    straight = neck_grids(identity, neutral, model)  # of every face here: an expression turns no neck

    def ends(who: Identity, lit: Light) -> dict[str, tuple[Pictures, Pictures]]:
        def photo(expression: Expression) -> Pictures:
            return replace(photograph(renderer, who, expression, lit, camera, model, necks=False), neck=straight)

        rest, pairs = photo(neutral), {}
        for axis in axes:
            names, low, high = AXES[axis]
            before = rest if low == 0 else photo(neutral.replace(**dict.fromkeys(names, low)))
            pairs[axis] = before, photo(neutral.replace(**dict.fromkeys(names, high)))
        return pairs

    return Probe(source, ends(identity, light), None if others is None else ends(*others))


def face_mask(pictures: Pictures) -> Tensor:
    """Return [B, 1, S, S], 1.0 on skin, eyes, brows and mouth."""
    assert pictures.parts is not None
    return torch.isin(pictures.parts, torch.tensor(FACE, dtype=pictures.parts.dtype)).float()[:, None]


def products(probe: Probe, reenact: Callable[[Pictures, Pictures], Tensor]) -> dict[str, Tensor]:
    """Return ⟨predicted, true⟩, ⟨predicted, predicted⟩, ⟨true, true⟩ of each axis, [3] float64, over a probe's heads.

    The products of several probes add up.

    Args:
        reenact: source and driving pictures -> pictures [B, 3, S, S] seen by the driving pictures' cameras.
    """
    results: dict[int, Tensor] = {}  # a face at rest belongs to several axes

    def result(driving: Pictures) -> Tensor:
        if id(driving) not in results:
            results[id(driving)] = reenact(probe.source, driving)
        return results[id(driving)]

    by_axis = {}
    for axis, (before, after) in probe.ends.items():
        inside = torch.maximum(face_mask(before), face_mask(after))
        true = (after.image - before.image) * inside
        first, then = probe.driving_pair(axis)
        predicted = (result(then) - result(first)) * inside
        pairs = (predicted, true), (predicted, predicted), (true, true)
        by_axis[axis] = torch.stack([(a.double() * b.double()).sum() for a, b in pairs])
    return by_axis


def response(product: Tensor) -> Response:
    """Return correlation and gain from the `products` [3] of an axis."""
    cross, predicted, true = product.tolist()
    return Response(cross / max((predicted * true) ** 0.5, 1e-9), cross / max(true, 1e-9))


def responses(probe: Probe, reenact: Callable[[Pictures, Pictures], Tensor]) -> dict[str, Response]:
    """Return correlation and gain of each axis over all heads of a probe; `reenact` as in `products`."""
    return {axis: response(product) for axis, product in products(probe, reenact).items()}
