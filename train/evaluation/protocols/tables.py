"""Lays scores beside each other: Markdown and CSV. Published rows stand apart: another protocol made them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.metrics.rule_weights import BY_RULE, NOTE
from triportrait.core.safe_text import shown
from triportrait.train.evaluation.metrics.catalogue import METRICS
from triportrait.train.evaluation.metrics.definition import EVERY_KIND, Definition, Kind
from triportrait.train.evaluation.paper.published import Column, PublishedTable, TableName, published
from triportrait.train.evaluation.paper.readings import READINGS
from triportrait.train.evaluation.protocols.summary import Cell

NOTHING = "–"
TITLES: dict[Kind, str] = {
    "self": "Self-reenactment", "cross": "Cross-reenactment", "consistency": "Consistency over drivers",
    "sound": "Driven by a talking clip",
}  # fmt: skip
METHOD_TABLES: tuple[TableName, ...] = ("1", "2a")  # whose rows are methods; those of Table 3 are ablations
Scores = Mapping[str, Any]


def check_comparable(scores: Sequence[Scores], folders: Sequence[Path]) -> None:
    """Check that results may stand in one table.

    Raises:
        InputError: they follow other protocols, were measured by other networks, or two have one name.
    """
    first = scores[0]
    for folder, one in zip(folders, scores, strict=True):
        if one["protocol"] != first["protocol"]:
            raise InputError(
                f"{folder}: expected scores by the protocol {first['protocol'][:12]} of {folders[0]}, got"
                f" {one['protocol'][:12]}; tables never mix two protocols: score the same one, or make two tables"
            )
        for need in {*one["networks"]} & {*first["networks"]}:
            if one["networks"][need] != first["networks"][need]:
                raise InputError(
                    f"{folder}: {need}: expected the network that {folders[0]} was measured with, got another; score"
                    " both with the same"
                )
    names = [one["method"] for one in scores]
    if len(set(names)) < len(names):
        raise InputError(f"R: expected a name of its own for each method, got {shown(names)}; score with --method NAME")


def kinds_of(scores: Sequence[Scores]) -> list[Kind]:
    """Return the kinds of pairs that were measured, in their order."""
    return [kind for kind in EVERY_KIND if any(cell.kind == kind for one in scores for cell in cells_of(one))]


def cells_of(scores: Scores) -> list[Cell]:
    """Return the cells of scores as they came from a file or from `score_results`."""
    return [cell if isinstance(cell, Cell) else Cell(**cell) for cell in scores["cells"]]


def cell_of(scores: Scores, kind: Kind, metric: str) -> Cell | None:
    """Return a cell; None where the metric was not measured."""
    return next((cell for cell in cells_of(scores) if (cell.kind, cell.metric) == (kind, metric)), None)


def measured(scores: Sequence[Scores], kind: Kind) -> list[Definition]:
    """Return the definitions of which some method has a cell, those of the paper first."""
    names = {cell.metric for one in scores for cell in cells_of(one) if cell.kind == kind}
    return sorted((METRICS[name] for name in names), key=_order)


def _order(definition: Definition) -> tuple[int, int]:
    return (("paper", "field", "default").index(definition.whose), list(METRICS).index(definition.name))


def best_of(scores: Sequence[Scores], kind: Kind, definition: Definition) -> set[str]:
    """Return the methods whose value is best, where a direction is better and two methods at least have a value.

    What networks made by rule measured is never ranked.
    """
    cells = {one["method"]: cell_of(one, kind, definition.name) for one in scores}
    values = {method: cell.value for method, cell in cells.items() if cell and not cell.by_rule}
    numbers = {name: value for name, value in values.items() if value is not None}
    if definition.better is None or not numbers:
        return set()
    best = (max if definition.better == "higher" else min)(numbers.values())
    return {name for name, value in numbers.items() if value == best} if len(set(numbers.values())) > 1 else set()


def published_of(kind: Kind) -> list[tuple[PublishedTable, list[tuple[Column, Definition]]]]:
    """Return the published tables of methods with columns of a kind, and in which definition each is read here."""
    found = []
    for name in METHOD_TABLES:
        table, readings = published(name), READINGS[name]
        columns = [(c, METRICS[readings[c.name][1]]) for c in table.columns if readings[c.name][0] == kind]
        found += [(table, columns)] if columns else []
    return found


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with so many significant digits."""
    if value is None:
        return NOTHING
    if abs(value) < 1e-9:
        return "0"
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")


def value_of(cell: Cell | None) -> str:
    """Write the value of a cell, with its mark where a network made by rule measured it."""
    if cell is None or cell.value is None:
        return NOTHING
    return f"{number(cell.value)} ({BY_RULE})" if cell.by_rule else number(cell.value)


def interval(cell: Cell) -> str:
    """Write the interval of a cell, or KID's deviation; nothing where there is none, or all clips have one value."""
    if cell.spread is not None:
        return f"± {number(cell.spread, 3)}"
    if cell.low is None or cell.high is None or cell.low == cell.high:
        return ""
    return f"{number(cell.low, 3)} to {number(cell.high, 3)}"


def arrow(definition: Definition) -> str:
    """Show which direction is better."""
    return {"higher": " ↑", "lower": " ↓", None: ""}[definition.better]


def heading(definition: Definition) -> str:
    """Return a metric's title with its unit and its direction."""
    unit = f", {definition.unit}" if definition.unit else ""
    return f"{definition.title}{unit}{arrow(definition)}"


def counted(scores: Scores, kind: Kind) -> str:
    """Say how many pairs of a kind were measured, and which were not."""
    total = scores["pairs"].get(kind, 0)
    failed = [name for name in scores["failed"] if name.startswith(f"{kind}-")]
    missing = [name for name in scores["missing"] if name.startswith(f"{kind}-")]
    words = f"{total - len(failed) - len(missing)} of {total} pairs"
    for what, names in (("failed", failed), ("missing", missing)):
        if names:
            words += f", {len(names)} {what} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
    return words


def without_faces(cell: Cell) -> str:
    """Say in how many frames a face was missing; nothing where none was."""
    looked = cell.frames + cell.missing
    return f"{100 * cell.missing / looked:.1f} % of {looked:,} frames without a face" if cell.missing else ""


def notes_of(scores: Sequence[Scores], kind: Kind) -> list[tuple[list[str], list[str], str]]:
    """Return what a reader must know of the numbers: titles of metrics, methods, and a sentence that they share."""
    of_sentence: dict[str, dict[str, list[str]]] = {}
    for definition in measured(scores, kind):
        for one in scores:
            cell = cell_of(one, kind, definition.name)
            for note in (NOTE * cell.by_rule, cell.note, without_faces(cell)) if cell else ():
                if note:
                    of_sentence.setdefault(note, {}).setdefault(definition.title, []).append(one["method"])
    shared: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for note, of_title in of_sentence.items():
        for title, methods in of_title.items():
            shared.setdefault((note, tuple(methods)), []).append(title)
    return [(titles, list(methods), note) for (note, methods), titles in shared.items()]


def printed(table: PublishedTable, column: Column, value: float) -> str:
    """Write a published number with the decimals that its column is printed with."""
    return f"{value:.{max(len(repr(row[column.name]).partition('.')[2].rstrip('0')) for row in table.rows.values())}f}"


def markdown(scores: Sequence[Scores], first: Sequence[str] = ()) -> str:
    """Write the tables of all kinds: a row for each metric, a column for each method, and the published rows apart.

    Args:
        first: names of metrics that come first.
    """
    parts = [f"Protocol `{scores[0]['name']}`, `{scores[0]['protocol'][:12]}`"]
    for kind in kinds_of(scores):
        definitions = sorted(
            measured(scores, kind), key=lambda d: first.index(d.name) if d.name in first else len(first)
        )  # fmt: skip
        counts = "; ".join(f"{_plain(one['method'])}: {counted(one, kind)}" for one in scores)
        parts.append(f"## {TITLES[kind]}\n\n{counts}")
        head = ["metric", *(cell for one in scores for cell in (_plain(one["method"]), "95 %"))]
        rows = []
        for definition in definitions:
            best, row = best_of(scores, kind, definition), [heading(definition)]
            for one in scores:
                cell = cell_of(one, kind, definition.name)
                text = value_of(cell)
                row += [f"**{text}**" if one["method"] in best else text, interval(cell) if cell else ""]
            rows.append(row)
        parts.append(_grid(head, rows))
        notes = [
            f"- {', '.join(titles)} of {', '.join(methods)}: {note}" for titles, methods, note in notes_of(scores, kind)
        ]
        parts += ["\n".join(notes)] if notes else []
        for table, columns in published_of(kind):
            cells = [
                [_plain(name), *(printed(table, c, row[c.name]) for c, _ in columns)]
                for name, row in table.rows.items()
            ]
            title = f"Table {table.name} of the paper: **{table.protocol}**, not to be ranked with the rows above"
            parts.append(f"{title}\n\n{_grid(['method', *(c.title for c, _ in columns)], cells)}")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(3, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    lines = [line(row) for row in [head, *rows]]
    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def csv_text(scores: Sequence[Scores]) -> str:
    """Write one line for each number: the measured ones, then the published ones of the same kinds."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(
        ["origin", "protocol", "kind", "metric", "title", "unit", "better", "method", "value", "low", "high",
         "spread", "clips", "frames", "frames_without_face", "by_rule", "note"]
    )  # fmt: skip
    for one in scores:
        for cell in cells_of(one):
            d = METRICS[cell.metric]
            writer.writerow(
                ["measured", one["protocol"], cell.kind, cell.metric, d.title, d.unit, d.better or "",
                 _safe(one["method"]), _exact(cell.value), _exact(cell.low), _exact(cell.high), _exact(cell.spread),
                 cell.clips, cell.frames, cell.missing, BY_RULE if cell.by_rule else "", cell.note]
            )  # fmt: skip
    for kind in kinds_of(scores):
        for table, columns in published_of(kind):
            for name, row in table.rows.items():
                for column, d in columns:
                    writer.writerow(
                        [table.protocol, f"Table {table.name}", kind, d.name, column.title, column.unit, column.better,
                         name, _exact(row[column.name]), *[""] * 8]
                    )  # fmt: skip
    return file.getvalue()


def _safe(text: str) -> str:
    """Keep a spreadsheet from taking a method's name for a formula."""
    return f"'{text}" if text[:1] in "=+-@" else text


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
