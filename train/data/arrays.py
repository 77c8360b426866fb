"""Read NumPy archives and check their arrays before a network sees them; any damage is a `ValueError`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from triportrait.core.files import ARRAY_DAMAGE, check_regular

NOT_A_ROTATION = 1e-3  # largest entry of R R' - 1


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an .npz file.

    Raises: `ValueError` for one that is missing, damaged or holds Python objects.
    """
    try:
        check_regular(path)
        with np.load(path) as file:
            return dict(file)
    except (OSError, *ARRAY_DAMAGE) as error:
        raise ValueError(f"{path}: it cannot be read (damaged)") from error


def check_shapes(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[tuple[int, ...], type]]) -> None:
    """Check the names, shapes and dtypes of arrays.

    Args:
        expected: shape and dtype by name.

    Raises: `ValueError`, in words, for the first that is missing, of another shape or of another type.
    """
    if missing := sorted(expected.keys() - arrays.keys()):
        raise ValueError(f"expected an array {missing[0]}, it holds none")
    for name, (shape, dtype) in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {list(arrays[name].shape)}, expected {list(shape)}")
        if arrays[name].dtype != np.dtype(dtype):
            raise ValueError(f"{name} holds {arrays[name].dtype}, expected {np.dtype(dtype)}")


def check_finite(arrays: Mapping[str, np.ndarray], largest: Mapping[str, float] | None = None) -> None:
    """Check that arrays hold finite numbers of a plausible size.

    Args:
        largest: the largest magnitude that a face has, by name.

    Raises: `ValueError`, in words, for an array with numbers that are not finite or too large.
    """
    for name, value in arrays.items():
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {value.dtype}, expected numbers")
        if value.dtype.kind != "f":
            continue
        if nonfinite := int(value.size - np.isfinite(value).sum()):
            raise ValueError(f"{name} is not finite ({nonfinite} of {value.size} numbers)")
        limit = (largest or {}).get(name)
        if limit is not None and value.size and (magnitude := float(np.abs(value).max())) > limit:
            raise ValueError(f"{name} reaches {magnitude:.3g}, more than {limit:g}, which is of no face")


def check_rotations(rotation: np.ndarray, of: str = "frame") -> None:
    """Check that matrices [N, 3, 3] are rotations; `of` names in the error what the cameras belong to.

    Raises: `ValueError`, in words.
    """
    matrices = rotation.astype(np.float64)
    error = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    invalid = (error > NOT_A_ROTATION) | (np.linalg.det(matrices) < 0)
    if invalid.any():
        raise ValueError(f"the camera of {of} {int(invalid.argmax())} is no rotation")
