"""Writes Table 3 of the paper with own ablation runs as a section of the comparison page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

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
)
from triportrait.train.evaluation.paper.ablation_table import signed, signed_as_printed, title_of
from triportrait.train.evaluation.paper.published import PublishedTable, published
from triportrait.train.evaluation.protocols.page import value_html
from triportrait.train.evaluation.protocols.summary import Cell
from triportrait.train.evaluation.protocols.tables import NOTHING, interval, number, printed

SECTION = "ablations"


def ablation_html(scores: Sequence[Scores], folders: Sequence[Path]) -> str:
    """Write the section: the published rows, below each the measured ones, and what each changes against row K.

    Raises:
        InputError: as `ablation_rows.rows_of`.
    """
    table, own = published("3"), rows_of(scores, folders)
    rows = []
    for row, values in paper_rows():
        cells = "".join(f"<td>{printed(table, c, values[c.name])}</td>" for c in table.columns)
        rows.append(f"<tr class='printed'><th>{row} <small>{escape(published_words(row))}</small></th>{cells}</tr>")
        for one in (one for own_row, one in own if own_row == row):
            cells = "".join(_measured(cell_in(one, c)) for c in table.columns)
            rows.append(f"<tr class='own'><th>{_method(one)} <small>{escape(own_words(one))}</small></th>{cells}</tr>")
    return (
        f"<section id='{SECTION}'><h2>Table 3 of the paper: {escape(table.title.lower())}</h2>"
        f"<p class='lead'>Grey rows: {escape(table.protocol)}, by other clips and scripts. Green rows: measured here by"
        " the protocol above, with the 95 % interval of the bootstrap over clips. They are not to be ranked with one"
        f" another.</p>{_grid(table, rows)}{_changes(table, own)}</section>"
    )


def _changes(table: PublishedTable, own: Own) -> str:
    """Say by how much measured rows differ from row K, in the paper and here; nothing without a measured row K."""
    reference, others = measured_reference(own)
    if reference is None or not others:
        return ""
    rows = []
    for row, one in others:
        cells = "".join(f"<td>{signed_as_printed(value)}</td>" for value in changes_in_paper(row))
        rows.append(f"<tr class='printed'><th>{row} <small>in the paper</small></th>{cells}</tr>")
        here = "".join(
            f"<td>{value_html(signed(value), by_rule)}</td>" for value, by_rule in changes_measured(one, reference)
        )
        rows.append(f"<tr class='own'><th>{_method(one)} <small>measured</small></th>{here}</tr>")
    return f"<h3>Change against row {REFERENCE}</h3>{_grid(table, rows)}"


def _grid(table: PublishedTable, rows: Sequence[str]) -> str:
    cases = "".join(
        f"<th colspan={len(list(columns))}>{case}</th>"
        for case, columns in groupby(table.columns, key=lambda column: column.case)
    )
    heads = "".join(f"<th>{escape(title_of(column))}</th>" for column in table.columns)
    return (
        f"<div class='scroll'><table class='ablations'><thead><tr class='cases'><th></th>{cases}</tr><tr><th>Row</th>"
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _measured(cell: Cell | None) -> str:
    if cell is None or cell.value is None:
        return f"<td class='none' title='{escape(cell.note, quote=True) if cell else ''}'>{NOTHING}</td>"
    return f"<td><span>{value_html(number(cell.value), cell.by_rule)}</span><small>{interval(cell)}</small></td>"


def _method(one: Scores) -> str:
    return escape(shown(one["method"], LONGEST_NAME))
