"""Where GenHead's training finds pictures with parameters and masks: a picture store, or published tables and a folder.

    DIR/align_images/*.png|jpg|webp    the pictures, aligned, in the order of their names
    DIR/segs/NAME.png                  the mask of each, white on the person
    TABLES/ffhq_all_shape_n_c_params.npy, ffhq_all_motion_params.npy    a row for each, in the same order

Letters: S side of a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from triportrait.core.checksum import fingerprint
from triportrait.core.errors import InputError
from triportrait.core.files import read_bytes
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.serve.media.pictures.picture_folder import as_people_count
from triportrait.train.data.head_model_file import stored_head_model
from triportrait.train.data.parameter_tables import AT_A_TIME, CAMERA_SHAPE, MOTION, read_tables
from triportrait.train.data.picture_store.store import LARGEST_ENCODED, MOST_SIDE, PictureStore

Rows = Mapping[str, np.ndarray]  # camera [n, 25], shape [n, 300], expression [n, 100], pose [n, 6], eyes [n, 6]
PICTURES, MASKS = "align_images", "segs"
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}


class PictureSource(Protocol):
    """Pictures by their numbers.

    Attributes:
        folder: where they lie. size: S. head_model: whose parameters these are.
    """

    folder: Path
    size: int
    head_model: ModelIdentity

    def __len__(self) -> int: ...

    def parts(self) -> Iterator[Rows]:
        """Yield the parameters of all pictures in order, some at a time. Raises: `InputError` for damaged ones."""
        ...

    def picture(self, picture: int) -> np.ndarray:
        """Return a picture, uint8 [S, S, 3]. Raises: `InputError` for a damaged one."""
        ...

    def mask(self, picture: int) -> np.ndarray:
        """Return uint8 [S, S], 1 on the person. Raises: as `picture`."""
        ...

    def files(self) -> dict[str, Any]:
        """Return what can be said of each file at once, plain JSON values, so that other data can be told from them."""
        ...


class StoredPictures:
    """The pictures of a store. See `PictureSource`."""

    def __init__(self, folder: Path) -> None:
        self._store = store = PictureStore(folder)
        self.folder, self.size = folder, store.size
        self.head_model = stored_head_model(store.index, f"{folder / 'index.json'}: head_model")
        self.picture, self.mask = store.picture, store.mask

    def __len__(self) -> int:
        return len(self._store)

    def parts(self) -> Iterator[Rows]:
        """See `PictureSource`."""
        for shard in range(len(self._store.shards)):
            yield self._store.table(shard)

    def files(self) -> dict[str, Any]:
        """See `PictureSource`."""
        return {shard.name: shard.files for shard in self._store.shards}


class TabledPictures:
    """The pictures of a folder in the published layout, with published tables. See `PictureSource`.

    Args:
        folder: DIR. tables: TABLES, of stills.

    Raises: `InputError` where pictures, masks or tables are missing, or their numbers differ.
    """

    def __init__(self, folder: Path, tables: Path) -> None:
        self.folder, self._tables_folder = folder, tables
        self._tables = read_tables(tables)
        self.head_model = self._tables.head_model
        if not (folder / PICTURES).is_dir():
            raise InputError(f"{folder}: expected a folder with {PICTURES}/ and {MASKS}/ in it; name another")
        found = (path for path in (folder / PICTURES).iterdir() if path.suffix.lower() in ENDINGS)
        self._paths = sorted((path for path in found if not path.name.startswith(".")), key=as_people_count)
        if len(self._paths) != len(self._tables.camera_shape):
            raise InputError(
                f"{folder / PICTURES}: expected {len(self._tables.camera_shape):,} pictures, as {tables} has rows, got "
                f"{len(self._paths):,}; name the tables of these pictures"
            )
        stems = Counter(path.stem for path in self._paths)
        for path in self._paths:
            if stems[path.stem] > 1:
                raise InputError(
                    f"{path}: expected one picture of this name, as masks are found by it, got {stems[path.stem]}; "
                    "take the others away"
                )
            if not self._mask_path(path).is_file():
                raise InputError(f"{self._mask_path(path)}: expected the mask of {path.name}, none is there; make it")
        if not self._paths:
            raise InputError(f"{folder / PICTURES}: expected pictures, got none; name another folder")
        self.size = 0
        self.size = self._read(self._paths[0]).shape[0]

    def __len__(self) -> int:
        return len(self._paths)

    def parts(self) -> Iterator[Rows]:
        """See `PictureSource`."""
        tables = self._tables
        for start in range(0, len(self), AT_A_TIME):
            camera_shape, motion = (
                np.asarray(table[start : start + AT_A_TIME], np.float32)
                for table in (tables.camera_shape, tables.motion)
            )
            yield {
                "camera": camera_shape[:, :25], "shape": camera_shape[:, 25:], "expression": motion[:, :100],
                "pose": motion[:, 100:106], "eyes": motion[:, 106:],
            }  # fmt: skip

    def picture(self, picture: int) -> np.ndarray:
        """See `PictureSource`."""
        return self._read(self._paths[picture])

    def mask(self, picture: int) -> np.ndarray:
        """See `PictureSource`."""
        return (self._read(self._mask_path(self._paths[picture]))[..., 0] >= 128).astype(np.uint8)

    def files(self) -> dict[str, Any]:
        """See `PictureSource`; of pictures and masks the sizes in bytes, of tables the checksums."""
        sizes = {path.name: [p.stat().st_size for p in (path, self._mask_path(path))] for path in self._paths}
        names = [f"ffhq_{table}.npy" for table in (CAMERA_SHAPE, MOTION)]
        return sizes | {name: fingerprint(self._tables_folder / name) for name in names}

    def _mask_path(self, picture: Path) -> Path:
        return self.folder / MASKS / f"{picture.stem}.png"

    def _read(self, path: Path) -> np.ndarray:
        from triportrait.serve.media.pictures.picture_file import decode_picture

        try:
            image: np.ndarray = decode_picture(read_bytes(path, LARGEST_ENCODED), str(path), MOST_SIDE**2)
        except OSError as error:
            raise InputError(f"{path}: it cannot be read; make it again") from error
        side = self.size or image.shape[0]
        if image.shape[:2] != (side, side):
            raise InputError(
                f"{path}: expected {side} x {side} px, got {image.shape[1]} x {image.shape[0]}; align it again"
            )
        return image


def picture_source(data: Path, tables: Path | None) -> PictureSource:
    """Open a picture store, or a folder of pictures where tables of their parameters are named.

    Raises: `InputError` for anything else.
    """
    return StoredPictures(data) if tables is None else TabledPictures(data, tables)
