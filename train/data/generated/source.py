"""The two sources of generated heads have one face: a store on the disk, and the generator itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.tracking.head_model import HeadModel
from triportrait.train.data.pictures import Pictures
from triportrait.train.data.upload import upload


@dataclass(frozen=True)
class GeneratedBatch:
    """B heads, each seen three times, from cameras of their own (section 4.2; Portrait4D's triples).

    Attributes:
        source: the pictures that become planes.
        target: what they should show. In static data all three views of a head have one face; else `motion` and
            `target` have the same face, and `source` has another.
        motion: pictures that the driving motion is read off; None where nobody asks for them.
        is_static: [B] bool, which heads have one face in all views.
    """

    source: Pictures
    target: Pictures
    motion: Pictures | None
    is_static: torch.Tensor

    def to(self, device: torch.device | str) -> GeneratedBatch:
        """Return the batch on a device."""
        return upload(self, device)


class GeneratedHeads(Protocol):
    """A source of generated heads.

    Attributes:
        head_model: whose parameters the heads are drawn from.
        model: that head model, with its tables.
        generator: fingerprint of the GenHead that draws them.
        has_features: whether truths hold feature images.
    """

    head_model: ModelIdentity
    generator: str
    has_features: bool

    @property
    def model(self) -> HeadModel: ...

    def draw(self, count: int, streams: np.random.Generator, place: int) -> Any:
        """Draw what B heads are made from; a thread calls it ahead of time. The arguments alone decide.

        Args:
            place: number of the first image, over the whole run and all ranks.
        """
        ...

    def batch(self, drawn: Any) -> GeneratedBatch:
        """Make the pictures of what was drawn, on the device of the training; the step calls it."""
        ...

    def log_numbers(self) -> dict[str, float]:
        """Return numbers for the log since the last call, as `generator_s`, the generator's seconds for a batch."""
        ...
