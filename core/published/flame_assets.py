"""Read the files that people keep beside a FLAME file: landmarks, the coarse mesh, regions and eyelids.

Each is known by what it holds; names matter only for eyelids, of which the left and the right look alike:

    landmark_embedding*.npy    a dictionary inside an array of objects: static, contour and full landmarks
    simplify_baricentric*.npy  the published coarse mesh: 730 vertices on FLAME's, 1,394 faces, a table of regions
    FLAME_masks.pkl            vertices by region; the published one has `noinmouth` beside MPI's
    l_eyelid.npy r_eyelid.npy  [5023, 3] metres, where vertices go as a lid shuts
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.flame import EYELIDS, check_indices, check_landmark_tables
from triportrait.core.published.array_files import is_arrays, read_arrays
from triportrait.core.published.flame_file import FACES, VERTICES
from triportrait.core.published.unpickle import Record, read_pickle
from triportrait.core.safe_text import shown

PATTERNS = ("*landmark_embedding*.npy", "simplify_baricentric*.npy", "*masks*.pkl", "[lr]_eyelid.npy")
# published names of landmark tables, and ours by how many points the table has
_LANDMARKS = {
    "full": {70: "landmark70", 68: "landmark68"},
    "static": {53: "landmark53", 51: "landmark51"},
    "dynamic": {17: "contour"},
}
REGIONS = {"eye_idxs": ("left_eyeball", "right_eyeball"), "lips_idxs": ("lips",), "noinmouth_idxs": ("noinmouth",)}


@dataclass
class Assets:
    """Tables from asset files, by our names.

    Attributes:
        flame: of landmarks (landmark68 and landmark51 where the pupils are not in the file) and eyelids; metres.
        mesh: of the coarse mesh and the regions.
        origin: which file each table is from.
    """

    flame: dict[str, Tensor] = field(default_factory=dict)
    mesh: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)


def read_assets(paths: Sequence[Path]) -> Assets:
    """Read asset files, and those with known names in asset folders.

    Raises:
        InputError: one is missing, damaged, of another topology or holds nothing that is known; a folder has none.
    """
    assets = Assets()
    for path in paths:
        files = list(_in_folder(path)) if path.is_dir() else [path]
        if not files:
            raise InputError(
                f"{path}: expected files as {', '.join(PATTERNS)}, found none; name the files by themselves"
            )
        for file in files:
            _add(assets, file)
    if (sides := assets.flame.keys() & {"left", "right"}) and len(sides) < 2:
        raise InputError(f"eyelids: expected l_eyelid.npy and r_eyelid.npy, got the {next(iter(sides))} one; name both")
    if sides:
        both = [assets.flame.pop("left"), assets.flame.pop("right")]
        assets.flame[EYELIDS] = torch.stack(both, -1)
        assets.origin[EYELIDS] = "l_eyelid.npy, r_eyelid.npy"
    return assets


def _in_folder(folder: Path) -> Iterator[Path]:
    for pattern in PATTERNS:
        yield from sorted(folder.glob(pattern))


def _add(assets: Assets, file: Path) -> None:
    if not file.is_file():
        raise InputError(f"{file}: no such file; give one of {', '.join(PATTERNS)}, or a folder of them")
    content: Any = read_arrays(file) if is_arrays(file) else read_pickle(file)
    if type(content) is dict and content.keys() == {""}:
        content = content[""]
    flame: dict[str, Tensor] = {}
    mesh: dict[str, Tensor] = {}
    if type(content) is np.ndarray and content.size == 3 * VERTICES and content.dtype.kind == "f":
        side = {"l": "left", "r": "right"}.get(file.name.lower()[:1])
        if side is None or "eyelid" not in file.name.lower():
            raise InputError(f"{file}: expected the name l_eyelid.npy or r_eyelid.npy, which tells the side; rename it")
        flame[side] = _tensor(content, f"{file}").reshape(VERTICES, 3).float()
    elif type(content) is dict and any(f"{kind}_lmk_faces_idx" in content for kind in _LANDMARKS):
        flame = _landmarks(content, str(file))
    elif type(content) is dict and "left_eyeball" in content:
        mesh = _regions(content, str(file))
    elif (arrays := _plain_arrays(content)) is not None:
        mesh = _coarse_mesh(arrays, str(file))
    else:
        raise InputError(
            f"{file}: expected landmarks, regions, a coarse mesh or eyelids of FLAME, got something else; name one of "
            f"{', '.join(PATTERNS)}"
        )
    assets.flame |= flame
    assets.mesh |= mesh
    assets.origin |= dict.fromkeys([*flame, *mesh], file.name)


def _tensor(value: Any, where: str, whole: bool = False) -> Tensor:
    """Return a tensor of float32 or int64 of an array or a tensor of a file."""
    value = value.numpy() if isinstance(value, Tensor) and value.dtype != torch.bfloat16 else value
    if type(value) is list and len(value) < 1000:
        value = np.asarray(value) if all(type(part) in (int, float) for part in value) else None
    if type(value) is not np.ndarray or value.dtype.kind not in ("iu" if whole else "f"):
        got = f"an array of {value.dtype}" if type(value) is np.ndarray else f"a {type(value).__name__}"
        kind = "whole" if whole else "real"
        raise InputError(f"{where}: expected an array of {kind} numbers, got {got}; fetch the file again")
    tensor = torch.from_numpy(np.ascontiguousarray(value, np.int64 if whole else np.float32))
    if not whole and not bool(tensor.isfinite().all()):
        raise InputError(f"{where}: expected finite numbers, got others; fetch the file again")
    return tensor


def _landmarks(content: dict[Any, Any], file: str) -> dict[str, Tensor]:
    """Return the tables of landmarks of a published dictionary."""
    tables: dict[str, Tensor] = {}
    for kind, names in _LANDMARKS.items():
        if f"{kind}_lmk_faces_idx" not in content:
            continue
        where = f"{file}: {kind}_lmk_faces_idx"
        faces = _tensor(content[f"{kind}_lmk_faces_idx"], where, whole=True)
        shares = _tensor(content.get(f"{kind}_lmk_bary_coords"), f"{file}: {kind}_lmk_bary_coords")
        points = faces.shape[-1] if faces.ndim else 0
        if (name := names.get(points)) is None or shares.shape != (*faces.shape, 3):
            expected = " or ".join(map(str, names))
            raise InputError(
                f"{where}: expected {expected} landmarks, got faces {list(faces.shape)} and barycentrics "
                f"{list(shares.shape)}; give the landmarks of FLAME"
            )
        if kind == "full":
            faces, shares = faces.reshape(1, points), shares.reshape(1, points, 3)
        elif kind == "static":
            faces, shares = faces.reshape(points), shares.reshape(points, 3)
        check_indices(where, faces, FACES)
        tables |= {f"{name}_faces": faces, f"{name}_barycentrics": shares}
    check_landmark_tables(tables | {"faces": torch.zeros(FACES, 3)})
    return tables


def _regions(content: dict[Any, Any], file: str) -> dict[str, Tensor]:
    """Return lists of vertices by region."""
    tables = {}
    for name, keys in REGIONS.items():
        if all(key in content for key in keys):
            parts = [_tensor(content[key], f"{file}: {key}", whole=True).flatten() for key in keys]
            tables[name] = torch.unique(torch.cat(parts))
            check_indices(f"{file}: {name}", tables[name], VERTICES)
    return tables


def _plain_arrays(content: Any) -> list[np.ndarray] | None:
    """Return the arrays of a dictionary, a list or a record of them; None where there are none."""
    values = content.values() if type(content) is dict else content if type(content) in (list, tuple) else None
    if type(content) is Record:
        values = content.entries.values() if content.entries else content.elements
    arrays = [value for value in values or () if type(value) is np.ndarray]
    return arrays if len(arrays) >= 3 else None


def _coarse_mesh(arrays: list[np.ndarray], file: str) -> dict[str, Tensor]:
    """Tell the tables of the coarse mesh apart by what they are: numbers of vertices, their shares, faces, regions."""
    whole = [a for a in arrays if a.ndim == 2 and a.dtype.kind in "iu"]
    shares = [a for a in arrays if a.ndim == 2 and a.shape[1] == 3 and a.dtype.kind == "f"]
    if len(shares) == 1:
        U = len(shares[0])
        corners = [a for a in whole if a.shape == (U, 3)]
        faces = [a for a in whole if a.shape[1] == 3 and len(a) != U]
        if len(corners) == 1 and len(faces) == 1:
            regions = [a for a in whole if a.shape[1] != 3 and len(a) == len(faces[0])]
            tables = {
                "coarse_vertices": _tensor(corners[0], file, whole=True),
                "coarse_barycentrics": _tensor(shares[0], file),
                "coarse_faces": _tensor(faces[0], file, whole=True),
            }
            check_indices(f"{file}: vertices", tables["coarse_vertices"], VERTICES, 3)
            check_indices(f"{file}: faces", tables["coarse_faces"], U, 3)
            if len(regions) == 1:
                tables["coarse_face_regions"] = _tensor(regions[0], file, whole=True)
                check_indices(f"{file}: regions", tables["coarse_face_regions"], VERTICES + 1)
            return tables
    shapes = ", ".join(f"{list(a.shape)}" for a in arrays[:6])
    raise InputError(
        f"{shown(file)}: expected a coarse mesh as vertex numbers [U, 3], shares [U, 3] and faces [F, 3], got arrays "
        f"{shapes}; give simplify_baricentric2.npy"
    )
