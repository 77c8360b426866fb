"""Make texts of files and libraries fit for a sentence: on one line, without control characters, and short.

`InputError` and the command's log pass everything through `shown`, so that no author of a sentence can forget it.
Pieces that may be long, such as the names of tensors, are cut by themselves, so that the rest of the sentence stays.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable
from typing import Any

LONGEST_SENTENCE = 1000  # characters
LONGEST_PIECE = 160
LONGEST_NAME = 80  # for one name among several
_MARK = 40  # characters, at most, that say what was left out
_DIGITS = 40
_LARGEST_SHOWN = 10**16


class _Repr(reprlib.Repr):
    """Make representations of bounded length; Python itself refuses those of very large whole numbers."""

    def repr_int(self, x: int, level: int) -> str:
        if abs(x) < 10**_DIGITS:
            return repr(x)
        return f"a number of about {int(x.bit_length() * 0.30103) + 1:,} digits"


_REPR = _Repr()
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 6
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, LONGEST_PIECE, LONGEST_PIECE


def shown(value: object, most: int = LONGEST_PIECE) -> str:
    """Make a text, or the representation of another value, harmless where it is printed.

    What is not printable (control and format characters, ends of lines, surrogates) is escaped as in Python's source.
    A longer text loses its middle, and a mark in its place counts the characters. A text may pass twice: the second
    pass changes nothing.

    Args:
        most: the largest number of characters of the result.
    """
    text = value if isinstance(value, str) else _REPR.repr(value)
    if len(text) <= most:
        whole = "".join(map(_escaped, text))
        if len(whole) <= most:
            return whole
    room = max(0, most - _MARK)
    head, first = _fitting(text[:room], room * 2 // 3)
    tail, last = _fitting(text[: -room - 1 : -1], room - room * 2 // 3)
    return f"{''.join(head)}…({len(text) - first - last:,} characters left out)…{''.join(reversed(tail))}"


def literal(value: object, most: int = LONGEST_PIECE) -> str:
    """Make a value harmless like `shown`, with texts in quotes, so that '48' differs from 48."""
    return f"'{shown(value, most - 2)}'" if isinstance(value, str) else shown(value, most)


def shown_number(value: float) -> str:
    """Show a number for a sentence; one of more digits than that needs, as whole numbers may have, is not repeated."""
    return f"{value:g}" if abs(value) < _LARGEST_SHOWN else "a number far beyond"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Join the first names, each made harmless; dots stand for the others."""
    ordered = list(names)
    return ", ".join(shown(name, LONGEST_NAME) for name in ordered[:most]) + ", ..." * (len(ordered) > most)


def json_text(value: Any, indent: int | None = None) -> str:
    """Write JSON in which everything that is not printable is escaped, even what JSON would let pass."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=shown)
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    return "".join(f"\\u{unit:04x}" for unit in _units(character))


def _units(character: str) -> list[int]:
    data = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


def bounded(value: Any, depth: int = 4, entries: int = 50) -> Any:
    """Bound a JSON value: its texts are shown, and it has no more entries and levels than anybody reads."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        return shown(value)
    if isinstance(value, dict | list) and depth == 0:
        return shown(value)
    if isinstance(value, dict):
        pairs = list(value.items())
        first = {shown(str(name)): bounded(inner, depth - 1, entries) for name, inner in pairs[:entries]}
        return first | ({"…": f"{len(pairs) - entries:,} entries left out"} if len(pairs) > entries else {})
    if isinstance(value, list):
        mark = [f"… {len(value) - entries:,} entries left out"] if len(value) > entries else []
        return [bounded(inner, depth - 1, entries) for inner in value[:entries]] + mark
    return value


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _fitting(text: str, room: int) -> tuple[list[str], int]:
    """Return the first characters that have room, escaped, and their number."""
    fitting: list[str] = []
    for character in text:
        escaped = _escaped(character)
        room -= len(escaped)
        if room < 0:
            break
        fitting.append(escaped)
    return fitting, len(fitting)
