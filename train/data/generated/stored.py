"""Heads of a store, as the training draws them: every head once in an epoch, its views by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.render.face_maps import FaceMaps
from triportrait.core.tracking.head_model import HeadModel, load_head_model
from triportrait.train.data.generated.source import GeneratedBatch
from triportrait.train.data.generated.store.layout import FLAME
from triportrait.train.data.generated.store.reading import HeadStore
from triportrait.train.data.pictures import Pictures
from triportrait.train.data.upload import upload

FACE = ("shape", "expression", "pose", "eyes")  # columns that place the mesh
_VIEWS = 74  # of the streams of random numbers, the one that chooses views


@dataclass(frozen=True)
class DrawnHeads:
    """B heads of a store, read but for positions.

    Attributes:
        batch: on the CPU.
        numbers: of source, target and motion, where positions are asked for: shape [B, 300], expression [B, 100],
            pose [B, 6] and eyes [B, 6].
    """

    batch: GeneratedBatch
    numbers: tuple[dict[str, Tensor], ...]


class StoredHeads:
    """A source of generated heads (`GeneratedHeads`) that reads them from a store.

    Args:
        folder: as `triportrait prepare genhead` makes it.
        seed: decides the order of the heads, and which of their views are drawn.
        motion: read the pictures whose motion is read, too.
        positions: pictures show where each point lies on the face at rest.
        chosen: the heads that are drawn from; None: all.
        device: where batches go.

    Raises:
        InputError: the store is missing, unfinished, damaged, or has too few views for `motion`.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        motion: bool = False,
        positions: bool = False,
        chosen: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.store = HeadStore(folder)
        least = 3 if motion else 2
        if self.store.views < least:
            raise InputError(
                f"{folder}: expected {least} views of each head, got {self.store.views}; make the store with --views "
                f"{least}"
            )
        self.head_model, self.generator = self.store.head_model, self.store.generator
        self.has_features, self.image_size = self.store.features, self.store.size
        self._seed, self._motion, self._device = seed, motion, torch.device(device)
        self._chosen = None if chosen is None else frozenset(chosen)
        self._positions = positions
        self._order = lru_cache(maxsize=2)(self._ordered)

    def __len__(self) -> int:
        """Return how many heads are drawn from."""
        return len(self.store) if self._chosen is None else len(self._chosen)

    @property
    def index(self) -> dict[str, Any]:
        """Return the index of the store."""
        return self.store.index

    @cached_property
    def model(self) -> HeadModel:
        """Return the head model whose heads these are, which the store keeps. Raises: `InputError` for damage."""
        return load_head_model(self.store.folder / FLAME)

    def draw(self, count: int, streams: np.random.Generator, place: int) -> DrawnHeads:
        """See `GeneratedHeads`; an image's number decides its head and views, so that `streams` decides nothing here.

        Raises: `InputError` for a head that cannot be read.
        """
        heads, views = [], []
        for number in range(place, place + count):
            epoch, within = divmod(number, len(self))
            heads.append(int(self._order(epoch)[within]))
            views.append(self._views(number, heads[-1]))
        is_static = torch.tensor([bool(self.store.row(head)["is_static"]) for head in heads])
        pictures, numbers = [], []
        for k in range(3 if self._motion else 2):
            chosen = [some[k] for some in views]
            pictures.append(self.store.pictures(heads, chosen, with_truth=k == 1))  # of the target
            numbers.append(self._numbers(heads, chosen) if self._positions else {})
        source, target, *others = pictures
        return DrawnHeads(GeneratedBatch(source, target, others[0] if others else None, is_static), tuple(numbers))

    def batch(self, drawn: DrawnHeads) -> GeneratedBatch:
        """See `GeneratedHeads`."""
        batch = upload(drawn.batch, self._device)
        if not self._positions:
            return batch
        source, target, *others = (
            replace(view, positions=self._drawn_positions(view, numbers))
            for view, numbers in zip((batch.source, batch.target, batch.motion), drawn.numbers, strict=False)
            if view is not None
        )
        return replace(batch, source=source, target=target, motion=others[0] if others else None)

    def log_numbers(self) -> dict[str, float]:
        """See `GeneratedHeads`; no generator runs."""
        return {}

    def _views(self, number: int, head: int) -> tuple[int, ...]:
        """Choose the views of source, target and motion of an image."""
        rng = np.random.default_rng([_VIEWS, self._seed, number])
        order = rng.permutation(self.store.views)
        if not bool(self.store.row(head)["is_static"]):  # the first view alone has the other face
            order = np.array([0, *order[order > 0]])
        return tuple(order.tolist())

    def _ordered(self, epoch: int) -> np.ndarray:
        order = self.store.order(self._seed, epoch)
        return np.fromiter((k for k in order if self._chosen is None or k in self._chosen), np.int64)

    def _numbers(self, heads: Sequence[int], views: Sequence[int]) -> dict[str, Tensor]:
        rows = [self.store.row(head) for head in heads]
        columns = {
            name: torch.from_numpy(np.stack([row[name][view] for row, view in zip(rows, views, strict=True)]))
            for name in FACE[1:]
        }
        return {"shape": torch.from_numpy(np.stack([row["shape"] for row in rows])), **columns}

    @torch.no_grad()
    def _drawn_positions(self, view: Pictures, numbers: dict[str, Tensor]) -> Tensor:
        field, maps = self._maps
        shape, expression, pose, eyes = (upload(numbers[name], self._device) for name in FACE)
        vertices, _ = field.flame(torch.cat([shape, expression], 1), pose[:, :3], pose[:, 3:], eyes)
        return maps.positions(vertices, view.camera, self.image_size)

    @cached_property
    def _maps(self) -> tuple[NeckField, FaceMaps]:
        field = self.model.neck_field().to(self._device)
        return field, FaceMaps(field)
