"""Export a clip store or a picture store as an LMDB of the published schemas; an export that was stopped goes on.

The folder's name must end in the side of the pictures and the number of records, as in `vfhq_512_10000`, because the
published loader reads both off it. Records are written one by one (clips) or in groups of some MB (stills) into a
hidden folder beside, which gets its name at the end. Frames are those that the store shows: H.264 has taken its loss
when the store was made, the export takes none. Stills stay the bytes that they are, but for WebP, which becomes PNG.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.atomic import put_folder, write_text
from triportrait.core.checksum import sha256
from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.train.data.clip_store.frames import decode
from triportrait.train.data.clip_store.records import (
    BLOBS,
    COLUMNS,
    MOTION_WIDTH,
    NUMBERS,
    STILL_BLOBS,
    STILL_NUMBERS,
    lmdb_library,
)
from triportrait.train.data.clip_store.store import INDEX, ClipStore, is_clip_store
from triportrait.train.data.head_model_file import HEAD_MODEL, encoder_in, identity_in
from triportrait.train.data.motion_encoder_file import MOTION_ENCODER
from triportrait.train.data.picture_store.layout import is_picture_store
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.writing import encoded_picture

_FROM = "from.json"  # in the hidden folder: which store it is made from
_PAGE = 4096  # bytes; a record takes whole pages
_TOGETHER = 64 << 20  # bytes of stills that are committed at once
_SPARE = 64 << 20  # bytes of the map for what is no record
_FOR_FRAMES = "make the store again by `triportrait prepare videos` or `prepare pictures`"


@dataclass(frozen=True)
class Exported:
    """The outcome: how many records there are, of `clips` or `pictures`, and how many of them were there before."""

    records: int
    unit: str
    before: int


def export_lmdb(folder: Path, out: Path, progress: Callable[[int, int], None] = lambda done, count: None) -> Exported:
    """Write the clips of a clip store, or the pictures of a picture store, as an LMDB of the published schema.

    Args:
        out: the LMDB's folder; its name ends in `_SIZE_COUNT`.
        progress: is called with the number of records done and that of all.

    Raises:
        InputError: before any work for a folder that is no store, a name that does not fit, parameters or motion that
            are missing, too little space, and a package that is missing; later for a damaged store or a full disk.
    """
    source = _opened(folder)
    _check_name(out, source.size, source.count, source.unit)
    made_from = {"store": sha256(folder / INDEX), "unit": source.unit}
    if out.exists():
        if _said(out) != made_from:
            raise InputError(f"{out}: it exists already; name another folder or remove it")
        (out / _FROM).unlink()  # a kill came after all was done
        return Exported(source.count, source.unit, source.count)
    source.check(0)
    part = out.absolute().with_name(f".{out.name}.part")
    try:
        _begin(part, made_from)
        before = _fill(part, source, progress)
        (part / "lock.mdb").unlink(missing_ok=True)
        if source.head_model is not None:
            write_text(part / HEAD_MODEL, json.dumps(source.head_model.to_dict()) + "\n")
        if source.encoder is not None:
            write_text(part / MOTION_ENCODER, json.dumps(source.encoder) + "\n")
        put_folder(part, out.absolute(), part.with_name(part.name + ".old"))
        (out / _FROM).unlink()
    except OSError as error:
        raise _disk(out, error) from error
    return Exported(source.count, source.unit, before)


def message(fields: Mapping[int, int | bytes | memoryview]) -> bytes:
    """Write a protobuf message: whole numbers as varints, the others as bytes with their length before them."""
    pieces: list[bytes | memoryview] = []
    for number, value in fields.items():
        if isinstance(value, int):
            pieces += [_varint(number << 3), _varint(value)]
        else:
            pieces += [_varint(number << 3 | 2), _varint(len(value)), value]
    return b"".join(pieces)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


class _Source(ABC):
    """What is exported.

    Attributes:
        size: side of the pictures. count: records. unit: what a record is. head_model: whose parameters they hold.
        encoder: name, width and fingerprint of what read the motion; None where the store does not say it.
    """

    size: int
    count: int
    unit: str
    head_model: ModelIdentity | None
    encoder: dict[str, Any] | None

    @abstractmethod
    def record(self, number: int) -> bytes:
        """Return a record. Raises: `InputError` where what it is made of is damaged or missing."""

    @abstractmethod
    def check(self, number: int) -> None:
        """Check that a record can be made, without pictures. Raises: `InputError` as `record` does."""

    @abstractmethod
    def bound(self) -> int:
        """Return an upper bound of the bytes of all records."""


class _Clips(_Source):
    unit = "clips"

    def __init__(self, folder: Path) -> None:
        self._store = ClipStore(folder)
        self.size, self.count = self._store.size, len(self._store)
        self.head_model = identity_in(self._store.index, f"{folder / INDEX}: head_model")
        self.encoder = encoder_in(self._store.index, f"{folder / INDEX}: motion_encoder")

    def check(self, number: int) -> None:
        _check_columns(self._store.folder / f"{self._store.clips[number]}.npz", self._store.table(number))

    def record(self, number: int) -> bytes:
        self.check(number)
        store = self._store
        table, T = store.table(number), store.frames_of[number]
        try:
            store.verify(number)
            frames = decode(store.path(number), range(T))  # [T, S, S, 3]
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{store.path(number)}: {error}; make the store again") from error
        values: dict[str, int | bytes | memoryview] = {
            "channels": 3, "height": self.size, "width": self.size, "num": T, "images": _raw(frames),
            "segs": _raw(store.masks(number, np.arange(T)) * np.uint8(255)), "labels": _raw(_labels(table)),
            "mots": _raw(table["motion"].astype("<f4")),
        }  # fmt: skip
        return message({n: values[name] for n, name in (NUMBERS | BLOBS).items()})

    def bound(self) -> int:
        width = self._store.table(0)["motion"].shape[1]
        return sum(_pages(T * (self.size**2 * 4 + (437 + width) * 4) + 100) for T in self._store.frames_of)


class _Pictures(_Source):
    unit = "pictures"

    def __init__(self, folder: Path) -> None:
        self._store = PictureStore(folder)
        self.size, self.count, self.head_model = self._store.size, len(self._store), self._store.head_model
        self.encoder = encoder_in(self._store.index, f"{folder / INDEX}: motion_encoder")

    def check(self, number: int) -> None:
        shard, _ = self._store.place(number)
        path = self._store.folder / f"{self._store.shards[shard].name}.npz"
        _check_columns(path, self._store.table(shard))

    def record(self, number: int) -> bytes:
        self.check(number)
        store = self._store
        row = store.row(number)
        pixels = store.picture(number)  # decoded: a damaged one is found here, not in somebody's training
        store.mask(number)
        image, mask = store.encoded(number)
        if image.startswith(b"RIFF"):
            image = encoded_picture(pixels, "png")
        labels = np.concatenate([row[name] for name in COLUMNS])
        values: dict[str, int | bytes | memoryview] = {
            "channels": 3, "height": self.size, "width": self.size, "image": image, "seg": mask,
            "labels": _raw(labels.astype("<f4")), "mots": _raw(row["motion"].astype("<f4")),
        }  # fmt: skip
        return message({n: values[name] for n, name in (STILL_NUMBERS | STILL_BLOBS).items()})

    def bound(self) -> int:
        tars = sum(shard.files[f"{shard.name}.tar"]["bytes"] for shard in self._store.shards)
        if self._store.index.get("format") == "webp":
            tars = self.count * self.size**2 * 3
        return tars + self.count * 2 * _PAGE + self.count * 4 * (437 + self._store.table(0)["motion"].shape[1])


def _opened(folder: Path) -> _Source:
    if is_picture_store(folder):
        return _Pictures(folder)
    if is_clip_store(folder):
        return _Clips(folder)
    raise InputError(f"{folder}: expected a clip store or a picture store, it is neither; name another folder")


def _check_name(out: Path, size: int, count: int, unit: str) -> None:
    """Raises: `InputError` with the name that fits, where the LMDB's does not."""
    fit = re.fullmatch(r".+_(\d+)_(\d+)", out.name)
    if fit is None or (int(fit[1]), int(fit[2])) != (size, count):
        stem = re.sub(r"(_\d+)*$", "", out.name) or unit
        raise InputError(
            f"{out}: expected a name that ends in the side of the pictures and the number of records, which the "
            f"published loader reads off it; name it {stem}_{size}_{count}"
        )


def _check_columns(path: Path, table: Mapping[str, np.ndarray]) -> None:
    widths = {name: b - a for name, (a, b) in COLUMNS.items()}
    for name, width in widths.items():
        if name not in table or table[name].shape[-1] != width:
            raise InputError(
                f"{path}: expected the parameters of tracked faces, it has no {name} of {width} numbers; {_FOR_FRAMES}"
            )
    if "motion" not in table:
        raise InputError(
            f"{path}: expected motion, which the published records hold, it has none; make the store again with "
            "--motion FOLDER, which names a motion encoder"
        )
    if (width := table["motion"].shape[-1]) != MOTION_WIDTH:
        raise InputError(
            f"{path}: expected motion of {MOTION_WIDTH} numbers, which the published records hold, got "
            f"{width}; make the store again with --motion FOLDER of the published encoder"
        )


def _labels(table: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([table[name] for name in COLUMNS], 1).astype("<f4")


def _raw(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B")


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE + _PAGE


def _begin(part: Path, made_from: Mapping[str, str]) -> None:
    """Make the hidden folder, or check that it was begun from the same store. Raises: `InputError`, `OSError`."""
    if not part.parent.is_dir():
        raise InputError(f"{part.parent}: expected the folder in which the LMDB is made, there is none; make it")
    part.mkdir(exist_ok=True)
    said = _said(part)
    if said is None and any(part.iterdir()):
        said = "something else"
    if said is None:
        write_text(part / _FROM, json.dumps(made_from) + "\n")
    elif said != made_from:
        raise InputError(f"{part}: an export of another store was begun here; remove this folder, or name another LMDB")


def _said(folder: Path) -> Any:
    """Return which store a folder was begun from, as it says; None where it does not."""
    if not (folder / _FROM).exists():
        return None
    try:
        return read_json(folder / _FROM)
    except ValueError:
        return "damaged"


def _fill(part: Path, source: _Source, progress: Callable[[int, int], None]) -> int:
    """Write the records that are missing, and the number of all; returns how many were there."""
    lmdb = lmdb_library()
    size = source.bound()
    there = (part / "data.mdb").stat().st_size if (part / "data.mdb").exists() else 0
    free = shutil.disk_usage(part).free
    if size - there > free:
        raise InputError(
            f"{part.parent}: expected {(size - there) / 1e9:.1f} GB for the LMDB, {free / 1e9:.1f} GB are free; free "
            "some or name another disk"
        )
    try:
        environment = lmdb.open(str(part), map_size=size + size // 64 + _SPARE, readahead=False)
        with environment:
            with environment.begin() as transaction:
                before = transaction.stat()["entries"]
            if before > source.count:  # num_samples is there, too
                return source.count
            progress(before, source.count)
            for records in _groups(source, before):
                _put(environment, records)
                progress(records[-1][0] + 1, source.count)
            with environment.begin(write=True) as transaction:
                transaction.put(b"num_samples", str(source.count).encode("ascii"))
    except lmdb.Error as error:
        full = "No space" in str(error) or isinstance(error, lmdb.DiskError)
        raise _disk(part, OSError(errno.ENOSPC if full else errno.EIO, str(error))) from error
    return before


def _groups(source: _Source, first: int) -> Iterator[list[tuple[int, bytes]]]:
    """Yield records with their numbers, as many together as make some MB."""
    group: list[tuple[int, bytes]] = []
    size = 0
    for number in range(first, source.count):
        group.append((number, source.record(number)))
        size += len(group[-1][1])
        if size >= _TOGETHER or source.unit == "clips":
            yield group
            group, size = [], 0
    if group:
        yield group


def _put(environment: Any, records: list[tuple[int, bytes]]) -> None:
    """Commit records; the map doubles where the bound was too small."""
    import lmdb

    while True:
        try:
            with environment.begin(write=True) as transaction:
                for number, data in records:
                    transaction.put(f"{number:08d}".encode("ascii"), data)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _disk(out: Path, error: OSError) -> InputError:
    why = (error.strerror or type(error).__name__).lower()
    return InputError(f"{out}: it could not be written ({why}); free some space, and the same command goes on")
