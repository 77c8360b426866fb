"""FLAME files of every public layout, made up: the open head with its vertices and faces filled up to FLAME's."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.core import pickles
from triportrait.core.tracking.head_model import load_head_model

VERTICES, FACES = 5023, 9976


def open_tables() -> dict[str, Tensor]:
    """The tables of the open head."""
    return dict(load_head_model().flame.named_buffers())


SPLIT = (30, 10)  # directions of shape and expression; small files are quick files


def entries(shape: int = SPLIT[0], expression: int = SPLIT[1], seed: int = 0) -> dict[str, Any]:
    """What a FLAME file of so many directions holds, float64 and metres: the open head's shape, random directions."""
    tables, draw = open_tables(), np.random.default_rng(seed)
    U = len(tables["template"])
    rest = VERTICES - U

    def filled(table: Tensor) -> np.ndarray:
        return np.concatenate([table.double().numpy(), np.repeat(table[-1:].double().numpy(), rest, 0)])

    faces = tables["faces"][:-70].numpy()
    directions = draw.normal(size=(VERTICES, 3, 8)) * 0.002
    repeated = np.resize(np.arange(8), 400)
    directions = directions[..., repeated] * draw.normal(size=400)
    kept = [*range(shape), *range(300, 300 + expression)]
    regressor = np.zeros((5, VERTICES))
    regressor[:, :U] = tables["joint_regressor"].double().numpy()
    return {
        "f": np.concatenate([faces, np.resize(faces, (FACES - len(faces), 3))]).astype(np.uint32),
        "v_template": filled(tables["template"]) / 3,
        "shapedirs": directions[..., kept],
        "posedirs": draw.normal(size=(VERTICES, 3, 36)) * 1e-3,
        "J_regressor": regressor,
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "weights": filled(tables["skinning_weights"]),
    }


def sparse(matrix: np.ndarray, kind: str = "csc") -> Any:
    """A sparse matrix as a pickle of scipy's has it."""
    rows, columns = matrix.nonzero()
    if kind == "coo":
        value = pickles.named("scipy.sparse._coo", "coo_matrix")()
        value.__dict__.update(data=matrix[rows, columns], row=rows, col=columns, _shape=matrix.shape)
        return value
    value = pickles.named(f"scipy.sparse.{kind}", f"{kind}_matrix")()
    order = np.lexsort((rows, columns) if kind == "csc" else (columns, rows))
    rows, columns = rows[order], columns[order]
    lines, inner = (columns, rows) if kind == "csc" else (rows, columns)
    count = matrix.shape[1 if kind == "csc" else 0]
    starts = np.concatenate([[0], np.cumsum(np.bincount(lines, minlength=count))]).astype(np.int32)
    numbers = matrix[rows, columns]
    value.__dict__.update(data=numbers, indices=inner.astype(np.int32), indptr=starts, _shape=matrix.shape)
    return value


def wrapped(array: np.ndarray) -> Any:
    """An array in chumpy's wrapping."""
    value = pickles.named("chumpy.ch", "Ch")()
    value.__dict__.update(x=array, _dirty_vars=set(), _itr=None)
    return value


def as_pickle(path: Path, content: dict[str, Any], python2: bool = True) -> Path:
    """Write a pickle, of Python 2 or newer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pickler = pickles.Python2Pickler if python2 else pickles.PublishedPickler
    path.write_bytes(pickles.dump(content, 2 if python2 else 4, pickler))
    return path


def object_array(value: Any) -> bytes:
    """A `.npy` file whose array holds one object, as `np.save` writes a dictionary."""
    array = np.empty((), object)
    array[()] = value
    file = io.BytesIO()
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    file.write(pickles.dump(array))
    return file.getvalue()


def as_npz(path: Path, content: dict[str, Any]) -> Path:
    """Write a `.npz` file; what is no array lies in arrays of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in content.items():
            file = io.BytesIO()
            if isinstance(value, np.ndarray | str):
                np.save(file, np.asarray(value))
                archive.writestr(f"{name}.npy", file.getvalue())
            else:
                archive.writestr(f"{name}.npy", object_array(value))
    return path


def landmark_dictionary(points: int = 70) -> dict[str, Any]:
    """Landmarks under the published names: random places on faces, the contour's as torch tensors."""
    draw = np.random.default_rng(1)

    def shares(*shape: int) -> np.ndarray:
        numbers = draw.random((*shape, 3)) + 0.1
        return numbers / numbers.sum(-1, keepdims=True)

    inner = points - 17
    return {
        "full_lmk_faces_idx": draw.integers(0, FACES, (1, points)),
        "full_lmk_bary_coords": shares(1, points),
        "static_lmk_faces_idx": draw.integers(0, FACES, inner),
        "static_lmk_bary_coords": shares(inner),
        "dynamic_lmk_faces_idx": torch.from_numpy(draw.integers(0, FACES, (79, 17))),
        "dynamic_lmk_bary_coords": torch.from_numpy(shares(79, 17)),
    }
