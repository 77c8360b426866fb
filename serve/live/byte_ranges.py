"""The part of a file that a request asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.IGNORECASE)
_DIGITS = 18  # beyond any file


class UnsatisfiableError(Exception):
    """Nothing of the file lies in the range: 416."""


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """The first and the last byte that a `Range` asks for.

    Args:
        header: its value, empty where there is none.
        size: of the file, bytes.

    Returns:
        None where all is to be sent: no range, an invalid one, several, or another unit.

    Raises:
        UnsatisfiableError: it lies behind the end.
    """
    match = _RANGE.fullmatch(header)
    if match is None:
        return None
    first, last, suffix = map(_number, match.groups())
    if suffix is not None:
        if not suffix:
            raise UnsatisfiableError
        return max(0, size - suffix), size - 1
    assert first is not None
    if last is not None and last < first:
        return None
    if first >= size:
        raise UnsatisfiableError
    return first, size - 1 if last is None else min(last, size - 1)


def _number(digits: str | None) -> int | None:
    if not digits:
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS else 10**_DIGITS
