"""Read torch's storages and archives as plain tensors: inside of a pickle, in an old whole file or in a zip file."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.published.pickle_machine import Machine, World
from triportrait.core.published.reading import Reading, Source
from triportrait.core.safe_text import shown

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_DIMENSIONS = 16
DTYPES: dict[str, torch.dtype] = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}


@dataclass(frozen=True)
class StorageKind:
    """A class such as `torch.FloatStorage` in a file."""

    dtype: torch.dtype


@dataclass(eq=False, repr=False)
class Storage:
    """A storage of `count` values of one dtype; `data` is None until the archive is read to its end."""

    dtype: torch.dtype
    count: int
    data: memoryview | None = None


def rebuild_tensor(
    reading: Reading,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _requires_grad: Any = False,
    _hooks: Any = None,
    metadata: Any = None,
) -> Tensor | None:
    """Make the tensor of shape `size` that a storage holds, contiguous and in memory of its own.

    `offset` and `stride` count elements. None where the bytes are not known yet. Elements may share a place, as those
    of an expanded tensor do, as long as the file can account for them.

    Raises:
        InputError: a size, stride or offset that is negative or leaves the storage; more elements than a file of its
            size needs; or a tensor that is to be conjugated or negated when it is read.
    """
    if metadata is not None and (type(metadata) is not dict or metadata):
        raise reading.error("has a tensor that is stored conjugated or negated", "save it resolved")
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise reading.error("makes a tensor from something that is not a storage")
    numbers = (offset, *size[: MAX_DIMENSIONS + 1], *stride[: MAX_DIMENSIONS + 1])
    whole = all(type(value) is int and 0 <= value < 1 << 62 for value in numbers)
    if not whole or len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise reading.error("has a tensor whose size, stride or offset is not made of whole numbers from 0")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= storage.count:
        raise reading.error(f"has a tensor of {count} elements up to {last} over a storage of {storage.count}")
    if not count and math.prod(n or 1 for n in size) >= 1 << 48:
        raise reading.error("has an empty tensor of an absurd size")
    if storage.data is None:
        return None
    if not count:
        return torch.empty(size, dtype=storage.dtype)
    width, span = storage.dtype.itemsize, last + 1 - offset
    reading.spend((span if span == count else span + count) * width)
    part = np.frombuffer(storage.data, np.uint8, span * width, offset * width)
    if storage.dtype is torch.bool and part.max() > 1:
        raise reading.error("has a truth value that is neither 0 nor 1")
    flat = torch.empty(span, dtype=storage.dtype)
    flat.view(torch.uint8).numpy()[:] = part
    return flat.as_strided(size, stride).contiguous()


def storage_entry(identity: Any, reading: Reading) -> tuple[torch.dtype, str, int]:
    """Read dtype, key and number of values from ('storage', kind, key, location, count[, None])."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise reading.error("refers to something stored outside of it that is not a storage")
    _, kind, key, _, count = identity[:5]
    if type(kind) is not StorageKind or type(key) is not str or type(count) is not int or count < 0:
        raise reading.error("describes a storage wrongly")
    if identity[5:] not in ((), (None,)):
        raise reading.error("describes a storage as a part of another, as no torch of the last years does")
    return kind.dtype, key, count


def read_whole(source: Source, reading: Reading, world_of: Callable[..., World]) -> Any:
    """Read the object in a pickle, or in an old archive of `torch.save`, which begins with a magic number.

    `world_of` makes the machine's world, around a function that resolves a storage where there is one. The object is a
    `Storage` in the archives within pickles, else a tree that contains tensors.
    """
    value = Machine(source, reading, world_of()).run()
    return _read_archive(source, reading, world_of) if type(value) is int and value == MAGIC else value


def _read_archive(source: Source, reading: Reading, world_of: Callable[..., World]) -> Any:
    """Read the object in an old archive whose magic number has been read."""
    storages: dict[str, Storage] = {}

    def stored(identity: Any) -> Any:
        if type(identity) is tuple and len(identity) == 4 and identity[0] == "module":
            return identity[1]
        dtype, key, count = storage_entry(identity, reading)
        storage = storages.setdefault(key, Storage(dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise reading.error("describes one storage in two ways")
        return storage

    machine = lambda: Machine(source, reading, world_of(stored))  # noqa: E731
    version, _ = machine().run(), machine().run()
    if type(version) is not int or version != PROTOCOL:
        raise reading.damaged("got a torch archive of an unknown version")
    start = source.position
    value = machine().run()
    keys = machine().run()
    for key in keys if type(keys) is list else [None]:
        if type(key) is not str or key not in storages:
            raise reading.damaged("got one that lists a storage which nothing uses")
        storage, (count,) = storages[key], struct.unpack("<q", source.read(8))
        if count != storage.count:
            raise reading.damaged(f"got one with {count} values in a storage that is to have {storage.count}")
        storage.data = source.view(count * storage.dtype.itemsize)
    if any(storage.data is None for storage in storages.values()):
        raise reading.damaged("got one that lacks the values of a storage")
    if type(value) is Storage:
        return value
    # the values lie behind the tree, so only a second reading can make the tensors
    source.seek(start)
    return machine().run()


ZIP_FAULTS = (
    zipfile.BadZipFile,
    RuntimeError,  # encrypted, or a zip feature that Python lacks
    ValueError,
    OverflowError,
    MemoryError,
    EOFError,
    KeyError,
    IndexError,
    OSError,
    struct.error,
)


def read_zip(file: IO[bytes], reading: Reading, world_of: Callable[..., World]) -> Any:
    """Read the object in an archive of `torch.save` in its zip format; nothing is extracted to disk."""
    size = file.seek(0, 2)
    try:
        archive = zipfile.ZipFile(file)
        entries = {entry.filename: entry for entry in archive.infolist()}
    except ZIP_FAULTS as fault:
        raise reading.damaged(f"got a zip file that is torn ({type(fault).__name__})") from fault

    if len(entries) < len(archive.infolist()):
        raise reading.error("has two parts of one name")

    def content(name: str) -> bytes:
        entry = entries.get(name)
        if entry is None:
            raise reading.damaged(f"got a zip file that lacks {shown(name)}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise reading.error("has a compressed part, which no file of torch has")
        if entry.file_size > size:
            raise reading.damaged(f"got a zip file that declares {entry.file_size} bytes for {shown(name)}")
        reading.spend(entry.file_size)
        try:
            return archive.read(entry)
        except ZIP_FAULTS as fault:
            raise reading.damaged(f"got a zip file that is torn at {shown(name)} ({type(fault).__name__})") from fault

    roots = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise reading.damaged("got a zip file that torch did not write")
    if roots[0] + "byteorder" in entries and content(roots[0] + "byteorder") != b"little":
        raise reading.error("was written on a big-endian machine", "save it again on another")
    storages: dict[str, Storage] = {}

    def stored(identity: Any) -> Storage:
        dtype, key, count = storage_entry(identity, reading)
        if key not in storages:
            data = content(f"{roots[0]}data/{key}")
            storages[key] = Storage(dtype, len(data) // dtype.itemsize, memoryview(data))
        if storages[key].dtype != dtype:
            raise reading.error("describes one storage in two ways")
        if storages[key].count != count:
            raise reading.damaged(f"got one with {storages[key].count} values in a storage that is to have {count}")
        return storages[key]

    return Machine(Source(content(roots[0] + "data.pkl"), reading), reading, world_of(stored)).run()
