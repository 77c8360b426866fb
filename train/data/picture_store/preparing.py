"""Make a picture store of a folder of raw pictures: every shard stands for as many files of the list, in its order.

Which files make a shard depends on the list alone, so that ranks and processes share them without a word, and a killed
run goes on with the shards that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.faces.models import why_unusable
from triportrait.train.data.head_model_file import same_settings
from triportrait.train.data.parallel import in_order
from triportrait.train.data.picture_store.listing import listed_pictures, listing_digest
from triportrait.train.data.picture_store.page import PAGE, write_page
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.taking import AT_A_TIME, Batch, Wanted, take
from triportrait.train.data.picture_store.writing import Dropped, PictureWriter
from triportrait.train.data.shards.layout import INDEX, MOST_IN_SHARD, disk_error
from triportrait.train.data.shards.writing import spread

PER_SHARD = 256
DROPPED = "dropped.jsonl"
AHEAD = 32  # batches that may wait to be written: at 512 px about 200 MB


@dataclass(frozen=True)
class Prepared:
    """The outcome.

    Attributes:
        listed, kept: numbers of pictures. dropped: how many for each reason.
        others: files that are no pictures.
        already_there: the store was finished before, and nothing was done.
        finished: the store is whole; else other ranks are still at work.
    """

    listed: int
    kept: int
    dropped: Mapping[str, int]
    others: int
    already_there: bool = False
    finished: bool = True


def prepare_pictures(
    root: Path,
    out: Path,
    wanted: Wanted,
    per_shard: int = PER_SHARD,
    workers: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Prepared:
    """Write a store of the pictures of a folder, or go on with one that was stopped.

    Args:
        root: the folder; folders in it are entered.
        per_shard: files of the list that a shard stands for.
        workers: processes; None: one per core, and none beside this one for few pictures.
        rank, ranks: of this command, where a launcher started several: each writes every `ranks`-th shard, and
            whoever is done last writes the index.
        progress: is called with the number of pictures looked at and that of all of this rank's.

    Raises:
        InputError: before any work for options out of range, a folder without pictures, a store of something else or
            face networks that are missing; at the end where no picture can be used.
    """
    wanted.check()
    if not 1 <= per_shard <= MOST_IN_SHARD:
        raise InputError(f"per-shard: expected 1 to {MOST_IN_SHARD}, got {per_shard}; choose another")
    if workers is not None and not 1 <= workers <= 256:
        raise InputError(f"workers: expected 1 to 256, got {workers}; choose another")
    pictures, others = listed_pictures(root, out)
    if (why := why_unusable()) is not None:
        raise InputError(why)
    settings = {
        "source": "pictures", "listed": len(pictures), "listing": listing_digest(root, pictures),
        "per_shard": per_shard, **wanted.settings(),
    }  # fmt: skip
    if (finished := _finished(out, settings, len(others))) is not None:
        if not (out / PAGE).exists():  # a kill came just before
            write_page(PictureStore(out), root, read_dropped(out), len(others))
        return finished
    shards = -(-len(pictures) // per_shard)
    try:
        writer = PictureWriter(out, settings)
        mine = [shard for shard in spread(shards, rank, ranks) if not writer.is_done(shard)]
    except InputError:
        if (finished := _finished(out, settings, len(others))) is None:
            raise
        return finished  # another rank finished it meanwhile
    if mine and (finished := _finished(out, settings, len(others))) is not None:
        return finished  # so that what it removed is not taken for missing
    names = [str(path.relative_to(root)) for path in pictures]
    batches = {shard: list(_batches(root, names, shard, per_shard, wanted)) for shard in mine}
    count, done = sum(len(batch.paths) for some in batches.values() for batch in some), 0
    taken = in_order(take, list(chain.from_iterable(batches.values())), workers, ahead=AHEAD)
    for shard in mine:
        with writer.shard(shard) as files:
            for batch in batches[shard]:
                for one in next(taken):
                    files.add(one)
                done += len(batch.paths)
                progress(done, count)
    next(taken, None)  # its processes end
    if not writer.are_done(shards):
        return Prepared(len(pictures), 0, {}, len(others), finished=False)
    try:
        _write_dropped(out / DROPPED, writer.dropped(shards))
        writer.finish(shards, wanted.size)
    except FileNotFoundError as error:  # another rank, which saw all shards too, has finished and removed their lists
        if (finished := _finished(out, settings, len(others))) is None:
            raise disk_error(out, error) from error
        return finished
    store = PictureStore(out)
    write_page(store, root, read_dropped(out), len(others))
    return Prepared(len(pictures), len(store), store.index["dropped"], len(others))


def read_dropped(out: Path) -> Iterator[Dropped]:
    """Yield what a store's making dropped, in the source's order. Raises: `InputError` for a damaged list."""
    path = out / DROPPED
    try:
        with path.open() as file:
            for line in file:
                entry = json.loads(line)
                yield Dropped(str(entry["picture"]), str(entry["reason"]), str(entry["detail"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected what was dropped, it is missing or damaged; make the store again"
        ) from error


def _batches(root: Path, names: Sequence[str], shard: int, per_shard: int, wanted: Wanted) -> Iterator[Batch]:
    first, last = shard * per_shard, min((shard + 1) * per_shard, len(names))
    for start in range(first, last, AT_A_TIME):
        yield Batch(root, tuple(names[start : min(start + AT_A_TIME, last)]), start, wanted)


def _finished(out: Path, settings: Mapping[str, Any], others: int) -> Prepared | None:
    """Describe a store that was finished before; None where there is none. Raises: `InputError` for another one."""
    if not (out / INDEX).exists():
        return None
    store = PictureStore(out)
    before = {name: store.index.get(name) for name in settings}
    if (difference := same_settings(before, settings)) is not None:
        raise InputError(f"{out}: this store is finished, {difference}; name another folder")
    return Prepared(settings["listed"], len(store), store.index["dropped"], others, already_there=True)


def _write_dropped(path: Path, dropped: Iterator[Dropped]) -> None:
    """Write the list. Raises: `FileNotFoundError` where a shard's is gone; `InputError` where the disk refuses."""
    try:
        with replacing(path) as part, part.open("w") as file:
            for one in dropped:
                entry = {"picture": one.source, "reason": one.reason, "detail": one.detail}
                file.write(json.dumps(entry) + "\n")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise disk_error(path.parent, error) from error
