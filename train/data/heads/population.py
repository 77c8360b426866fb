"""Define and sample the identities, expressions and lights of procedural heads, which are rows of numbers.

Each head has one row of uniform numbers, and each trait is an inverse distribution function of one column, so that
head k of a seed is the same head however many are drawn beside it.
Letters: B batch. Left and right are the head's own: left is +x.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import torch
from torch import Tensor

from triportrait.core.errors import InputError

LARGEST_SEED = 2**31 - 1
LARGEST_COUNT = 1_000_000


class HairStyle(IntEnum):
    """The haircuts of a head."""

    BALD = 0
    SHORT = 1
    FRINGE = 2
    LONG = 3
    BUN = 4
    CURLY = 5
    CREST = 6


HAIR_SHARES = (0.06, 0.24, 0.18, 0.20, 0.14, 0.11, 0.07)  # of the population, in the order of HairStyle

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
SKINS: tuple[Colour, ...] = (
    (0.97, 0.80, 0.68), (0.96, 0.77, 0.64), (0.91, 0.70, 0.54), (0.82, 0.60, 0.44),
    (0.67, 0.46, 0.33), (0.50, 0.33, 0.23), (0.98, 0.76, 0.63), (0.75, 0.53, 0.39),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (0.10, 0.08, 0.08), (0.24, 0.14, 0.09), (0.42, 0.25, 0.13), (0.62, 0.40, 0.18), (0.90, 0.72, 0.38),
    (0.72, 0.28, 0.12), (0.75, 0.75, 0.77), (0.34, 0.17, 0.34), (0.20, 0.28, 0.42),
)  # fmt: skip
IRISES: tuple[Colour, ...] = (
    (0.34, 0.20, 0.10), (0.20, 0.42, 0.62), (0.25, 0.50, 0.28), (0.45, 0.33, 0.15), (0.35, 0.42, 0.50),
    (0.20, 0.13, 0.09),
)  # fmt: skip
CLOTHS: tuple[Colour, ...] = (
    (0.85, 0.30, 0.28), (0.22, 0.45, 0.72), (0.95, 0.78, 0.32), (0.30, 0.60, 0.45), (0.55, 0.40, 0.68),
    (0.92, 0.92, 0.90), (0.22, 0.24, 0.30), (0.95, 0.55, 0.40),
)  # fmt: skip
FRAMES: tuple[Colour, ...] = ((0.12, 0.12, 0.14), (0.60, 0.20, 0.18), (0.20, 0.30, 0.55), (0.75, 0.62, 0.30))
BACKGROUNDS: tuple[Colour, ...] = (
    (0.72, 0.84, 0.92), (0.95, 0.88, 0.76), (0.80, 0.90, 0.80), (0.90, 0.80, 0.88), (0.62, 0.68, 0.80),
    (0.97, 0.94, 0.90), (0.45, 0.55, 0.60), (0.98, 0.80, 0.70),
)  # fmt: skip

IDENTITY_RANGES: dict[str, tuple[float, float]] = {  # uniform; factors of the template unless said otherwise
    "head_width": (0.93, 1.09),
    "head_depth": (0.95, 1.06),
    "forehead": (0.95, 1.08),
    "jaw_width": (0.80, 1.06),
    "jaw_corner": (0.0, 1.0),  # 0 round, 1 square
    "chin_length": (0.95, 1.12),
    "chin_forward": (0.0, 1.0),
    "cheek": (0.0, 1.0),
    "nose_length": (0.55, 1.15),
    "nose_width": (0.75, 1.35),
    "nose_tip": (-0.4, 1.0),  # up is positive
    "eye_size": (0.88, 1.14),
    "eye_spacing": (0.95, 1.06),
    "eye_tilt": (-0.14, 0.18),  # slope; outer corner up is positive
    "brow_thickness": (0.55, 1.4),
    "brow_arch": (-0.15, 0.25),
    "mouth_width": (0.80, 1.14),
    "lip_fullness": (0.55, 1.3),
    "ear_size": (0.8, 1.2),
    "neck_width": (0.88, 1.10),
    "hair_volume": (0.6, 1.3),
    "hair_height": (-0.25, 0.4),
    "hair_wave": (0.0, 1.0),
    "hair_parting": (-1.0, 1.0),
    "blush": (0.0, 1.0),
    "glasses_size": (0.88, 1.10),
    "glasses_square": (0.0, 1.0),
}
EXPRESSION_RANGES: dict[str, tuple[float, float]] = {
    "jaw": (0.0, 1.0),  # 1 wide open
    "smile": (-0.7, 1.0),  # below 0 the corners go down
    "pucker": (0.0, 1.0),
    "blink_left": (0.0, 1.0),  # 1 shut
    "blink_right": (0.0, 1.0),
    "brow_left": (-1.0, 1.0),  # 1 up
    "brow_right": (-1.0, 1.0),
    "gaze_x": (-1.0, 1.0),  # 1 towards +x, the head's left
    "gaze_y": (-1.0, 1.0),  # 1 up
}
EXPRESSION_AXES = tuple(EXPRESSION_RANGES)
NECK_RANGES = ((-0.22, 0.22), (-0.35, 0.35), (-0.15, 0.15))  # radians about x (nod), y (turn), z (tilt)


class Rows:
    """A base of dataclasses whose fields are tensors with one row per head."""

    def fields(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(next(iter(self.fields().values())))

    def take(self, index: Any) -> Self:
        """Return the rows that `index` (a slice, or int64 [N]) names, in its order."""
        return type(self)(**{name: value[index] for name, value in self.fields().items()})

    def of(self, member: Tensor) -> Self:
        """Return rows for points that belong to the heads `member` [N]; the row of an only head, which broadcasts."""
        return self if len(self) == 1 else self.take(member)

    def columns(self) -> Self:
        """Return numbers as [B, 1] and colours as [B, 1, 3], which broadcast with B rows of points."""
        return type(self)(**{name: value[:, None] for name, value in self.fields().items()})

    def to(self, device: torch.device | str) -> Self:
        """Return the rows on a device."""
        return type(self)(**{name: value.to(device) for name, value in self.fields().items()})

    def replace(self, **changes: Tensor | float) -> Self:
        """Return the rows with some fields changed; a number fills its field."""
        fields = self.fields()
        new = {n: v if isinstance(v, Tensor) else torch.full_like(fields[n], v) for n, v in changes.items()}
        return type(self)(**{**fields, **new})

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Concatenate rows."""
        return cls(**{name: torch.cat([p.fields()[name] for p in parts]) for name in parts[0].fields()})


@dataclass(frozen=True)
class Identity(Rows):
    """The lasting traits of B heads. Fields are [B] float32 within IDENTITY_RANGES, but for those commented."""

    head_width: Tensor
    head_depth: Tensor
    forehead: Tensor
    jaw_width: Tensor
    jaw_corner: Tensor
    chin_length: Tensor
    chin_forward: Tensor
    cheek: Tensor
    nose_length: Tensor
    nose_width: Tensor
    nose_tip: Tensor
    eye_size: Tensor
    eye_spacing: Tensor
    eye_tilt: Tensor
    brow_thickness: Tensor
    brow_arch: Tensor
    mouth_width: Tensor
    lip_fullness: Tensor
    ear_size: Tensor
    neck_width: Tensor
    hair_volume: Tensor
    hair_height: Tensor
    hair_wave: Tensor
    hair_parting: Tensor
    blush: Tensor
    glasses_size: Tensor
    glasses_square: Tensor
    hair_style: Tensor  # [B] int64, a HairStyle
    freckles: Tensor  # 0 none … 1
    beard: Tensor  # 0 none, else 0.5 … 1
    moustache: Tensor  # 0 or 1
    glasses: Tensor  # 0 or 1
    skin: Tensor  # [B, 3] colours in [0, 1], as all that follow
    hair: Tensor
    iris: Tensor
    cloth: Tensor
    frame: Tensor


@dataclass(frozen=True)
class Expression(Rows):
    """The expressions of B faces. Fields are [B] float32 within EXPRESSION_RANGES; the neck is [B, 3] radians."""

    jaw: Tensor
    smile: Tensor
    pucker: Tensor
    blink_left: Tensor
    blink_right: Tensor
    brow_left: Tensor
    brow_right: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    neck: Tensor

    @classmethod
    def neutral(cls, count: int) -> Expression:
        """Return `count` faces at rest with straight necks."""
        return cls(**{name: torch.zeros(count) for name in EXPRESSION_AXES}, neck=torch.zeros(count, 3))

    @property
    def vector(self) -> Tensor:
        """Return the expression without the neck, [B, 9] in the order of EXPRESSION_AXES."""
        return torch.stack([getattr(self, name) for name in EXPRESSION_AXES], -1)

    @classmethod
    def from_vector(cls, vector: Tensor, neck: Tensor) -> Expression:
        """Make expressions of their `vector` [B, 9] and their `neck` [B, 3]."""
        return cls(**dict(zip(EXPRESSION_AXES, vector.unbind(-1), strict=True)), neck=neck)


@dataclass(frozen=True)
class Light(Rows):
    """The light of B pictures and the background behind the head."""

    direction: Tensor  # [B, 3] unit vector towards the key light, world
    ambient: Tensor  # [B] share of light from everywhere
    warmth: Tensor  # [B] above 0 redder
    background_a: Tensor  # [B, 3] colours of the two ends of the background's ramp
    background_b: Tensor  # [B, 3]
    background_angle: Tensor  # [B] radians, the ramp's direction on the picture


class _Draws:
    """Uniform numbers [B, D] that are handed out column by column through inverse distribution functions."""

    def __init__(self, count: int, columns: int, generator: torch.Generator) -> None:
        self._numbers = torch.rand(count, columns, generator=generator)
        self._next = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return [B] between `low` and `high`."""
        self._next += 1
        return low + (high - low) * self._numbers[:, self._next - 1]

    def choice(self, shares: Sequence[float]) -> Tensor:
        """Return [B] int64, k with the k-th share."""
        edges = torch.tensor(shares).cumsum(0)[:-1]
        return torch.searchsorted(edges, self.uniform(), right=True)

    def chance(self, probability: float) -> Tensor:
        """Return [B], 1.0 with the given probability, else 0.0."""
        return (self.uniform() < probability).float()

    def colour(self, table: Sequence[Colour], jitter: float) -> Tensor:
        """Return [B, 3], an entry of the table with each channel off by up to `jitter`."""
        chosen = torch.tensor(table)[self.choice([1 / len(table)] * len(table))]
        return (chosen + torch.stack([self.uniform(-jitter, jitter) for _ in range(3)], -1)).clamp(0.02, 0.99)

    def sometimes(self, probability: float, low: float, high: float) -> Tensor:
        """Return [B], uniform with the given probability, else 0."""
        return self.chance(probability) * self.uniform(low, high)


def sample_identity(count: int, generator: torch.Generator) -> Identity:
    """Sample `count` identities; the generator alone decides which."""
    draws = _Draws(count, 72, generator)
    ranged = {name: draws.uniform(*span) for name, span in IDENTITY_RANGES.items()}
    style = draws.choice(HAIR_SHARES)
    shaven = ((style == HairStyle.LONG) | (style == HairStyle.BUN)).float()
    share = draws.uniform()
    return Identity(
        **ranged,
        hair_style=style,
        freckles=draws.uniform(-1.2, 1.0).clamp(min=0),
        beard=draws.sometimes(0.22, 0.5, 1.0) * (1 - shaven),
        moustache=draws.chance(0.15) * (1 - shaven),
        glasses=draws.chance(0.25),
        skin=share[:, None] * draws.colour(SKINS, 0.015) + (1 - share[:, None]) * draws.colour(SKINS, 0.015),
        hair=draws.colour(HAIRS, 0.04),
        iris=draws.colour(IRISES, 0.04),
        cloth=draws.colour(CLOTHS, 0.06),
        frame=draws.colour(FRAMES, 0.02),
    )


def sample_expression(count: int, generator: torch.Generator, neutral_share: float = 0.08) -> Expression:
    """Sample `count` expressions, about `neutral_share` of them at rest; the generator alone decides which."""
    draws = _Draws(count, 40, generator)
    awake = 1 - draws.chance(neutral_share)
    jaw = draws.sometimes(0.6, 0.05, 1.0)
    smile = draws.sometimes(0.65, *EXPRESSION_RANGES["smile"])
    pucker = draws.sometimes(0.2, 0.3, 1.0) * (smile < 0.3)
    blink, which = draws.sometimes(0.35, 0.2, 1.0), draws.uniform()  # half of them both eyes, else a wink
    brow, wild = draws.sometimes(0.6, -1.0, 1.0), draws.chance(0.25)
    axes = {
        "jaw": jaw * (0.5 + 0.5 * jaw),  # seldom wide open
        "smile": smile,
        "pucker": pucker,
        "blink_left": blink * (which > 0.25),
        "blink_right": blink * ((which > 0.5) | (which < 0.25)),
        "brow_left": brow,
        "brow_right": torch.where(wild > 0, draws.uniform(-1.0, 1.0), brow),
        "gaze_x": draws.sometimes(0.75, -1.0, 1.0),
        "gaze_y": draws.sometimes(0.75, -1.0, 1.0),
    }
    neck = torch.stack([draws.sometimes(0.6, *span) for span in NECK_RANGES], -1)
    return Expression(**{name: value * awake for name, value in axes.items()}, neck=neck * awake[:, None])


def sample_light(count: int, generator: torch.Generator) -> Light:
    """Sample `count` lights and backgrounds; the generator alone decides which."""
    draws = _Draws(count, 20, generator)
    # in double: a single-precision sine's last bit depends on how many stand beside it
    azimuth, elevation = draws.uniform(-1.0, 1.0).double(), draws.uniform(0.15, 1.0).double()
    level = elevation.cos()
    return Light(
        direction=torch.stack([azimuth.sin() * level, elevation.sin(), azimuth.cos() * level], -1).float(),
        ambient=draws.uniform(0.50, 0.70),
        warmth=draws.uniform(-0.02, 0.08),
        background_a=draws.colour(BACKGROUNDS, 0.06),
        background_b=draws.colour(BACKGROUNDS, 0.06),
        background_angle=draws.uniform(0.0, 6.2832),
    )


def stream(seed: int, purpose: int) -> torch.Generator:
    """Return a generator for one purpose of a seed, so that two purposes never share their numbers."""
    return torch.Generator().manual_seed(seed * 16 + purpose)


def cast(seed: int, count: int) -> Identity:
    """Return the first `count` identities of a seed; a longer cast begins with a shorter one.

    Raises: `InputError` for a seed outside 0 … 2³¹-1 or a count outside 1 … 10⁶.
    """
    check_seed_and_count(seed, count)
    return sample_identity(count, stream(seed, 0))


def check_seed_and_count(seed: int, count: int) -> None:
    """Check the seed and the count of a cast. Raises: `InputError` for numbers out of range."""
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed: expected a whole number from 0 to {LARGEST_SEED}, got {seed}; choose another")
    if not 1 <= count <= LARGEST_COUNT:
        raise InputError(f"count: expected 1 to {LARGEST_COUNT} heads, got {count}; choose another")
