"""Train GenHead on pictures with parameters and masks: `triportrait train genhead`, on any number of processes.

The run keeps run/flame, its head model, so that `train export` makes a folder that `prepare genhead` and `train stage1`
take anywhere. run/data.json says what the pictures were, shard by shard.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triportrait.core.checkpoint import save_weights, weights_folder
from triportrait.core.config import GENHEAD_PRESETS, GenHeadConfig
from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.regions import part_tables
from triportrait.core.genhead.weights import load_genhead
from triportrait.core.motion.neck import NeckField
from triportrait.core.tracking.head_model import OPEN_HEAD_MODEL, HeadModel, check_same_model
from triportrait.core.weights import OPEN_HEAD
from triportrait.train.config import StageName
from triportrait.train.data.head_mirror import HeadMirror
from triportrait.train.data.picture_sources import picture_source
from triportrait.train.data.split import SPLIT, read_split
from triportrait.train.data.training_pictures import TrainingPictures, read_replication
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.genhead_config import GenHeadTraining
from triportrait.train.named_data import Loading
from triportrait.train.networks import take_discriminator
from triportrait.train.run_folder import Inputs
from triportrait.train.runs.export import export
from triportrait.train.runs.run_config import FLAME, data_fingerprints
from triportrait.train.runs.weights import flame_model
from triportrait.train.stages.genhead import NAME, GenHeadModels, genhead_stage, make_networks
from triportrait.train.stages.genhead_samples import genhead_sample
from triportrait.train.stages.head_geometry import HeadGeometry
from triportrait.train.stages.stage import Stage

logger = logging.getLogger(__name__)


class GenHeadInputs(Inputs):
    """The inputs of GenHead's own training. See `run_folder.Inputs`.

    Args:
        data: a picture store of `triportrait prepare pictures`, or one that `prepare lmdb` made of the published FFHQ;
            a folder of the published layout where tables are named.
        flame: the head model of its parameters; None: the open head where they are of it.
        tables: a folder of the published tables of parameters, see `TabledPictures`.
        replication: a table of how often each picture is seen in an epoch, see `read_replication`.
        prefetch: steps whose pictures are read ahead.
        weights: a folder with a GenHead that the generator begins as; None: it is fresh.
        discriminator: a run or a checkpoint of one that the discriminator begins as.

    Raises: `InputError` for a number that is out of range.
    """

    stages: Sequence[StageName] = (NAME,)

    def __init__(
        self,
        data: Path,
        flame: str | None = None,
        tables: Path | None = None,
        replication: Path | None = None,
        prefetch: int = 2,
        weights: str | None = None,
        discriminator: Path | None = None,
    ) -> None:
        self.data, self._flame_name, self._tables, self._replication_path = data, flame, tables, replication
        self.prefetch = Loading(prefetch).prefetch
        self._weights, self._discriminator = weights, discriminator

    def checked(self, config: GenHeadTraining) -> GenHeadTraining:
        """See `Inputs`."""
        self._store = store = picture_source(self.data, self._tables)
        said = store.head_model
        named = self._flame_name or (OPEN_HEAD if said.name == OPEN_HEAD_MODEL else None)
        self._model = flame_model(named)
        check_same_model(self._model.identity, said, str(self.data), named or "--flame")
        self._replication: np.ndarray | None = None
        if self._replication_path is not None:
            self._replication = read_replication(self._replication_path, len(store))
        if self._tables is not None and (self.data / SPLIT).exists():
            raise InputError(
                f"{self.data / SPLIT}: expected none, as rows of tables do not say whose they are; make a picture "
                "store of these people, or take the file away"
            )
        self._split = read_split(self.data) if self._tables is None else None
        self._chosen = None if self._split is None else self._split.sides()[0]
        self._config = dataclasses.replace(config, generator=_for_model(config.generator, self._model))
        return self._config

    def config_entry(self, ranks: Ranks) -> dict[str, Any]:
        """See `Inputs`."""
        entry: dict[str, Any] = {
            "stage": NAME, "data": _digest(self._files()), "head_model": self._model.identity.to_dict(),
        }  # fmt: skip
        begun = {"weights": self._weights, "discriminator": self._discriminator}
        entry["init_from"] = {name: str(value) for name, value in begun.items() if value is not None}
        if self._replication is not None:
            entry["replication"] = _digest(self._replication.tolist())
        if self._split is not None:
            entry["held_out"] = _digest(self._split.held_out)
        return {"run": entry}

    def fingerprints(self) -> dict[str, Any] | None:
        """See `Inputs`."""
        return data_fingerprints(self.data.resolve().name, self._files())

    def open_data(self, folder: Path, config: GenHeadTraining, engines: Engines) -> None:
        """See `Inputs`."""
        self._folder, self._engines = folder, engines
        model, mirror = self._model, None
        if config.flips:
            mirror = HeadMirror(model.flame["template"], model.padded_tables(config.generator.neck)["shape_directions"],
                                config.generator.neck.num_shape)  # fmt: skip
        self.pictures = TrainingPictures(
            self._store, config.generator, self._chosen, self._replication, mirror, config.seed
        )
        if engines.ranks.first:
            if self._split is not None:
                logger.info("%s: %s, never trained on", self.data, self._split.sentence())
            logger.info("genhead: %s", self._sentence(mirror))

    def _sentence(self, mirror: HeadMirror | None) -> str:
        people = len(self._store) if self._chosen is None else len(self._chosen)
        flips = ""
        if mirror is not None:
            flips = (
                f", each as its mirror image, too, which lacks {mirror.lost['shape']:.1%} of the shape and "
                f"{mirror.lost['expression']:.1%} of the expression"
            )
        return f"{people:,} pictures of {self._model.identity}, {len(self.pictures):,} entries an epoch{flips}"

    def make_networks(self, folder: Path) -> None:
        """See `Inputs`."""
        device, config = self._engines.ranks.device, self._config
        neck = _neck_of(self._model, config.generator)
        if self._engines.ranks.first:
            tables = {f"neck.{name}": value for name, value in neck.state_dict().items()}
            entries = {"head_model": self._model.identity.to_dict(), "licence": self._model.licence}
            save_weights(folder / FLAME, "flame", tables, None, entries)
        generator, discriminator = make_networks(config)
        if self._weights is not None:
            _take_weights(generator, self._weights, self._model)
        if self._discriminator is not None:
            take_discriminator(discriminator, self._discriminator)
        geometry = HeadGeometry(neck.to(device), config.generator)
        self._models = GenHeadModels(generator.to(device), discriminator.to(device), geometry)

    def stage(self, name: StageName) -> Stage[Any]:
        """See `Inputs`."""
        sample = genhead_sample(self.pictures, self._models, self._config.seed, self._engines.ranks.device)
        return genhead_stage(self._config, self._models, self.pictures.draw, sample, self._engines)

    def export(self, command: str) -> Path:
        """Write the EMA of the newest checkpoint into `run/weights`."""
        return export(self._folder, self._folder / "weights", overwrite=True)

    def _files(self) -> dict[str, Any]:
        return self._store.files()


def _take_weights(generator: GenHead, name: str, model: HeadModel) -> None:
    """Give a fresh generator the weights of a folder.

    Raises: `InputError` where they are missing or damaged, of other sizes, or of another head model.
    """
    other = load_genhead(weights_folder(name))
    if dataclasses.replace(other.config, preset=generator.config.preset) != generator.config:
        raise InputError(
            f"weights {name}: expected a GenHead of the sizes of {generator.config.preset}, "
            f"{generator.config.image_size} px, got another of {other.config.preset}, {other.config.image_size} px; "
            "choose another --preset or other weights"
        )
    if other.neck is not None:
        check_same_model(other.head_model, model.identity, "--flame", f"--weights {name}")
    state = other.state_dict().items()
    generator.load_state_dict({key: value.float() for key, value in state if not key.startswith("neck.")})


def _for_model(config: GenHeadConfig, model: HeadModel) -> GenHeadConfig:
    """Return a preset's sizes with the numbers of directions of a head model, if it has more than the preset."""
    neck = config.neck
    if model.num_shape <= neck.num_shape and model.num_expression <= neck.num_expression:
        return config
    wide = dataclasses.replace(neck, num_shape=model.num_shape, num_expression=model.num_expression)
    name = f"{config.preset} of {model.num_shape} + {model.num_expression}"
    assert name not in GENHEAD_PRESETS
    return dataclasses.replace(config, preset=name, neck=wide)


def _neck_of(model: HeadModel, config: GenHeadConfig) -> NeckField:
    """Return what the generator needs of a head model, whose directions are padded to its numbers."""
    tables = model.padded_tables(config.neck)
    return NeckField(config.neck, config.render.box_side, tables, part_tables(model.flame, model.mesh), model.identity)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
