"""Write a picture store shard by shard; several processes may write different shards, and a killed one goes on."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.core.safe_text import shown
from triportrait.train.data.picture_store.layout import ENDINGS, KIND, check_rows, key_of
from triportrait.train.data.shards.layout import INDEX, shard_name
from triportrait.train.data.shards.writing import ShardFiles, ShardWriter


@dataclass(frozen=True)
class StoredPicture:
    """A picture as a store keeps it.

    Attributes:
        number: in the list that the store is made from.
        source: its path in the source.
        image, mask: encoded; the mask as PNG, white on the person.
        format: of the image, a key of `ENDINGS`.
        numbers: float32 rows by name: camera [25], shape [300], expression [100], pose [6], eyes [6], error_px [],
            motion [M] where there is one.
    """

    number: int
    source: str
    image: bytes
    mask: bytes
    format: str
    numbers: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Dropped:
    """A picture that is not stored: its path in the source, the reason in a word or two, and more in words."""

    source: str
    reason: str
    detail: str = ""


@dataclass
class _Shard:
    """Collects the pictures of one shard: their bytes go to the tar at once, their numbers wait."""

    files: ShardFiles
    rows: dict[str, list[Any]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    pictures: int = 0

    def add(self, picture: StoredPicture | Dropped) -> None:
        """Keep a picture, or note that it is dropped."""
        if isinstance(picture, Dropped):
            self.dropped.append(picture)
            return
        key = key_of(picture.number)
        image = self.files.put(f"{key}{ENDINGS[picture.format]}", picture.image)
        mask = self.files.put(f"{key}.mask.png", picture.mask)
        row: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in picture.numbers.items()}
        row |= {"number": picture.number, "source": picture.source, "place": (*image, *mask)}
        if self.pictures and self.rows.keys() != row.keys():
            raise ValueError(f"its numbers are {sorted(row)}, those of others {sorted(self.rows)}")
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value)
        self.pictures += 1

    def table(self) -> dict[str, np.ndarray]:
        """Return the numbers of all pictures, N rows in each column."""
        kinds: dict[str, Any] = {"number": np.int64, "place": np.int64, "source": np.str_}
        return {name: np.array(values, kinds.get(name, np.float32)) for name, values in self.rows.items()}


class PictureWriter(ShardWriter):
    """Write the shards of a store, in any order, from one process or several.

    Args:
        folder: made if it is missing.
        settings: what the store is made from, plain JSON values; who goes on must say the same.

    Raises: `InputError` for a folder that holds something else, a finished store, or one made from something else.
    """

    @contextmanager
    def shard(self, number: int) -> Iterator[_Shard]:
        """Yield what takes the pictures of a shard, in order; it is on the disk when the block ends well.

        Raises: `InputError` where the disk refuses; `ValueError` for numbers that are those of no face.
        """
        with self.files(number) as files:
            taken = _Shard(files)
            yield taken
            if taken.pictures:
                files.table = taken.table()
                check_rows(files.table, taken.pictures, files.size)
            dropped = [[one.source, one.reason, one.detail] for one in taken.dropped]
            files.noted = {"pictures": taken.pictures, "dropped": dropped}

    def dropped(self, shards: int) -> Iterator[Dropped]:
        """Yield every picture that was dropped, in the source's order."""
        for shard in range(shards):
            yield from (Dropped(*map(str, one)) for one in self.entry(shard)["dropped"])

    def dropped_in(self, shard: int) -> int:
        """Return how many pictures of a written shard were dropped."""
        return len(self.entry(shard)["dropped"])

    def finish(self, shards: int, size: int, **more: Any) -> None:
        """Write the index, where all shards are done.

        Several processes may do it at once, as they write the same.

        Raises: `InputError` for a store without a picture, or a disk that refuses.
        """
        entries, counts, total = [], dict[str, int](), 0
        try:
            for number in range(shards):
                entry = self.entry(number)
                if entry["pictures"]:
                    said = {"name": shard_name(number), "pictures": entry["pictures"], "files": entry["files"]}
                    entries.append(said)
                    total += entry["pictures"]
            for one in self.dropped(shards):
                counts[one.reason] = counts.get(one.reason, 0) + 1
        except FileNotFoundError:
            if (self.folder / INDEX).exists():  # another process finished meanwhile
                return
            raise
        if not entries:
            why = ", ".join(f"{shown(reason)} {count}" for reason, count in sorted(counts.items()))
            raise InputError(
                f"{self.folder}: expected pictures that can be used, all {sum(counts.values())} were dropped ({why}); "
                "name other pictures, or loosen the filters in another folder"
            )
        index = {
            "kind": KIND, "version": 1, **self.settings, "size": size, "pictures": total, "dropped": counts, **more,
            "shards": entries,
        }  # fmt: skip
        self.write_index(index)


def encoded_picture(image: np.ndarray, kind: str) -> bytes:
    """Encode uint8 [S, S, 3] or a mask uint8 [S, S]: png without loss, jpeg and webp at quality 95."""
    from PIL import Image

    to = io.BytesIO()
    options: dict[str, Any] = {} if kind == "png" else {"quality": 95}
    if kind == "jpeg":
        options["subsampling"] = 0
    Image.fromarray(np.ascontiguousarray(image)).save(to, format=kind.upper(), **options)
    return to.getvalue()
