"""The first directory of a TIFF: how its picture is cut into pieces and where they lie, without reading the picture."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from triportrait.core.errors import InputError

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANES = 256, 257, 259, 277, 284
_STRIPS, _ROWS, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_OLD_JPEG, _JPEG = 6, 7
_TYPES = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q", 18: "Q"}
_BYTES = {2: 1, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8} | {kind: struct.calcsize("<" + one) for kind, one in _TYPES.items()}
_MOST_TAGS = 4_096
_MOST_PAGES = 20_000
MOST_PIECES = 400_000  # 100 megapixels in tiles of 16 x 16, which are the smallest
_MOST_LARGER = 4  # all pieces may be so many times as large as the largest picture that is taken


@dataclass(frozen=True)
class TiffDirectory:
    """What of it bounds the work.

    Attributes:
        width_px, height_px: of the picture. piece_width_px, piece_height_px: of a strip or tile.
        planes: how often the picture is there: each of its channels by itself, or once.
        compression: the number of the method.
        offsets, lengths: of the pieces, in bytes; `count` is how many the file claims.
        size: of the file, bytes.
        pages: directories in a row; more than there can be where they go round.
    """

    width_px: int
    height_px: int
    piece_width_px: int
    piece_height_px: int
    planes: int
    compression: int
    count: int
    offsets: Sequence[int]
    lengths: Sequence[int]
    size: int
    pages: int

    @classmethod
    def read(cls, data: bytes) -> TiffDirectory:
        """Read it as Pillow and libtiff do: either byte order, 32 or 64 bits; the first entry of a tag counts.

        Raises:
            ValueError, struct.error, IndexError: it is damaged.
        """
        order = "<" if data[:2] == b"II" else ">"
        big = 43 in (data[2], data[3])
        entry, count_kind, where = ("HHQ8s", "Q", 8) if big else ("HHL4s", "H", 4)
        word = "Q" if big else "L"
        (at,) = struct.unpack_from(order + word, data, where)
        (count,) = struct.unpack_from(order + count_kind, data, at)
        at += struct.calcsize(order + count_kind)
        if count > _MOST_TAGS:
            raise ValueError(f"{count} tags")
        found: dict[int, tuple[str, int, int]] = {}
        elsewhere = 0  # bytes of values that do not lie in the directory
        for _ in range(count):
            tag, kind, number, field = struct.unpack_from(order + entry, data, at)
            inline = at + struct.calcsize(order + entry) - len(field)
            at += struct.calcsize(order + entry)
            size = number * _BYTES.get(kind, 0)
            elsewhere += size if size > len(field) else 0
            letter = _TYPES.get(kind)
            if letter is None or tag in found:
                continue
            large = number * struct.calcsize("<" + letter) > len(field)
            found[tag] = (letter, number, struct.unpack(order + word, field)[0] if large else inline)

        if elsewhere > len(data):
            raise ValueError("its tags share their values")  # and each would be read

        pages, following = 1, at
        while pages <= _MOST_PAGES and following + struct.calcsize(order + word) <= len(data):
            (begin,) = struct.unpack_from(order + word, data, following)
            if not begin or begin + struct.calcsize(order + count_kind) > len(data):
                break
            (count,) = struct.unpack_from(order + count_kind, data, begin)
            following = begin + struct.calcsize(order + count_kind) + count * struct.calcsize(order + entry)
            pages += 1

        def values(tag: int, most: int) -> Sequence[int]:
            letter, number, begin = found.get(tag, ("B", 0, 0))
            number = min(number, most, max(0, len(data) - begin) // struct.calcsize("<" + letter))
            return struct.unpack_from(f"{order}{number}{letter}", data, begin)

        def value(tag: int, otherwise: int) -> int:
            return next(iter(values(tag, 1)), otherwise)

        width, height = value(_WIDTH, 0), value(_HEIGHT, 0)
        strips = _STRIPS in found
        if strips and (_TILES in found or _TILE_WIDTH in found):
            raise ValueError("strips and tiles")  # readers differ in which they take
        piece_width = width if strips else value(_TILE_WIDTH, 0)
        piece_height = min(value(_ROWS, height), height) if strips else value(_TILE_HEIGHT, 0)
        planes = value(_SAMPLES, 1) if value(_PLANES, 1) == 2 else 1
        if min(width, height, piece_width, piece_height, planes) < 1:
            raise ValueError("a size of nothing")
        most = planes * -(-width // piece_width) * -(-height // piece_height)
        most = min(most, MOST_PIECES)
        offsets, lengths = (_STRIPS, _STRIP_BYTES) if strips else (_TILES, _TILE_BYTES)
        return cls(
            width, height, piece_width, piece_height, planes, value(_COMPRESSION, 1),
            found.get(offsets, ("B", 0, 0))[1], values(offsets, most), values(lengths, most), len(data), pages,
        )  # fmt: skip

    @property
    def holds_jpegs(self) -> bool:
        """Whether each piece is a JPEG."""
        return self.compression == _JPEG

    def check(self, name: str, largest_px: int) -> None:
        """Check that the pieces make up one picture and no more.

        Raises:
            InputError: what is wrong with them.
        """
        if self.compression == _OLD_JPEG:
            raise InputError(f"{name}: a TIFF with a JPEG of the old kind in it cannot be read; save it as PNG")
        if self.pages > _MOST_PAGES:
            raise InputError(f"{name}: a TIFF of at most {_MOST_PAGES} pages is wanted, more came; save it again")
        across = -(-self.width_px // self.piece_width_px)
        pieces = across * -(-self.height_px // self.piece_height_px)
        wanted = min(self.planes * pieces, MOST_PIECES)
        if self.count > wanted:
            raise InputError(
                f"{name}: a TIFF of at most {wanted} strips or tiles is wanted, {self.count} came; save it again"
            )
        # Each is decoded whole, however little of it lies in the picture.
        pixels = pieces * self.piece_width_px * self.piece_height_px
        if pixels > _MOST_LARGER * largest_px:
            raise InputError(
                f"{name}: a TIFF whose tiles hold at most {_MOST_LARGER * largest_px // 1_000_000} megapixels in all "
                f"is wanted, {pixels // 1_000_000} came; save it again"
            )
        if not self.holds_jpegs:
            return
        if len(self.lengths) != len(self.offsets):
            raise InputError(f"{name}: a TIFF that says how long its strips are is wanted, another came; save it again")
        if sum(end - begin for begin, end in set(self._places())) > self.size:
            raise InputError(f"{name}: a TIFF whose strips do not overlap is wanted, others came; save it again")

    def pieces(self) -> Iterator[tuple[tuple[int, int], int]]:
        """Where each piece begins and ends in the file, and its pixels."""
        for place in self._places():
            yield place, self.piece_width_px * self.piece_height_px

    def _places(self) -> Iterator[tuple[int, int]]:
        for offset, length in zip(self.offsets, self.lengths, strict=False):
            yield min(offset, self.size), min(offset + length, self.size)
