"""What a stage begins from: the weights and frozen networks that a user names, loaded and of the right sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from triportrait.core.checkpoint import load_motion_encoder, load_portrait, weights_folder
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.neck import NeckField
from triportrait.core.portrait import Portrait4D
from triportrait.core.weights import DEMO
from triportrait.train import stage1, stage2
from triportrait.train.config import LossConfig, TrainConfig
from triportrait.train.motion import AnyMotionEncoder
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.perceptual import perceptual
from triportrait.train.runs.checkpoints import found, module_weights
from triportrait.train.stages import RENDERER, make_discriminator
from triportrait.train.start import reads_motion, start, start_motion


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
        teacher: of the static synthesizer that teaches stage 1, where its planes or feature images count; a fresh
            network begins with its renderer.
        discriminator: a run or a checkpoint of one stage; None: the discriminator is fresh.
    """

    weights: str | None = None
    static: str | None = None
    motion: str = "demo"
    vgg: Path | None = None
    identity: Path | None = None
    flame: str | None = None
    teacher: str | None = None
    discriminator: Path | None = None

    def told(self) -> dict[str, str | None]:
        """Plain JSON values: only the last part of each name, as folders lie elsewhere on another machine."""
        return {name: None if value is None else Path(value).resolve().name for name, value in self._own().items()}

    def placed(self) -> dict[str, str | None]:
        """Plain JSON values that lead to the same files from any folder of this machine."""
        own = self._own().items()
        return {name: value if value in (None, DEMO) else str(Path(value).resolve()) for name, value in own}

    def _own(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def static_models(config: TrainConfig, begin: Begin, device: torch.device) -> stage1.StaticModels:
    """The networks of stage 1 as it begins.

    Raises: `InputError` where one is missing or of another size.
    """
    portrait = Portrait4D(config.model)
    start(portrait, config.seed)
    teacher, frozen = _teacher(config, begin, device), config.stage1.schedule.renderer_frozen_until
    if begin.weights is not None:
        _take(portrait, begin.weights)
    elif teacher is not None:  # its planes mean something to its own renderer alone
        renders = {name: value for name, value in teacher.state_dict().items() if name.startswith(RENDERER)}
        portrait.load_state_dict(portrait.state_dict() | renders)
    elif frozen:
        raise InputError(
            f"renderer: expected a trained one, as it does not move for the first {frozen:,} images, got a fresh one; "
            "name weights by --teacher or --weights, or set --renderer-frozen-until 0"
        )
    losses = config.stage1.losses
    return stage1.StaticModels(
        portrait.to(device),
        perceptual(config.perceptual, begin.vgg).to(device),
        config.precision,
        _discriminator(config, losses, begin, device),
        _identity(losses, begin, device),
        teacher,
    )


def reenact_models(config: TrainConfig, begin: Begin, device: torch.device) -> stage2.ReenactModels:
    """The networks of stage 2 as it begins.

    Raises: `InputError` where one is missing or of another size.
    """
    if begin.static is None:
        raise InputError("static: expected the weights of the static synthesizer for stage 2, got none; name them")
    own = config.stage2
    static = _loaded(begin.static, config.model, any_motion=own.teacher == "static")
    encoder = None
    if own.motion == "pictures":
        encoder = _motion_encoder(begin.motion, config).to(device).eval().requires_grad_(False)
    portrait = Portrait4D(config.model)
    start(portrait, config.seed)
    start_motion(portrait, config.seed)
    if begin.weights is not None:
        _take(portrait, begin.weights)
    elif own.begins == "static":
        shared = {name: value for name, value in static.state_dict().items() if not reads_motion(name)}
        portrait.load_state_dict(portrait.state_dict() | shared)
    return stage2.ReenactModels(
        portrait.to(device),
        static.to(device).eval().requires_grad_(False),
        encoder,
        perceptual(config.perceptual, begin.vgg).to(device),
        config.precision,
        _discriminator(config, own.losses, begin, device),
        _identity(own.losses, begin, device),
        dynamic=own.teacher == "dynamic",
    )


def _discriminator(config: TrainConfig, losses: LossConfig, begin: Begin, device: torch.device) -> Discriminator | None:
    if not losses.adversary:
        return None
    made = make_discriminator(config)
    if begin.discriminator is not None:
        folder = begin.discriminator
        inside = [path for stage in ("stage1", "stage2") for path in found(folder, stage)]
        try:
            made.load_state_dict(module_weights(inside[-1] if inside else folder, "discriminator"))
        except RuntimeError as error:
            raise InputError(f"{folder}: its discriminator has other sizes; name a run of the same preset") from error
    return made.to(device)


def _motion_encoder(name: str, config: TrainConfig) -> AnyMotionEncoder:
    encoder, width = load_motion_encoder(weights_folder(name)), config.model.transformer.motion_width
    if encoder.motion_width != width:
        raise InputError(
            f"{name}: expected a motion encoder of {width} numbers, got {encoder.motion_width}; name another folder"
        )
    return encoder


def _teacher(config: TrainConfig, begin: Begin, device: torch.device) -> Portrait4D | None:
    losses = config.stage1.losses
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
    teacher = Portrait4D(config.model)
    _take(teacher, begin.teacher)
    return teacher.to(device).eval().requires_grad_(False)


def _identity(losses: LossConfig, begin: Begin, device: torch.device) -> FaceIdentity | None:
    if not losses.identity:
        return None
    if begin.identity is None:
        raise InputError(
            "identity: expected the converted file of ArcFace's r18, as its term counts, got none; name it by "
            "--identity, or set --identity-weight 0"
        )
    return FaceIdentity().load(read_file(begin.identity)).to(device)


def flame_field(name: str | None) -> NeckField:
    """FLAME of a weights folder, with the published table of landmarks.

    Raises: `InputError` where they are not there.
    """
    field = None if name is None else load_portrait(weights_folder(name)).neck
    if not isinstance(field, NeckField) or "landmark70_faces" not in field.flame:
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
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: expected a safetensors file, it cannot be read; convert it again") from error
    check_tensors(path, tensors)
    return tensors


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises: `InputError` that names the file and the tensor whose numbers are not finite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path}: {name} holds numbers that are not finite; name another file")


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
