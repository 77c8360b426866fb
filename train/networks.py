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
from triportrait.core.files import check_tensor_file
from triportrait.core.motion.neck import NeckField
from triportrait.core.network_kind import REENACTMENT, STATIC, Network, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.core.sentences import say
from triportrait.core.weights import DEMO
from triportrait.train.config import LossConfig, MotionKind, TrainConfig
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.perceptual import perceptual
from triportrait.train.runs.checkpoints import found, module_weights
from triportrait.train.stages import reenact as stage2
from triportrait.train.stages import static as stage1
from triportrait.train.stages.assemble import RENDERER, make_discriminator
from triportrait.train.stages.initialize import reads_motion, start, start_motion
from triportrait.train.stages.motion import AnyMotionEncoder


@dataclass(frozen=True)
class Begin:
    """What a stage begins from.

    Attributes:
        weights: a portrait's weights folder to go on from, or None: stage 1 starts fresh, stage 2 as `init` says.
        init: of the static synthesizer that stage 2 begins as, but for what reads motion; None: that of `static`.
        static: of the static synthesizer that stage 2 asks for pseudo views.
        motion: of the motion encoder that stage 2 asks.
        vgg: file of VGG-16, where LPIPS is the perceptual distance.
        identity: converted file of ArcFace's r18, where the identity term counts.
        flame: weights folder with FLAME's tables, for clips of tracked faces; by default the static synthesizer's.
        teacher: in stage 1 of the static synthesizer that teaches it, where its planes or feature images count; a
            fresh network begins with its renderer. In stage 2 of the reenactment network that draws pseudo views in
            the place of `static`, where the config's teacher is dynamic.
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
    init: str | None = None

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

    Raises: `InputError` where one is missing, of another size or another network than is needed.
    """
    portrait = Portrait4D(config.model)
    start(portrait, config.seed)
    teacher, frozen = _teacher(config, begin, device), config.stage1.schedule.renderer_frozen_until
    if begin.weights is not None:
        _take(portrait, begin.weights, STATIC, "--weights", "name the static synthesizer that stage 1 shall go on from")
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

    Raises: `InputError` where one is missing, of another size or another network than is needed.
    """
    own, begins = config.stage2, None
    if begin.weights is None and own.init == "static":
        begins = _static(begin, config, begin.init or begin.static, "--init" if begin.init else "--static")
    draws = _drawing(begin, config, begins)
    encoder = None
    if own.motion == "pictures":
        encoder = _motion_encoder(begin.motion, config).to(device).eval().requires_grad_(False)
    portrait = Portrait4D(config.model)
    start(portrait, config.seed)
    start_motion(portrait, config.seed)
    if begin.weights is not None:
        _take(
            portrait, begin.weights, REENACTMENT, "--weights",
            "name the reenactment network that stage 2 shall go on from, or begin as this one by --init", own.motion,
        )  # fmt: skip
    elif begins is not None:
        shared = {name: value for name, value in begins.state_dict().items() if not reads_motion(name)}
        portrait.load_state_dict(portrait.state_dict() | shared)
    return stage2.ReenactModels(
        portrait.to(device),
        draws.to(device).eval().requires_grad_(False),
        encoder,
        perceptual(config.perceptual, begin.vgg).to(device),
        config.precision,
        _discriminator(config, own.losses, begin, device),
        _identity(own.losses, begin, device),
        dynamic=own.teacher == "dynamic",
    )


def _static(begin: Begin, config: TrainConfig, name: str | None, option: str) -> Portrait4D:
    """Ψ_3d of a folder, to begin as or to draw pseudo views; its motion may have another width."""
    if name is None:
        raise InputError(
            "static: expected the weights of the static synthesizer for stage 2, got none; name them by --static"
        )
    advice = "name the static synthesizer of stage 1"
    if option == "--static":
        advice += ", and by --teacher a reenactment network that shall draw pseudo views (row G)"
    return _loaded(name, config.model, STATIC, option, advice, any_motion=True)


def _drawing(begin: Begin, config: TrainConfig, begins: Portrait4D | None) -> Portrait4D:
    """What draws the pseudo views of stage 2: the static synthesizer, or a dynamic teacher."""
    if config.stage2.teacher == "static":
        if begin.teacher is not None:
            raise InputError(
                f"teacher: expected none, as the static synthesizer draws pseudo views here, got {begin.teacher}; "
                "leave it out"
            )
        if begins is not None and begin.init is None:
            return begins
        return _static(begin, config, begin.static, "--static")
    if begin.teacher is None:
        raise InputError(
            "teacher: expected the weights of the reenactment network that draws pseudo views (Portrait4D in the "
            "paper), got none; name them by --teacher, and the static synthesizer to begin as by --static or --init"
        )
    advice = "name a network that reads motion, as stage 2 makes it, or leave --teacher and row G out"
    return _loaded(begin.teacher, config.model, REENACTMENT, "--teacher", advice, config.stage2.motion)


def _discriminator(config: TrainConfig, losses: LossConfig, begin: Begin, device: torch.device) -> Discriminator | None:
    if not losses.adversary:
        return None
    made = make_discriminator(config)
    if begin.discriminator is not None:
        folder = begin.discriminator
        try:
            weights = _newest_discriminator(folder)
            check_tensors(folder, weights)
            made.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"{folder}: its discriminator has other sizes; name a run of the same preset") from error
    return made.to(device)


def _newest_discriminator(folder: Path) -> dict[str, Tensor]:
    """Of a run's newest whole checkpoint, or of a checkpoint; what is left out is told."""
    inside = [path for stage in ("stage2", "stage1") for path in reversed(found(folder, stage))]
    for number, path in enumerate(inside):
        try:
            return module_weights(path, "discriminator")
        except InputError as error:
            if number + 1 == len(inside):
                raise
            say(f"{str(error).rpartition(';')[0]}: left out, an older one is taken")
    return module_weights(folder, "discriminator")


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
    _take(teacher, begin.teacher, STATIC, "--teacher", "name the static synthesizer that shall teach stage 1")
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
        check_tensor_file(path)
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: expected a safetensors file, it cannot be read; convert it again") from error
    check_tensors(path, tensors)
    return tensors


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises: `InputError` that names the file and the tensor whose numbers are not finite."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path}: {name} holds numbers that are not finite; name another file")


def _loaded(
    name: str,
    model: ModelConfig,
    network: Network,
    option: str,
    advice: str,
    motion: MotionKind = "pictures",
    any_motion: bool = False,
) -> Portrait4D:
    """The portrait of a weights folder, in float32.

    Args:
        network: which one is needed. option: that named the folder. advice: what to do where it is the other.
        motion: what shall move it, where it is a reenactment network.
        any_motion: its motion may have another width, as nobody will ask for it.

    Raises: `InputError` for the other network, or weights of another size.
    """
    check_network(name, network, option, advice, motion)
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


def _take(
    portrait: Portrait4D, name: str, network: Network, option: str, advice: str, motion: MotionKind = "pictures"
) -> None:
    """Put the weights of a folder into a portrait; the arguments are those of `_loaded`.

    Raises: `InputError` for the other network, or weights of another size.
    """
    portrait.load_state_dict(_loaded(name, portrait.config, network, option, advice, motion).state_dict())
