"""Lays the scores of own ablation runs below the rows of the paper's Table 3 that they repeat: Markdown and CSV.

Published rows are marked by their protocol and never ranked with measured ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from triportrait.core.metrics.rule_weights import BY_RULE
from triportrait.core.safe_text import LONGEST_NAME, shown
from triportrait.train.evaluation.paper.ablation_rows import (
    REFERENCE,
    Own,
    Scores,
    cell_in,
    changes_in_paper,
    changes_measured,
    measured_reference,
    own_words,
    paper_rows,
    published_words,
    rows_of,
    why_empty,
)
from triportrait.train.evaluation.paper.published import Column, published
from triportrait.train.evaluation.protocols.summary import Cell
from triportrait.train.evaluation.protocols.tables import NOTHING, interval, number, printed, value_of

APART = (
    "Published rows are of the paper's own protocol and are not to be ranked with measured ones. In brackets: the 95 %"
    " interval of the bootstrap over clips."
)
_HEAD = ("origin", "protocol", "row", "method", "column", "unit", "better", "metric", "value", "low", "high",
         "by_rule")  # fmt: skip


def ablation_markdown(scores: Sequence[Scores], folders: Sequence[Path]) -> str:
    """Write Table 3 with the measured rows below those that they repeat, and what each changes against row K.

    Args:
        scores: from `summary.read_scores`, all of one protocol.
        folders: where each lies, for sentences.

    Raises:
        InputError: as `ablation_rows.rows_of`.
    """
    table, own = published("3"), rows_of(scores, folders)
    measured_by = f"measured, {shown(scores[0]['name'])} {scores[0]['protocol'][:12]}"
    lines = [
        _line(["row", "trained with", "protocol", *(heading_of(column) for column in table.columns)]),
        _line(["---", "---", "---", *["---:"] * len(table.columns)]),
    ]
    for row, values in paper_rows():
        cells = [printed(table, column, values[column.name]) for column in table.columns]
        lines.append(_line([row, published_words(row), table.protocol, *cells]))
        for one in (one for own_row, one in own if own_row == row):
            found = [_measured(cell_in(one, column)) for column in table.columns]
            lines.append(_line([_method(one), _plain(own_words(one)), measured_by, *found]))
    parts = [f"Table 3 of the paper: {table.title.lower()}", "\n".join(lines), APART]
    reasons = [
        f"- {', '.join(map(heading_of, columns))}: {_plain(shown(sentence))}"
        for sentence, columns in why_empty(own).items()
    ]
    parts += ["\n".join(reasons)] if reasons else []
    changes = _changes(own)
    parts += [f"## Change against row {REFERENCE}\n\n" + "\n".join(changes)] if changes else []
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
            cell = cell_in(one, c)
            if cell is not None and cell.value is not None:
                ends = ["" if end is None else end for end in (cell.low, cell.high)]
                mark = BY_RULE if cell.by_rule else ""
                of_column = (c.name, c.unit, c.better, cell.metric, cell.value, *ends, mark)
                writer.writerow(["measured", one["protocol"], row, one["method"], *of_column])
    return file.getvalue()


def heading_of(column: Column) -> str:
    """Return a column's head with its case, its unit and its direction."""
    case = f"{column.case} " if column.case in ("self", "cross") else ""
    return f"{case}{title_of(column)}"


def title_of(column: Column) -> str:
    """Return a column's head with its unit and its direction."""
    unit = " × 10³" if column.unit == "thousandths" else ""
    return f"{column.title}{unit} {'↑' if column.better == 'higher' else '↓'}"


def signed(value: float | None) -> str:
    """Write a difference with its sign."""
    return NOTHING if value is None else f"{'' if value < 0 else '+'}{number(value, 3)}"


def signed_as_printed(value: float) -> str:
    """Write a difference of two published numbers with their decimals and its sign."""
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _changes(own: Own) -> list[str]:
    """Say by how much measured rows differ from row K, in the paper and here; nothing without a measured row K."""
    reference, others = measured_reference(own)
    if reference is None or not others:
        return []
    columns = published("3").columns
    lines = [
        _line(["row", "", *(heading_of(column) for column in columns)]),
        _line(["---", "---", *["---:"] * len(columns)]),
    ]
    for row, one in others:
        lines.append(_line([row, "in the paper", *map(signed_as_printed, changes_in_paper(row))]))
        here = [signed(value) + f" ({BY_RULE})" * by_rule for value, by_rule in changes_measured(one, reference)]
        lines.append(_line([_method(one), "measured", *here]))
    return lines


def _measured(cell: Cell | None) -> str:
    ends = interval(cell) if cell is not None else ""
    return value_of(cell) + (f" [{ends}]" if ends else "")


def _method(one: Scores) -> str:
    return f"**{_plain(shown(one['method'], LONGEST_NAME))}**"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
