"""Read NumPy's files, `.npy` and `.npz`, whose arrays may be of Python objects, without running anything of theirs.

NumPy itself unpickles such arrays, which runs what the file says; here the same machine reads them that reads weights.
"""

from __future__ import annotations

import ast
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import opened
from triportrait.core.published import numpy_parts, storages
from triportrait.core.published.pickle_machine import Machine
from triportrait.core.published.reading import Reading, Source
from triportrait.core.published.vocabulary import Vocabulary
from triportrait.core.safe_text import shown

NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"
MOST_HEADER = 4096  # characters of the header of an array; those of numbers have about 120
MOST_ENTRIES = 1000
_FIELDS = {"descr", "fortran_order", "shape"}


def read_arrays(path: Path, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """Read the arrays of a `.npz` file by name, or that of a `.npy` file under the name "".

    Args:
        wanted: names that are read; what else is in a `.npz` file is left alone. None reads all.

    Returns:
        arrays of numbers as they are; an array of one object as that object, of more as a list of them, in the plain
        values and records of `read_pickle`; texts and what else NumPy knows as None.

    Raises:
        InputError: the file cannot be read, is torn or of another kind, or asks for more memory than its size accounts
            for.
    """
    try:
        with opened(path) as file:
            return _read(file, str(path), wanted)
    except OSError as fault:
        raise InputError(f"{path}: expected NumPy's file, cannot read it ({fault.strerror})") from fault


def is_arrays(path: Path) -> bool:
    """Tell whether a file is NumPy's: a `.npy`, or a `.npz`, which is a zip file of them.

    Raises: `InputError` where it is no regular file or cannot be read.
    """
    try:
        with opened(path) as file:
            start = file.read(6)
            if start == NPY or not start.startswith(ZIP):
                return start == NPY
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                return any(name.endswith(".npy") for name in archive.namelist())
    except storages.ZIP_FAULTS as fault:
        if isinstance(fault, InputError):
            raise
        if isinstance(fault, OSError):
            raise InputError(f"{path}: expected a file, cannot read it ({fault.strerror})") from fault
        return False


def _read(file: IO[bytes], name: str, wanted: Collection[str] | None) -> dict[str, Any]:
    size = file.seek(0, 2)
    file.seek(0)
    reading = Reading.of(name, size)
    reading.objects = True
    start = file.read(6)
    file.seek(0)
    if start == NPY:
        return {"": _array(file, size, reading, name)}
    if not start.startswith(ZIP):
        raise reading.damaged(f"got one that begins with {start!r}" if start else "got an empty one")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename.removesuffix(".npy") for entry in entries]
            if len(entries) > MOST_ENTRIES or len(set(names)) < len(names):
                raise reading.error(f"has more than {MOST_ENTRIES} arrays, or two of one name")
            found = {}
            for entry, key in zip(entries, names, strict=True):
                if entry.filename.endswith(".npy") and (wanted is None or key in wanted):
                    with archive.open(entry) as part:
                        found[key] = _array(part, entry.file_size, reading, f"{name}: {shown(key)}")
            return found
    except InputError:
        raise
    except storages.ZIP_FAULTS as fault:
        raise reading.damaged(f"got a zip file that is torn ({type(fault).__name__})") from fault


def _array(file: IO[bytes], size: int, reading: Reading, where: str) -> Any:
    """Read one array of a stream that says to have `size` bytes; no more than its header asks for is read."""
    descr, by_column, shape, start = _header(file, reading, where)
    left = size - start
    if descr == "|O":
        reading.spend(left)
        value = Machine(Source(_exactly(file, left, reading, where), reading), reading, Vocabulary(reading)).run()
        return _objects(value, reading, where)
    if not numpy_parts.NUMBER.fullmatch(descr.lstrip("<>|=")):
        return None
    try:
        dtype = np.dtype(descr)
    except TypeError as fault:
        raise reading.damaged(f"{where} has numbers of a kind that NumPy does not know, {shown(descr)}") from fault
    count = math.prod(shape)
    if count * dtype.itemsize != left:
        raise reading.damaged(f"{where} is to have {count:,} numbers, got {left:,} bytes of them")
    reading.spend(left)
    flat = np.frombuffer(_exactly(file, left, reading, where), dtype).astype(dtype.newbyteorder("="))
    return flat.reshape(shape, order="F" if by_column else "C")


def _header(file: IO[bytes], reading: Reading, where: str) -> tuple[str, bool, tuple[int, ...], int]:
    """Return dtype, column-major?, shape, and where the numbers begin."""
    start = file.read(8)
    if len(start) < 8 or not start.startswith(NPY) or start[6] not in (1, 2, 3):
        raise reading.damaged(f"{where} does not begin as NumPy's arrays do")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > MOST_HEADER:
        raise reading.error(f"has an array with a header of {length:,} characters, {MOST_HEADER:,} at most are wanted")
    try:
        fields = ast.literal_eval(file.read(length).decode("latin-1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as fault:
        raise reading.damaged(f"{where} has a header that cannot be read") from fault
    if type(fields) is not dict or fields.keys() != _FIELDS:
        raise reading.damaged(f"{where} has a header that lacks a field, or has more")
    descr, by_column, shape = (fields[key] for key in ("descr", "fortran_order", "shape"))
    plain = type(shape) is tuple and len(shape) <= numpy_parts.MAX_DIMENSIONS
    if not plain or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape) or type(by_column) is not bool:
        raise reading.damaged(f"{where} has a header with a wrong shape")
    return descr if type(descr) is str else "fields", by_column, shape, 8 + width + length


def _exactly(file: IO[bytes], count: int, reading: Reading, where: str) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise reading.damaged(f"{where} is torn")
    return data


def _objects(value: Any, reading: Reading, where: str) -> Any:
    """Return what an array of objects holds."""
    if type(value) is not np.ndarray or value.dtype != object:
        raise reading.damaged(f"{where} is to be an array of objects, got a {type(value).__name__}")
    return value.item() if value.size == 1 else list(value.flat)
