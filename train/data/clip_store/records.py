"""Read the records of the published LMDBs, which are protobuf messages, by their wire format.

A record of clips: 1 channels, 2 height, 3 width, 4 num (numbers), 5 images num x H x W x 3 RGB, 6 segs num x H x W
(x 1 or 3), 7 labels num x 437 float32, 8 mots num x 548 or more float32 (bytes). A record of stills: 1 channels,
2 height, 3 width (numbers), 4 image, 5 seg (bytes of a PNG or JPEG file), 6 labels 437 float32, 7 mots 548 float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import check_regular
from triportrait.core.optional_packages import install, reason

LABEL_WIDTH, MOTION_WIDTH = 437, 548
COLUMNS = {"camera": (0, 25), "shape": (25, 325), "expression": (325, 425), "pose": (425, 431), "eyes": (431, 437)}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
NUMBERS = {1: "channels", 2: "height", 3: "width", 4: "num"}
BLOBS = {5: "images", 6: "segs", 7: "labels", 8: "mots"}
STILL_NUMBERS = {1: "channels", 2: "height", 3: "width"}
STILL_BLOBS = {4: "image", 5: "seg", 6: "labels", 7: "mots"}


@dataclass(frozen=True)
class Record:
    """A clip of T square frames with a side of S pixels.

    Attributes:
        images: uint8 [T, S, S, 3]. masks: uint8 [T, S, S]. labels: float32 [T, 437]. motion: float32 [T, 548].
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    motion: np.ndarray

    def table(self) -> dict[str, np.ndarray]:
        """Return the numbers of the frames by name."""
        return {name: self.labels[:, a:b] for name, (a, b) in COLUMNS.items()} | {"motion": self.motion}


@dataclass(frozen=True)
class StillRecord:
    """A still as the published LMDB of stills holds it.

    Attributes:
        height, width: px, as stated. image, mask: bytes of picture files. labels: float32 [437]. motion: float32 [548].
    """

    height: int
    width: int
    image: bytes
    mask: bytes
    labels: np.ndarray
    motion: np.ndarray

    def numbers(self) -> dict[str, np.ndarray]:
        """Return the numbers by name."""
        return {name: self.labels[a:b] for name, (a, b) in COLUMNS.items()} | {"motion": self.motion}


def is_still(message: bytes) -> bool:
    """Tell the record of a still from that of a clip: field 4 is a picture file there, a number here.

    Raises: `ValueError` for what is neither.
    """
    fields = dict(_fields(memoryview(message), NUMBERS, STILL_BLOBS))
    if ("image" in fields) is ("num" in fields):
        raise ValueError("it is neither a clip nor a still")
    return "image" in fields


def parse_still(message: bytes) -> StillRecord:
    """Read the record of a still from its bytes; the picture files in it are not decoded.

    Raises: `ValueError`, in words: it is no such message, or its parts do not have the sizes that they should.
    """
    fields = dict(_fields(memoryview(message), STILL_NUMBERS, STILL_BLOBS))
    if missing := [name for name in (*STILL_NUMBERS.values(), *STILL_BLOBS.values()) if name not in fields]:
        raise ValueError(f"it has no {missing[0]}")
    labels = _array(fields, "labels", np.float32, 1, LABEL_WIDTH)[0]
    mots = _array(fields, "mots", np.float32, 1, None)[0]
    if len(mots) < MOTION_WIDTH:
        raise ValueError(f"mots has {len(mots)} numbers, expected {MOTION_WIDTH} or more")
    image, mask = bytes(fields["image"]), bytes(fields["seg"])
    return StillRecord(fields["height"], fields["width"], image, mask, labels, mots[:MOTION_WIDTH])


def parse(message: bytes) -> Record:
    """Read a record from its bytes.

    Raises: `ValueError`, in words: it is no such message, or its parts do not have the sizes that it states.
    """
    fields = dict(_fields(memoryview(message), NUMBERS, BLOBS))
    if missing := [name for name in (*NUMBERS.values(), *BLOBS.values()) if name not in fields]:
        raise ValueError(f"it has no {missing[0]}")
    num, height, width = (fields[name] for name in ("num", "height", "width"))
    if not (0 < num < 100_000 and 0 < height == width < 16_384):
        raise ValueError(f"it tells of {num} frames of {height} x {width}")
    images = _array(fields, "images", np.uint8, num, height * width * 3).reshape(num, height, width, 3)
    segs = _array(fields, "segs", np.uint8, num, None)
    if segs.shape[1] not in (height * width, height * width * 3):
        raise ValueError(f"segs has {segs.shape[1]} bytes a frame, expected one or three for each of {height * width}")
    masks = segs.reshape(num, height, width, -1)[..., 0]
    labels = _array(fields, "labels", np.float32, num, LABEL_WIDTH)
    mots = _array(fields, "mots", np.float32, num, None)
    if mots.shape[1] < MOTION_WIDTH:
        raise ValueError(f"mots has {mots.shape[1]} numbers a frame, expected {MOTION_WIDTH} or more")
    return Record(images, masks, labels, mots[:, :MOTION_WIDTH])


def lmdb_library() -> Any:
    """Import the library that reads and writes an LMDB. Raises: `InputError` where it is missing or does not load."""
    try:
        import lmdb
    except Exception as error:  # a library may end its import with whatever it likes
        raise InputError(f"lmdb: it {reason(error, 'lmdb')}; {install('train')}") from error
    return lmdb


def open_lmdb(path: Path) -> tuple[int, Iterator[tuple[int, Callable[[], bytes]]]]:
    """Open an LMDB: the count of its records, and their numbers in order, each with a function that reads its bytes.

    Raises: `InputError` where the package is missing, for what is no such LMDB, and, while it is read, a damaged one.
    """
    lmdb = lmdb_library()
    if not path.exists():
        raise InputError(f"{path}: expected an LMDB, there is nothing; name its folder or its file")
    if path.is_dir() and not (path / "data.mdb").exists():
        raise InputError(f"{path}: expected an LMDB, this folder holds no data.mdb; name the one that does")
    try:
        check_regular(path / "data.mdb" if path.is_dir() else path)
        environment = lmdb.open(
            str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, map_size=1 << 40
        )
    except (lmdb.Error, OSError) as error:
        file = "this folder's data.mdb" if path.is_dir() else "this file"
        raise InputError(f"{path}: expected an LMDB, {file} is none or damaged ({error}); name another") from error
    try:
        with environment.begin() as transaction:
            count = int(bytes(transaction.get(b"num_samples") or b"").decode("ascii"))
    except (lmdb.Error, ValueError) as error:
        environment.close()
        raise InputError(
            f"{path}: expected an LMDB with the key num_samples, as the published one has, it has none; name another"
        ) from error
    if count < 1:
        environment.close()
        raise InputError(f"{path}: expected records in this LMDB, its num_samples is {count}; name another")

    def records() -> Iterator[tuple[int, Callable[[], bytes]]]:
        with environment, environment.begin() as transaction:

            def read(number: int) -> bytes:
                try:
                    return bytes(transaction.get(f"{number:08d}".encode("ascii")) or b"")
                except lmdb.Error as error:
                    raise InputError(
                        f"{path}: record {number} cannot be read ({error}); copy the LMDB again"
                    ) from error

            for number in range(count):
                yield number, partial(read, number)

    return count, records()


def _array(fields: dict[str, Any], name: str, kind: Any, num: int, width: int | None) -> np.ndarray:
    data, size = fields[name], np.dtype(kind).itemsize
    each, rest = divmod(len(data), num * size)
    if rest or (width is not None and each != width):
        raise ValueError(f"{name} has {len(data)} bytes, expected {'a multiple of ' if width is None else ''}"
                         f"{num * size * (width or 1)}")  # fmt: skip
    return np.frombuffer(data, kind).reshape(num, each)


def _fields(message: memoryview, numbers: dict[int, str], blobs: dict[int, str]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a message; unknown field numbers are skipped, as protobuf does."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        value: Any = None
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("it is no protobuf message")
        if at > len(message):
            raise ValueError("it is cut off")
        if kind == _VARINT and number in numbers:
            yield numbers[number], value
        if kind == _BYTES and number in blobs:
            yield blobs[number], value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("it is cut off")
        byte = message[at]
        at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return value, at
