"""Reads the votes of a user study from a CSV file, and gives each method its share with an interval.

The first line names the cases, each further line is one participant: in each cell the number or name of the method that
was preferred, or nothing. Every vote weighs the same, so that a participant who voted half the time counts half. The
votes of a participant resemble each other, so that the bootstrap draws participants, with all their votes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import read_bytes
from triportrait.core.safe_text import LONGEST_NAME, listed, literal

RESAMPLES, INTERVAL, SEED = 10_000, 0.95, 0
MOST_BYTES = 8 << 20
MOST_PARTICIPANTS, MOST_CASES, MOST_METHODS = 10_000, 1_000, 50
_AT_ONCE = 1 << 21  # drawn numbers that are held


@dataclass(frozen=True)
class CastVotes:
    """Holds the votes of one question.

    Attributes:
        methods: M names.
        cases: names of the columns.
        counts: int64 [P, M], how often each participant who voted preferred each method.
        silent: participants who cast no vote; they are not among the P.
    """

    methods: tuple[str, ...]
    cases: tuple[str, ...]
    counts: np.ndarray
    silent: int


@dataclass(frozen=True)
class Share:
    """Is a method's part of all votes.

    Attributes:
        share: in [0, 1].
        low, high: ends of the interval; None for a single participant, who tells nothing of spread.
    """

    method: str
    votes: int
    share: float
    low: float | None
    high: float | None


def read_votes(path: Path, methods: Sequence[str] = ()) -> CastVotes:
    """Read a file of votes.

    Args:
        methods: what the numbers 1, 2, ... in the file stand for, in order; a cell may hold the name as well. Without
            them a method is called what its cells hold.

    Raises:
        InputError: the file is missing, too large, not UTF-8, empty, of another shape, or a cell holds another method.
    """
    _check_methods(methods)
    lines = _lines(path)
    cases = _cases(path, next(lines, None))
    column_of = {name: number for number, name in enumerate(methods)}
    column_of |= {str(number): number - 1 for number in range(1, len(methods) + 1)}
    found: dict[str, int] = {}
    rows: list[list[int]] = []
    for line, cells in lines:
        if len(cells) != len(cases):
            raise InputError(
                f"{path}: line {line}: expected {len(cases)} cells as the first line has, got {len(cells)}; leave the "
                "cell of a missing vote empty, with its comma"
            )
        if len(rows) == MOST_PARTICIPANTS:
            raise InputError(
                f"{path}: expected at most {MOST_PARTICIPANTS:,} participants, got more; split the file by question"
            )
        row = []
        for case, cell in zip(cases, cells, strict=True):
            vote = cell.strip()
            if not vote:
                continue
            if methods and vote not in column_of:
                raise InputError(
                    f"{path}: line {line}, column {literal(case, LONGEST_NAME)}: expected a number from 1 to "
                    f"{len(methods)} or a name, got {literal(vote, LONGEST_NAME)}; correct the cell, name the method "
                    "by --methods, or leave out columns that hold no votes"
                )
            row.append(column_of[vote] if methods else found.setdefault(vote, len(found)))
        if len(found) > MOST_METHODS:
            raise InputError(
                f"{path}: expected votes for at most {MOST_METHODS} methods, got more: {listed(found, 4)}; leave out "
                "columns that hold no votes, such as names of participants"
            )
        rows.append(row)
    if not any(rows):
        raise InputError(
            f"{path}: expected at least one vote under the names of the cases, got none; name another file"
        )
    return _counted(tuple(methods), cases, found, rows)


def shares(votes: CastVotes) -> list[Share]:
    """Return the share of every method, the largest first, with the percentile interval of the bootstrap.

    The seed is fixed: the same votes give the same interval.
    """
    counts = votes.counts
    of_method = counts.sum(0)
    everybody = int(of_method.sum())
    low = high = None
    if len(counts) > 1:
        low, high = np.quantile(_resampled(counts), [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    result = [
        Share(
            method, int(of_method[m]), int(of_method[m]) / everybody,
            None if low is None else float(low[m]), None if high is None else float(high[m]),
        )
        for m, method in enumerate(votes.methods)
    ]  # fmt: skip
    return sorted(result, key=lambda share: -share.votes)


def _resampled(counts: np.ndarray) -> np.ndarray:
    """Return the shares [RESAMPLES, M] of P participants drawn with repetition, all votes of each."""
    random, people = np.random.default_rng(SEED), len(counts)
    drawn_shares = np.empty((RESAMPLES, counts.shape[1]))
    step = max(1, _AT_ONCE // (people * counts.shape[1]))
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        sums = counts[random.integers(people, size=(stop - start, people))].sum(1)
        drawn_shares[start:stop] = sums / sums.sum(1, keepdims=True)
    return drawn_shares


def _check_methods(methods: Sequence[str]) -> None:
    for number, name in enumerate(methods, 1):
        if not name.strip() or name != name.strip() or "," in name or name.isdecimal() or name in methods[: number - 1]:
            raise InputError(
                f"--methods: expected names, each once, that are no numbers and hold no comma, got "
                f"{literal(name, LONGEST_NAME)}; give them as --methods NAME NAME ..., in the order of their numbers"
            )
    if len(methods) > MOST_METHODS:
        raise InputError(f"--methods: expected at most {MOST_METHODS} names, got {len(methods)}; leave some out")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not empty."""
    try:
        data = read_bytes(path, MOST_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a CSV file of votes, there is none; name a file that exists") from error
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{path}: expected a CSV file of votes, it cannot be read ({reason}); name another") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected text in UTF-8, byte {error.start:,} is none; save the file as CSV in UTF-8"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num}: expected cells between commas, got what is no CSV ({error}); save the "
            "file as CSV in UTF-8"
        ) from error


def _cases(path: Path, first: tuple[int, list[str]] | None) -> tuple[str, ...]:
    if first is None:
        raise InputError(f"{path}: expected the names of the cases in the first line, the file is empty; name another")
    names = [cell.strip() for cell in first[1]]
    if len(names) > MOST_CASES:
        raise InputError(f"{path}: expected at most {MOST_CASES:,} columns, got {len(names):,}; split the file")
    if len(names) == 1 and ";" in names[0]:
        raise InputError(f"{path}: expected cells between commas, got semicolons; save the file with commas")
    for number, name in enumerate(names, 1):
        if not name or name.isdecimal() or name in names[: number - 1]:
            raise InputError(
                f"{path}: column {number}: expected in the first line the name of a case, no number and each name "
                f"once, got {literal(name, LONGEST_NAME)}; put a line such as case1,case2,... first"
            )
    return tuple(names)


def _counted(
    methods: tuple[str, ...], cases: tuple[str, ...], found: dict[str, int], rows: list[list[int]]
) -> CastVotes:
    names = methods or tuple(found)
    voted = [row for row in rows if row]
    counts = np.stack([np.bincount(row, minlength=len(names)) for row in voted]).astype(np.int64)
    return CastVotes(names, cases, counts, len(rows) - len(voted))
