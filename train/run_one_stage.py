"""Train one stage on data that a user names: `triportrait train stage1` and `stage2`, on any number of processes.

For stage 2 the run keeps run/motion_encoder, a copy of the encoder that it uses, and where faces are tracked run/flame,
FLAME's tables. run/data.json says what the data were, file by file.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from triportrait.core.checkpoint import load_motion_encoder, read_card, save_motion_encoder, weights_folder
from triportrait.core.errors import InputError
from triportrait.serve.faces.providers import face_provider
from triportrait.train.ablations import with_motion_width
from triportrait.train.config import STAGES, StageConfig, StageName, TrainConfig
from triportrait.train.data.cameras import FILMED, NO_PRESET, SetCameras, camera_preset_of, shown_cameras
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.store import is_clip_store
from triportrait.train.data.clip_store.tracks import FLAME_PARAMETERS
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import PictureSet
from triportrait.train.data.set_config import SetConfig
from triportrait.train.data.stored_motion import parameters_of, stored_motion_width
from triportrait.train.engines.build_engines import Engines
from triportrait.train.engines.ranks import Ranks
from triportrait.train.evaluation.held_out import Evaluation, reenact_pairs, static_pairs, tracked_pairs
from triportrait.train.evaluation.probe import probe
from triportrait.train.evaluation.protocols.face_features import FaceExtractor
from triportrait.train.generated_data import is_generated
from triportrait.train.named_data import Loading, NamedData
from triportrait.train.networks import InitFrom, check_required_files, reenact_models, static_models
from triportrait.train.run_folder import Inputs
from triportrait.train.runs.export import export
from triportrait.train.runs.run_config import FLAME, MOTION_ENCODER
from triportrait.train.runs.weights import save_flame
from triportrait.train.stages.assemble import reenact_stage, static_stage
from triportrait.train.stages.preview_grids import reenacted, static_view
from triportrait.train.stages.reenact import ReenactModels
from triportrait.train.stages.stage import Stage
from triportrait.train.stages.static import StaticModels

logger = logging.getLogger(__name__)


class OneStage(Inputs):
    """The inputs of stage 1 or 2 on named data. See `run.Inputs`.

    Args:
        name: of the stage.
        data: a multi-view set, or for stage 2 a clip store.
        init_from: weights to begin from.
        loading: how data is read.
    """

    def __init__(self, name: StageName, data: Path, init_from: InitFrom, loading: Loading | None = None) -> None:
        self.name, self.data_folder = name, data
        self.init_from: InitFrom | None = init_from
        self._init_from = init_from
        self.loading = loading or Loading()
        self.prefetch = self.loading.prefetch
        self.stages = (name,)

    def checked(self, config: TrainConfig) -> TrainConfig:
        """See `Inputs`."""
        name, data = self.name, self.data_folder
        if is_generated(data):
            raise InputError(
                f"{data}: expected a multi-view set or a clip store for {name}, got heads that GenHead draws; name "
                "another --data"
            )
        unknown = self._unknown(config)
        check_required_files(name, config, self._init_from, unknown)
        if name == "stage1" and is_clip_store(data):
            raise InputError(
                f"{data}: expected a multi-view set for stage 1, this is a clip store; make a set by `triportrait "
                "prepare heads`"
            )
        for what, way in unknown.items():
            raise InputError(f"{data}: expected {what}, got heads whose planes nobody knows; name those, or say {way}")
        self._data, given = NamedData(data, self.loading), self._init_from
        self._flame = self._data.head_model(given.flame, given.static or given.init)
        if self._data.is_tracked and config.stage2.motion == "parameters":
            config = with_motion_width(config, FLAME_PARAMETERS)
        cast = _cast(self._data.index, config)
        self._check_fits(cast, config)
        if self._data.clips is not None:  # a clip has one view of each moment
            config = dataclasses.replace(config, stage2=dataclasses.replace(config.stage2, front_sources=0.0))
        idle = {  # a stage that does not run needs no views
            other: dataclasses.replace(getattr(config, other), views=1, front_sources=0.0)
            for other in STAGES
            if other != name
        }
        self.config = dataclasses.replace(config, cast=cast, **idle)
        return self.config

    def _unknown(self, config: TrainConfig) -> dict[str, str]:
        """Return what nobody knows of procedural heads, and how to do without, where stage 1 asks for it."""
        losses = config.stage1.losses
        if self.name != "stage1" or not (losses.distill_planes or losses.distill_feature):
            return {}
        heads = "heads of GenHead (--data genhead:FOLDER --parameters TABLES, or a store of `prepare genhead`)"
        return {heads: "--distill-planes 0 --distill-feature 0"}

    def _check_fits(self, cast: SetConfig, config: TrainConfig) -> None:
        """Raises: `InputError` where the pictures are of another size, or seen from other cameras, than is trained."""
        data = self.data_folder
        if cast.size != (side := config.model.image_size):
            made_by = "prepare heads" if self._data.clips is None else "prepare clips"
            raise InputError(
                f"{data}: expected pictures of {side} px for preset {config.preset}, got {cast.size}; make them again "
                f"by `triportrait {made_by} --size {side}`, or train on pictures of 128 px by --preset tiny"
            )
        if self.name == "stage1" and cast.cameras != config.cast.cameras:
            expected, given = (camera_preset_of(cameras) for cameras in (config.cast.cameras, cast.cameras))
            way = "" if given == NO_PRESET else f", or say --cameras {given} to train on this one"
            raise InputError(
                f"{data}: expected a set that is seen from {expected}'s cameras "
                f"({shown_cameras(config.cast.cameras)}), got {given}'s ({shown_cameras(cast.cameras)}); make one by "
                f"`triportrait prepare heads --cameras {expected}`{way}"
            )

    def config_entry(self, ranks: Ranks) -> dict[str, Any]:
        """See `Inputs`."""
        return {"run": {"stage": self.name, **self._data.entry(ranks), "init_from": self._init_from.names()}}

    def fingerprints(self) -> dict[str, Any] | None:
        """See `Inputs`."""
        return self._data.fingerprints()

    def open_data(self, folder: Path, config: TrainConfig, engines: Engines) -> None:
        """See `Inputs`."""
        self.folder, self.engines = folder, engines
        stage: StageConfig = getattr(config, self.name)
        model, positions, data = config.model, stage.losses.adversarial > 0, self._data
        self.set: PictureSet | ClipPictures
        if data.clips is None:
            necks = data.folder.with_name(f"{data.folder.name}.necks")
            self.set = PictureSet(data.folder, model, True, necks, positions=positions, chosen=data.trained)
        else:
            width = None
            if self._flame is not None and config.stage2.motion == "pictures":
                encoder = load_motion_encoder(weights_folder(self._init_from.motion))
                width = stored_motion_width(data.clips, encoder, engines.ranks.first)
            opened = data.pictures(model, config.seed, engines.ranks, self._flame, width, positions)
            self.set, self._unseen = opened
        data.tell_split(engines.ranks)
        if engines.ranks.first and data.split is None and self.config.evaluate_every:
            logger.info("%s: nobody is held out (`prepare split`), so nobody is measured", data.folder)

    def make_networks(self, folder: Path) -> None:
        """See `Inputs`."""
        stage = self._static() if self.name == "stage1" else self._reenact(folder)
        self._stage = dataclasses.replace(stage, evaluate=self._evaluation)

    def _evaluate_by(self, models: StaticModels | ReenactModels) -> Evaluation | None:
        """Return what measures the models on held-out people; None where nobody is held out, or it is switched off."""
        config, held_out = self.config, self._data.held_out
        if not held_out or not config.evaluate_every:
            return None
        if isinstance(models, StaticModels):
            pairs = static_pairs(MultiviewSet(self.data_folder), held_out, config.model)
            render = partial(static_view, models.portrait)
        else:
            data = MultiviewSet(self.data_folder) if self._data.clips is None else self._data.clips
            tracked = self._flame is not None
            pairs = tracked_pairs(self._unseen) if tracked else reenact_pairs(data, held_out, config.model)
            render = partial(reenacted, models.portrait, models.motion_encoder)
        provider = face_provider()
        faces = None if provider is None else FaceExtractor(provider)
        lpips = models.perceptual if config.perceptual == "lpips" else None
        return Evaluation(pairs, render, self.engines.ranks.device, lpips, faces)

    def stage(self, name: StageName) -> Stage[Any]:
        """See `Inputs`."""
        return self._stage

    def _origin(self) -> dict[str, Any]:
        """Return where the motion encoder comes from, as its card says."""
        if self.config.stage2.motion == "parameters":
            return {}
        origin: dict[str, Any] = read_card(weights_folder(self._init_from.motion), "motion").get("provenance", {})
        return origin

    def export(self, command: str) -> Path:
        """Write the EMA of the newest checkpoint into `run/weights`."""
        return export(self.folder, self.folder / "weights", overwrite=True)

    def _static(self) -> Stage[Any]:
        models = static_models(self.config, self._init_from, self.engines.ranks.device)
        self._evaluation = self._evaluate_by(models)
        assert isinstance(self.set, PictureSet)
        return static_stage(self.config, [self.set], models, probe(self.config), self.engines)

    def _reenact(self, folder: Path) -> Stage[Any]:
        config, stage, width = self.config, self.config.stage2, self.config.model.transformer.motion_width
        if stage.clips > self.set.heads:
            raise InputError(
                f"data: expected {stage.clips:,} clips or more for this training, got {self.set.heads:,}; name a "
                "larger set or fewer by --clips"
            )
        if stage.motion == "parameters" and self.set.motion_width != width:
            raise InputError(
                f"data: expected motion of {width} numbers, got {self.set.motion_width}; name clips with FLAME's "
                "parameters"
            )
        ranks = self.engines.ranks
        columns = parameters_of(self._data.clips) if stage.motion == "parameters" else None
        head_model = None if self._flame is None else self._flame.identity
        models = reenact_models(config, self._init_from, ranks.device, columns, head_model)
        self._evaluation = self._evaluate_by(models)
        encoder = models.motion_encoder
        if ranks.first and encoder is not None:
            logger.info("motion: %d numbers by %s", encoder.motion_width, encoder.name)
            save_motion_encoder(folder / MOTION_ENCODER, encoder.state_dict(), encoder, self._origin())
        if ranks.first and self._flame is not None:
            save_flame(folder / FLAME, self._flame)
        return reenact_stage(config, self.set, models, None if self._flame is not None else probe(config), self.engines)


def _cast(index: Mapping[str, Any], config: TrainConfig) -> SetConfig:
    """Return the procedural heads that data shows; of tracked faces only their size is known."""
    if index.get("source", HEADS) != HEADS:
        return SetConfig(size=config.model.image_size)
    names = {f.name for f in dataclasses.fields(SetConfig)}
    if "source" in index:  # clips, which are filmed
        index = {**index, "cameras": SetCameras(sampled=FILMED)}
    return SetConfig(**{k: v for k, v in index.items() if k in names})
