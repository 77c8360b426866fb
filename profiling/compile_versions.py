"""Set what several versions of Triton make of the kernels side by side: tables of `triportrait profile compile`.

`python -m triportrait.profiling.compile_versions 3.6.md 3.9.md` prints one table of what differs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.profiling.compile_table import COLUMNS
from triportrait.profiling.markdown import markdown_table

NAMED = COLUMNS[:4]  # operator, launch, dtype, chip
COMPARED = ("spills", "shared KB", "per SM", "registers")
Rows = list[dict[str, str]]


def read(text: str) -> tuple[str, Rows]:
    """Read a printed table: the version of Triton in its first line, and its rows.

    Raises:
        InputError: the text is none of `profile compile`.
    """
    version = re.search(r"Triton (\d+\.\d+\.\d+)", text.partition("\n")[0])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    if version is None or len(cells) < 3 or tuple(cells[0]) != COLUMNS:
        raise InputError("tables: expected what `triportrait profile compile` prints; run it and name its output")
    return version[1], [dict(zip(COLUMNS, row, strict=True)) for row in cells[2:]]


def compare(tables: Mapping[str, Rows]) -> str:
    """Tabulate what versions have in common and where they differ.

    Args:
        tables: version -> its rows, of the same launches in the same order.

    Raises:
        InputError: the tables are of other launches.
    """
    first = next(iter(tables.values()))
    for version, rows in tables.items():
        if [[row[name] for name in NAMED] for row in rows] != [[row[name] for name in NAMED] for row in first]:
            raise InputError(f"tables: expected the same launches in all, Triton {version} has others; make them again")
    sums = [
        [
            version, len(rows), sum(row["spills"] != "0" for row in rows), max(int(row["registers"]) for row in rows),
            max(float(row["shared KB"]) for row in rows),
            sum(int(row["per SM"]) < int(other["per SM"]) for row, other in zip(rows, first, strict=True)),
        ]
        for version, rows in tables.items()
    ]  # fmt: skip
    differing: dict[tuple[str, ...], None] = {}  # operators share programs
    for same in zip(*tables.values(), strict=True):
        spills, shared = ([row[name] for row in same] for name in COMPARED[:2])
        if len(set(shared)) > 1 or set(spills) != {"0"}:
            values = [" / ".join(row[name] for row in same) for name in COMPARED]
            differing[*(same[0][name] for name in NAMED[1:]), *values] = None
    versions = f", {' / '.join(tables)}"
    fewer = f"fewer per SM than {next(iter(tables))}"
    return "\n".join(
        [
            markdown_table(("Triton", "rows", "that spill", "most registers", "most shared KB", fewer), sums),
            markdown_table((*NAMED[1:], *(name + versions for name in COMPARED)), differing),
        ]
    )


def main(paths: Sequence[str]) -> str:
    """Read the named files and compare them."""
    try:
        tables = dict(read(Path(path).read_text()) for path in paths)
    except OSError as error:
        raise InputError(f"tables: expected files, {error.filename} is none that can be read; name others") from error
    if len(tables) < 2:
        raise InputError(f"tables: expected those of two versions or more, got {len(tables)}; name another file")
    return compare(tables)


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]), end="")
    except InputError as error:
        print(f"compile_versions: {error}", file=sys.stderr)
        raise SystemExit(2) from None
