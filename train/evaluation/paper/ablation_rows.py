"""Tells which row of the paper's Table 3 each own run repeats, what it was trained with, and by how much it differs.

What may be compared is what a column of the training changes: by how much a row differs from row K, in the paper and
here, each by its own protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from triportrait.core.errors import InputError
from triportrait.core.safe_text import LONGEST_NAME, literal, shown
from triportrait.train.ablations import TABLE, RowName
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.paper.published import Column, published
from triportrait.train.evaluation.paper.readings import READINGS, kinds_of_table
from triportrait.train.evaluation.protocols.summary import Cell
from triportrait.train.evaluation.protocols.tables import cell_of

REFERENCE: RowName = "K"  # all rows but L see as many images as it does
_METHOD = re.compile(r"(?:(?:row|ablation) )?([A-L])(?:[ ,:].*)?")
_TRAINED_AS = re.compile(r".*, ablation ([A-L])")  # the preset on the card of weights of `train stage2 --ablation`
Scores = Mapping[str, Any]
Own = Sequence[tuple[RowName, Scores]]


def row_of(method: str, folder: Path) -> RowName:
    """Return the row that a method's name begins with, such as `K`, `row K` or `K, 5,000 images`.

    Raises:
        InputError: it names none.
    """
    named = _METHOD.fullmatch(method)
    for row in get_args(RowName):
        if named is not None and row == named[1]:
            return row
    raise InputError(
        f"{folder}: expected a method named by a row of Table 3, A to L, such as K or 'K, 5,000 images', got "
        f"{literal(method, LONGEST_NAME)}; score it with --method and such a name"
    )


def rows_of(scores: Sequence[Scores], folders: Sequence[Path]) -> Own:
    """Return the row that each result repeats, in the order of the paper.

    Raises:
        InputError: a method names no row, or another than its weights were trained as, or the protocol has no pairs
            for some columns.
    """
    wanted = kinds_of_table("3")
    have = [kind for kind in wanted if scores[0]["pairs"].get(kind)]
    if have != list(wanted):
        raise InputError(
            f"{folders[0]}: expected scores of pairs {', '.join(wanted)}, which the columns of Table 3 need, got "
            f"{', '.join(have) or 'none of them'}; follow a protocol of `triportrait evaluate protocol --kind "
            "p4d-table3`"
        )
    own = []
    for one, folder in zip(scores, folders, strict=True):
        row, trained = row_of(one["method"], folder), _TRAINED_AS.fullmatch(trained_of(one)[0])
        if trained is not None and trained[1] != row:
            raise InputError(
                f"{folder}: expected a method named by row {trained[1]} of Table 3, as its weights were trained, got "
                f"{literal(one['method'], LONGEST_NAME)}; score it with --method and such a name"
            )
        own.append((row, one))
    return sorted(own, key=lambda pair: pair[0])


def trained_of(scores: Scores) -> tuple[str, int | None]:
    """Return preset and number of images of stage 2, as the card of our results tells; an empty text where it does not.

    `evaluate run` copies them from the card of the weights.
    """
    trained = scores["card"].get("trained")
    trained = trained if isinstance(trained, dict) else {}
    preset, seen = trained.get("preset"), trained.get("images seen")
    images = seen.get("stage2") if isinstance(seen, dict) else None
    return preset if isinstance(preset, str) else "", images if type(images) is int else None


def own_words(scores: Scores) -> str:
    """Say what a measured row was trained with; nothing where its card does not tell."""
    preset, images = trained_of(scores)
    words = [f"preset {shown(preset, LONGEST_NAME)}"] if preset else []
    return ", ".join([*words, *([] if images is None else [f"{images:,} images"])])


def published_words(row: RowName) -> str:
    """Say what a row of the paper was trained with."""
    columns = TABLE[row]
    views = [name for name, on in (("p", columns.pseudo_p), ("q", columns.pseudo_q)) if on]
    words = [
        "from Ψ_3d" if columns.initialisation == "static synthesizer" else "from scratch",
        f"pseudo views {' and '.join(views)}" if views else "no pseudo views",
        *([] if columns.motion == "E_mot" else [f"motion {columns.motion}"]),
        *([] if columns.teacher == "static synthesizer" else [f"teacher {columns.teacher}"]),
        f"{columns.clips // 1000} K clips", f"{columns.images // 1_000_000} M images",
    ]  # fmt: skip
    return ", ".join(words)


def cell_in(scores: Scores, column: Column) -> Cell | None:
    """Return the measured cell of a column of Table 3; None where it was not measured."""
    return cell_of(scores, *READINGS["3"][column.name])


def paper_rows() -> Iterator[tuple[RowName, Mapping[str, float]]]:
    """Yield the rows of Table 3 with their values, in the paper's order."""
    values = published("3").rows
    for row in get_args(RowName):
        yield row, values[row]


def changes_in_paper(row: RowName) -> list[float]:
    """Return by how much each column of a row differs from row K in the paper."""
    table = published("3")
    return [table.value(row, column.name) - table.value(REFERENCE, column.name) for column in table.columns]


def changes_measured(one: Scores, reference: Scores) -> list[tuple[float | None, bool]]:
    """Return by how much each column differs from a measured row K, and whether a network made by rule measured it."""
    found: list[tuple[float | None, bool]] = []
    for column in published("3").columns:
        cell, before = cell_in(one, column), cell_in(reference, column)
        if cell is None or before is None or cell.value is None or before.value is None:
            found.append((None, False))
        else:
            found.append((cell.value - before.value, cell.by_rule))
    return found


def measured_reference(own: Own) -> tuple[Scores | None, Own]:
    """Return the first measured row K, or None, and the measured rows that are not K."""
    return next((one for row, one in own if row == REFERENCE), None), [p for p in own if p[0] != REFERENCE]


def why_empty(own: Own) -> dict[str, list[Column]]:
    """Return why columns are empty, such as the file of a network that was not given -> the columns."""
    reasons: dict[str, list[Column]] = {}
    for column in published("3").columns:
        needed = METRICS[READINGS["3"][column.name][1]].needs
        for _, one in own:
            for sentence in (one["empty"][need] for need in needed if one["empty"].get(need)):
                columns = reasons.setdefault(sentence, [])
                columns += [] if column in columns else [column]
    return reasons
