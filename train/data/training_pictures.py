"""Read pictures with parameters and masks for GenHead's own training, again and again in changing orders.

Each picture is seen as often in an epoch as a table of replications says, and as its mirror image as often: rare views
and expressions count more (the published FFHQ has 70,000 pictures and 216,414 entries). Parameters are in memory,
pictures are read when they are shown. Letters: B pictures, S their side, N entries of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.config import GenHeadConfig
from triportrait.core.errors import InputError
from triportrait.core.files import ARRAY_DAMAGE, check_regular
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.types import Camera
from triportrait.train.data.head_mirror import HeadMirror
from triportrait.train.data.picture_sources import PictureSource
from triportrait.train.data.picture_store.layout import PARAMETERS
from triportrait.train.data.resize import shrink
from triportrait.train.data.upload import upload

MOST_REPLICATION = 1000  # of one picture in an epoch
_ORDER = 75  # of the streams of random numbers, the one that shuffles entries


@dataclass(frozen=True)
class HeadParameters:
    """B heads and the cameras that look at them; the camera holds the head's whole pose, the neck is straight.

    Attributes:
        camera: B cameras.
        shape: [B, num_shape]. expression: [B, num_expression].
        pose: [B, 6], rotation vectors of the neck, 0, and the jaw. eyes: [B, 6].
    """

    camera: Camera
    shape: Tensor
    expression: Tensor
    pose: Tensor
    eyes: Tensor


@dataclass(frozen=True)
class RealPictures:
    """B pictures.

    Attributes:
        image: [B, 3, S, S] in [-1, 1]. mask: [B, 1, S, S] in [0, 1], 1 on the person.
        head: what they show.
        origin: the name of each of the B, so that a bad one can be found.
    """

    image: Tensor
    mask: Tensor
    head: HeadParameters
    origin: tuple[str, ...]


@dataclass(frozen=True)
class GenHeadBatch:
    """B real pictures, and the heads of B other entries, as which the generator draws."""

    real: RealPictures
    drawn: HeadParameters

    def to(self, device: torch.device | str) -> GenHeadBatch:
        """Return the batch on a device."""
        return upload(self, device)


class TrainingPictures:
    """The pictures of a source as GenHead's training sees them.

    Args:
        store: aligned pictures.
        config: the generator's sizes; larger pictures are shrunk.
        chosen: numbers of the pictures that are seen, as the others are held out; None: all.
        replication: [pictures of the source] int64, how often each is seen in an epoch; None: once.
        mirror: of the head model, where pictures are seen flipped, too.
        seed: of the order.

    Raises: `InputError` for smaller pictures, of heads that the generator cannot pose, of cameras within
        the head, or of no pictures.
    """

    def __init__(
        self,
        store: PictureSource,
        config: GenHeadConfig,
        chosen: Sequence[int] | None = None,
        replication: np.ndarray | None = None,
        mirror: HeadMirror | None = None,
        seed: int = 0,
    ) -> None:
        self.store, self.size, self._mirror, self._seed = store, config.image_size, mirror, seed
        if store.size < self.size:
            raise InputError(
                f"{store.folder}: expected pictures of {self.size} px or more, got {store.size}; make them again, "
                f"`prepare pictures` by --size {self.size}"
            )
        widths = {"shape": config.neck.num_shape, "expression": config.neck.num_expression}
        self._rows = _parameters(store, widths, config.render.box_side)
        numbers = np.arange(len(store)) if chosen is None else np.asarray(chosen, np.int64)
        once = np.ones(len(store), np.int64) if replication is None else replication
        self.entries = np.repeat(numbers, once[numbers])
        if not len(self.entries):
            raise InputError(
                f"{store.folder}: expected pictures to train on, the split and the replications leave none"
            )
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return len(self.entries) * (1 if self._mirror is None else 2)

    def draw(self, count: int, streams: np.random.Generator, place: int) -> GenHeadBatch:
        """Return B real pictures and the parameters of B entries by chance; the arguments alone decide.

        Args:
            place: number of the first image, over the whole run: every entry is shown once in an epoch.
        """
        epochs = [divmod(place + k, len(self)) for k in range(count)]
        shown = np.array([self._order(epoch)[at] for epoch, at in epochs])
        return GenHeadBatch(self.real(shown), self.heads(streams.integers(len(self), size=count)))

    def real(self, entries: np.ndarray) -> RealPictures:
        """Return the pictures of entries [B]. Raises: `InputError` for one that is damaged."""
        numbers, is_flipped = self._pictures(entries)
        images: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        for number, flips in zip(numbers.tolist(), is_flipped.tolist(), strict=True):
            for read, rows in ((self.store.picture, images), (self.store.mask, masks)):
                rows.append(np.ascontiguousarray(read(number)[:, :: -1 if flips else 1]))
        image = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        mask = torch.from_numpy(np.stack(masks))[:, None].float()
        origin = tuple(f"{self.store.folder} picture {number}" for number in numbers.tolist())
        return RealPictures(shrink(image, self.size), shrink(mask, self.size), self.heads(entries), origin)

    def heads(self, entries: np.ndarray) -> HeadParameters:
        """Return the parameters of entries [B]."""
        numbers, is_flipped = self._pictures(entries)
        rows = {name: column[numbers] for name, column in self._rows.items()}
        if self._mirror is not None:
            other = self._mirror.flipped(rows)
            rows = {name: np.where(is_flipped[:, None], other[name], rows[name]) for name in rows}
        camera = camera_from_label(torch.from_numpy(rows.pop("camera")))
        rows["pose"] = np.concatenate([np.zeros_like(rows["pose"][:, :3]), rows["pose"][:, 3:]], 1)
        return HeadParameters(camera, **{name: torch.from_numpy(column).float() for name, column in rows.items()})

    def _pictures(self, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of each entry's picture, and whether it is flipped."""
        return self.entries[entries % len(self.entries)], entries >= len(self.entries)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([_ORDER, self._seed, epoch]).permutation(len(self))


def read_replication(path: Path, pictures: int) -> np.ndarray:
    """Read how often each picture is seen in an epoch: an .npy of whole numbers, in the order of the pictures.

    Raises: `InputError` where it is no such table.
    """
    try:
        check_regular(path)
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(table, np.ndarray) or table.dtype.kind not in "iu" or table.ndim != 1:
            raise ValueError("another array")
    except (OSError, *ARRAY_DAMAGE) as error:
        raise InputError(
            f"{path}: expected an .npy of whole numbers, one for each picture, it is missing, damaged or "
            "another; name another file"
        ) from error
    if len(table) != pictures:
        raise InputError(
            f"{path}: expected {pictures:,} numbers, as there are pictures, got {len(table):,}; name the table of these"
        )
    if len(table) and (table.min() < 0 or table.max() > MOST_REPLICATION):
        raise InputError(
            f"{path}: expected numbers from 0 to {MOST_REPLICATION}, got {table.min()} to {table.max()}; mend it"
        )
    return np.asarray(table, np.int64)


def _parameters(store: PictureSource, widths: dict[str, int], box_side: float) -> dict[str, np.ndarray]:
    """Read the parameters of all pictures, and cut them to the generator's numbers of directions."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in PARAMETERS}
    for table in store.parts():
        for name, columns in rows.items():
            width = widths.get(name, PARAMETERS[name])
            if table[name][:, width:].any():
                raise InputError(
                    f"{store.folder}: expected heads of {width} numbers of {name}, as the generator has, some have "
                    "more; choose the generator of their head model"
                )
            columns.append(np.asarray(table[name][:, :width], np.float32))
    whole = {name: np.concatenate(columns) for name, columns in rows.items()}
    camera = whole["camera"][:, :16].reshape(-1, 4, 4)
    distance = np.abs((camera[:, :3, 2] * camera[:, :3, 3]).sum(1))
    if len(distance) and distance.min() <= box_side / 2:
        raise InputError(
            f"{store.folder}: expected cameras before the head, that of picture {int(distance.argmin())} is within it; "
            "make them again"
        )
    return whole
