"""A small picture store that a test writes, without networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.train.written_clips import MODEL, labels
from triportrait.train.data.clip_store.records import COLUMNS
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.picture_store.writing import Dropped, PictureWriter, StoredPicture, encoded_picture

S = 64  # pixels of a side
SETTINGS = {"source": "test", "listed": 10, "head_model": MODEL}


def picture(number: int) -> np.ndarray:
    """A smooth picture whose shade tells its number."""
    across, down = np.meshgrid(np.arange(S), np.arange(S))
    return np.stack([across * 2 + 4 * number, down * 3, np.full((S, S), 20 * number % 250)], -1).astype(np.uint8)


def mask(number: int) -> np.ndarray:
    return (picture(number)[..., 1] > 40 + number).astype(np.uint8)


def stored(number: int, kind: str = "png", motion: int | None = 548) -> StoredPicture:
    row = labels(number, 1)[0]
    numbers = {name: row[a:b] for name, (a, b) in COLUMNS.items()} | {"error_px": np.array(number / 8, np.float32)}
    if motion is not None:
        numbers["motion"] = np.random.default_rng(number).normal(size=motion).astype(np.float32)
    seg = encoded_picture(mask(number) * np.uint8(255), "png")
    return StoredPicture(number, f"a/{number}.jpg", encoded_picture(picture(number), kind), seg, kind, numbers)


def write(
    folder: Path,
    shards: tuple[tuple[int, ...], ...] = ((0, 2, 3), (), (8,)),
    kind: str = "png",
    motion: int | None = 548,
    head_model: dict[str, str] | None = MODEL,
) -> PictureStore:
    """A finished store whose shards hold pictures of these numbers."""
    writer = PictureWriter(folder, SETTINGS | {"format": kind, "head_model": head_model})
    for number, pictures in enumerate(shards):
        with writer.shard(number) as files:
            for one in pictures:
                files.add(stored(one, kind, motion))
            files.add(Dropped(f"b/{number}.jpg", "no face", "none was found"))
    writer.finish(len(shards), S)
    return PictureStore(folder, contents=True)
