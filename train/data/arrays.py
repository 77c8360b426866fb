"""Arrays of a NumPy archive, read so that damage has one name."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from triportrait.core.files import check_regular

_DAMAGE = (
    OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, SyntaxError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file.

    Raises: `ValueError` for one that is missing, damaged or holds Python objects.
    """
    try:
        check_regular(path)
        with np.load(path) as file:
            return dict(file)
    except _DAMAGE as error:
        raise ValueError(f"{path}: it cannot be read (damaged)") from error
