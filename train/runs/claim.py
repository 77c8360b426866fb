"""Lock a run's folder for one training at a time, and leave nothing behind where a start is refused."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from triportrait.core.errors import InputError
from triportrait.core.files import check_regular
from triportrait.train.runs.run_config import CONFIG, STARTED

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a network folder that knows none
LOCK = ".lock"


def made_folder(run: Path) -> None:
    """Make the folder of a run.

    Raises: `InputError` where that is impossible.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{run}: expected a folder for the run ({reason}); name another folder") from error


def claim(run: Path) -> IO[str]:
    """Keep other processes out of the folder while the file is open: two would overwrite each other's state.

    Raises: `InputError` where another process has it, with its number and machine.
    """
    if (run / LOCK).exists():
        check_regular(run / LOCK)  # a pipe would be waited for
    lock = (run / LOCK).open("a+")
    try:
        import fcntl

        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # a system without such locks
    except OSError as error:
        if error.errno not in NO_LOCKS:
            lock.seek(0)
            holder = lock.read(200).strip()
            lock.close()
            raise InputError(
                f"{run}: another process trains in this folder; wait for it{f' ({holder})' if holder else ''}, or name "
                "another folder"
            ) from error
    with suppress(OSError):  # a full disk is told where it matters
        lock.truncate(0)
        lock.write(_own())
        lock.flush()
    return lock


def _own() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


class Start:
    """The start of a run, in one or more parts: when one fails before the run has a config, what the start made in and
    above the folder is taken away again. What was there before stays, and so does what another process holds.

    Args:
        run: the folder, not yet made.
    """

    def __init__(self, run: Path) -> None:
        self._run = run.absolute()
        self._made = [path for path in (self._run, *self._run.parents) if not path.exists()]
        self._new = [name for name in STARTED if not (self._run / name).exists()]

    @contextmanager
    def part(self) -> Iterator[None]:
        """Take away what the start made where this part of it fails."""
        try:
            yield
        except BaseException:
            if not (self._run / CONFIG).exists() and self._is_ours():
                self._forget()
            raise

    def _is_ours(self) -> bool:
        try:
            return (self._run / LOCK).read_text() == _own()
        except OSError:
            return not (self._run / LOCK).exists()

    def _forget(self) -> None:
        for name in self._new:
            shutil.rmtree(self._run / name, ignore_errors=True)
        for name in (*self._new, LOCK):
            with suppress(OSError):
                (self._run / name).unlink(missing_ok=True)
        for path in self._made:  # the deepest comes first
            with suppress(OSError):
                path.rmdir()
