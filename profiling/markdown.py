"""Tables in Markdown, as every part of the bench prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table with a row for each sequence of cells; rows with fewer cells than columns end in empty ones."""
    lines = [columns, ["---"] * len(columns), *([*row, *[""] * (len(columns) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines) + "\n"
