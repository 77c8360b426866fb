"""Run a training in a folder: one stage on data that a user names, or all stages on heads that the run draws.

run/config.json    every number, compared when a run goes on        run/log.jsonl, run/samples, run/tensorboard
run/checkpoints    of each stage, while it runs and of its end      run/.lock      one process trains in a folder
`run_one_stage` and `run_all_stages` say what else lies there.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from triportrait.core.native_bf16 import multiplies_bf16
from triportrait.train.config import StageName
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.loop import run_stage
from triportrait.train.networks import InitFrom
from triportrait.train.runs.checkpoints import check_checkpoints
from triportrait.train.runs.claim import Start, claim, made_folder
from triportrait.train.runs.diverged import BEGIN, DIVERGED
from triportrait.train.runs.run_config import check_config, check_folder
from triportrait.train.runs.stopping import Stopper
from triportrait.train.stages.stage import Stage

logger = logging.getLogger(__name__)


class RunConfig(Protocol):
    """What a run asks of its config, `TrainConfig` or `GenHeadTraining`."""

    @property
    def seed(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def sample_every(self) -> int: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def precision(self) -> str: ...
    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ...


class Inputs(ABC):
    """What a run learns from, and the stages that learn from it: `OneStage` or `AllStages`.

    Attributes:
        stages: their names, in order.
        prefetch: steps whose batches are made ahead.
        init_from: the weights that they begin from; None: fresh ones.
    """

    stages: Sequence[StageName]
    prefetch: int = 0
    init_from: InitFrom | None = None

    def checked(self, config: Any) -> Any:
        """Return the config with what the data say of themselves; nothing is written. Raises: `InputError`."""
        return config

    def config_entry(self, ranks: Ranks) -> dict[str, Any]:
        """Return what else has to be the same when the run goes on, as plain JSON values."""
        return {}

    def fingerprints(self) -> dict[str, Any] | None:
        """Return the data file by file, so that other data can be told from them; None where the run draws them."""
        return None

    @abstractmethod
    def open_data(self, folder: Path, config: Any, engines: Engines) -> None:
        """Open the data, which may be drawn first. Raises: `InputError` where they are damaged."""

    @abstractmethod
    def make_networks(self, folder: Path) -> None:
        """Make or load the networks. Raises: `InputError` where one is missing or of another size."""

    @abstractmethod
    def stage(self, name: StageName) -> Stage[Any]:
        """Return a stage, ready to run."""

    def finish(self, stage: Stage[Any]) -> None:  # noqa: B027
        """Hand the networks of a stage that is done on to the next one, if there is one."""

    @abstractmethod
    def export(self, command: str) -> Path:
        """Write weights into the run's folder; returns the weights folder."""


class Run:
    """One training on one of some processes.

    Args:
        config: every number.
        folder: of the run; made if it is missing.
        inputs: the stages, and what they learn from.
        engines: how networks are moved, and on which of how many ranks.
        changes_allowed: go on with other numbers than the run was begun with, where this is true; None: numbers cannot
            change, and those of a new run are stored at once.

    Raises: `InputError` for a run of another config, data or checkpoints that are damaged, anything that cannot be
        trained, or a folder that another process trains in; before any work.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        inputs: Inputs,
        engines: Engines | None = None,
        changes_allowed: bool | None = None,
    ) -> None:
        self.folder, self.inputs, self.engines = folder, inputs, engines or Engines()
        self._start = Start(folder)
        self.config: RunConfig = inputs.checked(config)
        ranks = self.engines.ranks
        self._store_config: Callable[[], None] = lambda: None
        with ranks.raise_on_all_ranks(), self._cleaned_up():
            if ranks.first:
                made_folder(folder)
                check_folder(folder)
                self._claim = claim(folder)
                plain = self.config.to_dict() | inputs.config_entry(ranks)
                self._store_config = check_config(folder, plain, changes_allowed, inputs.fingerprints())
                check_checkpoints(folder, inputs.stages)
        with self._cleaned_up():
            with ranks.raise_on_all_ranks():
                if ranks.first:  # makes the necks, for the others to read
                    inputs.open_data(folder, self.config, self.engines)
            with ranks.raise_on_all_ranks():
                if not ranks.first:
                    inputs.open_data(folder, self.config, self.engines)
                inputs.make_networks(folder)

    def _cleaned_up(self) -> AbstractContextManager[None]:
        """Take away what a start made when it fails."""
        return self._start.part() if self.engines.ranks.first else nullcontext()

    def train(self, stopper: Stopper | None = None, until: StageName | None = None) -> None:
        """Run the stages in order, each from its last whole checkpoint if there is one.

        Args:
            until: the last stage that is run; None: all are.

        Raises: see `run_stage`.
        """
        config, ranks, stages = self.config, self.engines.ranks, self.inputs.stages
        if ranks.first and config.precision == "bf16" and not multiplies_bf16(ranks.device):
            logger.info("precision: fp32, as bf16 is only emulated on this %s", ranks.device.type.upper())
        for name in stages[: stages.index(until or stages[-1]) + 1]:
            stage = self.inputs.stage(name)
            try:
                with self._cleaned_up():
                    run_stage(
                        stage,
                        self.folder,
                        config.seed,
                        config.save_every,
                        config.sample_every,
                        ranks,
                        stopper,
                        self._store_config,
                        self.inputs.prefetch,
                        evaluate_every=config.evaluate_every,
                    )
            except FloatingPointError:
                diverged = self.folder / DIVERGED
                if self.inputs.init_from is not None and ranks.first and diverged.is_dir():
                    (diverged / BEGIN).write_text(json.dumps(self.inputs.init_from.resolved(), indent=1) + "\n")
                raise
            self.inputs.finish(stage)

    def export(self, command: str) -> Path:
        """Write the weights into the run's folder, with the command that made them beside them; returns the folder."""
        return self.inputs.export(command)
