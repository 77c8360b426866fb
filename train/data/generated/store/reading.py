"""Read a finished store of generated heads: any view of any head, by its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import camera_from_label
from triportrait.train.data.generated.store.layout import (
    FILES,
    FLAME,
    KIND,
    LARGEST_VIEWS,
    check_rows,
    check_volume,
    read_volume,
    seen_shapes,
    truth_shapes,
)
from triportrait.train.data.generated.truth import GeneratedTruth
from triportrait.train.data.head_model_file import stored_head_model
from triportrait.train.data.pictures import Pictures
from triportrait.train.data.shards.layout import INDEX
from triportrait.train.data.shards.reading import ShardedStore, whole_number

MOST_SIDE, MOST_RAYS, MOST_POINTS, MOST_CHANNELS = 8192, 1024, 1 << 20, 4096


class HeadStore(ShardedStore):
    """Read a finished store; nothing of it is in memory but the index and the tables of a few shards.

    Args:
        folder: as `triportrait prepare genhead` makes it.
        contents: compare every file with its checksum, not only its size.

    Attributes:
        size: S, side of the pictures in px. views: V. features: whether feature images are kept.
        head_model: whose parameters these are. generator: fingerprint of the GenHead that drew the heads.

    Raises: `InputError` for what is no store, is not finished, or is damaged.
    """

    kind, what, items = KIND, "a store of generated heads", "heads"

    def __init__(self, folder: Path, contents: bool = False) -> None:
        super().__init__(folder, contents)
        self.check_model(contents)

    def check_model(self, contents: bool = True) -> None:
        """Check that the files of the head model are there, with `contents` bit by bit. Raises: `InputError`."""
        for name, said in self._flame.items():
            path = self.folder / FLAME / name
            whole = path.is_file() and path.stat().st_size == said["bytes"]
            if not whole or (contents and fingerprint(path) != said):
                raise InputError(
                    f"{path}: it is not what the index says (missing, damaged or changed); make the store again"
                )

    def read_index(self, index: Mapping[str, Any]) -> None:
        """Take sizes, the head model and the generator."""
        self.size, self.views = whole_number(index["size"], MOST_SIDE), whole_number(index["views"], LARGEST_VIEWS)
        self.features, self.generator, self._flame = index["features"], index["generator"], index["flame"]
        sizes = [
            whole_number(index[name], most)
            for name, most in (("ray_size", MOST_RAYS), ("channels", MOST_CHANNELS), ("points", MOST_POINTS))
        ]
        if type(self.features) is not bool or type(self.generator) is not str:
            raise ValueError("features and generator are something else")
        if any(Path(name).name != name or type(said["bytes"]) is not int for name, said in self._flame.items()):
            raise ValueError("no files of a head model")
        ray_size, channels, points = sizes
        self._shapes = seen_shapes(ray_size), truth_shapes(ray_size, channels, points, self.features)
        self.head_model = stored_head_model(index, f"{self.folder / INDEX}: head_model")

    def check_rows(self, table: Mapping[str, np.ndarray], count: int, tar_bytes: int) -> None:
        """Check the table of a shard. Raises: `ValueError`, in words."""
        check_rows(table, count, self.views, tar_bytes)

    def pictures(self, heads: Sequence[int], views: Sequence[int], with_truth: bool = True) -> Pictures:
        """Read B views, one of each head, on the CPU, and with `with_truth` what is behind them.

        Raises: `InputError` where one cannot be read, or has another size.
        """
        rows = [self.row(head) for head in heads]
        seen = [self._view(head, view, row, with_truth) for head, view, row in zip(heads, views, rows, strict=True)]

        def column(name: str) -> Tensor:
            return torch.from_numpy(np.stack([row[name][view] for row, view in zip(rows, views, strict=True)]))

        def volume(name: str) -> Tensor:
            return torch.stack([one[name] for _, one in seen])

        truth = None
        if with_truth:
            foreground = volume("foreground") if self.features else None
            truth = GeneratedTruth(volume("points"), volume("plane_feature"), volume("background"), foreground)
        return Pictures(
            image=torch.from_numpy(np.stack([image for image, _ in seen])).permute(0, 3, 1, 2).float() / 127.5 - 1,
            opacity=volume("opacity"),
            depth=volume("depth"),
            landmarks=column("landmarks"),
            camera=camera_from_label(column("camera")),
            motion=torch.cat([column("expression"), column("pose")[:, 3:], column("eyes")], 1),
            neck=None,  # straight: there is nothing to undo
            points=column("points"),
            truth=truth,
            origin=tuple(f"{self.folder} head {int(row['number'])}" for row in rows),
        )

    def verify(self, shard: int, deep: bool = False) -> None:
        """Compare the files of a shard with their checksums, check its table and read its first and last head.

        Args:
            deep: read every head.

        Raises: `ValueError`, in words.
        """
        self.check_files(shard)
        first, last = self.first[shard], self.first[shard + 1] - 1
        for head in range(first, last + 1) if deep else sorted({first, last}):
            row = self.row(head)
            for view in range(self.views):
                check_volume(self._view(head, view, row, True)[1])

    def _view(
        self, head: int, view: int, row: Mapping[str, np.ndarray], with_truth: bool
    ) -> tuple[np.ndarray, dict[str, Tensor]]:
        """Read a view: uint8 [S, S, 3], and its volume. Raises: `InputError`."""
        from triportrait.serve.media.pictures.picture_file import decode_picture

        shard, _ = self.place(head)
        shapes = self._shapes if with_truth else self._shapes[:1]
        places = row["place"][view].reshape(FILES, 2).tolist()
        data, *volumes = self.read_tar(shard, *((at, length) for at, length in places[: 1 + len(shapes)]))
        name = f"{self.folder} head {int(row['number'])} view {view}"
        image = decode_picture(data, name, MOST_SIDE**2)
        if image.shape[:2] != (self.size, self.size):
            raise InputError(
                f"{name}: expected {self.size} x {self.size} px, got {image.shape[1]} x {image.shape[0]}; make the "
                "store again"
            )
        try:
            read = [read_volume(volume, wanted) for volume, wanted in zip(volumes, shapes, strict=True)]
        except ValueError as error:
            raise InputError(f"{name}: {error}; make the store again") from error
        return image, {name: value for volume in read for name, value in volume.items()}
