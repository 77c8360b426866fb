"""The names and the rows of a picture store: a folder of shards, each a tar of pictures with a table beside it.

    index.json          what the store is, whose the parameters are, and each shard's pictures, sizes and checksums
    shard_000000.tar    00000012.png (or .jpg, .webp), the aligned picture, and 00000012.mask.png, white on the person
    shard_000000.npz    a row for each picture: float32 camera [N, 25], shape [N, 300], expression [N, 100],
                        pose [N, 6], eyes [N, 6], error_px [N] (NaN where nobody measured it), and
                        motion [N, M] where an encoder was named;
                        int64 number [N] of the picture in the list that the store was made from, place [N, 4],
                        offset and length of picture and mask in the tar; str source [N], its path in the source

While a store is written, `.begun.json` holds what it is made from and `.shard_000000.json` what a finished shard holds.
Letters: N pictures of a shard, S side of a picture, M width of the motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from triportrait.train.data.clip_store.store import check_table
from triportrait.train.data.shards.layout import BEGUN, holds_store

KIND = "triportrait picture store"
ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
PARAMETERS = {"camera": 25, "shape": 300, "expression": 100, "pose": 6, "eyes": 6}
NUMBERS = (*PARAMETERS, "error_px", "number", "place", "source")  # the columns that every table has
LARGEST_ERROR_PX = 1e4


def key_of(number: int) -> str:
    """Return the name of a picture in its tar without ending, from its number in the source's list."""
    return f"{number:08d}"


def is_picture_store(folder: Path) -> bool:
    """Tell whether a folder is a picture store, finished or not."""
    return holds_store(folder, KIND) or (folder / BEGUN).exists()


def check_rows(table: Mapping[str, np.ndarray], pictures: int, tar_bytes: int) -> None:
    """Check the table of a shard.

    Args:
        pictures: how many rows it must have.
        tar_bytes: size of the tar, in which every picture must lie.

    Raises: `ValueError`, in words.
    """
    if missing := [name for name in NUMBERS if name not in table]:
        raise ValueError(f"its table has no {missing[0]}")
    source, place, number, error = (table[name] for name in ("source", "place", "number", "error_px"))
    if source.dtype.kind != "U" or source.shape != (pictures,):
        raise ValueError(f"source holds {source.dtype} of shape {list(source.shape)}, expected {pictures} texts")
    for name, value, shape in (("place", place, (pictures, 4)), ("number", number, (pictures,))):
        if value.shape != shape or value.dtype != np.int64:
            raise ValueError(f"{name} holds {value.dtype} of shape {list(value.shape)}, expected int64 {list(shape)}")
    if error.shape != (pictures,) or (error < 0).any() or (error > LARGEST_ERROR_PX).any():  # NaN: nobody measured it
        raise ValueError("error_px is no distance of landmarks")
    if (place < 0).any() or (place[:, (0, 2)] + place[:, (1, 3)] > tar_bytes).any() or (place[:, 1] == 0).any():
        raise ValueError("place reaches beyond the tar")
    if (number < 0).any() or (np.diff(number) <= 0).any():
        raise ValueError("number does not rise from picture to picture")
    check_table({name: value for name, value in table.items() if name not in ("source", "error_px")}, pictures)


def check_picture(numbers: Mapping[str, np.ndarray]) -> None:
    """Check the numbers of one picture, before they come into a table. Raises: `ValueError`, in words."""
    error_px = numbers.get("error_px")
    if error_px is not None and (error_px < 0 or error_px > LARGEST_ERROR_PX):  # NaN: nobody measured it
        raise ValueError("error_px is no distance of landmarks")
    check_table({name: value[None] for name, value in numbers.items() if name != "error_px"}, 1)
