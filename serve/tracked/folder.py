"""Writes what tracking made of a film as a folder of the published layout, which appears whole or not at all.

OUT/align_images/00001.png        the aligned picture; numbers are the film's, frames without the face have no files
OUT/3dldmks_align/00001.npy       float32 [68, 2], pixels of the aligned 512² picture, y down
OUT/flame_optim_params/00001.npy  float32 [437]
OUT/bfm2flame_params_simplified/  the quick estimate in the same layout, where a reconstructor gave the start
OUT/segs/00001.png                uint8, 255 where the person is, where the network that tells is at hand
OUT/head_model.json               whose parameters these are
OUT/quality.csv                   a row for each frame of the film
OUT/track.json                    what made the folder, and its counts
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from triportrait.core.atomic import put_folder
from triportrait.core.errors import InputError
from triportrait.core.faces.model_files import UNLOCKABLE
from triportrait.serve.media.output_file import check_output, writing
from triportrait.serve.tracked.fitted_frames import FittedFrames
from triportrait.serve.tracking_files import HEAD_MODEL, LANDMARKS, PARAMETERS, PICTURES

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

SEGMENTS, QUALITY, SUMMARY = "segs", "quality.csv", "track.json"
OVERLAY, CURVES = "overlay.mp4", "curves.png"
PARTS = frozenset({PICTURES, LANDMARKS[0], *PARAMETERS, SEGMENTS, HEAD_MODEL, QUALITY, SUMMARY, OVERLAY, CURVES})
POOR_FIT_PX = 20.0  # of the 512² aligned picture: a mesh that is this far off sits beside the face
BYTES_PER_PIXEL, BYTES_PER_FRAME = 1.5, 16_384  # of a PNG of a photograph; and what lies beside it
COMPRESS_LEVEL = 3  # of PNGs; the last percents would take most of the time

Segment = Callable[[np.ndarray], np.ndarray]


def check_folder(out: Path, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Check before any work that the folder can be written, and that nothing else is lost.

    Args:
        out: is made; one that `track` made is replaced with `overwrite`.
        sources: input files, none of which may lie in it.

    Raises:
        InputError: it holds something else, an input, or another tracking without `overwrite`; or cannot be made.
    """
    if out.is_file() or out.suffix.lower() in (".mp4", ".mov", ".png", ".jpg"):
        raise InputError(f"{out}: expected a folder to write into, got the name of a file; choose another")
    check_output(out.with_name(f".{SUMMARY}"), True, (".json",))
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise InputError(f"{out}: expected a folder to write into, this is none; choose another")
    inside = {path.name for path in out.iterdir()}
    if others := sorted(inside - PARTS):
        raise InputError(f"{out}: it holds {others[0]}, which no tracking made; choose another folder")
    if inside and SUMMARY not in inside:
        raise InputError(f"{out}: it holds files that this command did not make; choose another folder")
    if inside and not overwrite:
        raise InputError(f"{out}: it holds a tracking already; pass --overwrite to replace it")
    real = out.resolve()
    for source in sources:
        if real in source.resolve().parents:
            raise InputError(f"{out}: the input {source} lies in it; choose another folder")


def check_room(out: Path, frames: int | None, size_px: int) -> None:
    """Refuse a folder for which the disk has no room, where the film says how long it is. Raises: `InputError`."""
    if frames is None:
        return
    wanted = frames * (size_px**2 * BYTES_PER_PIXEL + BYTES_PER_FRAME)
    free = shutil.disk_usage(out.resolve().parent).free
    if wanted > free:
        raise InputError(
            f"{out}: expected about {wanted / 1e9:.1f} GB for {frames:,} frames, the disk has {free / 1e9:.1f} GB; "
            "pass --frames or a smaller --size, or choose another disk"
        )


@contextmanager
def written_folder(out: Path, overwrite: bool, sources: Sequence[Path] = ()) -> Iterator[TrackFolder]:
    """Give a folder beside `out` that becomes `out` when the block ends well, and vanishes when it does not.

    What a killed run left beside `out` is removed. What appeared at `out` meanwhile is kept.

    Args:
        overwrite, sources: as of `check_folder`, which is asked again before the folder gets its name.

    Raises:
        InputError: another run writes `out`, `check_folder` refuses it at the end, or the disk does.
    """
    target = Path(os.path.realpath(out))
    with writing(out), _alone(out, target.with_name(f".{target.name}.lock")) as locked:
        token = "part" if locked else f"{secrets.token_hex(6)}.part"
        part, old = (target.with_name(f".{target.name}.{kind}") for kind in (token, f"{token}.old"))
        shutil.rmtree(part, ignore_errors=True)  # what a killed run left
        part.mkdir()
        try:
            yield TrackFolder(part)
            check_folder(out, overwrite, sources)
            put_folder(part, target, old)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _alone(out: Path, lock: Path) -> Iterator[bool]:
    """Keep other runs out while the block runs; gives whether the file system can, which some of a network cannot.

    Raises: `InputError` where another run is at work.
    """
    if fcntl is None:
        yield False
        return
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in UNLOCKABLE:
                raise InputError(
                    f"{out}: another run writes it; wait for that one, or choose another folder"
                ) from error
            lock.unlink(missing_ok=True)
            yield False
            return
        if os.path.lexists(lock) and os.path.samestat(os.fstat(handle), lock.lstat()):
            break
        os.close(handle)  # the run that ended just now took the file away
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


class TrackFolder:
    """A folder that is being written.

    Args:
        root: where; it exists.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (PICTURES, LANDMARKS[0], PARAMETERS[0]):
            (root / name).mkdir()

    def add_picture(self, number: int, picture: np.ndarray, segment: Segment | None = None) -> None:
        """Write the aligned picture of a frame, uint8 [S, S, 3], and where the person is in it."""
        Image.fromarray(picture).save(self._file(PICTURES, number, "png"), compress_level=COMPRESS_LEVEL)
        if segment is not None:
            (self.root / SEGMENTS).mkdir(exist_ok=True)
            Image.fromarray(segment(picture)).save(self._file(SEGMENTS, number, "png"))

    def add_fit(self, fitted: FittedFrames) -> None:
        """Write landmarks and parameters of all frames, and whose parameters they are."""
        for row, number in enumerate(fitted.faces.numbers):
            np.save(self._file(LANDMARKS[0], number, "npy"), fitted.faces.landmarks[row])
            np.save(self._file(PARAMETERS[0], number, "npy"), fitted.records[row].numpy())
        _write_json(self.root / HEAD_MODEL, fitted.model.to_dict())

    def add_quick(self, fitted: FittedFrames, records: Tensor) -> None:
        """Write the quick estimate of all frames, [N, 437], beside the parameters."""
        (self.root / PARAMETERS[1]).mkdir()
        for number, record in zip(fitted.faces.numbers, records.numpy(), strict=True):
            np.save(self._file(PARAMETERS[1], number, "npy"), record)

    def add_quality(self, fitted: FittedFrames) -> None:
        """Write a row for each frame that was read: whether the face was found, how well the model fits, or why not."""
        with (self.root / QUALITY).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["frame", "time_s", "found", "shot", "error_px", "outliers", "reason"])
            for row in quality_rows(fitted):
                writer.writerow(row)

    def add_summary(self, summary: dict[str, Any]) -> None:
        """Write what made the folder, and its counts."""
        _write_json(self.root / SUMMARY, summary)

    def _file(self, folder: str, number: int, ending: str) -> Path:
        return self.root / folder / f"{int(number) + 1:05d}.{ending}"


def quality_rows(fitted: FittedFrames) -> Iterator[tuple[Any, ...]]:
    """Give the rows of `quality.csv`: frame from 1, seconds, found, shot from 1, error, outliers, reason."""
    faces = fitted.faces
    rows = {int(number): row for row, number in enumerate(faces.numbers)}
    shots = {shot: place for place, shot in enumerate(np.unique(faces.shots), start=1)}
    for number in sorted([*rows, *faces.unseen]):
        if number in faces.unseen:
            time_s, why = faces.unseen[number]
            yield number + 1, f"{time_s:.3f}", 0, "", "", "", why
            continue
        row = rows[number]
        error = float(fitted.error_px[row])
        reason = "poor fit" if error > POOR_FIT_PX else ""
        yield (
            number + 1, f"{faces.times_s[row]:.3f}", 1, shots[faces.shots[row]], f"{error:.2f}",
            int(fitted.outliers[row]), reason,
        )  # fmt: skip


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")
