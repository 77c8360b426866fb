"""Byte ranges of HTTP: which part of a file a request asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.IGNORECASE)
_MAX_DIGITS = 18  # a longer number is beyond any file


class UnsatisfiableError(Exception):
    """No byte of the file lies in the range; the status is 416."""


def requested_range(header: str, size: int) -> tuple[int, int] | None:
    """Read the first and the last byte that a `Range` header asks for.

    Args:
        header: the header's value, empty where there is none.
        size: the length of the file, bytes.

    Returns:
        None where all is to be sent: no range, an invalid one, several, or another unit.

    Raises:
        UnsatisfiableError: the range begins behind the end of the file.
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
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS
