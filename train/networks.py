"""Make or load the networks of a stage as it begins: what a user names must be there and of the right sizes."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triportrait.core.checkpoint import load_motion_encoder, load_portrait, motion_encoder_of_card, weights_folder
from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.motion.encoder import MotionColumns, MotionEncoder, encoder_fingerprint
from triportrait.core.motion.head_identity import PUBLISHED_MODEL, ModelIdentity, check_same_model
from triportrait.core.motion.neck import NeckField
from triportrait.core.motion.parameter_encoder import ParameterEncoder
from triportrait.core.network_kind import REENACTMENT, STATIC, Network, check_network
from triportrait.core.portrait import Portrait4D
from triportrait.core.safe_text import shown
from triportrait.core.weights import DEMO, OPEN_HEAD
from triportrait.train.config import LossConfig, MotionKind, StageConfig, StageName, TrainConfig
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.perceptual import perceptual
from triportrait.train.runs.checkpoints import checkpoints_of, module_weights
from triportrait.train.runs.weights import check_tensors, read_tensor_file
from triportrait.train.stages.assemble import RENDERER, make_discriminator
from triportrait.train.stages.initialize import initialize, initialize_motion, reads_motion
from triportrait.train.stages.reenact import ReenactModels
from triportrait.train.stages.static import StaticModels

logger = logging.getLogger(__name__)
_NAMES = (DEMO, OPEN_HEAD)  # of what the package brings, which are no paths


@dataclass(frozen=True)
class Reading:
    """By what data move a reenactment network.

    Attributes:
        motion: which kind of motion. encoder: that gives it. head_model: whose the parameters of faces are.
    """

    motion: MotionKind
    encoder: MotionEncoder | None
    head_model: ModelIdentity | None


@dataclass(frozen=True)
class InitFrom:
    """The weights that a stage begins from, and those of the frozen networks that it uses; names of folders and files.

    Attributes:
        weights: a portrait's weights folder to go on from, or None: stage 1 starts fresh, stage 2 as `init` says.
        init: the static synthesizer that stage 2 begins as, but for what reads motion; None: that of `static`.
        static: the static synthesizer that draws pseudo views for stage 2.
        motion: the motion encoder that stage 2 uses.
        vgg: file of VGG-16, where LPIPS is the perceptual distance.
        identity: converted file of ArcFace's r18, where the identity term counts.
        flame: head model of clips of tracked faces, a weights folder with FLAME's tables or `open-head`; by default
            the open head where the clips are of it, else the static synthesizer's.
        teacher: in stage 1 the static synthesizer that teaches it, where its planes or feature images count; a fresh
            network begins with its renderer. In stage 2 the reenactment network that draws pseudo views in the place
            of `static`, where the config's teacher is dynamic.
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

    def names(self) -> dict[str, str | None]:
        """Return the last part of each name as plain JSON values, as folders lie elsewhere on another machine."""
        return {name: None if value is None else Path(value).resolve().name for name, value in self._fields().items()}

    def resolved(self) -> dict[str, str | None]:
        """Return plain JSON values that lead to the same files from any folder of this machine."""
        fields = self._fields().items()
        return {name: value if value in (None, *_NAMES) else str(Path(value).resolve()) for name, value in fields}

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def check_required_files(stage: StageName, config: TrainConfig, init_from: InitFrom) -> None:
    """Check that every file and folder that a stage asks for is named and is there, before any is read.

    Args:
        stage: stage1 or stage2.

    Raises: `InputError` that names all that are missing, where there are two or more; where one is, loading it says so.
    """
    stage_config: StageConfig = getattr(config, stage)
    missing: list[str] = []
    ways: list[str] = []
    if config.perceptual == "lpips" and init_from.vgg is None:
        missing.append("--vgg FILE (VGG-16 as torchvision has it)")
        ways.append("--perceptual gradients")
    if stage_config.losses.identity and init_from.identity is None:
        missing.append("--identity FILE (ArcFace's r18 as `triportrait convert` writes it)")
        ways.append("--identity-weight 0")
    if stage == "stage1":
        frozen = stage_config.schedule.renderer_frozen_until > 0 and init_from.weights is None
        distills = stage_config.losses.distill_planes > 0 or stage_config.losses.distill_feature > 0
        if init_from.teacher is None and distills:
            what = "a static synthesizer that teaches, and whose renderer this one takes" if frozen else "that teaches"
            missing.append(f"--teacher FOLDER (weights of {what if frozen else f'a static synthesizer {what}'})")
            ways.append("--distill-planes 0 --distill-feature 0")
        elif init_from.teacher is None and frozen:
            missing.append("--weights FOLDER (a trained renderer, as it does not move at first)")
        if init_from.teacher is None and frozen:
            ways.append("--renderer-frozen-until 0")
    elif init_from.static is None and (
        config.stage2.teacher == "static" or (config.stage2.init == "static" and init_from.init is None)
    ):
        missing.append("--static FOLDER (weights of the static synthesizer)")
    if stage == "stage2" and config.stage2.teacher == "dynamic" and init_from.teacher is None:
        missing.append("--teacher FOLDER (weights of the reenactment network that draws pseudo views)")
    gone = [f"{name}, which is not there" for name in _not_there(stage, config, init_from)]
    if len(missing) + len(gone) < 2:
        return
    without = f", or go without by {' '.join(ways)}" if ways else ""
    raise InputError(
        f"{stage} of preset {config.preset}: {len(missing) + len(gone)} things are missing: "
        f"{', '.join([*missing, *gone])}; name them{without}"
    )


def _not_there(stage: str, config: TrainConfig, init_from: InitFrom) -> list[str]:
    """Return the options that this training reads and that name no file or folder."""
    losses = getattr(config, stage).losses
    options: dict[str, object] = {
        "weights": init_from.weights,
        "teacher": init_from.teacher,
        "discriminator": init_from.discriminator,
    }
    options |= {"vgg": init_from.vgg} if config.perceptual == "lpips" else {}
    options |= {"identity": init_from.identity} if losses.identity else {}
    if stage == "stage2":
        options |= {"static": init_from.static, "init": init_from.init, "flame": init_from.flame}
        options |= {"motion": init_from.motion} if config.stage2.motion == "pictures" else {}
    named = {name: str(value) for name, value in options.items() if value is not None and value not in _NAMES}
    return [f"--{name} {value}" for name, value in named.items() if not Path(value).exists()]


def static_models(config: TrainConfig, init_from: InitFrom, device: torch.device) -> StaticModels:
    """Return the networks of stage 1 as it begins.

    Raises: `InputError` where one is missing, of another size or another network than is needed.
    """
    portrait = Portrait4D(config.model)
    initialize(portrait, config.seed)
    teacher, frozen = _teacher(config, init_from, device), config.stage1.schedule.renderer_frozen_until
    if init_from.weights is not None:
        _take(
            portrait,
            init_from.weights,
            STATIC,
            "--weights",
            "name the static synthesizer that stage 1 shall go on from",
        )
    elif teacher is not None:  # its planes mean something to its own renderer alone
        renders = {name: value for name, value in teacher.state_dict().items() if name.startswith(RENDERER)}
        portrait.load_state_dict(portrait.state_dict() | renders)
    elif frozen:
        raise InputError(
            f"renderer: expected a trained one, as it does not move for the first {frozen:,} images, got a fresh one; "
            "name weights by --teacher or --weights, or set --renderer-frozen-until 0"
        )
    losses = config.stage1.losses
    return StaticModels(
        portrait.to(device),
        perceptual(config.perceptual, init_from.vgg).to(device),
        config.precision,
        _discriminator(config, losses, init_from, device),
        _identity(losses, init_from, device),
        teacher,
    )


def reenact_models(
    config: TrainConfig,
    init_from: InitFrom,
    device: torch.device,
    parameters: MotionColumns | None = None,
    head_model: ModelIdentity | None = None,
) -> ReenactModels:
    """Return the networks of stage 2 as it begins.

    Args:
        parameters: what the data's parameters are, where those are the motion.
        head_model: whose the data's parameters are; None: nobody is asked.

    Raises: `InputError` where one is missing, of another size or another network than is needed, or reenacts by another
        head model or motion encoder.
    """
    stage, initial = config.stage2, None
    if init_from.weights is None and stage.init == "static":
        initial = _static(
            init_from, config, init_from.init or init_from.static, "--init" if init_from.init else "--static"
        )
    encoder: MotionEncoder | None = None
    if stage.motion == "pictures":
        encoder = _motion_encoder(init_from.motion, config).to(device).eval().requires_grad_(False)
    elif parameters is not None:
        encoder = _parameter_encoder(init_from.motion, parameters).to(device)
    read_as = Reading(stage.motion, encoder, head_model)
    synthesizer = _view_synthesizer(init_from, config, initial, read_as)
    portrait = Portrait4D(config.model)
    initialize(portrait, config.seed)
    initialize_motion(portrait, config.seed)
    if init_from.weights is not None:
        _take(
            portrait, init_from.weights, REENACTMENT, "--weights",
            "name the reenactment network that stage 2 shall go on from, or begin as this one by --init",
            read_as,
        )  # fmt: skip
    elif initial is not None:
        shared = {name: value for name, value in initial.state_dict().items() if not reads_motion(name)}
        portrait.load_state_dict(portrait.state_dict() | shared)
    return ReenactModels(
        portrait.to(device),
        synthesizer.to(device).eval().requires_grad_(False),
        encoder,
        perceptual(config.perceptual, init_from.vgg).to(device),
        config.precision,
        _discriminator(config, stage.losses, init_from, device),
        _identity(stage.losses, init_from, device),
        dynamic=stage.teacher == "dynamic",
    )


def _static(init_from: InitFrom, config: TrainConfig, name: str | None, option: str) -> Portrait4D:
    """Ψ_3d of a folder, to begin as or to draw pseudo views; its motion may have another width."""
    if name is None:
        raise InputError(
            "static: expected the weights of the static synthesizer for stage 2, got none; name them by --static"
        )
    advice = "name the static synthesizer of stage 1"
    if option == "--static":
        advice += ", and by --teacher a reenactment network that shall draw pseudo views (row G)"
    return _loaded(name, config.model, STATIC, option, advice, any_motion=True)


def _view_synthesizer(
    init_from: InitFrom, config: TrainConfig, initial: Portrait4D | None, read_as: Reading
) -> Portrait4D:
    """Return the network that draws the pseudo views of stage 2: the static synthesizer, or a dynamic teacher."""
    if config.stage2.teacher == "static":
        if init_from.teacher is not None:
            raise InputError(
                f"teacher: expected none, as the static synthesizer draws pseudo views here, got {init_from.teacher}; "
                "leave it out"
            )
        if initial is not None and init_from.init is None:
            return initial
        return _static(init_from, config, init_from.static, "--static")
    if init_from.teacher is None:
        raise InputError(
            "teacher: expected the weights of the reenactment network that draws pseudo views (Portrait4D in the "
            "paper), got none; name them by --teacher, and the static synthesizer to begin as by --static or --init"
        )
    advice = "name a network that reads motion, as stage 2 makes it, or leave --teacher and row G out"
    return _loaded(init_from.teacher, config.model, REENACTMENT, "--teacher", advice, read_as)


def _discriminator(
    config: TrainConfig, losses: LossConfig, init_from: InitFrom, device: torch.device
) -> Discriminator | None:
    if not losses.adversarial:
        return None
    discriminator = make_discriminator(config)
    if init_from.discriminator is not None:
        folder = init_from.discriminator
        try:
            weights = _newest_discriminator(folder)
            check_tensors(folder, weights)
            discriminator.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"{folder}: its discriminator has other sizes; name a run of the same preset") from error
    return discriminator.to(device)


def _newest_discriminator(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a run's newest whole checkpoint, or of a checkpoint; what is left out is logged."""
    inside = [path for stage in ("stage2", "portrait4d", "stage1") for path in reversed(checkpoints_of(folder, stage))]
    for number, path in enumerate(inside):
        try:
            return module_weights(path, "discriminator")
        except InputError as error:
            if number + 1 == len(inside):
                raise
            logger.warning("%s: left out, an older one is taken", str(error).rpartition(";")[0])
    return module_weights(folder, "discriminator")


def told_encoder(name: str) -> MotionEncoder:
    """Return the motion encoder that a weights folder, or demo, tells of, without its weights.

    Raises: `InputError` where there is none.
    """
    return motion_encoder_of_card(weights_folder(name))


def _motion_encoder(name: str, config: TrainConfig) -> MotionEncoder:
    encoder, width = load_motion_encoder(weights_folder(name)), config.model.transformer.motion_width
    if not encoder.reads_pictures:
        raise InputError(
            f"{name}: expected a motion encoder that reads pictures, got {shown(encoder.name)}, which takes "
            "parameters; say --motion-kind parameters, or name another folder"
        )
    if encoder.motion_width != width:
        raise InputError(
            f"{name}: expected a motion encoder of {width} numbers, got {encoder.motion_width}; name another folder"
        )
    return encoder


def _parameter_encoder(name: str, parameters: MotionColumns) -> ParameterEncoder:
    """Return the parameters of the data as motion: as they are, or in the units of a folder that holds such an encoder.

    A folder with another kind of encoder is not asked, as nothing reads pictures.
    """
    own = ParameterEncoder(parameters)
    folder = weights_folder(name)
    if name == DEMO or not (folder / "motion.json").exists():
        return own
    encoder = load_motion_encoder(folder)
    if not isinstance(encoder, ParameterEncoder):
        logger.info("motion: the parameters of the data as they are; --motion %s reads pictures and is not asked", name)
        return own
    told = encoder.columns
    if dict(told.widths) != dict(parameters.widths):
        raise InputError(
            f"{name}: expected an encoder of the data's parameters ({_words(parameters)}), got one of {_words(told)}; "
            "name another folder"
        )
    # who says nothing of a model holds published parameters
    ours, theirs = (columns.head_model or PUBLISHED_MODEL for columns in (told, parameters))
    check_same_model(ours, theirs, "data", f"--motion {name}")
    return encoder


def _words(columns: MotionColumns) -> str:
    return ", ".join(f"{name} {width}" for name, width in columns.widths.items())


def _teacher(config: TrainConfig, init_from: InitFrom, device: torch.device) -> Portrait4D | None:
    losses = config.stage1.losses
    counts = losses.distill_planes > 0 or losses.distill_feature > 0
    if counts != (init_from.teacher is not None):
        raise InputError(
            "teacher: expected the weights of a static synthesizer, as its planes or feature images count, got "
            "none; name them by --teacher, or set --distill-planes 0 and --distill-feature 0"
            if counts
            else f"teacher: expected none, as nothing it says counts, got {init_from.teacher}; give "
            "--distill-planes or --distill-feature, or leave it out"
        )
    if init_from.teacher is None:
        return None
    teacher = Portrait4D(config.model)
    _take(teacher, init_from.teacher, STATIC, "--teacher", "name the static synthesizer that shall teach stage 1")
    return teacher.to(device).eval().requires_grad_(False)


def _identity(losses: LossConfig, init_from: InitFrom, device: torch.device) -> FaceIdentity | None:
    if not losses.identity:
        return None
    if init_from.identity is None:
        raise InputError(
            "identity: expected the converted file of ArcFace's r18, as its term counts, got none; name it by "
            "--identity, or set --identity-weight 0"
        )
    return FaceIdentity().load(read_tensor_file(init_from.identity)).to(device)


def _loaded(
    name: str,
    model: ModelConfig,
    network: Network,
    option: str,
    advice: str,
    read_as: Reading | None = None,
    any_motion: bool = False,
) -> Portrait4D:
    """Return the portrait of a weights folder, in float32.

    Args:
        network: which one is needed. option: that named the folder. advice: what to do where it is the other.
        read_as: by what the data move it, where it is a reenactment network.
        any_motion: its motion may have another width, as nobody will ask for it.

    Raises: `InputError` for the other network, weights of another size, or ones that something else moves.
    """
    check_network(name, network, option, advice, "pictures" if read_as is None else read_as.motion)
    portrait = load_portrait(weights_folder(name))
    expected, width = model, portrait.config.transformer.motion_width
    if any_motion:
        transformer = dataclasses.replace(model.transformer, motion_width=width)
        expected = dataclasses.replace(model, preset=portrait.config.preset, transformer=transformer)
    if portrait.config != expected:
        raise InputError(
            f"{name}: expected weights of preset {expected.preset}, {expected.image_size} px, motion of "
            f"{expected.transformer.motion_width} numbers, got {portrait.config.preset}, "
            f"{portrait.config.image_size} px, {width}; name another folder"
        )
    if read_as is not None:
        _check_moved_alike(name, portrait, option, read_as)
    portrait.neck = None  # FLAME's tables, which training keeps beside the network
    return portrait.float()


def _check_moved_alike(name: str, portrait: Portrait4D, option: str, read_as: Reading) -> None:
    """Check that a reenactment network is moved by the head model and the motion encoder of the data.

    Raises: `InputError` where it was trained with another of them, as its folder says.
    """
    neck, whose = portrait.neck, f"{option} {shown(name)}"
    if isinstance(neck, NeckField) and read_as.head_model is not None:
        check_same_model(neck.identity or PUBLISHED_MODEL, read_as.head_model, "data", whose)
    folder, encoder = weights_folder(name), read_as.encoder
    if encoder is None or not (folder / "motion.json").exists():
        return
    known = load_motion_encoder(folder)
    mine, others = known.columns, encoder.columns
    if mine is not None and mine.head_model is not None and others is not None and others.head_model is not None:
        check_same_model(mine.head_model, others.head_model, "motion", whose)
    units = None if mine is None else mine.scale
    if encoder_fingerprint(known) != encoder_fingerprint(encoder) or units != (others and others.scale):
        raise InputError(
            f"{whose}: expected a network that is moved by the motion of {shown(encoder.name)} "
            f"({encoder_fingerprint(encoder)}), its own encoder is another, {shown(known.name)} "
            f"({encoder_fingerprint(known)}); say --motion {shown(name)}, or name another network"
        )


def _take(
    portrait: Portrait4D, name: str, network: Network, option: str, advice: str, read_as: Reading | None = None
) -> None:
    """Put the weights of a folder into a portrait; the arguments are those of `_loaded`.

    Raises: `InputError` for the other network, or weights of another size.
    """
    portrait.load_state_dict(_loaded(name, portrait.config, network, option, advice, read_as).state_dict())
