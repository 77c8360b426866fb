"""Reads every number of the paper's Tables 1 to 3, and its speed, from `published.json`, their one home.

The paper measured them by scripts that it did not publish. They may stand beside measured rows under the name of their
protocol, "published, own protocol"; they are never ranked with them. What the rows of Table 3 are trained with stands
in `train.ablations`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from triportrait.core.errors import InputError
from triportrait.core.safe_text import literal

TableName = Literal["1", "2a", "2b", "3"]
Case = Literal["self", "cross", "consistency", "votes"]
_FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Column:
    """Describes a column of a published table.

    Attributes:
        name: unique in its table, such as `self_lpips`.
        title: the head that the paper prints, such as `LPIPS`.
        case: `self`: a clip drives its own first frame; `cross`: another person drives; `consistency`: many drive one
            source; `votes`: people chose among results.
        unit: of the numbers: `%`, `cosine`, `thousandths`, `confidence`; empty for a plain number.
        better: which direction is better.
    """

    name: str
    title: str
    case: Case
    unit: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """Is one printed number and its place."""

    table: TableName
    row: str
    column: Column
    value: float
    protocol: str


@dataclass(frozen=True)
class PublishedTable:
    """Holds a table of the paper.

    Attributes:
        name: the number of the table.
        title: what it measures.
        columns: in the paper's order.
        rows: row -> column's name -> value, in the paper's order; a row is a method, in Table 3 a letter from A to L.
        protocol: how the numbers came to be.
    """

    name: TableName
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, float]]
    protocol: str

    def column(self, name: str) -> Column:
        """Return a column. Raises: `InputError` that lists the columns where there is none of this name."""
        for column in self.columns:
            if column.name == name:
                return column
        raise InputError(
            f"Table {self.name}: expected a column of {', '.join(c.name for c in self.columns)}, got {literal(name)}; "
            "choose one of them"
        )

    def value(self, row: str, column: str) -> float:
        """Return a number. Raises: `InputError` that lists rows or columns where there is none of this name."""
        if row not in self.rows:
            raise InputError(
                f"Table {self.name}: expected a row of {', '.join(self.rows)}, got {literal(row)}; choose one of them"
            )
        return self.rows[row][self.column(column).name]

    def figures(self) -> Iterator[Figure]:
        """Yield every number, row by row."""
        for row, values in self.rows.items():
            for column in self.columns:
                yield Figure(self.name, row, column, values[column.name], self.protocol)


@dataclass(frozen=True)
class UserStudy:
    """Describes the paper's user study, which asked two questions.

    Attributes:
        methods: what the numbers 1 to 6 in the files of votes stand for, in this order.
        votes: of each question, all participants together.
    """

    methods: tuple[str, ...]
    votes: int


@dataclass(frozen=True)
class Cost:
    """Holds what the paper states of speed and of training.

    Attributes:
        gpu: on which one frame after another is made, by plain PyTorch.
        frames_per_second, frames_per_second_source_kept: as it is, and where what depends on the source alone is kept.
        training_gpus, training_gpu: how many train, and which.
        training_days_of_a_stage: days that each of both stages takes on them.
    """

    gpu: str
    frames_per_second: float
    frames_per_second_source_kept: float
    training_gpus: int
    training_gpu: str
    training_days_of_a_stage: float


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def published(table: TableName) -> PublishedTable:
    """Return a table of the paper.

    Raises:
        InputError: the paper has no table of this name.
    """
    if table not in get_args(TableName):
        raise InputError(f"table: expected one of {', '.join(get_args(TableName))}, got {literal(table)}; choose one")
    kept = _data()["tables"][table]
    columns = tuple(Column(name, **column) for name, column in kept["columns"].items())
    rows = {row: MappingProxyType(values) for row, values in kept["rows"].items()}
    return PublishedTable(table, kept["title"], columns, MappingProxyType(rows), _data()["protocol"])


def user_study() -> UserStudy:
    """Return whom the numbers in the paper's files of votes stand for, and how many votes there are."""
    kept = _data()["votes"]
    return UserStudy(tuple(kept["methods"]), kept["votes_of_each_question"])


def cost() -> Cost:
    """Return what the paper states of speed and of training."""
    return Cost(**_data()["cost"])
