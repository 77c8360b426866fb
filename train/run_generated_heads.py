"""Train stage 1 on heads that GenHead draws: `triportrait train stage1 --data genhead:FOLDER --parameters TABLES`.

The run keeps run/flame, the tables of the head model that the heads are of, as runs on tracked faces do.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.train.config import STAGES, StageConfig, StageName, TrainConfig
from triportrait.train.data.generated.source import GeneratedHeads
from triportrait.train.data.set_config import SetConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.generated_data import GeneratedData
from triportrait.train.named_data import Loading
from triportrait.train.networks import InitFrom, check_required_files, static_models
from triportrait.train.run_folder import Inputs
from triportrait.train.runs.export import export
from triportrait.train.runs.run_config import FLAME
from triportrait.train.runs.weights import save_flame
from triportrait.train.stages.assemble import generated_static_stage
from triportrait.train.stages.stage import Stage

ONE_FACE = 1.0  # share of the heads with one face in all views: stage 1 knows no motion
logger = logging.getLogger(__name__)


class OnGenerated(Inputs):
    """The inputs of a training on generated heads. See `run_folder.Inputs`.

    Args:
        data: the heads.
        init_from: weights to begin from; a fresh network begins with the renderer of the generator.
        loading: how data is read.

    Attributes:
        name: of the stage.
        motion: whether it sees pictures whose motion is read, too.
    """

    name: StageName
    motion = False

    def __init__(self, data: GeneratedData, init_from: InitFrom, loading: Loading | None = None) -> None:
        self.stages: tuple[StageName, ...] = (self.name,)
        self._data, self._loading = data, loading or Loading()
        self.prefetch = self._loading.prefetch
        self._named = init_from.genhead
        self._init_from = dataclasses.replace(init_from, genhead=init_from.genhead or data.weights)
        self.init_from: InitFrom | None = self._init_from

    def checked(self, config: TrainConfig) -> TrainConfig:
        """See `Inputs`."""
        check_required_files(self.name, config, self._init_from)
        self._data.check_size(config)
        if self._named is not None:
            self._data.check_same(self._named)
        if self._loading.evaluates:
            raise InputError(
                f"{self._data.name}: expected data that hold somebody out for --evaluate-every, every head is drawn "
                "once; leave it out"
            )
        self.config = on_generated(config)
        return self.config

    def config_entry(self, ranks: Ranks) -> dict[str, Any]:
        """See `Inputs`."""
        entry = self._data.entry(self.config, self._static_share(self.config))
        return {"run": {"stage": self.name, **entry, "init_from": self._init_from.names()}}

    def fingerprints(self) -> dict[str, Any] | None:
        """See `Inputs`."""
        return self._data.fingerprints()

    def open_data(self, folder: Path, config: TrainConfig, engines: Engines) -> None:
        """See `Inputs`."""
        self.folder, self.engines = folder, engines
        stage: StageConfig = getattr(config, self.name)
        share = self._static_share(config)
        self._heads: GeneratedHeads = self._data.open(config, stage.losses, engines.ranks.device, share, self.motion)
        if engines.ranks.first and config.evaluate_every:
            logger.info("%s: nobody is held out, so nobody is measured", self._data.name)

    def make_networks(self, folder: Path) -> None:
        """See `Inputs`."""
        self._stage = self._assembled(folder)
        if self.engines.ranks.first:
            save_flame(folder / FLAME, self._heads.model)

    def stage(self, name: StageName) -> Stage[Any]:
        """See `Inputs`."""
        return self._stage

    def export(self, command: str) -> Path:
        """Write the EMA of the newest checkpoint into `run/weights`."""
        return export(self.folder, self.folder / "weights", overwrite=True)

    def _static_share(self, config: TrainConfig) -> float:
        """Return the share of the heads with one face in all views."""
        return ONE_FACE

    @abstractmethod
    def _assembled(self, folder: Path) -> Stage[Any]:
        """Return the stage with its networks, in the folder of the run."""


class StaticOnGenerated(OnGenerated):
    """The inputs of stage 1 on generated heads."""

    name: StageName = "stage1"

    def _assembled(self, folder: Path) -> Stage[Any]:
        models = static_models(self.config, self._init_from, self.engines.ranks.device)
        return generated_static_stage(self.config, self._heads, models, self.engines)


def on_generated(config: TrainConfig) -> TrainConfig:
    """Return a training for generated heads: of each one source and one target, and no view is near the front by its
    place."""
    cameras = dataclasses.replace(config.cast.cameras, first_filmed=False)
    stages: dict[str, Any] = {
        name: dataclasses.replace(getattr(config, name), views=1, front_sources=0.0) for name in STAGES
    }
    cast = SetConfig(size=config.model.image_size, cameras=cameras)
    return dataclasses.replace(config, cast=cast, **stages)
