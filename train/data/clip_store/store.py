"""A clip store is a folder of short videos with a table of numbers beside each; this module writes and reads it.

    index.json         what the store is, and each clip's name, number of frames, and sizes and checksums of its files
    NAME.mp4           H.264 with a key frame every GOP frames, so that any frame is at most GOP - 1 frames after one
    NAME.npz           float32 camera [T, 25], mask [T, S * S / 8] uint8, a bit per pixel, and by source:
                       a tracked face: shape [T, 300], expression [T, 100], pose [T, 6], eyes [T, 6], motion [T, M]
                       a procedural head: points [T, 68, 3] landmarks in the world, expression [T, 9], neck [T, 3],
                       identity.* [T, ...], positions [T, p, p, 3] uint8 as in a multi-view set

While a store is written, `.progress.jsonl` holds a line for each clip that is done; a command that was stopped goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.atomic import replacing, write_text
from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_bytes, read_json
from triportrait.core.safe_text import literal, shown
from triportrait.train.data.arrays import check_finite, check_rotations, read_arrays
from triportrait.train.data.head_model_file import same_settings

KIND = "triportrait clip store"
INDEX, PROGRESS = "index.json", ".progress.jsonl"
GOP = 8
FPS = 25
WIDTHS = {"camera": (25,), "shape": (300,), "expression": (100, 9), "pose": (6,), "eyes": (6,), "neck": (3,)}
_MOST = 1 << 24  # frames of a clip, or pixels of its side, that an index may name
TABLES_KEPT = 64  # in memory
LARGEST = {"shape": 1e3, "expression": 1e3, "pose": 10.0, "eyes": 10.0, "neck": 10.0, "points": 1e3, "camera": 1e3}
_SHAPES: dict[str, tuple[tuple[int | None, ...], type]] = {  # shape and dtype of a row; None stands for any size
    "mask": ((None,), np.uint8), "points": ((68, 3), np.float32), "positions": ((None, None, 3), np.uint8),
    "motion": ((None,), np.float32),
}  # fmt: skip


class ClipWriter:
    """Write a store clip by clip; a store that was stopped goes on where it was.

    Args:
        folder: made if it is missing.
        settings: the numbers that the clips are made from; a store that goes on must have the same.

    Raises: `InputError` for a folder that holds something else, a finished store, or one of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, dict(settings)
        if (folder / INDEX).exists():
            raise InputError(f"{folder}: this store is finished; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            begun = folder / PROGRESS
            if not begun.exists() and any(folder.iterdir()):
                raise InputError(f"{folder}: expected an empty folder or a store that was begun; name another folder")
            lines = read_bytes(begun, MOST_INDEX).decode().splitlines() if begun.exists() else []
        except OSError as error:
            raise _disk(folder, error) from error
        self.clips: dict[str, dict[str, Any]] = {}
        if len(lines) == 1 and _parsed(lines[0]) is None:  # a kill came in the first line
            begun.unlink()
            lines = []
        for number, line in enumerate(lines):
            entry = _parsed(line)
            if number == 0 and not begun_from(line, self.settings):
                raise InputError(
                    f"{folder}: this store was begun from {shown(entry)}, now it is {shown(self.settings)}; name "
                    "another folder"
                )
            if number and entry is not None and self._is_whole(entry):
                self.clips[entry["name"]] = entry
        if not lines:
            self._append_progress({"settings": self.settings})

    def add(self, name: str, frames: np.ndarray, table: Mapping[str, np.ndarray]) -> None:
        """Write a clip.

        Args:
            frames: uint8 [T, S, S, 3], S even.
            table: the numbers of the frames by name, T rows each.

        Raises:
            ValueError: rows are missing, a camera is no rotation (`check_table`), or the size is not the others'.
            InputError: the disk refuses.
        """
        try:
            self._check_size({"size": frames.shape[1]})
            entry = write_clip(self.folder, name, frames, table)
            self._append_progress(entry)
        except OSError as error:
            raise _disk(self.folder, error) from error
        self.clips[name] = entry

    def take(self, entry: Mapping[str, Any], folder: Path) -> None:
        """Take over the files of a clip that `write_clip` wrote into another folder of the same disk.

        What a killed process had moved already stays as it is.

        Args:
            entry: as `write_clip` returned it; more keys come into the index.

        Raises: `InputError` where the files are neither there nor here, or the disk refuses.
        """
        self._check_size(entry)
        try:
            for name, expected in entry["files"].items():
                if (folder / name).exists():
                    os.replace(folder / name, self.folder / name)
                if fingerprint(self.folder / name) != expected:
                    raise InputError(f"{self.folder / name}: it was changed while the store was made; make it again")
            self._append_progress(dict(entry))
        except OSError as error:
            raise _disk(self.folder, error) from error
        self.clips[entry["name"]] = dict(entry)

    def _check_size(self, entry: Mapping[str, Any]) -> None:
        if self.clips and entry["size"] != (size := next(iter(self.clips.values()))["size"]):
            raise ValueError(f"its frames have {entry['size']} px, the others {size}")

    def finish(self, **more: Any) -> None:
        """Write the index; no clip can be added after that.

        Raises: `InputError` for a store without a clip.
        """
        if not self.clips:
            raise InputError(f"{self.folder}: expected a clip, got none that can be used; name another source")
        index = {"kind": KIND, "version": 1, **self.settings, **more, "clips": list(self.clips.values())}
        try:
            write_text(self.folder / INDEX, json.dumps(index, indent=1) + "\n")
            (self.folder / PROGRESS).unlink()
        except OSError as error:
            raise _disk(self.folder, error) from error

    def _append_progress(self, entry: dict[str, Any]) -> None:
        path = self.folder / PROGRESS
        cut_off = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        with path.open("a") as file:
            file.write("\n" * cut_off + json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        try:
            return all(fingerprint(self.folder / name) == expected for name, expected in entry["files"].items())
        except (OSError, KeyError, AttributeError):
            return False


def write_clip(folder: Path, name: str, frames: np.ndarray, table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write the video and the table of a clip; arguments are those of `ClipWriter.add`.

    Returns: the clip's entry in the index.
    Raises: `ValueError` as `ClipWriter.add`; `OSError` where the disk refuses.
    """
    from triportrait.serve.media.video.writer import write_video

    check_table(table, len(frames))
    side = frames.shape[1]
    if side % 2 or frames.shape[2] != side:
        raise ValueError(f"its frames are {frames.shape[2]} x {side}, expected an even square")
    entry: dict[str, Any] = {"name": name, "frames": len(frames), "size": side, "files": {}}
    for ending, write in (
        (".mp4", lambda path: write_video(path, frames, FPS, GOP, tagged=False)),
        (".npz", lambda path: _write_table(path, table)),
    ):
        with replacing(folder / f"{name}{ending}", only_writer=True) as part:
            write(part)
            entry["files"][f"{name}{ending}"] = fingerprint(part)
    return entry


class ClipStore:
    """Read a finished store.

    Args:
        folder: as `ClipWriter` left it.
        contents: compare every file with its checksum, not only its size.
        whole: refuse damaged files at once; else `verify` finds them clip by clip.

    Attributes:
        source: what the clips were made from.

    Raises: `InputError` for what is no store or a damaged one.
    """

    def __init__(self, folder: Path, contents: bool = False, whole: bool = True) -> None:
        self.folder = folder
        try:
            self.index: dict[str, Any] = read_json(folder / INDEX, MOST_INDEX)
            self.clips = [_name(clip["name"]) for clip in self.index["clips"]]
            self.frames_of = [_count(clip["frames"]) for clip in self.index["clips"]]
            self.size = _count(self.index["clips"][0]["size"])
            self.source = str(self.index["source"])
            self._files = {clip["name"]: _listed(clip["files"]) for clip in self.index["clips"]}
            if self.index["kind"] != KIND:
                raise ValueError(self.index["kind"])
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            remedy = "it is not finished, run its command again" if (folder / PROGRESS).exists() else "make it again"
            raise InputError(f"{folder}: expected a clip store, its {INDEX} is missing or damaged; {remedy}") from error
        for name, expected in (pair for files in self._files.values() for pair in files.items()):
            path = folder / name
            same_size = path.is_file() and path.stat().st_size == expected["bytes"]
            if whole and (not same_size or (contents and fingerprint(path) != expected)):
                raise InputError(
                    f"{path}: it is not what the index says (missing, damaged or changed); make the store again"
                )
        self._table = lru_cache(maxsize=TABLES_KEPT)(self.read_table)

    def __len__(self) -> int:
        return len(self.clips)

    def path(self, clip: int) -> Path:
        """Return the path of a clip's video."""
        return self.folder / f"{self.clips[clip]}.mp4"

    def verify(self, clip: int) -> None:
        """Compare the files of a clip with their checksums, and check its table.

        Raises: `ValueError`, in words.
        """
        for name, expected in self._files[self.clips[clip]].items():
            try:
                if fingerprint(self.folder / name) != expected:
                    raise ValueError(f"{name} is not what the index says (damaged or changed)")
            except FileNotFoundError as error:
                raise ValueError(f"{name} is missing") from error
        check_table(self.table(clip), self.frames_of[clip])

    def table(self, clip: int) -> dict[str, np.ndarray]:
        """Return the table of a clip, T rows in each column.

        Raises: `InputError` for a table that cannot be read.
        """
        return self._table(clip)

    def table_cache(self) -> tuple[int, int]:
        """Return how often a requested table was in memory, and how often one was requested."""
        info = self._table.cache_info()
        return info.hits, info.hits + info.misses

    def masks(self, clip: int, rows: np.ndarray) -> np.ndarray:
        """Return uint8 [N, S, S], 1 on the head."""
        return unpack_masks(self.table(clip)["mask"][rows], self.size)

    def read_table(self, clip: int) -> dict[str, np.ndarray]:
        """Read the table of a clip and keep it nowhere, for whoever looks at each clip once.

        Raises: `InputError` for a table that cannot be read.
        """
        path = self.folder / f"{self.clips[clip]}.npz"
        try:
            return read_arrays(path)
        except ValueError as error:
            raise InputError(f"{path}: it cannot be read (damaged); make the store again") from error


def _name(value: Any) -> str:
    """Check that a value names a file of the store's folder. Raises: `ValueError`."""
    if not isinstance(value, str) or Path(value).name != value or "\0" in value:
        raise ValueError(f"no name of a file: {literal(value)}")
    return value


def _listed(files: Any) -> dict[str, dict[str, Any]]:
    """Check the files of a clip in an index. Raises: `ValueError`, `KeyError`, `TypeError` or `AttributeError`."""
    return {_name(file): {**entry, "bytes": entry["bytes"]} for file, entry in files.items()}


def _count(value: Any) -> int:
    """Check that a value is a whole number from 1 to _MOST. Raises: `ValueError`."""
    if type(value) is not int or not 1 <= value <= _MOST:
        raise ValueError(f"no number of frames or pixels: {literal(value)}")
    return value


def is_clip_store(folder: Path) -> bool:
    """Tell whether a folder is a clip store, finished or not."""
    try:
        return bool(read_json(folder / INDEX, MOST_INDEX)["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return (folder / PROGRESS).exists()


def check_table(table: Mapping[str, np.ndarray], frames: int) -> None:
    """Check the columns of a table: number, shape and dtype of the rows, finite numbers, rotations of the cameras.

    Raises: `ValueError`, in words.
    """
    for name, value in table.items():
        if len(value) != frames:
            raise ValueError(f"{name} has {len(value)} rows for {frames} frames")
        if name in WIDTHS and (value.ndim != 2 or value.shape[1] not in WIDTHS[name]):
            widths = " or ".join(map(str, WIDTHS[name]))
            raise ValueError(f"{name} has rows of {value.shape[1:]}, expected {widths}")
        shape, dtype = _SHAPES.get(name, (None, np.float32))
        if shape is not None and not _fits(value.shape[1:], shape):
            sides = " x ".join("N" if side is None else str(side) for side in shape)
            raise ValueError(f"{name} has rows of {value.shape[1:]}, expected {sides}")
        if value.dtype != dtype and (shape is not None or value.dtype.kind == "f"):
            raise ValueError(f"{name} holds {value.dtype}, expected {np.dtype(dtype)}")
    check_finite(table, LARGEST)
    if "camera" in table:
        check_rotations(table["camera"][:, :16].reshape(-1, 4, 4)[:, :3, :3])


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))


def pack_masks(masks: np.ndarray) -> np.ndarray:
    """Pack masks [T, S, S], uint8 or bool, not 0 on the head, into bits: uint8 [T, S * S / 8]."""
    return np.packbits(masks.reshape(len(masks), -1) > 0, axis=-1)


def unpack_masks(bits: np.ndarray, size: int) -> np.ndarray:
    """Unpack bits [N, S * S / 8] into masks: uint8 [N, S, S], 1 on the head."""
    return np.unpackbits(bits, axis=-1)[:, : size**2].reshape(len(bits), size, size)


def _write_table(path: Path, table: Mapping[str, np.ndarray]) -> None:
    np.savez_compressed(path, **dict(table))  # type: ignore[arg-type]


def begun_from(line: str, settings: Mapping[str, Any]) -> bool:
    """Tell whether the first line of a store that was begun names these settings.

    Raises: `InputError` for a head model that is none.
    """
    entry = _parsed(line)
    return entry is not None and same_settings(entry.get("settings"), settings) is None


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None  # cut off
    return entry if isinstance(entry, dict) else None


def _disk(folder: Path, error: OSError) -> InputError:
    reason = (error.strerror or type(error).__name__).lower()
    return InputError(f"{folder}: it could not be written ({reason}); free some space, and the same command goes on")
