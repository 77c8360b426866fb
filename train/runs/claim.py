"""A run's folder belongs to one training at a time."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO

from triportrait.core.errors import InputError
from triportrait.core.files import check_regular

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a network folder that knows none


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
    """Keep other processes out of the folder while the file is open: two would overwrite each other's state."""
    if (run / ".lock").exists():
        check_regular(run / ".lock")  # a pipe would be waited for
    lock = (run / ".lock").open("a")
    try:
        import fcntl

        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # a system without such locks
    except OSError as error:
        if error.errno in NO_LOCKS:
            return lock
        lock.close()
        raise InputError(
            f"{run}: another process trains in this folder; wait for it, or name another folder"
        ) from error
    return lock
