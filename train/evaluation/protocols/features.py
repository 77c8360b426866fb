"""Keeps what networks read off pictures, by the hash of the pictures, so that a clip is looked at once.

A driving clip of many pairs and of many methods is read by each network once; a clip of 10,000 frames takes no more
memory than one of 100, because rows go to the disk as they come and are mapped, not read. Letters: N frames.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np

from triportrait.core.atomic import put_folder
from triportrait.core.files import read_json

FORMAT = 1  # raised when kept rows mean something else
FOUND = "found"
Rows = dict[str, np.ndarray]


class Walk(Interface):
    """Reads one clip, portion by portion."""

    def add(self, frames: np.ndarray, faces: Rows | None) -> Rows:
        """Read the next N frames.

        Args:
            frames: uint8 [N, S, S, 3].
            faces: what the extractor of faces gave for them, where there is one.

        Returns:
            Field -> [N, ...], and `found`, bool [N]; rows that were not found hold zeros.
        """
        ...


class Extractor(Interface):
    """Reads fields of `metrics.inputs` off the frames of one clip.

    Attributes:
        need: of `Definition.needs`, what it stands for: `faces`, `weights:arcface`, ...
        fields: the names that it gives.
        identity: changes when its numbers do: the hash of its network's file, or its version.
    """

    need: str
    fields: tuple[str, ...]
    identity: str

    def start(self) -> Walk:
        """Begin a clip."""
        ...


def key_of(content: str, first: int, count: int, crop: object, extractor: Extractor) -> str:
    """Return the name of what an extractor reads off frames of a clip.

    Args:
        content: SHA-256 of the clip. crop: JSON values that say how its frames are cut.
    """
    parts = [FORMAT, content, first, count, crop, extractor.need, extractor.identity, list(extractor.fields)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """Holds the rows of one clip, mapped from files."""

    count: int
    rows: Mapping[str, np.ndarray]

    def part(self, start: int, stop: int) -> Rows:
        """Return rows `start` to `stop` of every field."""
        return {name: np.array(array[start:stop]) for name, array in self.rows.items()}


class FeatureCache:
    """Keeps rows in a folder, one folder inside for each key.

    Args:
        folder: made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> Kept | None:
        """Return what is kept under a key; what is damaged counts as missing."""
        place = self._place(key)
        try:
            index = read_json(place / "index.json")
            count, rows = int(index["count"]), {}
            for name, (kind, *shape) in index["fields"].items():
                file = place / f"{name}.bin"
                if file.stat().st_size != count * np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64)):
                    return None
                rows[name] = np.memmap(file, np.dtype(kind), "r", shape=(count, *shape))
            return Kept(count, rows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def writer(self, key: str) -> Writer:
        """Begin to keep rows under a key; they appear when the writer is done, whole."""
        return Writer(self._place(key))

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key


class Writer:
    """Writes the rows of one clip; `done` puts them in their place, `abandon` removes them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._part = place.with_name(f".{place.name[:32]}.{secrets.token_hex(6)}")
        self._fields: dict[str, list[Any]] = {}
        self._count = 0
        self._files: dict[str, Any] = {}

    def add(self, rows: Rows) -> None:
        """Append rows of every field, the same number of each."""
        if not self._files:
            self._part.mkdir(parents=True, exist_ok=True)
            for name, array in rows.items():
                self._fields[name] = [array.dtype.str, *array.shape[1:]]
                self._files[name] = open(self._part / f"{name}.bin", "wb")  # noqa: SIM115
        for name, array in rows.items():
            assert [array.dtype.str, *array.shape[1:]] == self._fields[name], name
            self._files[name].write(np.ascontiguousarray(array).tobytes())
        self._count += len(next(iter(rows.values())))

    def done(self) -> None:
        """Put the rows in their place."""
        self._close()
        index = json.dumps({"count": self._count, "fields": self._fields})
        (self._part / "index.json").write_text(index)
        try:
            put_folder(self._part, self._place, self._part.with_suffix(".old"))
        except OSError:
            if not os.path.lexists(self._place):  # else another process kept the same rows meanwhile
                raise
            shutil.rmtree(self._part, ignore_errors=True)

    def abandon(self) -> None:
        """Remove what was written."""
        self._close()
        shutil.rmtree(self._part, ignore_errors=True)

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}
