"""Read a finished picture store: any picture by its number, or all of them again and again in changing orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.train.data.head_model_file import identity_in
from triportrait.train.data.picture_store import layout
from triportrait.train.data.shards.layout import INDEX
from triportrait.train.data.shards.reading import ShardedStore, whole_number

MOST_SIDE = 8192  # px
LARGEST_ENCODED = 64 << 20  # bytes of a picture


class PictureStore(ShardedStore):
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

    kind, what, items = layout.KIND, "a picture store", "pictures"

    def read_index(self, index: Mapping[str, Any]) -> None:
        """Take the size and the head model."""
        self.size = whole_number(index["size"], MOST_SIDE)
        self.head_model = identity_in(index, f"{self.folder / INDEX}: head_model")

    def check_rows(self, table: Mapping[str, np.ndarray], count: int, tar_bytes: int) -> None:
        """Check the table of a shard. Raises: `ValueError`, in words."""
        layout.check_rows(table, count, tar_bytes)
        if (table["place"][:, (1, 3)] > LARGEST_ENCODED).any():
            raise ValueError("a picture has more bytes than any")

    def encoded(self, picture: int) -> tuple[bytes, bytes]:
        """Return the files of a picture and of its mask. Raises: `InputError` where they cannot be read."""
        shard, row = self.place(picture)
        at, length, mask_at, mask_length = self.table(shard)["place"][row].tolist()
        image, mask = self.read_tar(shard, (at, length), (mask_at, mask_length))
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
        self.check_files(shard)
        first, last = self.first[shard], self.first[shard + 1] - 1
        for picture in range(first, last + 1) if deep else sorted({first, last}):
            self.picture(picture)
            self.mask(picture)

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
