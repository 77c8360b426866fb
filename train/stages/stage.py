"""A stage as the loop sees it: what it draws, the phases of a step, and how it shows itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Engine
from triportrait.train.objectives.adversary import DiscriminatorInput

Batch = TypeVar("Batch")


@dataclass
class MicroBatch(Generic[Batch]):
    """A micro-batch, and what the phases of a step make of it.

    Attributes:
        batch: as the stage draws it.
        rng: what is random in its losses, and where it is drawn.
        images_seen: before this step.
        handed_on: real and fake pictures that the generator's phase leaves to the discriminator's, by name.
        number: over all ranks.
    """

    batch: Batch
    rng: torch.Generator
    images_seen: int
    handed_on: dict[str, DiscriminatorInput] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True)
class Phase(Generic[Batch]):
    """One update of one network.

    Attributes:
        name: of the phase. engine: of the network that moves.
        terms: a micro-batch -> the weighted terms whose sum is the loss.
        every: steps from one time to the next; the loss is multiplied by it.
        since: images seen before the first time.
        counts: whether its step counts the images for its network; one phase of each network does.
    """

    name: str
    engine: str
    terms: Callable[[MicroBatch[Batch]], Mapping[str, Tensor]]
    every: int = 1
    since: int = 0
    counts: bool = False

    def due(self, step: int, images_seen: int) -> bool:
        """Return whether it is its turn."""
        return step % self.every == 0 and images_seen >= self.since


class SkippingData(Protocol):
    """Data that may be damaged in places.

    Attributes:
        skipped: what could not be used, by name, and why.
    """

    skipped: dict[str, str]

    def check_skipped(self, skipped: Mapping[str, str]) -> None:
        """Raises: `InputError` where that is too much."""
        ...

    def log_numbers(self) -> dict[str, float]:
        """Return numbers for the log; their names begin with data_."""
        ...


@dataclass(frozen=True)
class Stage(Generic[Batch]):
    """A stage, as the loop sees it.

    Attributes:
        name: of its files.
        number: of its streams of random numbers.
        engines: what moves the weights, by the network's name; the first is the one that is wanted in the end.
        images: how many it sees in all. batch, micro_batches: images and micro-batches of a step, on all ranks.
        draw: random numbers and the number of its first image, over the whole run -> a micro-batch on the CPU; it knows
            nothing else, as a thread calls it ahead of the step.
        phases: what a step does, in order.
        sample: writes a grid of pictures into a file, where one is given, and returns numbers for the log; the EMA of
            the weights is in place.
        to_device: moves a micro-batch to where the networks are.
        generate: makes a micro-batch there of what `draw` drew, in the place of `to_device`, where a generator makes
            the data; its time is told apart from the training's.
        numbers: numbers for the log since it was last called; `generator_s` are the generator's seconds for a
            micro-batch.
        data: the data, where it may be damaged.
        evaluate: measures the network on held-out people, on all ranks together; the EMA of the weights is in place.
    """

    name: str
    number: int
    engines: Mapping[str, Engine]
    images: int
    batch: int
    micro_batches: int
    draw: Callable[[np.random.Generator, int], Batch]
    phases: Sequence[Phase[Batch]]
    sample: Callable[[Path | None], dict[str, float]]
    to_device: Callable[[Batch], Batch] = lambda batch: batch
    data: SkippingData | None = None
    evaluate: Callable[[Ranks], dict[str, float]] | None = None
    generate: Callable[[Any], Batch] | None = None
    numbers: Callable[[], dict[str, float]] = dict

    @property
    def engine(self) -> Engine:
        """Return the engine of the network that is wanted in the end."""
        return next(iter(self.engines.values()))


def single_network(
    name: str,
    number: int,
    engine: Engine,
    images: int,
    batch: int,
    losses: Callable[[np.random.Generator, torch.Generator], Mapping[str, Tensor]],
    sample: Callable[[Path | None], dict[str, float]],
) -> Stage[np.random.Generator]:
    """Return a stage of one network and one phase, whose losses draw their own batch."""

    def terms(micro_batch: MicroBatch[np.random.Generator]) -> Mapping[str, Tensor]:
        return losses(micro_batch.batch, micro_batch.rng)

    phase = Phase("main", name, terms, counts=True)
    return Stage(name, number, {name: engine}, images, batch, 1, lambda streams, place: streams, [phase], sample)
