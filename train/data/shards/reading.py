"""Read a finished store in shards: any item by its number, or all of them again and again in changing orders."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, opened, read_json
from triportrait.core.safe_text import literal
from triportrait.train.data.arrays import read_arrays
from triportrait.train.data.shards.layout import BEGUN, INDEX, LARGEST_TAR, MOST_IN_SHARD

WINDOW = 8  # shards whose items are shuffled together
TABLES_KEPT = 2 * WINDOW
_ORDER = 72  # of the streams of random numbers, the one that shuffles items


@dataclass(frozen=True)
class Shard:
    """One shard in the index: its name, how many items it has, and its files with their sizes and checksums."""

    name: str
    count: int
    files: dict[str, dict[str, Any]]


class ShardedStore(ABC):
    """Read a finished store; nothing of it is in memory but the index and the tables of a few shards.

    Args:
        folder: as its writer left it.
        contents: compare every file with its checksum, not only its size.

    Attributes:
        kind: of the index. what: the store, in words. items: what it holds, in words and in the entries of shards.
        index: all of it.
        shards: in order.

    Raises: `InputError` for what is no such store, is not finished, or is damaged.
    """

    kind: ClassVar[str]
    what: ClassVar[str]
    items: ClassVar[str]

    def __init__(self, folder: Path, contents: bool = False) -> None:
        self.folder = folder
        try:
            self.index: dict[str, Any] = read_json(folder / INDEX, MOST_INDEX)
            if self.index["kind"] != self.kind:
                raise ValueError(self.index["kind"])
            self.shards = [_shard(entry, self.items) for entry in self.index["shards"]]
            self.read_index(self.index)
            if not self.shards:
                raise ValueError("no shards")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            remedy = "it is not finished, run its command again" if (folder / BEGUN).exists() else "make it again"
            raise InputError(f"{folder}: expected {self.what}, its {INDEX} is missing or damaged; {remedy}") from error
        for name, said in (pair for shard in self.shards for pair in shard.files.items()):
            path = folder / name
            same_size = path.is_file() and path.stat().st_size == said["bytes"]
            if not same_size or (contents and fingerprint(path) != said):
                raise InputError(
                    f"{path}: it is not what the index says (missing, damaged or changed); make the store again"
                )
        self.first = [0, *accumulate(shard.count for shard in self.shards)]
        self._table = lru_cache(maxsize=TABLES_KEPT)(self._read_table)

    @abstractmethod
    def read_index(self, index: Mapping[str, Any]) -> None:
        """Take what a kind of store has in its index. Raises: `ValueError`, `KeyError` or `TypeError` for damage."""

    @abstractmethod
    def check_rows(self, table: Mapping[str, np.ndarray], count: int, tar_bytes: int) -> None:
        """Check the table of a shard of `count` items. Raises: `ValueError`, in words."""

    def __len__(self) -> int:
        return self.first[-1]

    def place(self, item: int) -> tuple[int, int]:
        """Return the shard that holds an item, and its row there. Raises: `IndexError` beyond the last."""
        if not 0 <= item < len(self):
            raise IndexError(f"{item} of {len(self)} {self.items}")
        shard = bisect_right(self.first, item) - 1
        return shard, item - self.first[shard]

    def table(self, shard: int) -> dict[str, np.ndarray]:
        """Return the numbers of a shard's items by name, a row for each in every column.

        Raises: `InputError` for a table that cannot be read or is damaged.
        """
        return self._table(shard)

    def row(self, item: int) -> dict[str, np.ndarray]:
        """Return the numbers of an item by name."""
        shard, row = self.place(item)
        return {name: column[row] for name, column in self.table(shard).items()}

    def read_tar(self, shard: int, *places: tuple[int, int]) -> list[bytes]:
        """Read files of a shard's tar, which begin at some byte and have some length.

        Raises: `InputError` where they cannot be read.
        """
        path = self.folder / f"{self.shards[shard].name}.tar"
        try:
            with opened(path) as tar:
                number = tar.fileno()
                return [os.pread(number, length, at) for at, length in places]
        except OSError as error:
            raise InputError(f"{path}: it cannot be read; make the store again") from error

    def check_files(self, shard: int) -> None:
        """Compare the files of a shard with their checksums, and check its table. Raises: `ValueError`, in words."""
        for name, said in self.shards[shard].files.items():
            if fingerprint(self.folder / name) != said:
                raise ValueError(f"{name} is not what the index says (damaged or changed)")
        self.table(shard)

    def order(self, seed: int, epoch: int) -> Iterator[int]:
        """Yield the number of each item once, in the order of an epoch.

        The shards are shuffled, and the items of every `WINDOW` shards that follow each other: few files are read at a
        time, and no more numbers than those items' are in memory.
        """
        chance = np.random.default_rng([_ORDER, seed, epoch])
        shards = chance.permutation(len(self.shards))
        for start in range(0, len(shards), WINDOW):
            ranges = [np.arange(self.first[s], self.first[s + 1]) for s in shards[start : start + WINDOW]]
            yield from chance.permutation(np.concatenate(ranges)).tolist()

    def stream(self, seed: int, rank: int = 0, ranks: int = 1, start: int = 0) -> Iterator[int]:
        """Yield numbers of items without end, epoch after epoch, every `ranks`-th of them.

        Args:
            start: how many this rank has taken before; whoever stops after k goes on with `start=k`.
        """
        turn, epoch = start * ranks + rank, 0
        epoch, turn = divmod(turn, len(self))
        while True:
            for place, item in enumerate(self.order(seed, epoch)):
                if place == turn:
                    yield item
                    turn += ranks
            turn, epoch = turn - len(self), epoch + 1

    def _read_table(self, shard: int) -> dict[str, np.ndarray]:
        entry = self.shards[shard]
        path = self.folder / f"{entry.name}.npz"
        try:
            table = read_arrays(path)
            self.check_rows(table, entry.count, entry.files[f"{entry.name}.tar"]["bytes"])
        except ValueError as error:
            raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}; make the store again") from error
        return table


def whole_number(value: Any, most: int, least: int = 1) -> int:
    """Check a whole number of an index. Raises: `ValueError`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"no number: {literal(value)}")
    return value


def _shard(entry: Any, items: str) -> Shard:
    """Check a shard of an index. Raises: `ValueError`, `KeyError`, `TypeError` or `AttributeError`."""
    name, files = entry["name"], entry["files"]
    if not isinstance(name, str) or Path(name).name != name or set(files) != {f"{name}.tar", f"{name}.npz"}:
        raise ValueError(f"no shard: {literal(name)}")
    sizes = {file: {**said, "bytes": whole_number(said["bytes"], LARGEST_TAR)} for file, said in files.items()}
    return Shard(name, whole_number(entry[items], MOST_IN_SHARD), sizes)
