"""Render the sources, driving pictures and true results on which weights are measured.

Training has seen nothing of it but the identities of the cast: all expressions, poses and cameras come from seeds of
their own, and so do the held-out and the driving heads. Head k is the same however many are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Camera
from triportrait.train.data.heads.population import LARGEST_SEED, Expression, Identity, Light
from triportrait.train.data.heads.render import HeadRenderer
from triportrait.train.data.pictures import Pictures, photograph
from triportrait.train.data.scene_sampling import expressions, filming_cameras, population
from triportrait.train.evaluation.motion_response import AXES, Probe, take_probe
from triportrait.train.runs.weights import Cast

SELF, CROSS, NEW_VIEWS = "self", "cross", "new views"
CASES = (SELF, CROSS, NEW_VIEWS)
CROWD = 4  # heads that make the same face before the same camera
VIEW_YAWS_DEG = (30.0, -30.0)
# added to the seed of a population, so that no two purposes share a seed, and none shares one with a training
_UNSEEN, _HELD_OUT, _DRIVING = 1_000_003, 2_000_003, 3_000_017
_SOURCE, _SELF, _CROSS, _PURPOSES = 0, 1, 2, 16
LARGEST_PLAN_SEED = 9_999
MOST_HEADS = 1_000


@dataclass(frozen=True)
class Plan:
    """The numbers and seeds of a measurement.

    Attributes:
        heads: how many heads of the cast are measured, and how many held-out ones.
        axes_heads: how many of them have their response to each axis measured.
        geometry_heads: how many of them have their surface measured; 0 leaves geometry out.
        seed: decides expressions, poses and cameras.
        axes: names in `response.AXES`.
    """

    heads: int = 24
    axes_heads: int = 8
    geometry_heads: int = 4
    seed: int = 0
    axes: tuple[str, ...] = tuple(AXES)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("heads", 1, MOST_HEADS),
            ("axes_heads", 1, MOST_HEADS),
            ("geometry_heads", 0, MOST_HEADS),
            ("seed", 0, LARGEST_PLAN_SEED),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option}: expected a whole number from {low} to {high}, got {value}; choose another")


@dataclass(frozen=True)
class Group:
    """Heads that are measured together: the first `count` of a population."""

    name: str
    seed: int
    count: int


def groups(cast: Cast, plan: Plan) -> tuple[Group, Group]:
    """Return the cast, up to the number of the plan, and heads that no training saw."""
    return (
        Group("cast", cast.seed, min(plan.heads, cast.count)),
        Group("held out", _seed(cast.seed + _HELD_OUT), plan.heads),
    )


@dataclass(frozen=True)
class Shot:
    """A driving picture and the true results.

    Attributes:
        driving: a picture, with the neck pose that the source's head should take.
        truths: case -> the source's head with that expression and neck pose, from each camera of the case.
    """

    driving: Pictures
    truths: dict[str, tuple[Pictures, ...]]


@dataclass(frozen=True)
class Scene:
    """One head: a source picture and what drives it.

    Attributes:
        crowd: pictures of other heads, all with the expression, camera and neck pose of the second shot.
    """

    source: Pictures
    shots: tuple[Shot, ...]
    crowd: tuple[Pictures, ...] = ()


@dataclass(frozen=True)
class SceneSpec:
    """The scene of head `head` of a group: it is driven by itself, and by another head."""

    group: Group
    head: int
    seed: int
    model: ModelConfig

    def render(self) -> Scene:
        """Render the head, and those that drive it."""
        sitter, model = Sitter.of(self.group.seed, self.head), self.model
        others = [Sitter.of(driving_seed(self.group.seed), self.head + number) for number in range(CROWD)]
        drawn = faces_of_scene(self.group, self.head, self.seed)
        (source, source_camera), (self_face, self_camera), (face, camera) = drawn
        itself = sitter.photograph(self_face, self_camera, model)
        driven = sitter.photograph(face, camera, model)
        crowd = tuple(replace(o.photograph(face, camera, model, necks=False), neck=driven.neck) for o in others)
        views = [turned(fixed_camera(), math.radians(yaw), 0.0) for yaw in VIEW_YAWS_DEG]
        from_sides = tuple(sitter.photograph(face, view, model, necks=False) for view in views)
        return Scene(
            sitter.photograph(source, source_camera, model, necks=False),
            (Shot(itself, {SELF: (itself,)}), Shot(crowd[0], {CROSS: (driven,), NEW_VIEWS: from_sides})),
            crowd,
        )


@dataclass(frozen=True)
class ProbeSpec:
    """The probe of head `head` of a group: its response to each axis, driven by another head before one camera."""

    group: Group
    head: int
    seed: int
    model: ModelConfig
    axes: tuple[str, ...]

    def render(self) -> Probe:
        """Render the probe, up to 31 pictures."""
        sitter = Sitter.of(self.group.seed, self.head)
        other = Sitter.of(driving_seed(self.group.seed), self.head)
        face, camera = unseen(self.group.seed, self.head, _PURPOSES * self.seed + _SOURCE)
        return take_probe(
            renderer(), sitter.identity, sitter.light, face, camera, self.model, self.axes,
            (other.identity, other.light),
        )  # fmt: skip


@dataclass(frozen=True)
class Sitter:
    """A head in its light."""

    identity: Identity
    light: Light

    @classmethod
    def of(cls, seed: int, head: int) -> Sitter:
        """Return head `head` of a population."""
        identity, light = population(seed, head + 1)
        return cls(identity.take([head]), light.take([head]))

    def photograph(self, face: Expression, camera: Camera, model: ModelConfig, necks: bool = True) -> Pictures:
        """Take a picture of the head."""
        return photograph(renderer(), self.identity, face, self.light, camera, model, necks=necks)


@lru_cache(maxsize=1)
def renderer() -> HeadRenderer:
    """Return the renderer of this process."""
    return HeadRenderer()


def driving_seed(seed: int) -> int:
    """Return the seed of the population that drives the heads of a population."""
    return _seed(seed + _DRIVING)


def unseen(seed: int, head: int, purpose: int = 0) -> tuple[Expression, Camera]:
    """Return an expression and a camera near the front that no training saw, for head `head` of a population."""
    seed, row = _seed(seed + _UNSEEN + purpose), torch.tensor([head])
    return expressions(seed, head + 1, 1).take(row), filming_cameras(seed, head + 1).take(row)


def faces_of_scene(group: Group, head: int, seed: int) -> tuple[tuple[Expression, Camera], ...]:
    """Return what head `head` does and where it is seen from: in the source, driven by itself, driven by another."""
    return tuple(unseen(group.seed, head, _PURPOSES * seed + purpose) for purpose in (_SOURCE, _SELF, _CROSS))


def _seed(number: int) -> int:
    return number % (LARGEST_SEED + 1)
