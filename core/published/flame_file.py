"""Read FLAME's own model file, a pickle of Python 2 or NumPy's archive of the same entries, as plain arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from triportrait.core.config import NeckConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import NUM_JOINTS
from triportrait.core.published.array_files import is_arrays, read_arrays
from triportrait.core.published.unpickle import Record, read_pickle
from triportrait.core.safe_text import shown

VERTICES, FACES = 5023, 9976
DIRECTIONS, POSE_DIRECTIONS = (NeckConfig.num_shape, NeckConfig.num_expression), 9 * (NUM_JOINTS - 1)
MAX_WRAPPINGS = 4
# What MPI's files of one version are; the two of 2023 whose expressions open the mouth differ from the third.
VERSIONS = {
    "2017": "FLAME 2017",
    "2019": "FLAME 2019",
    "2020": "FLAME 2020",
    "2023": "FLAME 2023",
    "2023-no-jaw": "FLAME 2023 without jaw",
    "2023-open": "FLAME 2023 Open",
}
OTHER_TOPOLOGIES = {10475: "SMPL-X", 6890: "SMPL", 778: "MANO", 10551: "STAR or SUPR"}
EXPRESSIONS = ("exprdirs", "expr_dirs", "expressiondirs")  # where a file holds them by themselves
KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f", *EXPRESSIONS)


@dataclass(frozen=True)
class FlameFile:
    """What a FLAME file holds.

    Attributes:
        arrays: float64, in metres: template [5023, 3], shape_directions [5023, 3, K], pose_directions [5023, 3, 36],
            joint_regressor [5, 5023], skinning_weights [5023, 5]; int64: parents [5] (-1 for the root),
            faces [9976, 3].
        num_shape: how many of the K directions are shape; the rest are expression.
    """

    arrays: dict[str, np.ndarray]
    num_shape: int


def is_flame(content: Any) -> bool:
    """Tell whether the content that `read_pickle` gave is FLAME's dictionary, or one of its relatives'."""
    return type(content) is dict and "v_template" in content


def read_flame_content(path: Path) -> Any:
    """Read a FLAME file, a pickle or a `.npz`, as `flame_of` takes it; nothing of it is run.

    Raises: as `read_pickle` and `read_arrays`.
    """
    return read_arrays(path, KEYS) if is_arrays(path) else read_pickle(path)


def version_of(file: Path, version: str | None = None) -> str:
    """Return the version of a FLAME file, which does not name it: what the user says, else what its name hints at.

    Args:
        version: as in `VERSIONS`, or None.

    Raises: `InputError` for an unknown version, or where neither the name nor that of its folder tells.
    """
    known = ", ".join(VERSIONS)
    if version is not None:
        if version not in VERSIONS:
            raise InputError(f"flame-version: expected one of {known}, got {shown(version)}; choose one")
        return version
    for name in (file.name, file.resolve().parent.name):
        years = set(re.findall(r"(?<!\d)20(?:17|19|20|23)(?!\d)", name))
        if len(years) == 1:
            year, words = years.pop(), re.sub(r"[^a-z]+", " ", name.lower())
            if year == "2023" and "open" in words:
                return "2023-open"
            return "2023-no-jaw" if year == "2023" and re.search(r"no ?jaw", words) else year
    raise InputError(
        f"{file}: expected a name that tells FLAME's version, as FLAME2020/{file.name}, got none, and expressions of "
        f"one version are not those of another; say --flame-version {' or '.join(VERSIONS)}"
    )


def flame_of(root: Any, file: str, directions: tuple[int, int] | None = None) -> FlameFile:
    """Read the arrays of a FLAME file from what `read_flame_content` gave for it, without chumpy or scipy.

    Args:
        directions: how many are shape and how many expression, where the file is none of the published layouts: those
            have 300 and 100, or hold the expressions by themselves.

    Raises:
        InputError: an entry is missing or has another shape, the file is of another topology, or nothing tells its
            directions apart; `file` begins the sentence.
    """
    if type(root) is not dict:
        raise InputError(f"{file}: expected FLAME's dictionary, got a {type(root).__name__}; fetch it again")

    def read(key: str, whole: bool = False) -> np.ndarray:
        array = _dense(root.get(key), f"{file}: {key}")
        if array.dtype.kind not in ("iu" if whole else "f"):
            raise _unexpected(file, key, f"{'whole' if whole else 'real'} numbers", f"{array.dtype}")
        plain = np.ascontiguousarray(array, dtype=np.int64 if whole else np.float64)
        if not np.isfinite(plain).all():
            raise InputError(f"{file}: {key}: expected finite numbers, got others; fetch it again")
        return plain

    def entry(key: str, *shape: int, whole: bool = False) -> np.ndarray:
        array = read(key, whole)
        if array.shape != shape:
            kind = "whole" if whole else "real"
            raise _unexpected(file, key, f"{list(shape)} of {kind} numbers", f"{list(array.shape)} of {array.dtype}")
        return array

    _check_topology(read("v_template"), file)
    faces = entry("f", FACES, 3, whole=True)
    if faces.min() < 0 or faces.max() >= VERTICES:
        raise InputError(f"{file}: f: expected vertex numbers below {VERTICES}, got others; fetch it again")
    parents = entry("kintree_table", 2, NUM_JOINTS, whole=True)[0].copy()
    parents[0] = -1  # files have 2^32 - 1, or -1
    if not all(0 <= parents[joint] < joint for joint in range(1, NUM_JOINTS)):
        raise InputError(f"{file}: kintree_table: expected parents before their children; fetch it again")
    shapes, num_shape = _directions(root, read, file, directions)
    return FlameFile(
        {
            "template": entry("v_template", VERTICES, 3),
            "shape_directions": shapes,
            "pose_directions": _pose_directions(read("posedirs"), file),
            "joint_regressor": entry("J_regressor", NUM_JOINTS, VERTICES),
            "parents": parents,
            "skinning_weights": entry("weights", VERTICES, NUM_JOINTS),
            "faces": faces,
        },
        num_shape,
    )


def _unexpected(file: str, key: str, expected: str, got: str) -> InputError:
    return InputError(f"{file}: {key}: expected {expected}, got {got}; give FLAME's generic_model.pkl")


def _check_topology(template: np.ndarray, file: str) -> None:
    if template.ndim == 2 and template.shape[1] == 3 and len(template) != VERTICES:
        other = OTHER_TOPOLOGIES.get(len(template))
        got = f"{len(template):,}" + (f", which are {other}'s" if other else "")
        raise InputError(f"{file}: expected FLAME's {VERTICES:,} vertices, got {got}; give a file of FLAME")


def _directions(root: dict[Any, Any], read: Any, file: str, stated: tuple[int, int] | None) -> tuple[np.ndarray, int]:
    """Return directions [5023, 3, K] and how many of them are shape."""
    shapes = read("shapedirs")
    if shapes.ndim != 3 or shapes.shape[:2] != (VERTICES, 3) or shapes.shape[2] == 0:
        raise _unexpected(file, "shapedirs", f"[{VERTICES}, 3, K] of real numbers", f"{list(shapes.shape)}")
    count, apart = shapes.shape[2], [key for key in EXPRESSIONS if root.get(key) is not None]
    if apart:
        expressions = read(apart[0])
        if expressions.ndim != 3 or expressions.shape[:2] != (VERTICES, 3):
            got = f"{list(expressions.shape)}"
            raise _unexpected(file, apart[0], f"[{VERTICES}, 3, K] of real numbers", got)
        split = (count, expressions.shape[2])
        shapes = np.concatenate([shapes, expressions], 2)
    elif count == sum(DIRECTIONS):
        split = DIRECTIONS if stated is None else stated
    elif stated is None:
        raise InputError(
            f"{file}: shapedirs: expected {DIRECTIONS[0]} directions of shape and {DIRECTIONS[1]} of expression, as "
            f"FLAME's files have them, got {count}; say which they are by --flame-directions, as 100+50"
        )
    else:
        split = stated
    if (stated is not None and stated != split) or sum(split) != shapes.shape[2] or min(split) < 0:
        said = stated or split
        raise InputError(
            f"{file}: flame-directions: expected numbers that the file has, {split[0]}+{shapes.shape[2] - split[0]}, "
            f"got {said[0]}+{said[1]}; say others"
        )
    if max(split[0] - DIRECTIONS[0], split[1] - DIRECTIONS[1]) > 0:
        raise InputError(
            f"{file}: shapedirs: expected at most {DIRECTIONS[0]} directions of shape and {DIRECTIONS[1]} of "
            f"expression, got {split[0]}+{split[1]}; leave the last ones out"
        )
    return shapes, split[0]


def _pose_directions(array: np.ndarray, file: str) -> np.ndarray:
    """Return pose directions [5023, 3, 36] from that order, or from the flat one [36, 15069] or its transpose."""
    flat = 3 * VERTICES
    if array.shape == (POSE_DIRECTIONS, flat):
        array = array.T
    if array.shape == (flat, POSE_DIRECTIONS):
        array = array.reshape(VERTICES, 3, POSE_DIRECTIONS)
    if array.shape != (VERTICES, 3, POSE_DIRECTIONS):
        expected = f"[{VERTICES}, 3, {POSE_DIRECTIONS}] or [{POSE_DIRECTIONS}, {flat}] of real numbers"
        raise _unexpected(file, "posedirs", expected, f"{list(array.shape)}")
    return np.ascontiguousarray(array)


def _dense(value: Any, where: str) -> np.ndarray:
    """Return a dense array from an array or tensor, chumpy's wrapping of one, or scipy's sparse matrix."""
    for _ in range(MAX_WRAPPINGS):
        if type(value) is Record and value.kind.startswith("chumpy.") and type(value.state) is dict:
            value = value.state.get("x")
    if isinstance(value, Tensor):
        return value.float().numpy() if value.is_floating_point() and value.element_size() < 4 else value.numpy()
    if type(value) is np.ndarray:
        return value
    if type(value) is Record and value.kind.startswith("scipy.sparse.") and type(value.state) is dict:
        name = value.kind.rpartition(".")[2].removesuffix("_matrix").removesuffix("_array")
        if name == "coo":
            return _from_coordinates(value.state, where)
        return _from_sparse(name, value.state, where)
    raise InputError(f"{where}: expected an array, got none; fetch it again")


def _check_regressor(state: dict[Any, Any], keys: tuple[str, ...], where: str, is_known: bool) -> list[np.ndarray]:
    """Return the parts of a sparse matrix of the size of FLAME's regressor."""
    parts = [state.get(key) for key in keys]
    shape = state.get("_shape", state.get("shape"))
    fits = type(shape) is tuple and all(type(n) is int for n in shape) and shape == (NUM_JOINTS, VERTICES)
    arrays = [part for part in parts if type(part) is np.ndarray and part.ndim == 1]
    if not is_known or not fits or len(arrays) < len(parts):
        raise InputError(f"{where}: expected a sparse matrix [{NUM_JOINTS}, {VERTICES}], got another; fetch it again")
    return arrays


def _from_coordinates(state: dict[Any, Any], where: str) -> np.ndarray:
    """Make a matrix that lists the row and the column of each number dense."""
    coordinates = state.get("coords")
    if type(coordinates) is tuple and len(coordinates) == 2:
        state = {**state, "row": coordinates[0], "col": coordinates[1]}
    data, rows, columns = _check_regressor(state, ("data", "row", "col"), where, True)
    whole = rows.dtype.kind in "iu" and columns.dtype.kind in "iu" and data.dtype.kind == "f"
    if not whole or not rows.shape == columns.shape == data.shape:
        raise InputError(f"{where}: expected matching parts of a sparse matrix, got others; fetch it again")
    for places, most in ((rows, NUM_JOINTS), (columns, VERTICES)):
        if places.size and not (places.min() >= 0 and places.max() < most):
            raise InputError(f"{where}: expected places inside of a sparse matrix, got others; fetch it again")
    dense = np.zeros((NUM_JOINTS, VERTICES))
    np.add.at(dense, (rows.astype(np.int64), columns.astype(np.int64)), data.astype(np.float64))
    return dense


def _from_sparse(kind: str, state: dict[Any, Any], where: str) -> np.ndarray:
    """Make a matrix that is compressed by column (csc) or row (csr) dense."""
    by_column = kind == "csc"
    data, indices, starts = _check_regressor(state, ("data", "indices", "indptr"), where, kind in ("csc", "csr"))
    lines, length = (VERTICES, NUM_JOINTS) if by_column else (NUM_JOINTS, VERTICES)
    whole = indices.dtype.kind in "iu" and starts.dtype.kind in "iu" and data.dtype.kind == "f"
    if not whole or starts.shape != (lines + 1,) or indices.shape != data.shape:
        raise InputError(f"{where}: expected matching parts of a sparse matrix, got others; fetch it again")
    starts = starts.astype(np.int64)
    counts = starts[1:] - starts[:-1]
    inside = not indices.size or (indices.min() >= 0 and indices.max() < length)
    if starts[0] != 0 or starts[-1] != data.size or counts.min() < 0 or not inside:
        raise InputError(f"{where}: expected places inside of a sparse matrix, got others; fetch it again")
    dense = np.zeros((lines, length))
    # a place may be listed twice; its values add up
    np.add.at(dense, (np.repeat(np.arange(lines), counts), indices.astype(np.int64)), data.astype(np.float64))
    return dense.T if by_column else dense
