"""Reads a file that says whose each film is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_bytes
from triportrait.core.safe_text import literal


def check_people(named: Mapping[str, str], films: Sequence[str], file: Path) -> None:
    """Check that a file says of each film whose it is. Raises: `InputError`."""
    missing = [name for name in films if name not in named]
    if missing:
        raise InputError(
            f"{file}: expected whose each of the {len(films):,} films is, {len(missing):,} are missing, the first is "
            f"{literal(missing[0])}; add a line FILM<tab>PERSON for each"
        )


def read_people(path: Path) -> dict[str, str]:
    """Read a text file with a line `FILM<tab>PERSON` for each film.

    Raises: `InputError` for a file that cannot be read, a line of another form, or a film that is named twice.
    """
    try:
        lines = read_bytes(path, MOST_INDEX).decode().splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a text file with a line FILM<tab>PERSON for each film") from error
    named: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        film, _, person = (part.strip() for part in line.rpartition("\t"))
        if not film or not person:
            raise InputError(f"{path}: line {number} is {literal(line)}, expected FILM<tab>PERSON; mend it")
        if named.setdefault(film, person) != person:
            raise InputError(f"{path}: line {number} names {literal(film)} a second time; leave one out")
    return named
