"""Draw the pairs of frames of stored clips from which stage 2 learns (section 4.3).

Every clip comes once in an epoch, in an order that follows from the seed and the epoch. Images are numbered over the
whole run and over all ranks, and an image's number is its place in the epochs, so that a draw does not depend on the
draws before it. Letters: B pairs, N frames, S side of the pictures, h of the ray grid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.types import Camera, NeckGrid
from triportrait.train.data.clip_store.frames import Decoder
from triportrait.train.data.clip_store.store import ClipStore, unpack_masks
from triportrait.train.data.clip_store.tracks import Tracks
from triportrait.train.data.heads.rasterize import project
from triportrait.train.data.pictures import Pictures, join_necks
from triportrait.train.data.resize import shrink

FRAMES_CACHED, NECKS_CACHED = 256, 2048  # about 200 MB each at the published sizes
TRIES = 100  # clips that may stand in for one that cannot be used
_ORDER = 71  # of the streams of random numbers, the one that shuffles

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """A cache of the values that were used last.

    Attributes:
        requests, hits: how often a value was requested, and how often it was there.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._values = capacity, OrderedDict[Hashable, Value]()
        self.requests = self.hits = 0

    def get(self, key: Hashable) -> Value | None:
        """Return the value of a key, None where it is not there."""
        self.requests += 1
        if key not in self._values:
            return None
        self.hits += 1
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Hashable, value: Value) -> None:
        """Store a value, and drop the least recently used one where there are too many."""
        self._values[key] = value
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)


class ClipPictures:
    """The clips of a store, from which stage 2 draws pairs of frames.

    Args:
        store: the clips; damaged ones are found when they are drawn.
        model: holds the sizes of the ray grid and of the neck's grids.
        tracks: reads the tables.
        seed: decides the order of the clips.
        decode: reads the videos.
        most_skipped: share of the clips that may be left out before training stops.
        positions: whether the pictures carry positions, which a discriminator sees.
        chosen: the numbers of the clips that are drawn from, as the others are held out; None: all are.

    Attributes:
        skipped: clips that could not be used, and why; others came in their place.

    Raises: `InputError` for pictures of another size.
    """

    def __init__(
        self,
        store: ClipStore,
        model: ModelConfig,
        tracks: Tracks,
        seed: int,
        decode: Decoder,
        most_skipped: float = 0.05,
        positions: bool = False,
        chosen: Sequence[int] | None = None,
    ) -> None:
        if store.size != model.image_size:
            raise InputError(
                f"{store.folder}: expected pictures of {model.image_size} px, got {store.size}; make the store again"
            )
        self.store, self.model, self.tracks = store, model, tracks
        self.chosen = list(range(len(store)) if chosen is None else chosen)
        self.skipped: dict[str, str] = {}
        self._seed, self._decode, self._most_skipped, self._positions = seed, decode, most_skipped, positions
        self._columns = {"mask": -(-(store.size**2) // 8), **tracks.columns} | dict.fromkeys(
            tracks.position_columns if positions else ()
        )
        self._flaws: dict[int, str | None] = {}  # by clip, of those that were verified
        self._frames, self._necks = LruCache[Tensor](FRAMES_CACHED), LruCache[NeckGrid](NECKS_CACHED)
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def pairs(
        self, count: int, front_sources: float, streams: np.random.Generator, place: int, first: int = 0
    ) -> tuple[Pictures, Pictures]:
        """Draw B sources and B driving pictures, two different frames of one clip each; the arguments alone decide.

        Args:
            front_sources: unused, as a clip has one view of each moment, and most are near the front.
            place: number of the first image.
            first: how many clips, from the first on, are drawn from; 0 stands for all.

        Raises:
            InputError: an image finds no clip that can be used.
        """
        return self._pairs_of(*self._drawn(count, streams, place, first))

    def faces(self, count: int, streams: np.random.Generator, place: int) -> tuple[Pictures, Pictures]:
        """Draw two different frames of each of B clips, without the necks, which take longest; as `pairs` draws them.

        Raises:
            InputError: an image finds no clip that can be used.
        """
        clips, rows, images = self._drawn(count, streams, place, 0)
        return self._faces_of(clips, rows, images)

    def face_pair(self, clip: int, one: int, other: int) -> tuple[Pictures, Pictures]:
        """Return two frames of a clip of the store, without the necks.

        Raises: `ValueError`, in words, where the clip cannot be used.
        """
        return self._faces_of([clip], [(one, other)], self._frames_of(clip, one, other))

    def _drawn(
        self, count: int, streams: np.random.Generator, place: int, first: int
    ) -> tuple[list[int], list[tuple[int, int]], Tensor]:
        """Draw B clips that can be used, two rows of each, and their frames [B, 2, S, S, 3]."""
        generators = [np.random.default_rng(number) for number in streams.integers(2**62, size=count)]
        clips = [self.clip_at(place + i, first) for i in range(count)]
        rows = [(0, 0)] * count
        drawn: list[Tensor | None] = [None] * count
        reason = ""
        for _ in range(TRIES):
            requested: list[int] = []
            for i in (i for i in range(count) if drawn[i] is None):
                try:
                    rows[i] = self._draw_rows(clips[i], generators[i])
                    requested.append(i)
                except ValueError as error:
                    reason = self._skip(clips[i], error)
            for i, frames in zip(requested, self._read([(clips[i], rows[i]) for i in requested]), strict=True):
                if isinstance(frames, Tensor):
                    drawn[i] = frames
                else:
                    reason = self._skip(clips[i], frames)
            decoded = [frames for frames in drawn if frames is not None]
            if len(decoded) == count:
                return clips, rows, torch.stack(decoded)
            for i in (i for i in range(count) if drawn[i] is None):
                clips[i] = self.chosen[int(generators[i].integers(first or self.heads))]
        raise InputError(f"{self.store.folder}: none of {TRIES} clips can be used ({reason}); make the store again")

    def pair(self, clip: int, source: int, driving: int) -> tuple[Pictures, Pictures]:
        """Return two frames of a clip of the store as one source and one driving picture.

        Raises: `ValueError`, in words, where the clip cannot be used.
        """
        return self._pairs_of([clip], [(source, driving)], self._frames_of(clip, source, driving))

    def _frames_of(self, clip: int, one: int, other: int) -> Tensor:
        """Return two frames of a clip, [1, 2, S, S, 3]. Raises: `ValueError` where the clip cannot be used."""
        if (flaw := self._flaw(clip)) is not None:
            raise ValueError(flaw)
        (frames,) = self._read([(clip, (one, other))])
        if not isinstance(frames, Tensor):
            raise frames
        return frames[None]

    def _faces_of(
        self, clips: Sequence[int], rows: Sequence[tuple[int, int]], images: Tensor
    ) -> tuple[Pictures, Pictures]:
        """Put two pictures of each of B clips together from their frames [B, 2, S, S, 3], without necks."""
        tables = [self.store.table(clip) for clip in clips]
        origin = tuple(str(self.store.path(clip)) for clip in clips)
        one, other = (self._pictures(tables, [pair[k] for pair in rows], images[:, k], None, origin) for k in (0, 1))
        return one, other

    def _pairs_of(
        self, clips: Sequence[int], rows: Sequence[tuple[int, int]], images: Tensor
    ) -> tuple[Pictures, Pictures]:
        """Put B sources and B driving pictures together from their frames [B, 2, S, S, 3]."""
        source, driving = ([pair[k] for pair in rows] for k in (0, 1))
        tables = [self.store.table(clip) for clip in clips]
        necks = [self._neck(*key) for key in zip(clips, tables, source, driving, strict=True)]
        origin = tuple(str(self.store.path(clip)) for clip in clips)
        return (
            self._pictures(tables, source, images[:, 0], None, origin),
            self._pictures(tables, driving, images[:, 1], join_necks(necks), origin),
        )

    def clip_at(self, place: int, first: int = 0) -> int:
        """Return the clip of an image: each of the first ones, or of all, comes once in an epoch."""
        epoch, within = divmod(place, first or self.heads)
        return self.chosen[int(self._order(epoch, first or self.heads)[within])]

    @property
    def heads(self) -> int:
        """The number of clips that are drawn from."""
        return len(self.chosen)

    @property
    def motion_width(self) -> int:
        """The number of parameters of an expression."""
        return self.tracks.parameter_width

    def check_skipped(self, skipped: Mapping[str, str]) -> None:
        """Check how many clips were left out. Raises: `InputError` where there are more than `most_skipped`."""
        if len(skipped) > self._most_skipped * self.heads:
            name, reason = next(iter(skipped.items()))
            raise InputError(
                f"{self.store.folder}: {len(skipped)} of {self.heads} clips cannot be used, more than "
                f"{self._most_skipped:.0%} ({name}: {reason}); make the store again or allow more by --most-skipped"
            )

    def log_numbers(self) -> dict[str, float]:
        """Return for the log the hit rates of the caches, and how many clips were left out."""
        caches = {"frames": (self._frames.hits, self._frames.requests), "tables": self.store.table_cache(),
                  "necks": (self._necks.hits, self._necks.requests)}  # fmt: skip
        shares = {f"data_{name}_cached": round(hits / max(count, 1), 3) for name, (hits, count) in caches.items()}
        return shares | {"data_left_out": len(self.skipped)}

    def _shuffled(self, epoch: int, count: int) -> np.ndarray:
        return np.random.default_rng([self._seed, _ORDER, epoch]).permutation(count)

    def _draw_rows(self, clip: int, generator: np.random.Generator) -> tuple[int, int]:
        """Draw two different frames of a clip. Raises: `ValueError`, in words, where the clip cannot be used."""
        if clip not in self._flaws:
            self._flaws[clip] = self._flaw(clip)
        if (flaw := self._flaws[clip]) is not None:
            raise ValueError(flaw)
        frames = self.store.frames_of[clip]
        source = int(generator.integers(frames))
        return source, (source + int(generator.integers(1, frames))) % frames

    def _flaw(self, clip: int) -> str | None:
        try:
            self.store.verify(clip)
        except ValueError as error:
            return str(error)
        table = self.store.table(clip)
        for name, width in self._columns.items():
            if name not in table:
                return f"its table has no {name}"
            if width is not None and table[name].shape[1:2] != (width,):
                return f"its {name} has rows of {table[name].shape[1:]}, expected {width}"
        return "it has one frame only" if self.store.frames_of[clip] < 2 else None

    def _skip(self, clip: int, error: ValueError) -> str:
        return self.skipped.setdefault(self.store.clips[clip], str(error))

    def _read(self, pairs: Sequence[tuple[int, tuple[int, int]]]) -> list[Tensor | ValueError]:
        """Return uint8 [2, S, S, 3] of each clip and pair of frames, or the error that tells why there is none."""
        images: list[Tensor | ValueError | None] = []
        for clip, rows in pairs:
            cached = [frame for frame in (self._frames.get((clip, row)) for row in rows) if frame is not None]
            images.append(torch.stack(cached) if len(cached) == len(rows) else None)
        missing = [i for i, frames in enumerate(images) if frames is None]
        requests: list[tuple[Path, Sequence[int]]] = [(self.store.path(pairs[i][0]), pairs[i][1]) for i in missing]
        for i, frames in zip(missing, self._decode(requests) if requests else [], strict=True):
            size = self.store.size
            if isinstance(frames, Tensor) and tuple(frames.shape) != (2, size, size, 3):
                frames = ValueError(f"its frames have {frames.shape[1]} x {frames.shape[2]} px, expected {size}")
            images[i] = frames
            if isinstance(frames, Tensor):
                for row, frame in zip(pairs[i][1], frames, strict=True):
                    self._frames.put((pairs[i][0], row), frame)
        return [frames for frames in images if frames is not None]

    def _pictures(
        self,
        tables: Sequence[Mapping[str, np.ndarray]],
        rows: Sequence[int],
        images: Tensor,
        neck: NeckGrid | None,
        origin: tuple[str, ...],
    ) -> Pictures:
        """Put together B frames [B, S, S, 3] and what their tables say."""
        size, h = self.store.size, self.model.render.neural_size
        pairs = [self.tracks.cameras_and_landmarks(table, [row]) for table, row in zip(tables, rows, strict=True)]
        points, cameras = torch.cat([p for _, p in pairs]), [c for c, _ in pairs]
        pose, intrinsics = (torch.cat([getattr(c, n) for c in cameras]) for n in ("world_from_camera", "intrinsics"))
        camera = Camera(pose, intrinsics)
        masks = unpack_masks(np.stack([table["mask"][row] for table, row in zip(tables, rows, strict=True)]), size)
        features = [self.tracks.features(table, [row]) for table, row in zip(tables, rows, strict=True)]
        known_features = [f for f in features if f is not None]
        positions = []
        if self._positions:
            positions = [self.tracks.positions(table, [row], size) for table, row in zip(tables, rows, strict=True)]
        return Pictures(
            image=images.permute(0, 3, 1, 2).float() / 127.5 - 1,
            opacity=shrink(torch.from_numpy(masks).float()[:, None], h),
            depth=None,
            landmarks=project(points, camera, size)[0] + 0.5,
            camera=camera,
            motion=torch.cat([self.tracks.parameters(table, [row]) for table, row in zip(tables, rows, strict=True)]),
            neck=neck,
            positions=torch.cat(positions) if positions else None,
            points=points,
            features=torch.cat(known_features) if known_features else None,
            origin=origin,
        )

    def _neck(self, clip: int, table: Mapping[str, np.ndarray], source: int, driving: int) -> NeckGrid:
        key = (clip, source if self.tracks.neck_of_source else None, driving)
        grid = self._necks.get(key)
        if grid is None:
            grid = self.tracks.neck(table, source, driving)
            self._necks.put(key, grid)
        return grid
