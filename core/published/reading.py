"""Bound how much of a weights file may be read, and word its refusal."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO

from triportrait.core.errors import InputError

# the largest published file needs about a fifth of this; at the limit a read takes about two seconds
MAX_OPCODES = 1_500_000
# what comes out may be this many times the file (a text copy, the bytes, the tensor), and a little for small files
MAX_GROWTH, SMALL_FILE_BYTES = 4, 32 << 20
# what an entry of a list or tuple, and of a dict, takes in memory
ITEM_BYTES, ENTRY_BYTES = 8, 128


@dataclass
class Reading:
    """One file while it is read: its name for the sentences, and what it may still use.

    Attributes:
        file: name of the file, which begins every message.
        memory: bytes that may still be made from it.
        opcodes: pickle opcodes that it may still run, archives inside it included.
        objects: arrays of objects are read; no weights file has them.
    """

    file: str
    memory: int
    opcodes: int = MAX_OPCODES
    objects: bool = False

    @classmethod
    def of(cls, file: str, size: int) -> Reading:
        """Start reading a file of `size` bytes."""
        return cls(file, MAX_GROWTH * size + SMALL_FILE_BYTES)

    def error(self, problem: str, action: str = "the file is not to be trusted") -> InputError:
        """Make the refusal of this file, for the caller to raise."""
        return InputError(f"{self.file}: {problem}; {action}")

    def damaged(self, problem: str) -> InputError:
        """Make the refusal of a file that looks torn or is of another kind."""
        return self.error(f"expected a weights file, {problem}", "fetch it again")

    def spend(self, count: int) -> None:
        """Take `count` bytes from the allowance, before they are allocated.

        Raises:
            InputError: the file asks for more than its own size can account for.
        """
        self.memory -= count
        if self.memory < 0:
            raise self.error(f"asks for more than {MAX_GROWTH} times its own size in memory")


class Source:
    """A file or a string of bytes; what it does not have is never read, nor allocated."""

    def __init__(self, data: IO[bytes] | bytes, reading: Reading) -> None:
        self.reading = reading
        self._whole = memoryview(data) if isinstance(data, bytes) else None
        self._file: IO[bytes] = io.BytesIO(data) if isinstance(data, bytes) else data
        self.size = self._file.seek(0, io.SEEK_END)
        self.seek(0)

    def seek(self, position: int) -> None:
        """Go on reading at `position` bytes from the start."""
        self.position = self._file.seek(position)

    def _claim(self, count: int) -> None:
        left = self.size - self.position
        if not 0 <= count <= left:
            raise self.reading.damaged(f"got one with {left} of {count} bytes after byte {self.position}")
        self.position += count

    def read(self, count: int) -> bytes:
        """Read exactly `count` bytes. Raises InputError, before allocating, where the file is shorter."""
        self._claim(count)
        return self._file.read(count)

    def readline(self) -> bytes:
        """Read the bytes up to and including the next newline."""
        line = self._file.readline()
        self.position += len(line)
        return line

    def view(self, count: int) -> memoryview:
        """Return exactly `count` bytes, not copied where they are in memory already. Raises like `read`."""
        start = self.position
        self._claim(count)
        if self._whole is None:
            return memoryview(self._file.read(count))
        self._file.seek(self.position)
        return self._whole[start : self.position]
