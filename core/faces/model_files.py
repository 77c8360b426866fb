"""Take the face networks out of a wheel or a folder, each checked before it is parsed, and write them to the cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from triportrait.core.atomic import put_folder, sync
from triportrait.core.errors import InputError
from triportrait.core.faces.models import INDEX, LICENCE, MODELS, NOTICE, VARIABLE, WHEEL, Model, index_entry
from triportrait.core.faces.store import load_graph, save_graph
from triportrait.core.faces.tflite import parse_tflite
from triportrait.core.files import opened, read_bytes
from triportrait.core.safe_text import listed

MOST_WHEEL = 256 << 20  # bytes; the largest wheel of this version has 51 MB
MOST_READ = 1 << 20  # bytes at a time; the list of the files in the wheel has 0.1 MB
UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)  # of network folders
ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, IndexError,
    struct.error,
)  # fmt: skip
_WANTED = (
    f"expected a wheel of {WHEEL.package} {WHEEL.version}, or a folder with its .tflite files or with what was in it"
)


class SmallReads:
    """Gives `zipfile` little of a file at a time: it would take a list of files of any length into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(min(count, MOST_READ + 1) if count >= 0 else MOST_READ + 1)
        if len(data) > MOST_READ:
            raise zipfile.BadZipFile("a part of it is too long")
        return data


def check_wheel(path: Path) -> None:
    """Check that a file is the one wheel that is known, before anything in it is looked at.

    Raises:
        InputError: it is another file, or damaged.
        OSError: it is missing or out of reach.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        found = hashlib.file_digest(file, "sha256").hexdigest() if size == WHEEL.bytes else ""
    if size != WHEEL.bytes:
        raise InputError(f"{path.name}: expected {WHEEL.bytes:,} bytes, got {size:,}; it is damaged or another file, "
                         "fetch it again")  # fmt: skip
    if found != WHEEL.sha256:
        raise InputError(f"{path.name}: expected SHA-256 {WHEEL.sha256}, got {found}; it is damaged or another file, "
                         "fetch it again")  # fmt: skip


def read_models(source: Path) -> dict[str, bytes]:
    """Read the networks out of a wheel or a folder; each has the size and the SHA-256 that are known.

    Args:
        source: a wheel of this version, of any platform, or a folder that holds the .tflite files, or `mediapipe/` as
            it is unpacked or installed.

    Returns:
        Name, as in `MODELS` -> the bytes of a TFLite file.

    Raises:
        InputError: it is none, lacks a network, or holds another or a damaged one.
    """
    try:
        if source.is_dir():
            return {name: _checked(model, *_in_folder(source, model)) for name, model in MODELS.items()}
        with opened(source) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_WHEEL:
                raise InputError(f"{source}: {_WANTED}, got a file of {size:,} bytes; give {WHEEL.name}")
            return _in_wheel(source, file)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{source}: {_WANTED}, it cannot be read ({reason}); check the path") from error


def _in_wheel(source: Path, file: BinaryIO) -> dict[str, bytes]:
    found = {}
    try:
        archive = zipfile.ZipFile(SmallReads(file))  # type: ignore[arg-type]
    except ZIP_DAMAGE as error:
        raise InputError(f"{source}: {_WANTED}, got a file that is no wheel or is cut ({error}); give {WHEEL.name}"
                         ) from error  # fmt: skip
    for name, model in MODELS.items():
        where = f"{source}, {model.file}"
        try:
            entry = archive.getinfo(model.path)
        except KeyError as error:
            raise InputError(f"{source}: {_WANTED}, got one without {model.path}; give {WHEEL.name}") from error
        if entry.file_size != model.bytes:
            raise _refusal(where, f"{model.bytes:,} bytes", f"{entry.file_size:,}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refusal(where, "a stored or deflated file", f"compression {entry.compress_type}")
        try:
            with archive.open(entry) as member:
                data = b"".join(iter(lambda: member.read(MOST_READ // 4), b""))  # no more than it declares
        except ZIP_DAMAGE as error:
            raise _refusal(where, "a whole file", f"a damaged one ({error})") from error
        found[name] = _checked(model, where, data)
    return found


def _in_folder(folder: Path, model: Model) -> tuple[str, bytes]:
    """Read a network beside the others, or where a wheel has it, unpacked or installed."""
    inside = model.path.partition("/")[2]
    for place in (model.file, model.path, inside):
        if (folder / place).exists():
            return str(folder / place), read_bytes(folder / place, model.bytes)
    raise InputError(f"{folder}: {_WANTED}, got one without {model.file}; give {WHEEL.name}")


def _checked(model: Model, where: str, data: bytes) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise _refusal(where, f"SHA-256 {model.sha256}", found)
    return data


def _refusal(where: str, wanted: str, found: str) -> InputError:
    of = f"that of {WHEEL.package} {WHEEL.version}"
    return InputError(f"{where}: expected {wanted}, {of}, got {found}; it is damaged or another file, fetch it again")


@contextmanager
def making(folder: Path, room: int, ours: Collection[str] = ()) -> Iterator[Path]:
    """Give an empty folder to work in beside `folder`, to this process alone; it vanishes when the block ends.

    What a killed process left there is removed. Folders above that were missing are made, and removed again where
    nothing came of it.

    Args:
        folder: where the networks will be.
        room: bytes that must be free.
        ours: names of files that may be in `folder`; without any those of the face models.

    Raises:
        InputError: the cache cannot be written or is full, another process works there, or `folder` holds files of
            somebody else.
    """
    parent = folder.parent
    new = [path for path in (parent, *parent.parents) if not path.exists()]
    work = parent / f".{folder.name}.part"
    with writing(folder):
        if folder.exists():
            foreign = {path.name for path in folder.iterdir()} - set(ours or _ours())
            if foreign:
                raise InputError(
                    f"{folder}: expected a folder for face models alone, it holds {listed(sorted(foreign))}; move that "
                    f"away, or set {VARIABLE} to another folder"
                )
        parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(folder), _alone(parent, folder):
            shutil.rmtree(work, ignore_errors=True)
            try:
                work.mkdir()
                free = shutil.disk_usage(parent).free
                if free < room:
                    raise OSError(errno.ENOSPC, f"{room / 1e6:.0f} MB are wanted, {free / 1e6:.0f} MB are free")
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        for path in new:  # the deepest comes first
            with suppress(OSError):
                path.rmdir()


def keep_models(files: Mapping[str, bytes], work: Path, folder: Path) -> None:
    """Write the networks to the cache, with licence and origin; the folder appears, or is replaced, whole.

    Args:
        files: from `read_models`. work: from `making(folder)`.

    Raises:
        InputError: the disk refuses, or a file is no network that is known.
    """
    part, index = work / "kept", {}
    with writing(folder):
        part.mkdir()
        for name, model in MODELS.items():
            graph = parse_tflite(files[name], model.file)
            path = save_graph(graph, part / model.kept, origin_of(model), LICENCE)
            load_graph(path)
            index[model.kept] = index_entry(model, path)
        (part / NOTICE).write_text(_notice(), encoding="utf-8")
        (part / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        for path in (*part.iterdir(), part):
            sync(path)
        put_folder(part, folder, work / "replaced", synced=True)


def origin_of(model: Model) -> str:
    """Say where a network comes from: package, version, path and SHA-256."""
    return f"{WHEEL.package} {WHEEL.version}, {model.path}, SHA-256 {model.sha256}"


def _notice() -> str:
    lines = [f"  {model.kept}\n    {model.path}\n    SHA-256 {model.sha256}" for model in MODELS.values()]
    return "\n".join(
        [
            f"The networks in this folder are those of {WHEEL.package} {WHEEL.version}, by The MediaPipe Authors.",
            "They are licensed under the Apache License, Version 2.0; you may obtain a copy of it at",
            "http://www.apache.org/licenses/LICENSE-2.0. They come WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND.",
            "",
            "Changed: the format, from TFLite to safetensors; constants that were sparse are written in full. No",
            "number was trained or altered.",
            "",
            f"Each file, where it lay in {WHEEL.name} and in the other wheels of this version,",
            "and the SHA-256 that it had there:",
            "",
            *lines,
            "",
        ]
    )


def _ours() -> set[str]:
    return {model.kept for model in MODELS.values()} | {INDEX, NOTICE}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a sentence."""
    try:
        yield
    except OSError as error:
        said = error.strerror or type(error).__name__
        reason = said[:1].lower() + said[1:]
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full else "mend its permissions"
        raise InputError(
            f"{folder}: the face models cannot be kept there ({reason}); {advice}, or set {VARIABLE} to another folder"
        ) from error


@contextmanager
def _alone(parent: Path, folder: Path) -> Iterator[None]:
    """Keep other processes out while the block runs; where a file system has no locks nobody is kept out."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    handle = os.open(parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise InputError(f"{folder}: another process fetches the face models; wait for it") from error
        yield
    finally:
        os.close(handle)
