"""Every number of a refinement, and what it tells while it runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.person import MOST_RANK
from triportrait.core.safe_text import shown_number

MINUTES = 2.0
LIMITS: dict[str, tuple[float, float]] = {  # name -> the least and the most
    "minutes": (0.05, 240.0),
    "steps": (1, 100_000),
    "rank": (0, MOST_RANK),
    "seed": (0, 2**31 - 1),
    "lr_planes": (1e-6, 1.0),
    "lr_updates": (1e-6, 1.0),
}


@dataclass(frozen=True)
class RefineConfig:
    """How one person is learned; neither paper nor published code has this part, all numbers are ours.

    Attributes:
        minutes: how long to learn; the first steps tell how many steps that is. None where `steps` says it.
        steps: how many steps; on one CPU the same number makes the same file of the same pictures again. A GPU adds
            gradients in no order, so that files differ.
        rank: of the updates; 0: the planes alone are learned.
        seed: of all random numbers.
        lr_planes, lr_updates: learning rates of Adam, of the residual of the planes and of the updates.
        views_every: every so many steps the views and motions that nobody gave are compared with the frozen network's.
        picture, opacity: weights of a given picture's terms. eye_mouth_boost: as in training.
        view_opacity, view_depth: weights of the pseudo views' terms: the sides keep the frozen network's shape.
        motion: weight of the term by which a change of expression stays the frozen network's.
        small: weight of the mean square of the residual, which so stays small.
        small_updates: weight of the squares of the updates over those of their weights, which so stay small.
    """

    minutes: float | None = MINUTES
    steps: int | None = None
    rank: int = 8
    seed: int = 0
    lr_planes: float = 0.1
    lr_updates: float = 2e-3
    views_every: int = 4
    picture: float = 1.0
    opacity: float = 0.3
    eye_mouth_boost: float = 5.0
    view_opacity: float = 0.3
    view_depth: float = 0.6
    motion: float = 0.5
    small: float = 1e-2
    small_updates: float = 1.0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise InputError("personalize: expected either minutes or steps, got both or neither; name one of them")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                came = shown_number(value)
                raise InputError(f"{name}: expected {least:g} to {most:g}, got {came}; choose a number in between")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class RefineStep:
    """Where a refinement stands.

    Attributes:
        step, steps: done, and in all.
        seconds_left: an estimate.
        loss: of this step.
        psnr: dB, of the given pictures that were learned from in this step.
        aside_psnr: dB, of the pictures kept aside, when they were last compared; None where none are.
        preview: [S, 4 S, 3] uint8: the source, the same as it is made now, from the side, and with another expression;
            None in most steps.
    """

    step: int
    steps: int
    seconds_left: float
    loss: float
    psnr: float
    aside_psnr: float | None = None
    preview: Tensor | None = None
