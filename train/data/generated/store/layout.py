"""The names and the rows of a store of generated heads, which lies in shards (`train.data.shards`).

    index.json          whose heads these are, how they were drawn, sizes and checksums
    flame/              the head model, as a weights folder has it
    shard_000000.tar    three files for each view of each head:
        00000012_0.png                  the picture (or .jpg, .webp)
        00000012_0.safetensors          opacity and depth [1, h, h]
        00000012_0.planes.safetensors   points [P, 3], plane_feature [P, C] and background [3, h, h]; with feature
                                        images foreground and background [C, h, h]
    shard_000000.npz    a row for each head: int64 number [N], place [N, V, 6], offset and length of the files in the
                        tar; bool is_static [N]; float32 shape [N, 300], camera [N, V, 25], expression [N, V, 100],
                        pose [N, V, 6], eyes [N, V, 6], points [N, V, 68, 3] (landmarks, scene units) and
                        landmarks [N, V, 68, 2] (pixels)

Depth and points are float32, the rest of the volume is float16.

Letters: N heads of a shard, V views, S side of a picture, h of the ray grid, P points, C channels of a plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from triportrait.core.files import MOST_INDEX, read_json
from triportrait.train.data.arrays import check_finite, check_rotations, check_shapes
from triportrait.train.data.clip_store.store import LARGEST
from triportrait.train.data.clip_store.tracks import LANDMARKS
from triportrait.train.data.shards.layout import BEGUN, holds_store

Shapes = Mapping[str, tuple[int, ...]]
KIND, SOURCE = "triportrait generated heads", "genhead"
FLAME = "flame"
LARGEST_VIEWS, LARGEST_FILE = 16, 64 << 20  # bytes
WIDE = ("depth", "points")  # float32
FILES = 3  # of a view
LARGEST_PLACE_PX = 1e6  # of a landmark, which may lie far beside a picture
ROWS: dict[str, tuple[tuple[int | str, ...], type]] = {  # shape of a row, V for the number of views; and dtype
    "number": ((), np.int64), "place": (("V", 2 * FILES), np.int64), "is_static": ((), np.bool_),
    "shape": ((300,), np.float32), "camera": (("V", 25), np.float32), "expression": (("V", 100), np.float32),
    "pose": (("V", 6), np.float32), "eyes": (("V", 6), np.float32), "points": (("V", LANDMARKS, 3), np.float32),
    "landmarks": (("V", LANDMARKS, 2), np.float32),
}  # fmt: skip


def is_head_store(folder: Path) -> bool:
    """Tell whether a folder is a store of generated heads, finished or not."""
    if holds_store(folder, KIND):
        return True
    try:
        return bool(read_json(folder / BEGUN, MOST_INDEX)["source"] == SOURCE)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def file_name(number: int, view: int) -> str:
    """Return the name of a view's files in the tar without ending."""
    return f"{number:08d}_{view}"


def seen_shapes(ray_size: int) -> Shapes:
    """Return the shapes of what a view shows beside its picture, by name; `ray_size` is h."""
    return {"opacity": (1, ray_size, ray_size), "depth": (1, ray_size, ray_size)}


def truth_shapes(ray_size: int, channels: int, points: int, features: bool) -> Shapes:
    """Return the shapes of what is behind a view, by name.

    Args:
        ray_size: h. channels: C. points: P. features: whether feature images are kept.
    """
    images = ("foreground", "background") if features else ("background",)
    image = (channels if features else 3, ray_size, ray_size)
    return {"points": (points, 3), "plane_feature": (points, channels), **dict.fromkeys(images, image)}


def volume_bytes(shapes: Shapes) -> int:
    """Return the bytes of the numbers of such a file."""
    return sum(int(np.prod(shape)) * (4 if name in WIDE else 2) for name, shape in shapes.items())


def read_volume(data: bytes, shapes: Shapes) -> dict[str, Tensor]:
    """Read such a file: float32 by name.

    Raises: `ValueError`, in words, for damage or other shapes.
    """
    try:
        volume = load(data)
    except SafetensorError as error:
        raise ValueError("its volume cannot be read (damaged)") from error
    for name, shape in shapes.items():
        if name not in volume or tuple(volume[name].shape) != shape or not volume[name].is_floating_point():
            found = list(volume[name].shape) if name in volume else "none"
            raise ValueError(f"its {name} is {found}, expected {list(shape)} real numbers")
    return {name: volume[name].float() for name in shapes}


def check_volume(volume: Mapping[str, Tensor]) -> None:
    """Check that the numbers of a volume are finite. Raises: `ValueError`, in words."""
    for name, value in volume.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"its {name} is not finite")


def check_rows(table: Mapping[str, np.ndarray], heads: int, views: int, tar_bytes: int) -> None:
    """Check the table of a shard.

    Args:
        heads: how many rows it must have. views: V.
        tar_bytes: size of the tar, in which every file must lie.

    Raises: `ValueError`, in words.
    """
    sizes: dict[str, Any] = {
        name: ((heads, *(views if side == "V" else side for side in shape)), dtype)
        for name, (shape, dtype) in ROWS.items()
    }
    check_shapes(table, sizes)
    check_finite(table, {**LARGEST, "landmarks": LARGEST_PLACE_PX})
    check_rotations(table["camera"].reshape(-1, 25)[:, :16].reshape(-1, 4, 4)[:, :3, :3], "view")
    place, number = table["place"], table["number"]
    starts, lengths = place[..., ::2], place[..., 1::2]
    if (place < 0).any() or (starts + lengths > tar_bytes).any():
        raise ValueError("place reaches beyond the tar")
    if (lengths == 0).any() or (lengths > LARGEST_FILE).any():
        raise ValueError("place holds files of no size, or larger than any")
    if (number < 0).any() or (np.diff(number) <= 0).any():
        raise ValueError("number does not rise from head to head")
