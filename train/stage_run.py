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
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from triportrait.core.checkpoint import load_motion_encoder, load_portrait, save_motion_encoder, weights_folder
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.portrait import Portrait4D
from triportrait.train import stage1, stage2
from triportrait.train.config import SetConfig, TrainConfig
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
    """

    weights: str | None = None
    static: str | None = None
    motion: str = "demo"
    vgg: Path | None = None
    identity: Path | None = None

    def told(self) -> dict[str, str | None]:
        """Plain JSON values: only the last part of each name, as folders lie elsewhere on another machine."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: None if value is None else Path(value).resolve().name for name, value in own.items()}


class StageRun:
    """One stage on one of some processes.

    Args:
        name: of the stage.
        config: every number; the cast is that of the data.
        run: the folder; made if it is missing.
        data: a multi-view set.
        begin: weights to begin from.
        engines: how networks are moved, and on which of how many ranks.
        changes_allowed: go on with other numbers than the run was begun with.

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
    ) -> None:
        self.name, self.run, self.engines = name, run, engines
        index = MultiviewSet(data).index
        known = {f.name for f in dataclasses.fields(SetConfig)}
        idle = {other: dataclasses.replace(getattr(config, other), views=1) for other in STAGES if other != name}
        cast = SetConfig(**{k: v for k, v in index.items() if k in known})
        self.config = dataclasses.replace(config, cast=cast, **idle)  # what is not trained asks nothing of the data
        ranks = engines.ranks
        self._store_config: Callable[[], None] = lambda: None
        with ranks.together():
            if ranks.first:
                made_folder(run)
                check_folder(run)
                self._claim = claim(run)
                data_told = hashlib.sha256(json.dumps(index["files"], sort_keys=True).encode()).hexdigest()
                told = {"stage": name, "data": data_told, "begin": begin.told()}
                self._store_config = check_config(run, self.config.to_dict() | {"run": told}, changes_allowed)
                check_checkpoints(run, [name])
        with ranks.together():
            if ranks.first:
                self._open(data)  # makes the necks, for the others to read
        with ranks.together():
            if not ranks.first:
                self._open(data)
            self.stage = self._static(begin) if name == "stage1" else self._reenact(begin)

    def _open(self, data: Path) -> None:
        own = self.config.stage1 if self.name == "stage1" else self.config.stage2
        cache = data.with_name(f"{data.name}.necks")
        self.set = PictureSet(data, self.config.model, True, cache, positions=own.losses.adversary > 0)

    def train(self, stopper: Stopper | None = None) -> None:
        """Run it to its end, from its last whole checkpoint if there is one."""
        config = self.config
        each = config.save_each, config.sample_each
        run_stage(self.stage, self.run, config.seed, *each, self.engines.ranks, stopper, self._store_config)

    def _static(self, begin: Begin) -> Stage:
        config, device = self.config, self.engines.ranks.device
        portrait = Portrait4D(config.model)
        start(portrait, config.seed)
        if begin.weights is not None:
            _take(portrait, begin.weights)
        critic = discriminator(config).to(device) if config.stage1.losses.adversary else None
        distance = perceptual(config.perceptual, begin.vgg).to(device)
        identity = self._identity(config.stage1.losses.identity, begin)
        models = stage1.StaticModels(portrait.to(device), distance, config.precision, critic, identity)
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
        return reenact_stage(config, self.set, models, probe(config), self.engines)

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

    def _identity(self, weight: float, begin: Begin) -> FaceIdentity | None:
        if not weight:
            return None
        if begin.identity is None:
            raise InputError(
                "identity: expected the converted file of ArcFace's r18, as its term counts, got none; name it by "
                "--identity, or set --identity-weight 0"
            )
        return FaceIdentity().load(read_file(begin.identity)).to(self.engines.ranks.device)


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
    return found.float()


def _take(portrait: Portrait4D, name: str) -> None:
    """Put the weights of a folder into a portrait.

    Raises: `InputError` for weights of another size.
    """
    portrait.load_state_dict(_loaded(name, portrait.config).state_dict())
