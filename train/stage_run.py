"""A run of one stage on any number of processes: `triportrait train stage1` and `stage2`.

run/config.json, run/log.jsonl, run/samples, run/tensorboard, run/checkpoints as `loop` and `record` make them, and for
stage 2 run/motion_encoder, a copy of the encoder that it asks, and of tracked faces run/flame, FLAME's tables.
run/data.json says what the data were, file by file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from triportrait.core.checkpoint import save_motion_encoder
from triportrait.core.errors import InputError
from triportrait.train.config import SetConfig, TrainConfig
from triportrait.train.data.cameras import FILMED, NO_PRESET, SetCameras, camera_preset_of, shown_cameras
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.frames import AvDecoder, DaliDecoder, resolve_decoder
from triportrait.train.data.clip_store.store import ClipStore, is_clip_store
from triportrait.train.data.clip_store.tracks import FlameTracks, HeadTracks, Tracks
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import PictureSet
from triportrait.train.evaluation.probe import probe
from triportrait.train.loop import Stage, run_stage
from triportrait.train.named import check_named
from triportrait.train.networks import Begin, flame_field, reenact_models, static_models
from triportrait.train.runs.checkpoints import check_checkpoints
from triportrait.train.runs.claim import Start, claim, made_folder
from triportrait.train.runs.diverged import BEGIN, DIVERGED
from triportrait.train.runs.run_config import FLAME, MOTION_ENCODER, check_config, check_folder, data_told
from triportrait.train.runs.stopping import Stopper
from triportrait.train.runs.weights import save_flame
from triportrait.train.stages.assemble import Engines, reenact_stage, static_stage

StageName = Literal["stage1", "stage2"]
STAGES = ("stage1", "motion", "stage2")  # of a config


@dataclass(frozen=True)
class Loading:
    """How data comes to the training.

    Attributes:
        prefetch: steps whose batches are made ahead.
        decoder: of stored clips: av, dali, or auto.
        most_skipped: share of the clips that may be left out as damaged.
    """

    prefetch: int = 2
    decoder: str = "auto"
    most_skipped: float = 0.05

    def __post_init__(self) -> None:
        if self.prefetch < 0:
            raise InputError(f"prefetch: expected 0 or more, got {self.prefetch}; choose another")
        if not 0 <= self.most_skipped <= 1:
            raise InputError(f"most-skipped: expected a share from 0 to 1, got {self.most_skipped}; choose one")


class StageRun:
    """One stage on one of some processes.

    Args:
        name: of the stage.
        config: every number; the cast is that of the data.
        run: the folder; made if it is missing.
        data: a multi-view set, or for stage 2 a clip store.
        begin: weights to begin from.
        engines: how networks are moved, and on which of how many ranks.
        changes_allowed: go on with other numbers than the run was begun with.
        loading: how data is read.

    Raises: `InputError` for anything that cannot be trained, before any work.
    """

    def __init__(
        self,
        name: StageName,
        config: TrainConfig,
        run: Path,
        data: Path,
        begin: Begin,
        engines: Engines,
        changes_allowed: bool = False,
        loading: Loading | None = None,
    ) -> None:
        self.name, self.run, self.engines, self.begin = name, run, engines, begin
        self.loading, self._start = loading or Loading(), Start(run)
        check_named(name, config, begin)
        self._clips = ClipStore(data, whole=False) if is_clip_store(data) else None
        made = MultiviewSet(data) if self._clips is None else None
        index = self._clips.index if made is None else made.index | {"cameras": made.cameras}  # type: ignore[union-attr]
        if self._clips is not None and name == "stage1":
            raise InputError(
                f"{data}: expected a multi-view set for stage 1, this is a clip store; make a set by `triportrait "
                "prepare heads`"
            )
        tracked = self._clips is not None and self._clips.source != HEADS
        self._flame = flame_field(begin.flame or begin.static or begin.init) if tracked else None
        cast = _cast(index, config)
        if cast.size != (side := config.model.image_size):
            made_by = "prepare heads" if self._clips is None else "prepare clips"
            raise InputError(
                f"{data}: expected pictures of {side} px for preset {config.preset}, got {cast.size}; make them again "
                f"by `triportrait {made_by} --size {side}`, or train on pictures of 128 px by --preset tiny"
            )
        if name == "stage1" and cast.cameras != config.cast.cameras:
            wanted, found = (camera_preset_of(one) for one in (config.cast.cameras, cast.cameras))
            way = "" if found == NO_PRESET else f", or say --cameras {found} to train on this one"
            raise InputError(
                f"{data}: expected a set that is seen from {wanted}'s cameras ({shown_cameras(config.cast.cameras)}), "
                f"got {found}'s ({shown_cameras(cast.cameras)}); make one by `triportrait prepare heads --cameras "
                f"{wanted}`{way}"
            )
        if self._clips is not None:  # a clip has one view of each moment
            config = dataclasses.replace(config, stage2=dataclasses.replace(config.stage2, front_sources=0.0))
        idle = {  # what is idle asks for no views
            other: dataclasses.replace(getattr(config, other), views=1, front_sources=0.0)
            for other in STAGES
            if other != name
        }
        self.config = dataclasses.replace(config, cast=cast, **idle)
        ranks = engines.ranks
        self._store_config: Callable[[], None] = lambda: None
        with ranks.together(), self._start.part() if ranks.first else nullcontext():
            if ranks.first:
                made_folder(run)
                check_folder(run)
                self._claim = claim(run)
                files = index["files" if self._clips is None else "clips"]
                data_sign = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
                told = {"stage": name, "data": data_sign, "begin": begin.told()}
                if self._clips is not None:
                    told |= {
                        "source": self._clips.source,
                        "decoder": resolve_decoder(self.loading.decoder, ranks.device),
                    }
                    files = {clip["name"]: clip["files"] for clip in files}
                config_told = self.config.to_dict() | {"run": told}
                known = data_told(data.resolve().name, files)
                self._store_config = check_config(run, config_told, changes_allowed, known)
                check_checkpoints(run, [name])
        with self._start.part() if ranks.first else nullcontext():
            with ranks.together():
                if ranks.first:
                    self.set = self._open(data)  # makes the necks, for the others to read
            with ranks.together():
                if not ranks.first:
                    self.set = self._open(data)
                self.stage = self._static(begin) if name == "stage1" else self._reenact(begin)

    def _open(self, data: Path) -> PictureSet | ClipPictures:
        own = self.config.stage1 if self.name == "stage1" else self.config.stage2
        model, opposed = self.config.model, own.losses.adversary > 0
        if self._clips is None:
            return PictureSet(data, model, True, data.with_name(f"{data.name}.necks"), positions=opposed)
        device, loading = self.engines.ranks.device, self.loading
        tracks: Tracks = HeadTracks(model, device)
        if self._flame is not None:
            kept = model.transformer.motion_width if self.config.stage2.motion == "pictures" else None
            tracks = FlameTracks(self._flame.to(device), kept)
        decode = DaliDecoder(device) if resolve_decoder(loading.decoder, device) == "dali" else AvDecoder()
        return ClipPictures(self._clips, model, tracks, self.config.seed, decode, loading.most_skipped, opposed)

    def train(self, stopper: Stopper | None = None) -> None:
        """Run it to its end, from its last whole checkpoint if there is one."""
        config = self.config
        each = config.save_each, config.sample_each
        ranks, ahead = self.engines.ranks, self.loading.prefetch
        try:
            with self._start.part() if ranks.first else nullcontext():
                run_stage(self.stage, self.run, config.seed, *each, ranks, stopper, self._store_config, ahead)
        except FloatingPointError:
            if ranks.first and (self.run / DIVERGED).is_dir():
                (self.run / DIVERGED / BEGIN).write_text(json.dumps(self.begin.placed(), indent=1) + "\n")
            raise

    def _static(self, begin: Begin) -> Stage:
        models = static_models(self.config, begin, self.engines.ranks.device)
        assert isinstance(self.set, PictureSet)
        return static_stage(self.config, [self.set], models, probe(self.config), self.engines)

    def _reenact(self, begin: Begin) -> Stage:
        config, own, width = self.config, self.config.stage2, self.config.model.transformer.motion_width
        if own.clips > self.set.heads:
            raise InputError(
                f"data: expected {own.clips:,} clips or more for this training, got {self.set.heads:,}; name a larger "
                "set or fewer by --clips"
            )
        if own.motion == "parameters" and self.set.motion_width != width:
            raise InputError(
                f"data: expected motion of {width} numbers, got {self.set.motion_width}; name clips with FLAME's "
                "parameters"
            )
        models = reenact_models(config, begin, self.engines.ranks.device)
        encoder = models.motion_encoder
        if self.engines.ranks.first and encoder is not None:
            save_motion_encoder(self.run / MOTION_ENCODER, encoder.state_dict(), encoder, {})
        if self.engines.ranks.first and self._flame is not None:
            save_flame(self.run / FLAME, self._flame)
        return reenact_stage(config, self.set, models, None if self._flame is not None else probe(config), self.engines)


def _cast(index: dict[str, Any], config: TrainConfig) -> SetConfig:
    """The procedural heads that data shows; of tracked faces none, only their size."""
    if index.get("source", HEADS) != HEADS:
        return SetConfig(size=config.model.image_size)
    known = {f.name for f in dataclasses.fields(SetConfig)}
    if "source" in index:  # clips, which are filmed
        index = index | {"cameras": SetCameras(sampled=FILMED)}
    return SetConfig(**{k: v for k, v in index.items() if k in known})
