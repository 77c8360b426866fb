"""Engines as a run needs them: plain PyTorch on one process, DeepSpeed on several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from triportrait.core.errors import InputError
from triportrait.train.config import OptimizerConfig
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.training_engine import Engine, Group, PlainEngine
from triportrait.train.engines.zero import ZeroConfig, ZeroEngine


class StageLength(Protocol):
    """How long a stage is, and how its steps are cut."""

    @property
    def images(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def micro_batches(self) -> int: ...


@dataclass(frozen=True)
class Engines:
    """How networks are moved.

    Attributes:
        ranks: the processes of the training, and which one this is.
        zero: how DeepSpeed shares the work; None: plain PyTorch moves the weights, on one process.
        recomputes: the generator's blocks and renderer compute their insides again for the backward pass.
    """

    ranks: Ranks = field(default_factory=Ranks)
    zero: ZeroConfig | None = None
    recomputes: bool = False

    def make(
        self, module: nn.Module, groups: Sequence[Group], optimizer: OptimizerConfig, config: StageLength
    ) -> Engine:
        """Return an engine for one network of a stage.

        Raises:
            InputError: the micro-batches cannot be shared out.
        """
        if config.micro_batches % self.ranks.size:
            raise InputError(
                f"micro_batches: expected a multiple of the {self.ranks.size} ranks, got {config.micro_batches}; "
                "choose another"
            )
        micro_batches = config.micro_batches // self.ranks.size
        if self.zero is None:
            return PlainEngine(module, groups, optimizer, config.images, micro_batches, config.batch)
        return ZeroEngine(module, groups, optimizer, config.images, micro_batches, config.batch, self.zero, self.ranks)
