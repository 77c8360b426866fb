"""Import clips of other formats into a store; skip, count and name those that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.data.clip_store.records import open_lmdb, parse
from triportrait.train.data.clip_store.store import INDEX, ClipStore, ClipWriter, pack_masks
from triportrait.train.data.head_model_file import read_head_model, same_settings
from triportrait.train.data.motion_encoder_file import read_motion_encoder

SKIPPED = "skipped.jsonl"
FEWEST_TO_JUDGE = 20  # clips before the share of skipped ones stops an import


@dataclass(frozen=True)
class Clip:
    """A clip that is to be stored: T frames uint8 [T, S, S, 3] and their table."""

    frames: np.ndarray
    table: dict[str, np.ndarray]


Source = Iterable[tuple[str, Callable[[], Clip]]]  # names, and functions that read the clips; they may raise ValueError


@dataclass(frozen=True)
class Imported:
    """The outcome of an import.

    Attributes:
        written, skipped: numbers of clips.
        already_there: the store was finished before, and nothing was done.
    """

    written: int
    skipped: int
    already_there: bool = False


def import_lmdb(
    path: Path,
    out: Path,
    most_skipped: float = 0.05,
    progress: Callable[[int, int], None] = lambda done, count: None,
    check: Callable[[Sequence[str]], None] = lambda names: None,
) -> Imported:
    """Import the published LMDB into a store.

    Args:
        most_skipped: share of clips that may be skipped.
        progress: is called with the number of clips done and that of all.
        check: is called with the names of all clips before any is read, and may refuse them.

    Raises: `InputError` for what is no such LMDB, and when too many clips cannot be used.
    """
    count, records = open_lmdb(path)
    check([clip_name(number) for number in range(count)])
    model = read_head_model(path) if path.is_dir() else None  # that of an export of ours; published ones do not say it
    encoder = read_motion_encoder(path) if path.is_dir() else {}

    def clips() -> Iterator[tuple[str, Callable[[], Clip]]]:
        for number, read in records:
            yield clip_name(number), lambda read=read: _clip_of(read())  # type: ignore[misc]

    return fill_store(
        out,
        {
            "source": "lmdb",
            "name": path.name,
            "records": count,
            **({} if model is None else {"head_model": model.to_dict()}),
            **encoder,
        },
        clips(),
        most_skipped,
        lambda done: progress(done, count),
    )


def clip_name(record: int) -> str:
    """Return the name of the clip that a record of an LMDB becomes."""
    return f"clip_{record:08d}"


def _clip_of(message: bytes) -> Clip:
    record = parse(message)
    return Clip(record.images, record.table() | {"mask": pack_masks(record.masks)})


def finished_store(out: Path, settings: Mapping[str, Any]) -> Imported | None:
    """Count the clips of a store that was finished before; None where there is no such store.

    Raises: `InputError` for a store that was made from something else, or is damaged.
    """
    if not (out / INDEX).exists():
        return None
    store = ClipStore(out)
    before = {name: value for name, value in store.index.items() if name in settings}
    if (difference := same_settings(before, settings)) is not None:
        raise InputError(f"{out}: this store is finished, {difference}; name another folder")
    return Imported(len(store), int(store.index.get("skipped", 0)), True)


def fill_store(
    out: Path, settings: dict[str, Any], source: Source, most_skipped: float, progress: Callable[[int], None]
) -> Imported:
    """Write every clip that a store does not have yet, and finish it.

    Raises: `InputError` when more than a share of the clips cannot be used; what was written stays, and the same
        command goes on.
    """
    import av

    if (finished := finished_store(out, settings)) is not None:
        return finished
    writer = ClipWriter(out, settings)
    done = skipped = 0
    log = out / SKIPPED
    log.unlink(missing_ok=True)
    for name, read in source:
        if name not in writer.clips:
            try:
                clip = read()
                writer.add(name, clip.frames, clip.table)
            except (ValueError, av.error.FFmpegError) as error:
                skipped += 1
                with log.open("a") as file:
                    file.write(json.dumps({"clip": name, "reason": str(error)}) + "\n")
        done += 1
        progress(done)
        if done >= FEWEST_TO_JUDGE and skipped > most_skipped * done:
            _refuse(out, skipped, done, most_skipped)
    if skipped > most_skipped * done:
        _refuse(out, skipped, done, most_skipped)
    writer.finish(skipped=skipped)
    return Imported(len(writer.clips), skipped)


def _refuse(out: Path, skipped: int, done: int, most_skipped: float) -> None:
    raise InputError(
        f"{out}: {skipped} of {done} clips cannot be used, more than {most_skipped:.0%} ({out / SKIPPED} says why); "
        "mend the source or allow more by --most-skipped"
    )
