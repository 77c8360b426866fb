"""Put the figures of `profile all` into tables between two markers of the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.profiling import frame, kernels

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def report(figures: Path, readme: Path) -> None:
    """Write the tables.

    Raises:
        InputError: the file is none of `profile all`, was made without a GPU, or has a row without a figure; or the
            README lacks the markers. Nothing is written then.
    """
    measured = _read(figures)
    try:
        text = readme.read_text()
    except OSError as error:
        raise InputError(f"{readme}: expected a file to write tables into ({error.strerror}); name it") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"{readme}: expected {BEGIN} and then {END}, each once; write them where the tables belong")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    readme.write_text(f"{before}\n{tables(measured)}{after}")


def tables(figures: dict[str, Any]) -> str:
    """Tabulate the frame and the operators under a line that says where they are from."""
    where = ", ".join(f"{name} {value}" for name, value in figures["machine"].items() if value)
    return f"{where}\n\n{frame.table(figures['frame'])}\n{kernels.table(figures['kernels'])}"


def _read(path: Path) -> dict[str, Any]:
    try:
        figures = read_json(path)
        machine, red = figures["machine"], [row for row in (*figures["frame"], *figures["kernels"]) if "red" in row]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what `triportrait profile all` writes; make it again") from error
    if not machine.get("chip"):
        raise InputError(f"{path}: expected figures of a GPU, these are of a CPU and no performance; run it on a GPU")
    if red:
        raise InputError(f"{path}: {len(red)} rows have no figure, the first: {red[0]['red']}; mend that first")
    return figures  # type: ignore[no-any-return]
