"""Clips of other formats become a store: what cannot be used is skipped, counted and named, never silently."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.data.clip_store.records import open_lmdb, parse
from triportrait.train.data.clip_store.store import INDEX, ClipStore, ClipWriter, packed

SKIPPED = "skipped.jsonl"
FEWEST_TO_JUDGE = 20  # clips before the share of skipped ones stops an import


@dataclass(frozen=True)
class Clip:
    """A clip on its way into a store: T frames uint8 [T, S, S, 3] and their numbers."""

    frames: np.ndarray
    table: dict[str, np.ndarray]


Source = Iterable[tuple[str, Callable[[], Clip]]]  # names, and how each is read; reading may raise ValueError


@dataclass(frozen=True)
class Imported:
    """What became of the clips of a source; `before`: the store was finished already, and nothing was done."""

    written: int
    skipped: int
    before: bool = False


def import_lmdb(
    path: Path, out: Path, most_skipped: float = 0.05, tell: Callable[[int, int], None] = lambda done, count: None
) -> Imported:
    """The published LMDB becomes a store.

    Args:
        most_skipped: share of clips that may be skipped.
        tell: is called with the number of clips done and that of all.

    Raises: `InputError` for what is no such LMDB, and when too many clips cannot be used.
    """
    count, records = open_lmdb(path)

    def source() -> Iterator[tuple[str, Callable[[], Clip]]]:
        for number, read in records:
            yield f"clip_{number:08d}", lambda read=read: _of_record(read())  # type: ignore[misc]

    return fill(
        out,
        {"source": "lmdb", "name": path.name, "records": count},
        source(),
        most_skipped,
        lambda done: tell(done, count),
    )


def _of_record(message: bytes) -> Clip:
    record = parse(message)
    return Clip(record.images, record.table() | {"mask": packed(record.masks)})


def finished(out: Path, settings: dict[str, Any]) -> Imported | None:
    """The clips of a store that was finished before; None where there is none yet.

    Raises: `InputError` for a store that was made from something else, or is damaged.
    """
    if not (out / INDEX).exists():
        return None
    store = ClipStore(out)
    other = [(n, store.index.get(n), value) for n, value in settings.items() if store.index.get(n) != value]
    if other:
        name, was, wanted = other[0]
        raise InputError(
            f"{out}: this store is finished, with {name} {was!r}, now it is {wanted!r}; name another folder"
        )
    return Imported(len(store), int(store.index.get("skipped", 0)), True)


def fill(
    out: Path, settings: dict[str, Any], source: Source, most_skipped: float, tell: Callable[[int], None]
) -> Imported:
    """Write every clip that a store does not have yet, and finish it.

    Raises: `InputError` when more than a share of the clips cannot be used; what was written stays, and the same
        command goes on.
    """
    import av

    if (before := finished(out, settings)) is not None:
        return before
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
        tell(done)
        if done >= FEWEST_TO_JUDGE and skipped > most_skipped * done:
            _refuse(out, skipped, done, most_skipped)
    if skipped > most_skipped * done:
        _refuse(out, skipped, done, most_skipped)
    writer.finish(skipped=skipped)
    return Imported(len(writer.clips), skipped)


def _refuse(out: Path, skipped: int, done: int, most: float) -> None:
    raise InputError(
        f"{out}: {skipped} of {done} clips cannot be used, more than {most:.0%} ({out / SKIPPED} says why); mend the "
        "source or allow more by --most-skipped"
    )
