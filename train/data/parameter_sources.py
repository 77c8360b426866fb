"""Read parameters off whatever holds them: picture stores, clip stores, and folders of published per-frame files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.files import ARRAY_DAMAGE, check_regular
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity, check_same_model
from triportrait.serve.media.pictures.picture_folder import as_people_count
from triportrait.train.data.clip_store.records import COLUMNS, LABEL_WIDTH
from triportrait.train.data.clip_store.store import ClipStore, check_table, is_clip_store
from triportrait.train.data.head_model_file import identity_in, read_head_model
from triportrait.train.data.picture_store.layout import is_picture_store
from triportrait.train.data.picture_store.store import PictureStore

PER_FRAME = ("flame_optim_params", "bfm2flame_params_simplified", "bfm2flame_params")  # the first that is there
_STILLS_TOGETHER = 1024  # files of one folder that are read at a time

Rows = dict[str, np.ndarray]  # camera [n, 25], shape [n, 300], expression [n, 100], pose [n, 6], eyes [n, 6]


@dataclass(frozen=True)
class ParameterSource:
    """Parameters in parts: each clip, or some stills.

    Attributes:
        path: where they are. clips: the parts are clips; else stills that have nothing to do with each other.
        lengths: rows of each part. read: reads a part; it may raise `InputError`.
        head_model: whose parameters they are; None where nobody said.
    """

    path: Path
    clips: bool
    lengths: list[int]
    read: Callable[[int], Rows]
    head_model: ModelIdentity | None


def open_source(path: Path) -> ParameterSource:
    """Open a picture store, a clip store, a folder of per-frame files (stills) or one of such folders (clips).

    Raises: `InputError` for anything else, and for a store of procedural heads, which have no such parameters.
    """
    if is_picture_store(path):
        pictures = PictureStore(path)
        lengths = [shard.count for shard in pictures.shards]
        return ParameterSource(path, False, lengths, lambda k: _only(pictures.table(k)), pictures.head_model)
    if is_clip_store(path):
        return _of_clips(path, ClipStore(path, whole=False))
    folders = [path] if _per_frame(path) else sorted(_inside(path), key=as_people_count)
    if not folders:
        raise InputError(
            f"{path}: expected a picture store, a clip store, or {PER_FRAME[0]}/ in it or in the folders in it; name "
            "another"
        )
    if folders == [path]:
        return _of_stills(path)
    identities = [read_head_model(folder) for folder in folders]
    for folder, said in zip(folders, identities, strict=True):
        check_same_model(identities[0] or PUBLISHED_MODEL, said or PUBLISHED_MODEL, str(folder), str(folders[0]))
    files = [_files(folder) for folder in folders]
    return ParameterSource(path, True, [len(some) for some in files], lambda k: _read(files[k]), identities[0])


def check_one_model(sources: Sequence[ParameterSource], said: ModelIdentity | None) -> ModelIdentity:
    """Check that all parameters are of one head model, and return which it is.

    Args:
        said: of those that do not say it themselves; None: they are the published model's.

    Raises: `InputError` for two models.
    """
    models = [source.head_model or said or PUBLISHED_MODEL for source in sources]
    for source, model in zip(sources, models, strict=True):
        check_same_model(models[0], model, str(source.path), str(sources[0].path))
    return max(models, key=lambda model: bool(model.fingerprint))


def _of_clips(path: Path, store: ClipStore) -> ParameterSource:
    def read(k: int) -> Rows:
        table = store.table(k)
        if missing := [name for name in COLUMNS if name not in table]:
            raise InputError(
                f"{path}: expected clips of tracked faces, their tables have no {missing[0]}; procedural heads have no "
                "such parameters"
            )
        try:
            check_table(rows := _only(table), store.frames_of[k])
        except ValueError as error:
            raise InputError(f"{store.clips[k]} of {path}: {error}; make the store again") from error
        return rows

    read(0)
    return ParameterSource(path, True, store.frames_of, read, identity_in(store.index, f"{path}: head_model"))


def _of_stills(path: Path) -> ParameterSource:
    files = _files(path)
    starts = range(0, len(files), _STILLS_TOGETHER)
    lengths = [len(files[start : start + _STILLS_TOGETHER]) for start in starts]
    return ParameterSource(
        path, False, lengths, lambda k: _read(files[starts[k] : starts[k] + _STILLS_TOGETHER]), read_head_model(path)
    )


def _per_frame(folder: Path) -> Path | None:
    return next((folder / name for name in PER_FRAME if (folder / name).is_dir()), None)


def _inside(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: expected a folder with parameters, {what} is there; name another")
    return [path for path in folder.iterdir() if path.is_dir() and _per_frame(path) is not None]


def _files(folder: Path) -> list[Path]:
    inside = _per_frame(folder)
    assert inside is not None
    files = sorted((p for p in inside.glob("*.npy") if not p.name.startswith(".")), key=as_people_count)
    if not files:
        raise InputError(f"{inside}: expected .npy files of {LABEL_WIDTH} numbers, got none; name another folder")
    return files


def _read(files: Sequence[Path]) -> Rows:
    """Read files of 437 numbers. Raises: `InputError` for one that is damaged or of no face."""
    rows = np.empty((len(files), LABEL_WIDTH), np.float32)
    for row, path in enumerate(files):
        try:
            check_regular(path)
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            if values.size != LABEL_WIDTH or values.dtype.kind != "f":
                raise ValueError("another array")
            rows[row] = values.reshape(-1)
            check_table(_columns(rows[row : row + 1]), 1)
        except (OSError, *ARRAY_DAMAGE) as error:
            why = str(error) if type(error) is ValueError and "array" not in str(error) else "it is damaged or another"
            raise InputError(f"{path}: expected {LABEL_WIDTH} numbers of a face ({why}); make it again") from error
    return _columns(rows)


def _columns(rows: np.ndarray) -> Rows:
    return {name: rows[:, a:b] for name, (a, b) in COLUMNS.items()}


def _only(table: Rows) -> Rows:
    return {name: table[name] for name in COLUMNS}
