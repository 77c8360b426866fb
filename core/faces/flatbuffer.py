"""Read tables of a FlatBuffers file: each offset and length is checked against the bytes before it is followed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from triportrait.core.errors import InputError
from triportrait.core.safe_text import shown

MOST_TEXT = 512  # bytes of a name


@dataclass(frozen=True)
class Bytes:
    """The bytes of one file, with its name for the sentences."""

    data: memoryview
    file: str

    def error(self, problem: str, action: str = "fetch it again") -> InputError:
        """Make the refusal of this file, for the caller to raise."""
        return InputError(f"{self.file}: expected a TFLite model of a face network, got one that {problem}; {action}")

    def slice(self, start: int, count: int) -> memoryview:
        """Return `count` bytes from `start`, not copied. Raises InputError where the file does not hold them."""
        if start < 0 or count < 0 or start + count > len(self.data):
            raise self.error(
                f"is cut or damaged: it has {len(self.data)} bytes, bytes {start} to {start + count} asked"
            )
        return self.data[start : start + count]

    def number(self, kind: str, start: int) -> int | float:
        """Read one little-endian number of a `struct` kind. Raises as `slice`."""
        value: int | float = struct.unpack("<" + kind, self.slice(start, struct.calcsize("<" + kind)))[0]
        return value

    def whole(self, kind: str, start: int) -> int:
        """Read one whole number of a `struct` kind. Raises as `slice`."""
        return int(self.number(kind, start))


class Table:
    """One table of the file; a field is asked for by its number in the schema.

    Args:
        source: the file.
        start: where the table begins, bytes.

    Raises:
        InputError: the table, its field list or a field lies outside of the file.
    """

    def __init__(self, source: Bytes, start: int) -> None:
        self.source, self.start = source, start
        self._fields_at = start - source.whole("i", start)
        self._fields_size = source.whole("H", self._fields_at)
        self._size = source.whole("H", self._fields_at + 2)
        if self._fields_size < 4 or self._fields_size % 2 or self._size < 4:
            raise source.error(f"is damaged: the table at byte {start} has no list of fields")
        source.slice(self._fields_at, self._fields_size)
        source.slice(start, self._size)

    def _place(self, field: int, size: int) -> int | None:
        """Find where a field of `size` bytes is; None where the table does not have it."""
        entry = 4 + 2 * field
        if entry + 2 > self._fields_size:
            return None
        offset = self.source.whole("H", self._fields_at + entry)
        if offset == 0:
            return None
        if offset < 4 or offset + size > self._size:
            raise self.source.error(f"is damaged: field {field} of the table at byte {self.start} lies outside of it")
        return self.start + offset

    def whole(self, field: int, kind: str, default: int = 0) -> int:
        """Read a whole number of a `struct` kind; `default` where the table does not have it."""
        place = self._place(field, struct.calcsize("<" + kind))
        return default if place is None else self.source.whole(kind, place)

    def flag(self, field: int) -> bool:
        """Read a truth value; false where the table does not have it."""
        return bool(self.whole(field, "B"))

    def _target(self, field: int) -> int | None:
        place = self._place(field, 4)
        return None if place is None else place + self.source.whole("I", place)

    def table(self, field: int) -> Table | None:
        """Read the table that a field points to; None where there is none."""
        target = self._target(field)
        return None if target is None else Table(self.source, target)

    def vector(self, field: int, item_bytes: int, most: int) -> memoryview:
        """Return the bytes of a vector, not copied; empty where there is none.

        Args:
            item_bytes: size of an entry.
            most: the largest number of entries that makes sense.

        Raises:
            InputError: it has more entries, or lies outside of the file.
        """
        target = self._target(field)
        if target is None:
            return memoryview(b"")
        count = self.source.whole("I", target)
        if count > most:
            raise self.source.error(f"lists {count:,} entries where {most:,} at most make sense")
        return self.source.slice(target + 4, count * item_bytes)

    def integers(self, field: int, most: int) -> tuple[int, ...]:
        """Read a vector of int32. Raises as `vector`."""
        found = self.vector(field, 4, most)
        return struct.unpack(f"<{len(found) // 4}i", found)

    def tables(self, field: int, most: int) -> list[Table]:
        """Read a vector of tables. Raises as `vector`."""
        target = self._target(field)
        offsets = self.vector(field, 4, most)
        first = 0 if target is None else target + 4
        steps = struct.unpack(f"<{len(offsets) // 4}I", offsets)
        return [Table(self.source, first + 4 * k + step) for k, step in enumerate(steps)]

    def text(self, field: int) -> str:
        """Read a name; empty where there is none. Raises InputError where it is no UTF-8 or very long."""
        found = bytes(self.vector(field, 1, MOST_TEXT))
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.source.error(f"has a name that is no UTF-8: {shown(found)}") from error


def root(source: Bytes, identifier: bytes) -> Table:
    """Find the root table of a file that carries this identifier of four bytes. Raises InputError for another."""
    if len(source.data) < 8 or source.data[4:8] != identifier:
        raise source.error(f"does not begin as one: no {identifier.decode()} at its fifth byte")
    return Table(source, source.whole("I", 0))
