"""A run of one stage on any number of processes: `triportrait train stage1` and `stage2`.

run/config.json, run/log.jsonl, run/samples, run/tensorboard, run/checkpoints as `loop` and `record` make them, and for
stage 2 run/motion_encoder, a copy of the encoder that it asks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from triportrait.core.checkpoint import load_motion_encoder, load_portrait, save_motion_encoder, weights_folder
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.portrait import Portrait4D
from triportrait.train import stage1, stage2
from triportrait.train.config import LossConfig, SetConfig, TrainConfig
from triportrait.train.data.clip_pictures import ClipPictures
from triportrait.train.data.clip_store.filming import HEADS
from triportrait.train.data.clip_store.frames import AvDecoder, DaliDecoder, resolved
from triportrait.train.data.clip_store.store import ClipStore, holds_clips
from triportrait.train.data.clip_store.tracks import FlameTracks, HeadTracks, Tracks
from triportrait.train.data.multiview import MultiviewSet
from triportrait.train.data.pictures import PictureSet
from triportrait.train.loop import Stage, run_stage
from triportrait.train.motion import AnyMotionEncoder
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.perceptual import perceptual
from triportrait.train.probe import probe
from triportrait.train.runs.checkpoints import check_checkpoints
from triportrait.train.runs.claim import claim, made_folder
from triportrait.train.runs.run_config import MOTION_ENCODER, check_config, check_folder
from triportrait.train.runs.stopping import Stopper
from triportrait.train.stages import Engines, discriminator, reenact_stage, static_stage
from triportrait.train.start import reads_motion, start, start_motion

StageName = Literal["stage1", "stage2"]
STAGES = ("stage1", "motion", "stage2")  # of a config


@dataclass(frozen=True)
class Begin:
    """What a stage begins from.

    Attributes:
        weights: a portrait's weights folder, or None: stage 1 starts fresh, stage 2 from the static synthesizer.
        static: of the static synthesizer that stage 2 asks for pseudo views.
        motion: of the motion encoder that stage 2 asks.
        vgg: file of VGG-16, where LPIPS is the perceptual distance.
        identity: converted file of ArcFace's r18, where the identity term counts.
        flame: weights folder with FLAME's tables, for clips of tracked faces; by default the static synthesizer's.
        teacher: of the static synthesizer that teaches stage 1, where its planes or feature images count.
    """

    weights: str | None = None
    static: str | None = None
    motion: str = "demo"
    vgg: Path | None = None
    identity: Path | None = None
    flame: str | None = None
    teacher: str | None = None

    def told(self) -> dict[str, str | None]:
        """Plain JSON values: only the last part of each name, as folders lie elsewhere on another machine."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: None if value is None else Path(value).resolve().name for name, value in own.items()}


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
        self.name, self.run, self.engines, self.loading = name, run, engines, loading or Loading()
        self._clips = ClipStore(data, whole=False) if holds_clips(data) else None
        index = MultiviewSet(data).index if self._clips is None else self._clips.index
        if self._clips is not None and name == "stage1":
            raise InputError(
                f"{data}: expected a multi-view set for stage 1, this is a clip store; make a set by `triportrait "
                "prepare heads`"
            )
        tracked = self._clips is not None and self._clips.source != HEADS
        if tracked and config.stage2.losses.adversary:
            raise InputError(
                f"{data}: expected positions of what is seen, as the discriminator wants, clips of tracked faces have "
                "none; say --adversary 0"
            )
        self._flame = flame_field(begin.flame or begin.static) if tracked else None
        idle = {other: dataclasses.replace(getattr(config, other), views=1) for other in STAGES if other != name}
        self.config = dataclasses.replace(config, cast=_cast(index, config), **idle)  # what is idle asks for no views
        ranks = engines.ranks
        self._store_config: Callable[[], None] = lambda: None
        with ranks.together():
            if ranks.first:
                made_folder(run)
                check_folder(run)
                self._claim = claim(run)
                files = index["files" if self._clips is None else "clips"]
                data_told = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
                told = {"stage": name, "data": data_told, "begin": begin.told()}
                if self._clips is not None:
                    told |= {"source": self._clips.source, "decoder": resolved(self.loading.decoder, ranks.device)}
                self._store_config = check_config(run, self.config.to_dict() | {"run": told}, changes_allowed)
                check_checkpoints(run, [name])
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
        decode = DaliDecoder(device) if resolved(loading.decoder, device) == "dali" else AvDecoder()
        return ClipPictures(self._clips, model, tracks, self.config.seed, decode, loading.most_skipped, opposed)

    def train(self, stopper: Stopper | None = None) -> None:
        """Run it to its end, from its last whole checkpoint if there is one."""
        config = self.config
        each = config.save_each, config.sample_each
        ranks, ahead = self.engines.ranks, self.loading.prefetch
        run_stage(self.stage, self.run, config.seed, *each, ranks, stopper, self._store_config, ahead)

    def _static(self, begin: Begin) -> Stage:
        config, device = self.config, self.engines.ranks.device
        portrait = Portrait4D(config.model)
        start(portrait, config.seed)
        if begin.weights is not None:
            _take(portrait, begin.weights)
        critic = discriminator(config).to(device) if config.stage1.losses.adversary else None
        distance = perceptual(config.perceptual, begin.vgg).to(device)
        identity = self._identity(config.stage1.losses.identity, begin)
        teacher = self._teacher(config.stage1.losses, begin)
        models = stage1.StaticModels(portrait.to(device), distance, config.precision, critic, identity, teacher)
        assert isinstance(self.set, PictureSet)
        return static_stage(config, [self.set], models, probe(config), self.engines)

    def _reenact(self, begin: Begin) -> Stage:
        config, device = self.config, self.engines.ranks.device
        if begin.static is None:
            raise InputError("static: expected the weights of the static synthesizer for stage 2, got none; name them")
        own, width = config.stage2, config.model.transformer.motion_width
        if own.clips > self.set.heads:
            raise InputError(
                f"data: expected {own.clips:,} clips or more for this training, got {self.set.heads:,}; name a larger "
                "set"
            )
        if own.motion == "parameters" and self.set.motion_width != width:
            raise InputError(
                f"data: expected motion of {width} numbers, got {self.set.motion_width}; name clips with FLAME's "
                "parameters"
            )
        static = _loaded(begin.static, config.model, any_motion=own.teacher == "static")
        encoder = self._motion_encoder(begin.motion, width) if own.motion == "pictures" else None
        portrait = Portrait4D(config.model)
        start(portrait, config.seed)
        start_motion(portrait, config.seed)
        if begin.weights is not None:
            _take(portrait, begin.weights)
        elif own.begins == "static":
            shared = {name: value for name, value in static.state_dict().items() if not reads_motion(name)}
            portrait.load_state_dict(portrait.state_dict() | shared)
        critic = discriminator(config).to(device) if config.stage2.losses.adversary else None
        models = stage2.ReenactModels(
            portrait.to(device),
            static.to(device).eval().requires_grad_(False),
            None if encoder is None else encoder.to(device).eval().requires_grad_(False),
            perceptual(config.perceptual, begin.vgg).to(device),
            config.precision,
            critic,
            self._identity(config.stage2.losses.identity, begin),
            dynamic=own.teacher == "dynamic",
        )
        return reenact_stage(config, self.set, models, None if self._flame is not None else probe(config), self.engines)

    def _motion_encoder(self, name: str, width: int) -> AnyMotionEncoder:
        """The encoder that the run asks, of which it keeps a copy."""
        encoder = load_motion_encoder(weights_folder(name))
        if encoder.motion_width != width:
            raise InputError(
                f"{name}: expected a motion encoder of {width} numbers, got {encoder.motion_width}; name another folder"
            )
        if self.engines.ranks.first:
            save_motion_encoder(self.run / MOTION_ENCODER, encoder.state_dict(), encoder, {})
        return encoder

    def _teacher(self, losses: LossConfig, begin: Begin) -> Portrait4D | None:
        counts = losses.planes > 0 or losses.feature > 0
        if counts != (begin.teacher is not None):
            raise InputError(
                "teacher: expected the weights of a static synthesizer, as its planes or feature images count, got "
                "none; name them by --teacher, or set --planes-weight 0 and --feature-weight 0"
                if counts
                else f"teacher: expected none, as nothing it says counts, got {begin.teacher}; give --planes-weight or "
                "--feature-weight, or leave it out"
            )
        if begin.teacher is None:
            return None
        teacher = Portrait4D(self.config.model)
        _take(teacher, begin.teacher)
        return teacher.to(self.engines.ranks.device).eval().requires_grad_(False)

    def _identity(self, weight: float, begin: Begin) -> FaceIdentity | None:
        if not weight:
            return None
        if begin.identity is None:
            raise InputError(
                "identity: expected the converted file of ArcFace's r18, as its term counts, got none; name it by "
                "--identity, or set --identity-weight 0"
            )
        return FaceIdentity().load(read_file(begin.identity)).to(self.engines.ranks.device)


def _cast(index: dict[str, Any], config: TrainConfig) -> SetConfig:
    """The procedural heads that data shows; of tracked faces none, only their size."""
    if index.get("source", HEADS) != HEADS:
        return SetConfig(size=config.model.image_size)
    known = {f.name for f in dataclasses.fields(SetConfig)}
    return SetConfig(**{k: v for k, v in index.items() if k in known})


def flame_field(name: str | None) -> NeckField:
    """FLAME of a weights folder, with the published table of landmarks.

    Raises: `InputError` where they are not there.
    """
    field = None if name is None else load_portrait(weights_folder(name)).neck
    if field is None or "landmark70_faces" not in field.flame:
        raise InputError(
            f"{name or 'flame'}: expected FLAME's tables with its landmarks, as clips of tracked faces need, got none; "
            "name by --flame the folder of a converted published checkpoint"
        )
    return field


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises: `InputError` where it cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: expected a safetensors file, it cannot be read; convert it again") from error


def _loaded(name: str, model: ModelConfig, any_motion: bool = False) -> Portrait4D:
    """The portrait of a weights folder, in float32.

    Args:
        any_motion: its motion may have another width, as nobody will ask for it.

    Raises: `InputError` for weights of another size.
    """
    found = load_portrait(weights_folder(name))
    wanted, width = model, found.config.transformer.motion_width
    if any_motion:
        transformer = dataclasses.replace(model.transformer, motion_width=width)
        wanted = dataclasses.replace(model, preset=found.config.preset, transformer=transformer)
    if found.config != wanted:
        raise InputError(
            f"{name}: expected weights of preset {wanted.preset}, {wanted.image_size} px, motion of "
            f"{wanted.transformer.motion_width} numbers, got {found.config.preset}, {found.config.image_size} px, "
            f"{width}; name another folder"
        )
    found.neck = None  # FLAME's tables, which training keeps beside the network
    return found.float()


def _take(portrait: Portrait4D, name: str) -> None:
    """Put the weights of a folder into a portrait.

    Raises: `InputError` for weights of another size.
    """
    portrait.load_state_dict(_loaded(name, portrait.config).state_dict())
