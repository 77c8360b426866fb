"""Read a finished picture store: any picture by its number, or all of them again and again in changing orders."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, opened, read_json
from triportrait.core.safe_text import literal
from triportrait.train.data.arrays import read_arrays
from triportrait.train.data.head_model_file import identity_in
from triportrait.train.data.picture_store.layout import BEGUN, INDEX, KIND, LARGEST_TAR, MOST_IN_SHARD, check_rows

WINDOW = 8  # shards whose pictures are shuffled together
TABLES_KEPT = 2 * WINDOW
MOST_SIDE = 8192  # px
LARGEST_ENCODED = 64 << 20  # bytes of a picture
_ORDER = 72  # of the streams of random numbers, the one that shuffles pictures


@dataclass(frozen=True)
class Shard:
    """One shard in the index: its name, how many pictures it has, and its files with their sizes and checksums."""

    name: str
    pictures: int
    files: dict[str, dict[str, Any]]


class PictureStore:
    """Read a finished store; nothing of it is in memory but the index and the tables of a few shards.

    Args:
        folder: as `PictureWriter` left it.
        contents: compare every file with its checksum, not only its size.

    Attributes:
        size: S, side of the pictures in px.
        head_model: whose parameters these are; None where nobody said, as in published sets.
        shards: in order.

    Raises: `InputError` for what is no store, is not finished, or is damaged.
    """

    def __init__(self, folder: Path, contents: bool = False) -> None:
        self.folder = folder
        try:
            self.index: dict[str, Any] = read_json(folder / INDEX, MOST_INDEX)
            if self.index["kind"] != KIND:
                raise ValueError(self.index["kind"])
            self.shards = [_shard(entry) for entry in self.index["shards"]]
            self.size = _count(self.index["size"], MOST_SIDE)
            self.head_model = identity_in(self.index, f"{folder / INDEX}: head_model")
            if not self.shards:
                raise ValueError("no shards")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            remedy = "it is not finished, run its command again" if (folder / BEGUN).exists() else "make it again"
            raise InputError(
                f"{folder}: expected a picture store, its {INDEX} is missing or damaged; {remedy}"
            ) from error
        for name, said in (pair for shard in self.shards for pair in shard.files.items()):
            path = folder / name
            same_size = path.is_file() and path.stat().st_size == said["bytes"]
            if not same_size or (contents and fingerprint(path) != said):
                raise InputError(
                    f"{path}: it is not what the index says (missing, damaged or changed); make the store again"
                )
        self._first = [0, *accumulate(shard.pictures for shard in self.shards)]
        self._table = lru_cache(maxsize=TABLES_KEPT)(self._read_table)

    def __len__(self) -> int:
        return self._first[-1]

    def place(self, picture: int) -> tuple[int, int]:
        """Return the shard that holds a picture, and its row there. Raises: `IndexError` beyond the last."""
        if not 0 <= picture < len(self):
            raise IndexError(f"picture {picture} of {len(self)}")
        shard = bisect_right(self._first, picture) - 1
        return shard, picture - self._first[shard]

    def table(self, shard: int) -> dict[str, np.ndarray]:
        """Return the numbers of a shard's pictures by name, N rows in each column.

        Raises: `InputError` for a table that cannot be read or is damaged.
        """
        return self._table(shard)

    def row(self, picture: int) -> dict[str, np.ndarray]:
        """Return the numbers of a picture by name."""
        shard, row = self.place(picture)
        return {name: column[row] for name, column in self.table(shard).items()}

    def encoded(self, picture: int) -> tuple[bytes, bytes]:
        """Return the files of a picture and of its mask. Raises: `InputError` where they cannot be read."""
        shard, row = self.place(picture)
        at, length, mask_at, mask_length = self.table(shard)["place"][row].tolist()
        path = self.folder / f"{self.shards[shard].name}.tar"
        try:
            with opened(path) as tar:
                number = tar.fileno()
                image, mask = os.pread(number, length, at), os.pread(number, mask_length, mask_at)
        except OSError as error:
            raise InputError(f"{path}: it cannot be read; make the store again") from error
        return image, mask

    def picture(self, picture: int) -> np.ndarray:
        """Return a picture, uint8 [S, S, 3]. Raises: `InputError` where it does not decode or has another size."""
        return self._decoded(picture, self.encoded(picture)[0])

    def mask(self, picture: int) -> np.ndarray:
        """Return uint8 [S, S], 1 on the person. Raises: as `picture`."""
        return (self._decoded(picture, self.encoded(picture)[1])[..., 0] >= 128).astype(np.uint8)

    def names(self) -> Iterator[str]:
        """Yield the name of each picture, which tells its number in the source's list; shard by shard."""
        for shard in range(len(self.shards)):
            yield from (f"picture_{number:08d}" for number in self.table(shard)["number"].tolist())

    def verify(self, shard: int, deep: bool = False) -> None:
        """Compare the files of a shard with their checksums, check its table and decode its first and last picture.

        Args:
            deep: decode every picture.

        Raises: `ValueError`, in words.
        """
        entry = self.shards[shard]
        for name, said in entry.files.items():
            if fingerprint(self.folder / name) != said:
                raise ValueError(f"{name} is not what the index says (damaged or changed)")
        self.table(shard)
        first, last = self._first[shard], self._first[shard + 1] - 1
        for picture in range(first, last + 1) if deep else sorted({first, last}):
            self.picture(picture)
            self.mask(picture)

    def order(self, seed: int, epoch: int) -> Iterator[int]:
        """Yield the number of each picture once, in the order of an epoch.

        The shards are shuffled, and the pictures of every `WINDOW` shards that follow each other: few files are read
        at a time, and no more numbers than those pictures' are in memory.
        """
        chance = np.random.default_rng([_ORDER, seed, epoch])
        shards = chance.permutation(len(self.shards))
        for start in range(0, len(shards), WINDOW):
            ranges = [np.arange(self._first[s], self._first[s + 1]) for s in shards[start : start + WINDOW]]
            yield from chance.permutation(np.concatenate(ranges)).tolist()

    def stream(self, seed: int, rank: int = 0, ranks: int = 1, start: int = 0) -> Iterator[int]:
        """Yield numbers of pictures without end, epoch after epoch, every `ranks`-th of them.

        Args:
            start: how many this rank has taken before; whoever stops after k goes on with `start=k`.
        """
        turn, epoch = start * ranks + rank, 0
        epoch, turn = divmod(turn, len(self))
        while True:
            for place, picture in enumerate(self.order(seed, epoch)):
                if place == turn:
                    yield picture
                    turn += ranks
            turn, epoch = turn - len(self), epoch + 1

    def _decoded(self, picture: int, data: bytes) -> np.ndarray:
        from triportrait.serve.media.pictures.picture_file import decode_picture

        name = f"{self.folder} picture {picture}"
        image = decode_picture(data, name, MOST_SIDE**2)
        if image.shape[:2] != (self.size, self.size):
            raise InputError(
                f"{name}: expected {self.size} x {self.size} px, got {image.shape[1]} x {image.shape[0]}; make the "
                "store again"
            )
        return image

    def _read_table(self, shard: int) -> dict[str, np.ndarray]:
        entry = self.shards[shard]
        path = self.folder / f"{entry.name}.npz"
        try:
            table = read_arrays(path)
            check_rows(table, entry.pictures, entry.files[f"{entry.name}.tar"]["bytes"])
            if (table["place"][:, (1, 3)] > LARGEST_ENCODED).any():
                raise ValueError("a picture has more bytes than any")
        except ValueError as error:
            raise InputError(f"{path}: {_without_path(error, path)}; make the store again") from error
        return table


def _without_path(error: ValueError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _shard(entry: Any) -> Shard:
    """Check a shard of an index. Raises: `ValueError`, `KeyError`, `TypeError` or `AttributeError`."""
    name, files = entry["name"], entry["files"]
    if not isinstance(name, str) or Path(name).name != name or set(files) != {f"{name}.tar", f"{name}.npz"}:
        raise ValueError(f"no shard: {literal(name)}")
    sizes = {file: {**said, "bytes": _count(said["bytes"], LARGEST_TAR)} for file, said in files.items()}
    return Shard(name, _count(entry["pictures"], MOST_IN_SHARD), sizes)


def _count(value: Any, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"no number: {literal(value)}")
    return value
