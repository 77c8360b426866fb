"""The file that a job makes: checked before any work, and what the system refuses said in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError

VIDEO_ENDINGS = (".mp4", ".mov", ".mkv", ".webm")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_output(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    kinds: Sequence[str] = VIDEO_ENDINGS,
    sources: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Check before any work that `path` can be written: a known ending, a folder that takes files, nothing lost.

    `kinds` are the allowed endings, `sources` the input files that must not be overwritten, whatever `overwrite` says:
    each by itself, since a folder among them stands for no file in it.

    Raises: `InputError` that says what to do.
    """
    path = Path(path)
    if path.suffix.lower() not in kinds:
        raise InputError(
            f"{path}: an ending out of {' '.join(kinds)} is wanted, {ending_of(path)} came; rename the output"
        )
    with writing(path):  # asking whether something is there fails, too, where a name is too long
        _check_place(path, overwrite, sources)
    # Only really making a file tells: permission bits do not bind root, and a disk can be mounted read-only.
    with writing(path), suppress(_Unused), replacing(path, overwrite):
        raise _Unused


def _check_place(path: Path, overwrite: bool, sources: Iterable[str | os.PathLike[str]]) -> None:
    parent = Path(os.path.realpath(path)).parent
    if not parent.is_dir():
        what = "is a file" if parent.exists() else "does not exist"
        raise InputError(f"{path}: its folder {parent} {what}; make the folder or choose another")
    if os.path.lexists(path):
        for source in sources:
            with suppress(OSError):
                if os.path.samefile(path, source):
                    raise InputError(f"{path}: this is the input {source}; choose another output")
    if os.path.lexists(path):
        try:
            path.stat()
        except FileNotFoundError:
            pass
        except OSError as error:  # links that lead to each other
            raise InputError(f"{path}: a file is wanted ({error.strerror}); choose another output") from error
    if path.exists():
        if not path.is_file():
            raise InputError(f"{path}: a file is wanted, this is a folder or a device; choose another output")
        if not overwrite:
            raise InputError(f"{path}: it exists already; pass --overwrite to replace it")


class _Unused(Exception):
    """Ends the trial in `check_output` without touching the output."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell an `OSError` of the block (disk full, no permission) as an `InputError` about `path`."""
    try:
        yield
    except OSError as error:
        folder = Path(os.path.realpath(path)).parent
        reason, advice = reason_of(error), "choose another folder"
        if error.errno in _NO_ROOM:
            advice = "free some space or choose another folder"
        elif error.errno == errno.ENOENT:
            reason = f"its folder {folder} {'takes no new files' if folder.is_dir() else 'is gone'}"
        raise InputError(f"{path}: it could not be written ({reason}); {advice}") from error


def ending_of(path: Path) -> str:
    """Say which ending a name has, for a sentence about a wrong one."""
    return repr(path.suffix) if path.suffix else "no ending"


def reason_of(error: OSError) -> str:
    """Say in the system's words, in lower case, why a file operation failed: `no such file or directory`."""
    said = error.strerror or str(error) or type(error).__name__
    return said[:1].lower() + said[1:]
