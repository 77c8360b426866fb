"""Read FLAME's own model file, a pickle of Python 2, as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from triportrait.core.config import NeckConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.flame import NUM_JOINTS
from triportrait.core.published.unpickle import Record

VERTICES, FACES = 5023, 9976
DIRECTIONS, POSE_DIRECTIONS = NeckConfig.num_shape + NeckConfig.num_expression, 9 * (NUM_JOINTS - 1)
MAX_WRAPPINGS = 4


def is_flame(content: Any) -> bool:
    """Tell whether the content that `read_pickle` gave is FLAME's dictionary."""
    return type(content) is dict and "v_template" in content


def flame_of(root: Any, file: str) -> dict[str, np.ndarray]:
    """Read the arrays of `generic_model.pkl` from what `read_pickle` gave for it, without chumpy or scipy.

    Returns:
        float64, in metres: template [5023, 3], shape_directions [5023, 3, 400] (300 of shape, then 100 of expression),
        pose_directions [5023, 3, 36], joint_regressor [5, 5023], skinning_weights [5023, 5]; int64: parents [5] (-1 for
        the root), faces [9976, 3].

    Raises:
        InputError: an entry is missing or has another shape; `file` begins the sentence.
    """
    if type(root) is not dict:
        raise InputError(f"{file}: expected FLAME's dictionary, got a {type(root).__name__}; fetch it again")

    def entry(key: str, *shape: int, whole: bool = False) -> np.ndarray:
        array = _dense(root.get(key), f"{file}: {key}")
        if array.shape != shape or array.dtype.kind not in ("iu" if whole else "f"):
            expected = f"{list(shape)} of {'whole' if whole else 'real'} numbers"
            got = f"{list(array.shape)} of {array.dtype}"
            raise InputError(f"{file}: {key}: expected {expected}, got {got}; give FLAME's generic_model.pkl")
        plain = np.ascontiguousarray(array, dtype=np.int64 if whole else np.float64)
        if not np.isfinite(plain).all():
            raise InputError(f"{file}: {key}: expected finite numbers, got others; fetch it again")
        return plain

    faces = entry("f", FACES, 3, whole=True)
    if faces.min() < 0 or faces.max() >= VERTICES:
        raise InputError(f"{file}: f: expected vertex numbers below {VERTICES}, got others; fetch it again")
    parents = entry("kintree_table", 2, NUM_JOINTS, whole=True)[0].copy()
    parents[0] = -1  # the file has 2^32 - 1
    if not all(0 <= parents[joint] < joint for joint in range(1, NUM_JOINTS)):
        raise InputError(f"{file}: kintree_table: expected parents before their children; fetch it again")
    return {
        "template": entry("v_template", VERTICES, 3),
        "shape_directions": entry("shapedirs", VERTICES, 3, DIRECTIONS),
        "pose_directions": entry("posedirs", VERTICES, 3, POSE_DIRECTIONS),
        "joint_regressor": entry("J_regressor", NUM_JOINTS, VERTICES),
        "parents": parents,
        "skinning_weights": entry("weights", VERTICES, NUM_JOINTS),
        "faces": faces,
    }


def _dense(value: Any, where: str) -> np.ndarray:
    """Return a dense array from an array, from chumpy's wrapping of one, or from scipy's compressed sparse matrix."""
    for _ in range(MAX_WRAPPINGS):
        if type(value) is Record and value.kind.startswith("chumpy.") and type(value.state) is dict:
            value = value.state.get("x")
    if type(value) is np.ndarray:
        return value
    if type(value) is Record and value.kind.startswith("scipy.sparse.") and type(value.state) is dict:
        return _from_sparse(value.kind, value.state, where)
    raise InputError(f"{where}: expected an array, got none; fetch it again")


def _from_sparse(kind: str, state: dict[Any, Any], where: str) -> np.ndarray:
    """Make a csc or csr matrix of the size of FLAME's regressor dense."""
    parts = [state.get(key) for key in ("data", "indices", "indptr")]
    by_column, shape = kind.endswith("csc_matrix"), state.get("_shape", state.get("shape"))
    is_compressed = by_column or kind.endswith("csr_matrix")
    fits = type(shape) is tuple and all(type(n) is int for n in shape) and shape == (NUM_JOINTS, VERTICES)
    if not is_compressed or not fits or not all(type(p) is np.ndarray and p.ndim == 1 for p in parts):
        raise InputError(f"{where}: expected a sparse matrix [{NUM_JOINTS}, {VERTICES}], got another; fetch it again")
    data, indices, starts = (np.asarray(part) for part in parts)
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
