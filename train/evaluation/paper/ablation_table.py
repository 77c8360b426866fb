"""Lays the scores of own ablation runs below the rows of the paper's Table 3 that they repeat.

Published rows are marked by their protocol and never ranked with measured ones. What may be compared is what a column
of the training changes: by how much a row differs from row K, in the paper and here, each by its own protocol.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from triportrait.core.errors import InputError
from triportrait.core.metrics.rule_weights import BY_RULE
from triportrait.core.safe_text import LONGEST_NAME, literal, shown
from triportrait.train.ablations import TABLE, RowName
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import Kind
from triportrait.train.evaluation.paper.published import Column, published
from triportrait.train.evaluation.protocols.summary import Cell

REFERENCE: RowName = "K"  # all rows but L see as many images as it does
READINGS: dict[str, tuple[Kind, str]] = {  # column of Table 3 -> kind of pairs and definition that reads it here
    "self_lpips": ("self", "lpips_alex"), "self_id": ("self", "id"), "self_aed": ("self", "aed_mean_square"),
    "self_apd": ("self", "apd_mean_square"), "cross_id": ("cross", "id"), "cross_aed": ("cross", "aed_mean_square"),
    "cross_aed_f": ("cross", "aed_f_mean_absolute"), "cross_apd": ("cross", "apd_mean_square"),
    "cons": ("consistency", "cons_pairwise"),
}  # fmt: skip
_METHOD = re.compile(r"(?:(?:row|ablation) )?([A-L])(?:[ ,:].*)?")
_NOTHING = "–"
_HEAD = ("origin", "protocol", "row", "method", "column", "unit", "better", "metric", "value", "low", "high",
         "by_rule")  # fmt: skip
Scores = Mapping[str, Any]


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


def rows_of(scores: Sequence[Scores], folders: Sequence[Path]) -> list[tuple[RowName, Scores]]:
    """Return the row that each result repeats, in the order of the paper. Raises: `InputError` as `row_of`."""
    named = [(row_of(one["method"], folder), one) for one, folder in zip(scores, folders, strict=True)]
    return sorted(named, key=lambda pair: pair[0])


def ablation_markdown(scores: Sequence[Scores], folders: Sequence[Path]) -> str:
    """Write Table 3 with the measured rows below those that they repeat, and what each changes against row K.

    Args:
        scores: from `summary.read_scores`, all of one protocol.
        folders: where each lies, for sentences.
    """
    table, own = published("3"), rows_of(scores, folders)
    measured_by = f"measured, {shown(scores[0]['name'])} {scores[0]['protocol'][:12]}"
    lines = [
        _line(["row", "trained with", "protocol", *(_heading(column) for column in table.columns)]),
        _line(["---", "---", "---", *["---:"] * len(table.columns)]),
    ]
    for row, values in table.rows.items():
        cells = [_printed(values[column.name]) for column in table.columns]
        lines.append(_line([row, _trained_with(row), table.protocol, *cells]))
        for _, one in (pair for pair in own if pair[0] == row):
            found = [_cell(one, column) for column in table.columns]
            method = _plain(shown(one["method"], LONGEST_NAME))
            lines.append(_line([f"**{method}**", "", measured_by, *(_measured(cell) for cell in found)]))
    parts = [f"Table 3 of the paper: {table.title.lower()}", "\n".join(lines)]
    parts.append(
        "Published rows are of the paper's own protocol and are not to be ranked with measured ones. In brackets: the "
        "95 % interval of the bootstrap over clips."
    )
    parts += _why_empty(own)
    changes = _changes(own)
    if changes:
        parts.append(f"## Change against row {REFERENCE}\n\n" + "\n".join(changes))
    return "\n\n".join(parts) + "\n"


def ablation_csv(scores: Sequence[Scores], folders: Sequence[Path]) -> str:
    """Write one line for each number of Table 3, the published ones and the measured ones."""
    table, own = published("3"), rows_of(scores, folders)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEAD)
    for figure in table.figures():
        c = figure.column
        writer.writerow(
            ["published", figure.protocol, figure.row, "", c.name, c.unit, c.better, "", figure.value, *[""] * 3]
        )
    for row, one in own:
        for c in table.columns:
            cell = _cell(one, c)
            if cell is not None and cell.value is not None:
                method = f"'{one['method']}" if one["method"][:1] in "=+-@" else one["method"]
                ends = ["" if end is None else end for end in (cell.low, cell.high)]
                mark = BY_RULE if cell.by_rule else ""
                of_column = (c.name, c.unit, c.better, cell.metric, cell.value, *ends, mark)
                writer.writerow(["measured", one["protocol"], row, method, *of_column])
    return file.getvalue()


def _why_empty(own: Sequence[tuple[RowName, Scores]]) -> list[str]:
    """Return, as one list in Markdown, why columns are empty, such as the file of a network that was not given."""
    needs = [(column, METRICS[READINGS[column.name][1]].needs) for column in published("3").columns]
    reasons: dict[str, list[str]] = {}
    for column, needed in needs:
        for _, one in own:
            for sentence in (one["empty"][need] for need in needed if one["empty"].get(need)):
                titles = reasons.setdefault(sentence, [])
                titles += [] if _heading(column) in titles else [_heading(column)]
    lines = [f"- {', '.join(titles)}: {_plain(shown(sentence))}" for sentence, titles in reasons.items()]
    return ["\n".join(lines)] if lines else []


def _changes(own: Sequence[tuple[RowName, Scores]]) -> list[str]:
    """Say by how much measured rows differ from row K, in the paper and here; nothing without a measured row K."""
    table = published("3")
    reference = next((one for row, one in own if row == REFERENCE), None)
    others = [(row, one) for row, one in own if row != REFERENCE]
    if reference is None or not others:
        return []
    lines = [
        _line(["row", "", *(_heading(column) for column in table.columns)]),
        _line(["---", "---", *["---:"] * len(table.columns)]),
    ]
    for row, one in others:
        paper = [table.value(row, column.name) - table.value(REFERENCE, column.name) for column in table.columns]
        lines.append(_line([row, "in the paper", *(_signed(change) for change in paper)]))
        here = []
        for column in table.columns:
            cell, before = _cell(one, column), _cell(reference, column)
            known = cell is not None and before is not None and cell.value is not None and before.value is not None
            mark = f" ({BY_RULE})" * (known and cell.by_rule)  # type: ignore[union-attr]
            change = _signed(cell.value - before.value) if known else _NOTHING  # type: ignore[union-attr, operator]
            here.append(change + mark)
        lines.append(_line([f"**{_plain(shown(one['method'], LONGEST_NAME))}**", "measured", *here]))
    return lines


def _cell(scores: Scores, column: Column) -> Cell | None:
    at = READINGS[column.name]
    return next((cell for cell in scores["cells"] if (cell.kind, cell.metric) == at), None)


def _heading(column: Column) -> str:
    case = f"{column.case} " if column.case in ("self", "cross") else ""
    unit = " × 10³" if column.unit == "thousandths" else ""
    return f"{case}{column.title}{unit} {'↑' if column.better == 'higher' else '↓'}"


def _trained_with(row: str) -> str:
    columns = next(columns for name, columns in TABLE.items() if name == row)
    views = [name for name, on in (("p", columns.pseudo_p), ("q", columns.pseudo_q)) if on]
    words = [
        "from Ψ_3d" if columns.initialisation == "static synthesizer" else "from scratch",
        f"pseudo views {' and '.join(views)}" if views else "no pseudo views",
        *([] if columns.motion == "E_mot" else [f"motion {columns.motion}"]),
        *([] if columns.teacher == "static synthesizer" else [f"teacher {columns.teacher}"]),
        f"{columns.clips // 1000} K clips", f"{columns.images // 1_000_000} M images",
    ]  # fmt: skip
    return ", ".join(words)


def _measured(cell: Cell | None) -> str:
    if cell is None or cell.value is None:
        return _NOTHING
    ends = "" if cell.low is None or cell.high is None else f" [{_printed(cell.low)}, {_printed(cell.high)}]"
    return f"{_printed(cell.value)}{ends}{f' ({BY_RULE})' * cell.by_rule}"


def _printed(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
