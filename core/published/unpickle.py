"""Read published pickles and torch checkpoints without executing or importing anything from them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import IO, Any

from triportrait.core.errors import InputError
from triportrait.core.files import check_regular
from triportrait.core.published import storages
from triportrait.core.published.pickle_machine import Global, Record
from triportrait.core.published.reading import Reading, Source
from triportrait.core.published.vocabulary import Vocabulary

__all__ = ["Global", "Record", "read_pickle"]

# how a pickle of a dict, a list or an object can begin: protocols 2 to 5, then the texts of protocols 0 and 1
BEGINNINGS = (b"\x80", b"(", b"}", b"]", b"c")


def read_pickle(path: str | Path) -> Any:
    """Read a pickle, or a torch checkpoint old or new, as plain values, arrays and tensors.

    Tensors are on the CPU, contiguous, of the dtype of the file, each in memory of its own. An object of any other
    class is a `Record` that stores what it would have been made from; a class or function that is only named is a
    `Global`. Nothing that the file names is imported or called. Values may be shared, and may contain themselves:
    walk them with a limit.

    Raises:
        InputError: the file cannot be read, is torn or of another kind, names something that no weights file needs
            (`os.system`), or asks for more memory or work than a file of its size needs.
    """
    path = Path(path)
    try:
        check_regular(path)
        with path.open("rb") as file:
            return _read(file, str(path))
    except OSError as fault:
        raise InputError(f"{path}: expected a weights file, cannot read it ({fault.strerror})") from fault


def _read(file: IO[bytes], name: str) -> Any:
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(4)
    reading = Reading.of(name, size)
    if start == b"PK\x03\x04":
        return storages.read_zip(file, reading, partial(Vocabulary, reading))
    if not start.startswith(BEGINNINGS):
        raise reading.damaged(f"got one that begins with {start!r}" if start else "got an empty one")
    return storages.read_whole(Source(file, reading), reading, partial(Vocabulary, reading))
