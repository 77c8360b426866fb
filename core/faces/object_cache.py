"""Keep machine code that was compiled for this CPU, so that the next process need not compile it again.

Code is run only where this user wrote it, nobody else can write it, and it is whole. Without a place to keep it each
process compiles for itself.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.faces.models import models_folder

FOLDER = "compiled"  # in the cache
LARGEST = 8 << 20  # bytes of a file
MOST_FILES = 64  # the oldest go
_DIGEST = hashlib.sha256().digest_size


def object_code(recipe: str, make: Callable[[], bytes]) -> bytes:
    """Give the machine code of a recipe, from the cache where it is there.

    Args:
        recipe: all that decides the code: its source, the CPU, the compiler's version.
        make: compiles it.
    """
    try:
        path = models_folder(FOLDER) / f"{hashlib.sha256(recipe.encode()).hexdigest()}.o"
    except InputError:  # a user without a home
        return make()
    code = _read(path)
    if code is None:
        code = make()
        _write(path, code)
    return code


def _read(path: Path) -> bytes | None:
    try:
        for place in (path.parent, path):
            status = os.lstat(place)
            if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return None
        if not _DIGEST < path.stat().st_size <= LARGEST:
            return None
        content = path.read_bytes()
    except (OSError, AttributeError):  # AttributeError: a system without users
        return None
    digest, code = content[:_DIGEST], content[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path, permissions=0o600) as temporary:
            temporary.write_bytes(hashlib.sha256(code).digest() + code)
        kept = sorted(path.parent.glob("*.o"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-MOST_FILES]:
            old.unlink(missing_ok=True)
    except OSError:  # full, or not ours to write
        return
