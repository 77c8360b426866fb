"""Files are opened here: only regular ones, and how much of them is read is bounded.

A pipe would be waited for without end and a device may never end, so that both, sockets and folders are refused before
they are opened, also behind a link; `/dev/stdin` is taken where a file stands behind it. Libraries that open a path by
themselves are given it after `check_regular`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.safe_text import LONGEST_NAME, shown

MOST_JSON = 4 << 20  # bytes; the largest card of ours has 0.2 MB
MOST_HEADER = 8 << 20  # bytes of a safetensors header; the largest of ours, a checkpoint's, has 0.5 MB
MOST_INDEX = 256 << 20  # bytes of an index of a data set, a log of a run or a picture beside it
MOST_DEPTH = 64  # of lists and objects in each other
# What numpy.load ends with for a damaged file; `OSError` is told apart where a file is missing or out of reach.
ARRAY_DAMAGE = (
    ValueError, EOFError, KeyError, TypeError, MemoryError, OverflowError, RuntimeError, SyntaxError, struct.error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: str | os.PathLike[str]) -> os.stat_result:
    """Check that a path is a regular file, or a link to one, without opening it.

    Returns: what the system says of it.
    Raises: `InputError` for a pipe, a socket or a device; `OSError` for a folder, and for what is missing or out of
        reach.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # a name that no system has
        raise FileNotFoundError(f"no such file ({error})") from error
    _check_mode(path, status.st_mode)
    return status


def opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading; what takes its place meanwhile is neither waited for nor read.

    Raises: as `check_regular`.
    """
    check_regular(path)
    waits = getattr(os, "O_NONBLOCK", 0)
    flags = os.O_RDONLY | waits | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        _check_mode(path, os.fstat(handle).st_mode)
        if waits:
            os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_mode(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise InputError(f"{os.fspath(path)}: expected a file, this is {kind}; name a regular file")


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises: as `check_regular`; `InputError` for a larger file, of which no more than that is read.
    """
    with opened(path) as file:
        data = file.read(most + 1)
        if len(data) > most:
            size = max(os.fstat(file.fileno()).st_size, len(data))
            raise InputError(f"{os.fspath(path)}: expected at most {most:,} bytes, got {size:,}; name another file")
    return data


def read_json(path: str | os.PathLike[str], most: int = MOST_JSON, *, finite: bool = True) -> Any:
    """Read the value in a JSON file.

    Args:
        most: bytes of the file. finite: as of `parsed_json`.

    Raises: as `read_bytes`; `ValueError`, in words, for what is no JSON in UTF-8 (see `parsed_json`).
    """
    return parsed_json(read_bytes(path, most), finite=finite)


def parsed_json(data: str | bytes, *, finite: bool = True) -> Any:
    """Parse a JSON text, stricter than Python's: a name stands once in an object, and numbers are finite.

    Args:
        finite: refuse infinities and what is no number, which Python writes and reads.

    Raises: `ValueError`, in words: it is no such text, a whole number has more than 64 bits, or it is nested too deep.
    """
    try:
        value = json.loads(
            data.decode("utf-8") if isinstance(data, bytes) else data,
            object_pairs_hook=_object,
            parse_float=_finite if finite else float,
            parse_constant=_finite if finite else float,
        )
    except RecursionError as error:
        raise ValueError(f"lists and objects more than {MOST_DEPTH} deep") from error
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"lists and objects more than {MOST_DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{shown(name, LONGEST_NAME)} stands twice in one object")
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, int) and not -(2**63) <= number < 2**64:
                raise ValueError(f"{shown(name, LONGEST_NAME)} is {shown(number)}")
        entries[name] = value
    return entries


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{shown(text, LONGEST_NAME)} is no finite number")
    return number


def _inside(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in values if isinstance(inner, dict | list)]


def check_tensor_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check and return the header of a safetensors file, of which the library itself would take up to 100 MB.

    Returns: name -> {"dtype", "shape", "data_offsets"}, and "__metadata__", name -> text, where there is one.
    Raises: `OSError` for what is missing or out of reach; `InputError` for what is no regular file; `ValueError`, in
        words, for a header that is cut, larger than `MOST_HEADER`, no JSON or names a tensor twice, and for metadata
        that are no texts.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("its header is cut")
        if length > MOST_HEADER:
            raise ValueError(f"its header has {length:,} bytes, {MOST_HEADER:,} at most are wanted")
        header = parsed_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        return header
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are no object of texts")
    return header | {"__metadata__": metadata}
