"""Files are told apart by size and SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from triportrait.core.files import opened


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hexadecimal.

    Raises: `OSError` for what cannot be read, `InputError` for what is no regular file.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as indices keep them.

    Raises: `OSError` for what cannot be read.
    """
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
