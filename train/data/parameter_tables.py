"""Write and read the tables of parameters from which stage 1 draws heads, cameras and expressions.

    index.json                          what they are made from, whose parameters they hold, sizes and checksums
    ffhq_all_shape_n_c_params.npy       float32 [N, 325] of stills: camera 25, shape 300
    ffhq_all_motion_params.npy          float32 [N, 112]: expression 100, neck 3, jaw 3, eyes 6
    ffhq_all_shape_n_motion_params.npy  float32 [N, 403]: shape 300, expression 100, jaw 3, what BFM is mapped to
    vfhq_all_shape_n_c_params.npy       float32 [clips * T, 325] of clips of T frames each
    vfhq_all_motion_params.npy          float32 [clips, T, 112]

The names and widths are the published ones, whatever the pictures are. Rows are written as they are read.
Letters: N stills, T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import ARRAY_DAMAGE, check_regular
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity
from triportrait.train.data.arrays import check_finite, check_rotations
from triportrait.train.data.clip_store.store import LARGEST
from triportrait.train.data.folders import open_folder, whole_folder
from triportrait.train.data.head_model_file import identity_in
from triportrait.train.data.parameter_sources import ParameterSource, check_one_model, open_source

KIND = "triportrait parameter tables"
Of = Literal["stills", "clips"]
PREFIX: dict[Of, str] = {"stills": "ffhq", "clips": "vfhq"}
CAMERA_SHAPE, MOTION, MAPPED = "all_shape_n_c_params", "all_motion_params", "all_shape_n_motion_params"
COLUMNS = {  # table -> its columns
    CAMERA_SHAPE: ("camera", "shape"),
    MOTION: ("expression", "pose", "eyes"),
    MAPPED: ("shape", "expression", "jaw"),
}
WIDTHS = {CAMERA_SHAPE: 325, MOTION: 112, MAPPED: 403}
AT_A_TIME = 4096  # rows that are checked together


@dataclass(frozen=True)
class Written:
    """How many rows of stills there are, how many clips, of how many frames each, and how many clips were too short."""

    stills: int
    clips: int
    frames: int
    short: int


def write_tables(
    sources: Sequence[Path],
    out: Path,
    frames: int | None = None,
    mapper: bool = False,
    overwrite: bool = False,
    head_model: ModelIdentity | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Written:
    """Write the tables of picture stores, clip stores and folders of per-frame files; the folder appears whole.

    Args:
        frames: T, the first frames of each clip; clips with fewer are left out. None: all, and clips of other lengths
            are refused.
        mapper: write the table of what BFM is mapped to, too.
        head_model: whose parameters those are that do not say it; None: the published model's.
        progress: is called with the number of rows written and that of all.

    Raises:
        InputError: before any work for a folder that holds no parameters, parameters of several head models, or clips
            of other lengths; later for damaged ones.
    """
    opened = [open_source(path) for path in sources]
    identity = check_one_model(opened, head_model)
    stills = [source for source in opened if not source.clips]
    films = [source for source in opened if source.clips]
    T, kept, short = _chosen(films, frames)
    still_rows, clips = sum(sum(source.lengths) for source in stills), sum(map(len, kept))
    count = still_rows + T * clips
    if not count:
        raise InputError(f"{out}: expected parameters, got none: no clip has {frames} frames; say less by --frames")
    settings = {
        "head_model": identity.to_dict(), "sources": [str(source.path) for source in opened], "stills": still_rows,
        "clips": clips, "frames": T,
    }  # fmt: skip
    done = 0
    with whole_folder(out, overwrite, KIND, settings) as folder:
        if stills:
            rows = (source.read(k) for source in stills for k in range(len(source.lengths)))
            names = (CAMERA_SHAPE, MOTION, *((MAPPED,) if mapper else ()))
            done = _write(folder, "stills", names, rows, (still_rows,), done, count, progress)
        if films:
            rows = (
                {name: column[:T] for name, column in source.read(k).items()}
                for source, numbers in zip(films, kept, strict=True)
                for k in numbers
            )
            _write(folder, "clips", (CAMERA_SHAPE, MOTION), rows, (clips, T), done, count, progress)
    return Written(still_rows, clips, T, short)


def _chosen(films: Sequence[ParameterSource], frames: int | None) -> tuple[int, list[list[int]], int]:
    """Return T, the numbers of the clips of each source that are taken, and how many are too short."""
    lengths = [length for source in films for length in source.lengths]
    if not lengths:
        return 0, [], 0
    if frames is not None and frames < 1:
        raise InputError(f"frames: expected 1 or more of each clip, got {frames}; choose another")
    T = frames or lengths[0]
    if frames is None and (other := next((n for n in lengths if n != T), None)) is not None:
        raise InputError(
            f"{films[0].path}: expected clips of equal length, got {T} and {other} frames; say --frames "
            f"{min(lengths)} to take the first of each"
        )
    kept = [[k for k, length in enumerate(source.lengths) if length >= T] for source in films]
    return T, kept, sum(length < T for length in lengths)


def _write(
    folder: Path,
    of: Of,
    names: Sequence[str],
    rows: Iterator[dict[str, np.ndarray]],
    shape: tuple[int, ...],
    done: int,
    count: int,
    progress: Callable[[int, int], None],
) -> int:
    files: dict[str, BinaryIO] = {}
    try:
        for name in names:
            lead = shape if name == MOTION else (int(np.prod(shape)),)
            files[name] = (folder / f"{PREFIX[of]}_{name}.npy").open("wb")
            header = {"descr": "<f4", "fortran_order": False, "shape": (*lead, WIDTHS[name])}
            np.lib.format.write_array_header_1_0(files[name], header)
        for part in rows:
            part = part | {"jaw": part["pose"][:, 3:]}
            for name, file in files.items():
                file.write(np.concatenate([part[column] for column in COLUMNS[name]], 1).astype("<f4").tobytes())
            done += len(part["camera"])
            progress(done, count)
    finally:
        for file in files.values():
            file.close()
    return done


@dataclass(frozen=True)
class ParameterTables:
    """The tables as stage 1 reads them, from the disk as rows are asked for.

    Attributes:
        camera_shape: float32 [N, 325]. motion: float32 [N, 112] of stills, [clips, T, 112] of clips.
        head_model: whose parameters these are; published tables do not say it, and are the published model's.
    """

    camera_shape: np.ndarray
    motion: np.ndarray
    head_model: ModelIdentity


def drawn_from(folder: Path) -> list[Path]:
    """Return the files of a folder of tables, ours or published, from which heads are drawn; others are not read."""
    names = (f"{prefix}_{table}.npy" for prefix in PREFIX.values() for table in (CAMERA_SHAPE, MOTION))
    return [folder / name for name in names if (folder / name).exists()]


def read_tables(folder: Path, of: Of = "stills", whole: bool = True) -> ParameterTables:
    """Open the tables of a folder, ours or published ones.

    Args:
        whole: look at every number once: finite, of a face's size, and rotations of cameras.

    Raises:
        InputError: a table is missing, damaged, of another shape, or holds what is of no face.
    """
    identity = PUBLISHED_MODEL
    if (folder / "index.json").exists():
        identity = identity_in(open_folder(folder, KIND), f"{folder / 'index.json'}: head_model") or identity
    camera_shape = _opened(folder / f"{PREFIX[of]}_{CAMERA_SHAPE}.npy", WIDTHS[CAMERA_SHAPE])
    motion = _opened(folder / f"{PREFIX[of]}_{MOTION}.npy", WIDTHS[MOTION])
    camera_shape = camera_shape.reshape(-1, WIDTHS[CAMERA_SHAPE])
    if of == "stills":
        motion = motion.reshape(-1, WIDTHS[MOTION])
    elif motion.ndim != 3:
        raise InputError(
            f"{folder / f'{PREFIX[of]}_{MOTION}.npy'}: expected motion of clips [clips, T, 112], got "
            f"{list(motion.shape)}; make the tables again"
        )
    if len(camera_shape) != motion.size // WIDTHS[MOTION]:
        raise InputError(
            f"{folder}: expected as many rows of motion as of cameras, got {motion.size // WIDTHS[MOTION]:,} and "
            f"{len(camera_shape):,}; make the tables again"
        )
    if whole:
        _check(folder / f"{PREFIX[of]}_{CAMERA_SHAPE}.npy", camera_shape, {"camera": (0, 25), "shape": (25, 325)})
        parts = {"expression": (0, 100), "pose": (100, 106), "eyes": (106, 112)}
        _check(folder / f"{PREFIX[of]}_{MOTION}.npy", motion.reshape(-1, WIDTHS[MOTION]), parts)
    return ParameterTables(camera_shape, motion, identity)


def _opened(path: Path, width: int) -> np.ndarray:
    try:
        check_regular(path)
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(table, np.ndarray) or table.dtype.kind != "f" or table.shape[-1:] != (width,):
            raise ValueError("another array")
    except (OSError, *ARRAY_DAMAGE) as error:
        raise InputError(
            f"{path}: expected a table of rows of {width} numbers, it is missing, damaged or another; make the tables "
            "by `triportrait prepare parameters`"
        ) from error
    return table


def _check(path: Path, table: np.ndarray, parts: dict[str, tuple[int, int]]) -> None:
    for start in range(0, len(table), AT_A_TIME):
        rows = np.asarray(table[start : start + AT_A_TIME], np.float32)
        try:
            check_finite({name: rows[:, a:b] for name, (a, b) in parts.items()}, LARGEST)
            if "camera" in parts:
                check_rotations(rows[:, :16].reshape(-1, 4, 4)[:, :3, :3], "row")
        except ValueError as error:
            raise InputError(f"{path}: {error} (rows from {start:,}); make the tables again") from error
