"""Make a store of generated heads: every shard stands for as many consecutive numbers of heads.

Which heads make a shard depends on the numbers alone, so that ranks and processes share them without a word, and a
killed run goes on with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.checksum import fingerprint
from triportrait.core.config import GenHeadConfig
from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import genhead_fingerprint, load_genhead
from triportrait.core.tracking.head_model import HeadModel
from triportrait.train.data.generated.draws import HeadTables, draw_heads
from triportrait.train.data.generated.generate import generator_model
from triportrait.train.data.generated.store.layout import (
    FILES,
    FLAME,
    KIND,
    LARGEST_VIEWS,
    SOURCE,
    check_rows,
    file_name,
    seen_shapes,
    truth_shapes,
    volume_bytes,
)
from triportrait.train.data.generated.store.making import Making, StoredHead, make_piece, pieces_of
from triportrait.train.data.generated.store.reading import HeadStore
from triportrait.train.data.head_model_file import same_settings
from triportrait.train.data.parallel import in_order
from triportrait.train.data.parameter_tables import CAMERA_SHAPE, MOTION, PREFIX
from triportrait.train.data.picture_store.layout import ENDINGS
from triportrait.train.data.shards.layout import INDEX, MOST_IN_SHARD, disk_error, holds_store, shard_name
from triportrait.train.data.shards.writing import ShardFiles, ShardWriter, noted_shards, remove_notes, spread
from triportrait.train.runs.disk_space import in_words

PER_SHARD = 64  # heads: about 150 MB at the published sizes
AHEAD = 4  # pieces of heads that may wait to be written: at 512 px about 40 MB, with feature images 60
LARGEST_COUNT = 10_000_000
PICTURE_BYTES = {"png": 1.6, "jpeg": 0.7, "webp": 0.4}  # of a pixel, about, in a picture of a head
HEADERS, TAR_BLOCK = 500, 768  # bytes of a view's safetensors, and of each file, beside their own, about
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedHeads:
    """The outcome.

    Attributes:
        heads: of the store. already_there: it was finished before, and nothing was done.
        finished: the store is whole; else other ranks are still at work.
    """

    heads: int
    already_there: bool = False
    finished: bool = True


def prepare_generated(
    out: Path,
    making: Making,
    count: int,
    per_shard: int = PER_SHARD,
    workers: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    keep_model: Callable[[Path, HeadModel], object] | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> PreparedHeads:
    """Write a store of generated heads, or go on with one that was stopped.

    Args:
        making: from what, how and where they are made.
        count: of heads, from the number 0 on.
        per_shard: heads of a shard.
        workers: processes; None: one per core, and none beside this one for few heads; a GPU has one in any case.
        rank, ranks: of this command, where a launcher started several: each writes every `ranks`-th shard, and
            whoever is done last writes the index.
        keep_model: writes the head model into a folder of the store; None: the store holds none, and nobody draws
            positions by it.
        progress: is called with the number of heads made and that of all of this rank's.

    Raises:
        InputError: before any work for options out of range, weights or tables that are missing, damaged or do not fit
            each other, a store of something else, or a disk without room.
    """
    _check_options(making, count, per_shard, workers)
    generator = load_genhead(making.weights)
    tables = HeadTables(making.tables)
    tables.check_fits(generator.head_model, generator.config)
    draw_heads(tables, generator.config, making.seed, 0, 1, making.config)  # says what is out of range
    settings = _settings(making, generator, count, per_shard)
    if (finished := _finished(out, settings)) is not None:
        return finished
    shards = -(-count // per_shard)
    _check_room(out, count - per_shard * noted_shards(out), making, generator.config)
    writer = ShardWriter(out, settings)
    mine = [shard for shard in spread(shards, rank, ranks) if not writer.is_done(shard)]
    each = [min(per_shard, count - shard * per_shard) for shard in mine]
    _keep_model(out, generator, keep_model)
    del generator, tables  # the processes that make heads have their own
    batches = [list(pieces_of(making, shard * per_shard, n)) for shard, n in zip(mine, each, strict=True)]
    processes = 1 if making.device != "cpu" else workers
    made, done = in_order(make_piece, list(chain.from_iterable(batches)), processes, ahead=AHEAD), 0
    for shard, pieces in zip(mine, batches, strict=True):
        with writer.files(shard) as files:
            rows = list[dict[str, Any]]()
            for piece in pieces:
                rows += [_put(files, head, making.format) for head in _next_piece(made, making)]
                done += piece.count
                progress(done, sum(each))
            files.table = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            _check_rows(out, files, making)
            files.noted = {"heads": len(rows)}
    next(made, None)  # its processes end
    if not writer.are_done(shards):
        return PreparedHeads(count, finished=False)
    try:
        entries = [writer.entry(number) for number in range(shards)]
    except FileNotFoundError as error:  # another rank, which saw all shards too, has finished and removed their lists
        if (finished := _finished(out, settings)) is None:
            raise disk_error(out, error) from error
        return finished
    said = [{"name": shard_name(k), "heads": e["heads"], "files": e["files"]} for k, e in enumerate(entries)]
    writer.write_index({"kind": KIND, "version": 1, **settings, "flame": _flame_files(out), "shards": said})
    _remove_notes(out)
    return PreparedHeads(len(HeadStore(out)))


def bytes_of_a_head(making: Making, config: GenHeadConfig) -> int:
    """Return about how many bytes the files of a head take."""
    truth = truth_shapes(config.ray_size, config.render.plane_width, making.config.points, making.features)
    picture = round(config.image_size**2 * PICTURE_BYTES[making.format])
    volumes = volume_bytes(seen_shapes(config.ray_size)) + volume_bytes(truth)
    return making.config.views * (picture + volumes + HEADERS + FILES * TAR_BLOCK)


def _keep_model(out: Path, generator: GenHead, keep_model: Callable[[Path, HeadModel], object] | None) -> None:
    """Write the head model unless it is there; of ranks that do it at once the first one's stays.

    Raises: `InputError` where the disk refuses.
    """
    if keep_model is None or (out / FLAME).exists():
        return
    own = out / f".{FLAME}.{secrets.token_hex(6)}"
    try:
        keep_model(own, generator_model(generator))
        os.rename(own, out / FLAME)
    except OSError as error:
        if not (out / FLAME).exists():
            raise disk_error(out, error) from error
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _next_piece(made: Iterator[list[StoredHead]], making: Making) -> list[StoredHead]:
    """Return the next heads. Raises: `InputError` where weights or tables are gone meanwhile."""
    try:
        return next(made)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(
            f"{making.weights}, {making.tables}: they cannot be read any more ({reason}); bring them back, and the "
            "same command goes on"
        ) from error


def _put(files: ShardFiles, head: StoredHead, format: str) -> dict[str, Any]:
    """Put the files of a head into the tar; returns its row."""
    places = []
    endings = (ENDINGS[format], ".safetensors", ".planes.safetensors")
    for view, contents in enumerate(head.files):
        name = file_name(head.number, view)
        files_of = zip(endings, contents, strict=True)
        places.append([number for ending, data in files_of for number in files.put(f"{name}{ending}", data)])
    return {"number": np.int64(head.number), "place": np.array(places, np.int64), **head.row}


def _check_rows(out: Path, files: ShardFiles, making: Making) -> None:
    """Check what is about to be written. Raises: `InputError` for numbers of no head, as odd tables may bring."""
    numbers = files.table["number"]
    try:
        check_rows(files.table, len(numbers), making.config.views, files.size)
    except ValueError as error:
        raise InputError(
            f"{out}: heads {numbers[0]:,} to {numbers[-1]:,} cannot be stored ({error}); make other tables, or name "
            "another generator"
        ) from error


def _check_options(making: Making, count: int, per_shard: int, workers: int | None) -> None:
    least = 2 if making.config.static_share == 1 else 3
    for name, value, low, high in (
        ("count", count, 1, LARGEST_COUNT), ("views", making.config.views, least, LARGEST_VIEWS),
        ("per-shard", per_shard, 1, MOST_IN_SHARD), ("workers", workers or 1, 1, 256),
    ):  # fmt: skip
        if not low <= value <= high:
            raise InputError(f"{name}: expected {low} to {high:,}, got {value:,}; choose another")
    if making.format not in PICTURE_BYTES:
        raise InputError(f"format: expected one of {', '.join(PICTURE_BYTES)}, got {making.format}; choose one")


def _settings(making: Making, generator: GenHead, count: int, per_shard: int) -> dict[str, Any]:
    """Return what a store is made from, as plain JSON values."""
    config = generator.config
    drawing: dict[str, Any] = asdict(making.config)
    drawing["cameras"] = {name: _plain(value) for name, value in drawing["cameras"].items()}
    return {
        "source": SOURCE, "generator": genhead_fingerprint(generator), "head_model": generator.head_model.to_dict(),
        "tables": _digest(making.tables), "seed": making.seed, "heads": count, "per_shard": per_shard,
        "drawing": {name: _plain(value) for name, value in drawing.items()}, "views": making.config.views,
        "size": config.image_size, "ray_size": config.ray_size, "channels": config.render.plane_width,
        "points": making.config.points, "features": making.features, "format": making.format,
        "device": making.device.partition(":")[0],
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _digest(folder: Path) -> str:
    """Compute what tells tables apart: a hash of the checksums of those that are drawn from."""
    digest = hashlib.sha256()
    names = (f"{prefix}_{table}.npy" for prefix in PREFIX.values() for table in (CAMERA_SHAPE, MOTION))
    for path in (folder / name for name in names if (folder / name).exists()):
        digest.update(f"{path.name} {fingerprint(path)['sha256']}\n".encode())
    return digest.hexdigest()[:16]


def _check_room(out: Path, heads: int, making: Making, config: GenHeadConfig) -> None:
    """Say what the heads take that are still to be made. Raises: `InputError` where the disk has less."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    wanted, free = max(0, heads) * bytes_of_a_head(making, config), shutil.disk_usage(there).free
    if wanted > free:
        raise InputError(
            f"{out}: expected room for {heads:,} heads, about {in_words(wanted)}, {in_words(free)} are free; free some "
            "space, say less by --count or --views, or name a folder on another disk"
        )
    if wanted:
        logger.info("%s heads take about %s; %s are free", f"{heads:,}", in_words(wanted), in_words(free))


def _flame_files(out: Path) -> dict[str, Any]:
    return {path.name: fingerprint(path) for path in sorted((out / FLAME).glob("*")) if path.is_file()}


def _remove_notes(out: Path) -> None:
    """Remove what killed commands left in a finished store. Raises: `OSError`."""
    remove_notes(out)
    for path in out.glob(f".{FLAME}.*"):
        shutil.rmtree(path, ignore_errors=True)


def _finished(out: Path, settings: Mapping[str, Any]) -> PreparedHeads | None:
    """Describe a store that was finished before; None where there is none. Raises: `InputError` for another one."""
    if not (out / INDEX).exists():
        return None
    if not holds_store(out, KIND):
        raise InputError(
            f"{out}: expected a store of generated heads or none, it holds other data; name another folder"
        )
    store = HeadStore(out)
    before = {name: store.index.get(name) for name in settings}
    if (difference := same_settings(before, settings)) is not None:
        raise InputError(f"{out}: this store is finished, {difference}; name another folder")
    try:
        _remove_notes(out)
    except OSError as error:
        raise disk_error(out, error) from error
    return PreparedHeads(len(store), already_there=True)
