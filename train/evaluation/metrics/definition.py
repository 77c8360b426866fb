"""Describes a metric: its exact name and sentence, where it applies, what it needs, and how it is reduced.

A reduction takes the frames of one clip in order, in portions of any size, and keeps as much as its score needs and no
frame: a clip of 10,000 frames takes no more memory than one of 100. The portions change no bit of the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from triportrait.train.evaluation.metrics.inputs import field_of

Kind = Literal["self", "cross", "consistency", "sound"]
Need = Literal[
    "truth", "faces", "sound", "seconds",
    "weights:arcface", "weights:recon3d", "weights:emotion", "weights:syncnet", "weights:inception",
    "weights:lpips_alex", "weights:lpips_vgg",
]  # fmt: skip
Whose = Literal["default", "paper", "field"]
Level = Literal["clip", "group", "set"]

EVERY_KIND: tuple[Kind, ...] = ("self", "cross", "consistency", "sound")
DRIVEN: tuple[Kind, ...] = ("self", "cross", "sound")


@dataclass(frozen=True)
class Score:
    """Holds a measured number.

    Attributes:
        value: None where it is not defined; `note` then says why.
        frames: how many frames went in.
        missing: how many were left out, as a face was not found in one of their pictures.
        note: a sentence for the reader of the table, or nothing.
        spread: the standard deviation of the estimate, where the reduction has one.
    """

    value: float | None
    frames: int
    missing: int = 0
    note: str = ""
    spread: float | None = None

    @property
    def missing_share(self) -> float:
        """Return the share of the frames that were left out."""
        return self.missing / max(1, self.frames + self.missing)


class Reduction(Protocol):
    """Turns inputs, portion by portion, into one score."""

    def add(self, *inputs: np.ndarray, found: np.ndarray | None = None) -> None:
        """Take in the next N frames.

        Args:
            inputs: the arrays that the definition reads, in its order.
            found: bool [N], the frames in which every face that the metric needs was found; None: all.

        Raises:
            InputError: an input has another shape, is empty, or is not finite.
        """
        ...

    def score(self) -> Score:
        """Return the score of everything so far."""
        ...


@dataclass(frozen=True)
class Definition:
    """Defines one column of a table.

    Attributes:
        name: unique, and never used for another definition.
        title: the head of the column.
        sentence: what exactly is computed.
        whose: `default` is ours, from pictures and faces alone; `paper` is a metric that the paper prints, in a reading
            that the sentence states; `field` is a definition that others' papers or scripts use.
        unit: of the value; empty for a plain number.
        better: which direction is better; None where neither is.
        kinds: the kinds of pairs for which it means something.
        needs: what must be there besides results and driving frames.
        reads: the inputs, as `inputs` names them.
        start: makes an empty reduction.
        level: what one score is of: a `clip`; a `group`, all pairs of one source; a `set`, all pairs of a kind.
    """

    name: str
    title: str
    sentence: str
    whose: Whose
    unit: str
    better: Literal["higher", "lower"] | None
    kinds: tuple[Kind, ...]
    needs: tuple[Need, ...]
    reads: tuple[str, ...]
    start: Callable[[], Reduction]
    level: Level = "clip"

    def __post_init__(self) -> None:
        for name in self.reads:
            field_of(name)

    def score(self, portions: Iterable[Mapping[str, np.ndarray]]) -> Score:
        """Reduce portions of a clip, mappings from the names in `reads`, and `found`, to arrays."""
        reduction = self.start()
        for portion in portions:
            reduction.add(*(portion[name] for name in self.reads), found=portion.get("found"))
        return reduction.score()
