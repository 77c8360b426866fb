"""Heads that the generator makes as the training asks for them, as the published code does."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import genhead_fingerprint
from triportrait.core.tracking.head_model import HeadModel
from triportrait.train.data.generated.draws import GeneratedConfig, HeadDraws, HeadTables, draw_heads
from triportrait.train.data.generated.generate import HeadMaker, generator_model
from triportrait.train.data.generated.source import GeneratedBatch


class OnlineHeads:
    """A source of generated heads (`GeneratedHeads`) that makes each once and keeps none.

    Args:
        generator: with its head model, on the device of the training.
        tables: the folder of the tables from which heads are drawn.
        seed: with the number of a head it decides what is drawn.
        motion: make the pictures whose motion is read, too.
        positions: pictures show where each point lies on the face at rest.
        features: truths hold feature images.
        config: how heads are drawn and generated.

    Raises:
        InputError: the tables are missing, damaged, of another head model, or of more directions than the generator's.
    """

    def __init__(
        self,
        generator: GenHead,
        tables: Path,
        seed: int,
        motion: bool = False,
        positions: bool = False,
        features: bool = False,
        config: GeneratedConfig | None = None,
    ) -> None:
        config = config or GeneratedConfig()
        if config.views != GeneratedConfig.views:
            raise InputError(
                f"views: expected {GeneratedConfig.views}, source, motion and target, got {config.views}; leave it out"
            )
        self._maker = HeadMaker(generator, config, positions, features)
        self._tables, self._seed, self._motion = HeadTables(tables), seed, motion
        self._tables.check_fits(self._maker.head_model, generator.config)
        self.head_model, self.has_features = self._maker.head_model, features
        self.generator = genhead_fingerprint(generator)
        self._clock = BatchClock(self._maker.device)

    @property
    def model(self) -> HeadModel:
        """Return the head model whose heads these are."""
        return generator_model(self._maker.generator)

    @property
    def image_size(self) -> int:
        """Return the side of the pictures, px."""
        return self._maker.generator.config.image_size

    def draw(self, count: int, streams: np.random.Generator, place: int) -> HeadDraws:
        """See `GeneratedHeads`; the head of an image has its number, so that `streams` decides nothing here."""
        return draw_heads(self._tables, self._maker.generator.config, self._seed, place, count, self._maker.config)

    def batch(self, drawn: HeadDraws) -> GeneratedBatch:
        """See `GeneratedHeads`."""
        with self._clock:
            return self._maker.batch(drawn, self._motion)

    def log_numbers(self) -> dict[str, float]:
        """See `GeneratedHeads`: `generator_s` is the mean of a batch."""
        return self._clock.log_numbers()


class BatchClock:
    """Measure what a device needs for batches, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._began: float | torch.cuda.Event = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: list[float] = []

    def __enter__(self) -> None:
        self._began = _event() if self._on_gpu else time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if isinstance(self._began, float):
            self._seconds.append(time.perf_counter() - self._began)
        else:
            self._pending.append((self._began, _event()))

    def log_numbers(self) -> dict[str, float]:
        """Return the mean seconds of the batches that ended since the last call; nothing where none did."""
        while self._pending and self._pending[0][1].query():
            began, ended = self._pending.pop(0)
            self._seconds.append(began.elapsed_time(ended) / 1000)
        measured, self._seconds = self._seconds, []
        return {"generator_s": sum(measured) / len(measured)} if measured else {}


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
