"""Read the options of a custom operator, a FlexBuffers map of whole numbers, numbers and lists of whole numbers."""

from __future__ import annotations

from triportrait.core.faces.flatbuffer import Bytes

MOST_ENTRIES = 64
MOST_NUMBERS = 4096
_INTEGER, _UNSIGNED, _FLOAT, _MAP, _INTEGERS, _UNSIGNEDS = 1, 2, 3, 9, 11, 12
_LETTERS = {1: "bB", 2: "hH", 4: "iI", 8: "qQ"}
_FLOATS = {2: "e", 4: "f", 8: "d"}

Value = int | float | tuple[int, ...]


def read_map(source: Bytes) -> dict[str, Value]:
    """Read the map that is the whole of `source`.

    Raises:
        InputError: it is damaged, or holds anything else than numbers and lists of whole numbers.
    """
    size = len(source.data)
    if size < 3:
        raise source.error("has a custom operator without options")
    width, kind = source.whole("B", size - 1), source.whole("B", size - 2)
    if width not in _LETTERS or kind >> 2 != _MAP:
        raise source.error("has a custom operator whose options are no map")
    at = _follow(source, size - 2 - width, width)
    width = 1 << (kind & 3)  # of the map itself
    count = _length(source, at, width, MOST_ENTRIES)
    keys = _follow(source, at - 3 * width, width)
    key_width = _unsigned(source, at - 2 * width, width)
    if key_width not in _LETTERS or _length(source, keys, key_width, MOST_ENTRIES) != count:
        raise source.error("has a custom operator with a damaged list of options")
    found: dict[str, Value] = {}
    for k in range(count):
        name = _name(source, _follow(source, keys + k * key_width, key_width))
        if name in found:
            raise source.error(f"names the option {name} of a custom operator twice")
        found[name] = _value(source, at + k * width, width, source.whole("B", at + count * width + k))
    return found


def _value(source: Bytes, at: int, width: int, packed: int) -> Value:
    kind, inner = packed >> 2, 1 << (packed & 3)
    if kind in (_INTEGER, _UNSIGNED):
        return source.whole(_LETTERS[width][kind == _UNSIGNED], at)
    if kind == _FLOAT and width in _FLOATS:
        return float(source.number(_FLOATS[width], at))
    if kind in (_INTEGERS, _UNSIGNEDS):
        start = _follow(source, at, width)
        count = _length(source, start, inner, MOST_NUMBERS)
        letter = _LETTERS[inner][kind == _UNSIGNEDS]
        return tuple(source.whole(letter, start + k * inner) for k in range(count))
    raise source.error(f"has a custom operator with an option of FlexBuffers type {kind}, which no face network needs")


def _unsigned(source: Bytes, at: int, width: int) -> int:
    return source.whole(_LETTERS[width][1], at)


def _follow(source: Bytes, at: int, width: int) -> int:
    """Follow an offset, which counts backwards from where it is."""
    return at - _unsigned(source, at, width)


def _length(source: Bytes, at: int, width: int, most: int) -> int:
    count = _unsigned(source, at - width, width)
    if count > most:
        raise source.error(f"has a custom operator with {count:,} options, {most:,} at most make sense")
    return count


def _name(source: Bytes, at: int) -> str:
    raw = bytes(source.slice(at, min(64, len(source.data) - at)))
    name, end, _ = raw.partition(b"\0")
    if not end or not name.isascii():
        raise source.error("has a custom operator with a damaged name of an option")
    return name.decode("ascii")
