"""Name who was in a batch whose loss is not finite, and end a run that has passed over too many such steps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from triportrait.train.engines.training_engine import Engine
from triportrait.train.runs.run_log import Record

MOST_IN_A_ROW = 100  # steps that were not finite before a run that cleans gradients ends, too
MOST_NAMED = 4
MOST_SAID = 10  # warnings; the log has all
logger = logging.getLogger(__name__)


def suspects(batch: Any) -> list[str]:
    """Return where the pictures of a batch come from; where numbers of some are not finite themselves, those alone."""
    parts = [part for part in _parts(batch) if getattr(part, "origin", ())]
    everyone = [name for part in parts for name in part.origin]
    guilty = [part.origin[row] for part in parts for row in _infinite_rows(part, len(part.origin))]
    return list(dict.fromkeys(guilty or everyone))


def shown(names: Iterable[str]) -> str:
    """Return the first few names in words; empty where there are none."""
    names = list(dict.fromkeys(names))
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f", its batch shows {', '.join(names[:MOST_NAMED])}{more}"


class Tolerated:
    """What a run that cleans gradients passes over: a few warnings, and a line of the log each time.

    Attributes:
        in_a_row: steps of late, none of which was finite.
    """

    def __init__(self, stage: str, record: Record) -> None:
        self.in_a_row, self._stage, self._record = 0, stage, record
        self._wrong: dict[str, list[str]] = {}
        self._said = 0

    @property
    def patient(self) -> bool:
        """Tell whether one more may be passed over."""
        return self.in_a_row + 1 < MOST_IN_A_ROW

    def note(self, phase: str, terms: Sequence[str], names: Iterable[str]) -> None:
        """Note terms of a phase that were not finite, and the places of the pictures in their micro-batches."""
        self._wrong.setdefault(f"{', '.join(terms)} of {phase}", []).extend(names)

    def step(self, engine: Engine) -> None:
        """End a step: say and log what was noted in it."""
        self.in_a_row = self.in_a_row + 1 if self._wrong else 0
        for terms, names in self._wrong.items():
            names = list(dict.fromkeys(names))
            self._record.line({"not finite": terms, "batch": names}, engine)
            self._said += 1
            if self._said <= MOST_SAID and self._record.writes:
                last = "; the log names further ones" if self._said == MOST_SAID else ""
                logger.warning(
                    f"{self._stage}: {terms} is not finite after {engine.images_seen} images{shown(names)}; what is "
                    f"not finite of its gradient counts as 0{last}"
                )
        self._wrong = {}


def _parts(batch: Any) -> list[Any]:
    if not dataclasses.is_dataclass(batch):
        return []
    return [getattr(batch, f.name) for f in dataclasses.fields(batch)]


def _infinite_rows(part: Any, count: int) -> list[int]:
    """Rows of B pictures in which a tensor is not finite."""
    rows: set[int] = set()
    for value in _tensors(part):
        if value.dim() > 1 and len(value) == count and value.is_floating_point():
            rows |= set((~value.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist())
    return sorted(rows)


def _tensors(part: Any) -> list[Tensor]:
    """Return the tensors of pictures, and of the cameras and necks in them."""
    tensors: list[Tensor] = []
    for value in _parts(part):
        if isinstance(value, Tensor):
            tensors.append(value)
        elif dataclasses.is_dataclass(value):
            tensors += [inner for inner in _parts(value) if isinstance(inner, Tensor)]
    return tensors
