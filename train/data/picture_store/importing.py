"""Import the published LMDB of stills into a picture store; skip, count and name records that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.file_type import kind_of_bytes
from triportrait.serve.media.pictures.picture_file import decode_picture
from triportrait.train.data.clip_store.importing import FEWEST_TO_JUDGE, SKIPPED, Imported
from triportrait.train.data.clip_store.records import is_still, open_lmdb, parse_still
from triportrait.train.data.head_model_file import read_head_model, same_settings
from triportrait.train.data.motion_encoder_file import read_motion_encoder
from triportrait.train.data.picture_store.layout import check_picture
from triportrait.train.data.picture_store.store import MOST_SIDE, PictureStore
from triportrait.train.data.picture_store.writing import Dropped, PictureWriter, StoredPicture, encoded_picture
from triportrait.train.data.shards.layout import INDEX, disk_error

PER_SHARD = 256
DAMAGED = "damaged"
_FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}


def holds_stills(path: Path) -> bool:
    """Tell an LMDB of stills from one of clips by the first record that is either.

    Raises: `InputError` for what is no LMDB.
    """
    for message in _first_records(path):
        try:
            return is_still(message)
        except ValueError:
            continue
    return False  # the import of clips says what is wrong with them


def import_stills(
    path: Path,
    out: Path,
    most_skipped: float = 0.05,
    progress: Callable[[int, int], None] = lambda done, count: None,
    check: Callable[[Sequence[str]], None] = lambda names: None,
) -> Imported:
    """Import the published LMDB of stills into a picture store, or go on with an import that was stopped.

    Pictures and masks stay the bytes that they are.

    Args:
        most_skipped: share of the records that may be skipped.
        progress: is called with the number of records done and that of all.
        check: is called with the names of all pictures before any is read, and may refuse them.

    Raises: `InputError` for what is no such LMDB, and when too many records cannot be used.
    """
    size = _size(path)
    count, records = open_lmdb(path)
    check([f"picture_{number:08d}" for number in range(count)])
    head_model = read_head_model(path)
    settings = {
        "source": "lmdb", "name": path.name, "records": count, "listed": count, "per_shard": PER_SHARD,
        "head_model": None if head_model is None else head_model.to_dict(), **read_motion_encoder(path),
    }  # fmt: skip
    if (out / INDEX).exists():
        return _finished(out, settings)
    writer = PictureWriter(out, settings)
    shards, skipped = -(-count // PER_SHARD), 0
    for shard in range(shards):
        numbered = [next(records) for _ in range(min(PER_SHARD, count - shard * PER_SHARD))]
        if not writer.is_done(shard):
            with writer.shard(shard) as files:
                for number, read in numbered:
                    files.add(_picture(number, read(), size))
                    progress(number + 1, count)
        skipped += writer.dropped_in(shard)
        done = numbered[-1][0] + 1
        if (done >= FEWEST_TO_JUDGE or done == count) and skipped > most_skipped * done:
            _write_skipped(out, writer, shard + 1)
            raise InputError(
                f"{out}: {skipped} of {done} records cannot be used, more than {most_skipped:.0%} ({out / SKIPPED} "
                "says why); mend the source or allow more by --most-skipped"
            )
    if skipped:
        _write_skipped(out, writer, shards)
    writer.finish(shards, size, skipped=skipped)
    return Imported(len(PictureStore(out)), skipped)


def _first_records(path: Path) -> Iterator[bytes]:
    """Yield the records that tell what an LMDB holds, as some may be damaged; it is closed at the end."""
    _, records = open_lmdb(path)
    with closing(records):  # type: ignore[type-var]
        yield from (read() for _, read in islice(records, FEWEST_TO_JUDGE))


def _size(path: Path) -> int:
    """Return the side of the first picture that can be used, px. Raises: `InputError` where the first ones cannot."""
    why = ""
    for message in _first_records(path):
        try:
            record = parse_still(message)
            if not 64 <= record.height == record.width <= MOST_SIDE:
                raise ValueError(f"it has {record.width} x {record.height} px, expected a square of 64 to {MOST_SIDE}")
            taken = _picture(0, message, record.height)
            if isinstance(taken, StoredPicture):
                return record.height
            why = why or taken.detail
        except ValueError as error:
            why = why or str(error)
    raise InputError(f"{path}: expected stills, of its first record {why}; name another LMDB")


def _picture(number: int, message: bytes, size: int) -> StoredPicture | Dropped:
    source = f"record {number}"
    try:
        record = parse_still(message)
        kind = _FORMATS.get(kind_of_bytes(record.image[:64]) or "")
        if kind is None:
            raise ValueError("its image is no PNG, JPEG or WebP")
        image = decode_picture(record.image, "its image", MOST_SIDE**2)
        mask = decode_picture(record.mask, "its seg", MOST_SIDE**2)
        if not image.shape == mask.shape == (size, size, 3):
            raise ValueError(f"it shows {image.shape[1]} x {image.shape[0]} px, expected {size}")
        check_picture(record.numbers())
    except ValueError as error:
        return Dropped(source, DAMAGED, str(error))
    is_png = kind_of_bytes(record.mask[:64]) == "PNG"
    seg = record.mask if is_png else encoded_picture(mask[..., 0], "png")
    numbers = record.numbers() | {"error_px": np.array(np.nan, np.float32)}
    return StoredPicture(number, source, record.image, seg, kind, numbers)


def _finished(out: Path, settings: dict[str, object]) -> Imported:
    store = PictureStore(out)
    before = {name: store.index.get(name) for name in settings}
    if (difference := same_settings(before, settings)) is not None:
        raise InputError(f"{out}: this store is finished, {difference}; name another folder")
    return Imported(len(store), int(store.index.get("skipped", 0)), True)


def _write_skipped(out: Path, writer: PictureWriter, shards: int) -> None:
    try:
        with replacing(out / SKIPPED, only_writer=True) as part, part.open("w") as file:
            for one in writer.dropped(shards):
                file.write(json.dumps({"clip": one.source, "reason": one.detail}) + "\n")
    except OSError as error:
        raise disk_error(out, error) from error
