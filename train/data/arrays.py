"""Arrays of a NumPy archive, read so that damage has one name, and looked at before a network sees them."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from triportrait.core.files import check_regular

NOT_A_ROTATION = 1e-3  # largest entry of R R' - 1
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


def check_shapes(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[tuple[int, ...], type]]) -> None:
    """Compare arrays with what they should be.

    Args:
        wanted: shape and type of numbers, by name.

    Raises: `ValueError`, in words, for the first that is missing, of another shape or of another type.
    """
    if missing := sorted(wanted.keys() - arrays.keys()):
        raise ValueError(f"expected an array {missing[0]}, it holds none")
    for name, (shape, kind) in wanted.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {list(arrays[name].shape)}, expected {list(shape)}")
        if arrays[name].dtype != np.dtype(kind):
            raise ValueError(f"{name} holds {arrays[name].dtype}, expected {np.dtype(kind)}")


def check_finite(arrays: Mapping[str, np.ndarray], largest: Mapping[str, float] | None = None) -> None:
    """Look for numbers that spoil a training.

    Args:
        largest: sizes beyond which no face is, by name.

    Raises: `ValueError`, in words, for an array with numbers that are not finite or too large.
    """
    for name, value in arrays.items():
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {value.dtype}, expected numbers")
        if value.dtype.kind != "f":
            continue
        if wrong := int(value.size - np.isfinite(value).sum()):
            raise ValueError(f"{name} is not finite ({wrong} of {value.size} numbers)")
        most = (largest or {}).get(name)
        if most is not None and value.size and (found := float(np.abs(value).max())) > most:
            raise ValueError(f"{name} reaches {found:.3g}, more than {most:g}, which is of no face")


def check_rotations(rotation: np.ndarray, of: str = "frame") -> None:
    """Raises: `ValueError`, in words, where one of the rotations [N, 3, 3] of cameras is none; `of` says whose."""
    turns = rotation.astype(np.float64)
    off = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    wrong = (off > NOT_A_ROTATION) | (np.linalg.det(turns) < 0)
    if wrong.any():
        raise ValueError(f"the camera of {of} {int(wrong.argmax())} is no rotation")
