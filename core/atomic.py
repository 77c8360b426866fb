"""Files and folders appear under their names whole or not at all.

The package writes every result through this module. It lies in `core`, because weights are written there, and below
`serve.media` and `train`, which both build on it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triportrait.core.errors import InputError


@contextmanager
def replacing(
    path: Path, overwrite: bool = True, only_writer: bool = False, permissions: int = 0o666
) -> Iterator[Path]:
    """Give a temporary file beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    A link is followed: what it points to is made, or replaced.

    Args:
        overwrite: replace what lies there; otherwise what appears meanwhile is kept.
        only_writer: nobody else writes `path` at the same time. The temporary name is then always the same, so that
            what a killed process left behind is written over.
        permissions: of a new file, less the umask.

    Raises:
        InputError: `overwrite` is false and `path` exists at the end.
        OSError: the disk refuses.
    """
    target = Path(os.path.realpath(path))
    token = "part" if only_writer else secrets.token_hex(6)
    temporary = target.with_name(f".{target.stem[:64]}.{token}{target.suffix}")
    if only_writer:
        temporary.unlink(missing_ok=True)
    # The module tempfile makes files that only their owner can read, and renaming would keep that.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, permissions))
    try:
        yield temporary
        if overwrite:
            os.replace(temporary, target)
        else:
            try:
                _put(temporary, target, permissions)
            except FileExistsError as error:
                raise InputError(
                    f"{path}: it appeared meanwhile and was kept; pass --overwrite to replace it"
                ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that nobody else writes at the same time; see `replacing`.

    Raises:
        OSError: the disk refuses.
    """
    with replacing(path, only_writer=True) as temporary:
        temporary.write_text(text)


def put_folder(part: Path, folder: Path, old: Path, synced: bool = False) -> None:
    """Rename the finished folder `part` to `folder`; the one that lies there stays until then, and comes back on error.

    Args:
        old: where the replaced folder waits to be removed, beside `folder`.
        synced: make sure that the new name is on the disk before the old folder is removed.

    Raises:
        OSError: the disk refuses.
    """
    shutil.rmtree(old, ignore_errors=True)
    replaces = os.path.lexists(folder)
    if replaces:
        os.rename(folder, old)
    try:
        os.rename(part, folder)
    except OSError:
        if replaces:
            os.rename(old, folder)
        raise
    if synced:
        sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(temporary: Path, target: Path, permissions: int) -> None:
    """Give a file its name unless the name is taken. Raises: `FileExistsError`."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links (FAT, some network disks): an empty file holds the name until the whole one comes.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, permissions))
        try:
            os.replace(temporary, target)
        except OSError:
            target.unlink(missing_ok=True)
            raise
