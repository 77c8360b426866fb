"""Describes a measure of geometry by its exact name and sentence, as `definition` does for those of clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from triportrait.core.motion.flame import SCENE_UNITS_PER_METRE

MM = 1000 / SCENE_UNITS_PER_METRE  # in a scene unit


@dataclass(frozen=True)
class Measure:
    """Defines one column of the tables of geometry.

    Attributes:
        name: unique, and never used for another definition.
        title: the head of the column.
        sentence: what exactly is computed.
        unit: of the value; empty for a plain number.
        better: which direction is better; None where neither is.
        needs_truth: whether the true surface must be known.
    """

    name: str
    title: str
    sentence: str
    unit: str
    better: Literal["higher", "lower"] | None
    needs_truth: bool = True
