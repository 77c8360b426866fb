"""Train stage 1 on heads that GenHead draws: `triportrait train stage1 --data STORE`, or `--data genhead:FOLDER
--parameters TABLES`.

The run keeps run/flame, the tables of the head model that the heads are of, as runs on tracked faces do.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import Any

from triportrait.core.checkpoint import read_card, weights_folder
from triportrait.core.errors import InputError
from triportrait.core.safe_text import shown
from triportrait.serve.faces.providers import face_provider
from triportrait.train.config import STAGES, StageConfig, StageName, TrainConfig
from triportrait.train.data.generated.source import GeneratedHeads
from triportrait.train.data.set_config import SetConfig
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.held_out import Evaluation, generated_pairs
from triportrait.train.evaluation.protocols.face_features import FaceExtractor
from triportrait.train.generated_data import GeneratedData
from triportrait.train.named_data import Loading
from triportrait.train.networks import InitFrom, check_required_files, static_models
from triportrait.train.run_folder import Inputs
from triportrait.train.runs.export import export
from triportrait.train.runs.run_config import FLAME
from triportrait.train.runs.weights import save_flame
from triportrait.train.stages.assemble import generated_static_stage
from triportrait.train.stages.preview_grids import static_view
from triportrait.train.stages.stage import Stage

ONE_FACE = 1.0  # share of the heads with one face in all views: stage 1 knows no motion
logger = logging.getLogger(__name__)


class OnGenerated(Inputs):
    """The inputs of a training on generated heads. See `run_folder.Inputs`.

    Args:
        data: the heads.
        init_from: weights to begin from; a fresh network begins with the renderer of the generator, where it is named.
        loading: how data is read.

    Attributes:
        name: of the stage.
        motion: whether it sees pictures whose motion is read, too.
        measures: whether it is measured on the heads that a store holds out.
    """

    name: StageName
    motion = False
    measures = False

    def __init__(self, data: GeneratedData, init_from: InitFrom, loading: Loading | None = None) -> None:
        self.stages: tuple[StageName, ...] = (self.name,)
        self._data, self._loading = data, loading or Loading()
        self.prefetch = self._loading.prefetch
        self._named = init_from.genhead
        self._init_from = dataclasses.replace(init_from, genhead=init_from.genhead or data.weights)
        self.init_from: InitFrom | None = self._init_from

    def checked(self, config: TrainConfig) -> TrainConfig:
        """See `Inputs`."""
        stage: StageConfig = getattr(config, self.name)
        check_required_files(self.name, config, self._init_from)
        self.config = on_generated(config)
        self._data.check_fits(self.config, stage.losses, self._static_share(config))
        begun = self._begun_from()
        if begun is not None:
            self._check_begun(*begun, stage)
        elif self._named is not None:
            self._data.check_same(self._named)
        elif self._data.weights is None and stage.losses.distill_planes:
            raise InputError(
                f"{self._data.name}: expected the GenHead that drew its heads, as a network that learns its planes "
                "begins with its renderer, got none; name it by --genhead, or say --distill-planes 0"
            )
        if self._loading.evaluates and not (self.measures and self._data.held_out):
            raise InputError(f"{self._data.name}: {self._why_unmeasured()}")
        return self.config

    def _begun_from(self) -> tuple[str, str] | None:
        """Return the option and the name of the weights whose renderer the network begins with, if there are any."""
        return None if self._init_from.weights is None else ("--weights", self._init_from.weights)

    def _check_begun(self, option: str, name: str, stage: StageConfig) -> None:
        """Check weights that were trained before: L_T compares planes of the heads' own generator alone.

        Raises: `InputError` for a second renderer, or where their card names another generator; who says nothing is
            warned of.
        """
        if self._named is not None:
            raise InputError(
                f"--genhead {self._named}: expected none beside {option}, whose renderer it begins with, got one; "
                "leave it out"
            )
        if not stage.losses.distill_planes:
            return
        told = read_card(weights_folder(name), "portrait").get("provenance")
        generator = told.get("generator") if isinstance(told, dict) else None
        if generator is None:
            logger.warning(
                f"{option} {name}: its card names no generator; where its planes are not those of {self._data.name}, "
                "say --distill-planes 0"
            )
        elif generator != self._data.fingerprint:
            raise InputError(
                f"{option} {name}: expected a network that learned the planes of the generator of {self._data.name} "
                f"({shown(self._data.fingerprint)}), got one of another ({shown(generator)}); name other weights or "
                "heads, or say --distill-planes 0"
            )

    def _why_unmeasured(self) -> str:
        if not self.measures:
            return f"expected no --evaluate-every, as {self.name} is not measured while it runs; leave it out"
        wanted = "expected data that hold somebody out for --evaluate-every, nobody is"
        if self._data.store is None:
            return f"{wanted}, as every head is drawn once; leave it out"
        return f"{wanted}; hold a tenth out by `triportrait prepare split {self._data.data} --share 0.1`"

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
        if engines.ranks.first and self._data.split is not None:
            logger.info("%s: %s, never trained on", self._data.name, self._data.split.sentence())
        elif engines.ranks.first and self.measures and config.evaluate_every:
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
    measures = True

    def _assembled(self, folder: Path) -> Stage[Any]:
        config, device = self.config, self.engines.ranks.device
        models = static_models(config, self._init_from, device)
        stage = generated_static_stage(config, self._heads, models, self.engines)
        if self._data.store is None or not self._data.held_out or not config.evaluate_every:
            return stage
        pairs = generated_pairs(self._data.store, self._data.held_out)
        lpips = models.perceptual if config.perceptual == "lpips" else None
        provider = face_provider()
        faces = None if provider is None else FaceExtractor(provider)
        evaluation = Evaluation(pairs, partial(static_view, models.portrait), device, lpips, faces)
        return dataclasses.replace(stage, evaluate=evaluation)


def on_generated(config: TrainConfig) -> TrainConfig:
    """Return a training for generated heads: of each one source and one target, and no view is near the front by its
    place."""
    cameras = dataclasses.replace(config.cast.cameras, first_filmed=False)
    stages: dict[str, Any] = {
        name: dataclasses.replace(getattr(config, name), views=1, front_sources=0.0) for name in STAGES
    }
    cast = SetConfig(size=config.model.image_size, cameras=cameras)
    return dataclasses.replace(config, cast=cast, **stages)
