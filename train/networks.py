"""Make or load the networks of a stage as it begins: what a user names must be there and of the right sizes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import load_genhead
from triportrait.core.motion.encoder import MotionColumns, MotionEncoder
from triportrait.core.motion.head_identity import ModelIdentity
from triportrait.core.network_kind import REENACTMENT, STATIC
from triportrait.core.portrait import Portrait4D
from triportrait.core.weights import DEMO, OPEN_HEAD
from triportrait.train.config import LossConfig, StageConfig, StageName, SuperresStyle, TrainConfig
from triportrait.train.named_networks import Reading, load_named, named_encoder, parameter_encoder, take_named
from triportrait.train.objectives.discriminator import Discriminator
from triportrait.train.objectives.identity import FaceIdentity
from triportrait.train.objectives.perceptual import perceptual
from triportrait.train.runs.checkpoints import checkpoints_of, module_weights
from triportrait.train.runs.weights import check_tensors, read_tensor_file
from triportrait.train.stages.assemble import RENDERER, make_discriminator
from triportrait.train.stages.initialize import initialize, initialize_motion, reads_motion
from triportrait.train.stages.portrait4d import DynamicModels
from triportrait.train.stages.reenact import ReenactModels
from triportrait.train.stages.static import StaticModels

WITH_DISCRIMINATOR = ("stage2", "portrait4d", "stage1", "genhead")  # stages, the last ones first
logger = logging.getLogger(__name__)
_NAMES = (DEMO, OPEN_HEAD)  # of what the package brings, which are no paths


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
        teacher: in stage 2 the reenactment network that draws pseudo views in the place of `static`, where the
            config's teacher is dynamic.
        discriminator: a run or a checkpoint of one stage; None: the discriminator is fresh.
        genhead: a GenHead, with whose renderer a fresh network of stage 1 begins.
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
    genhead: str | None = None

    def names(self) -> dict[str, str | None]:
        """Return the last part of each name as plain JSON values, as folders lie elsewhere on another machine."""
        return {name: None if value is None else Path(value).resolve().name for name, value in self._fields().items()}

    def resolved(self) -> dict[str, str | None]:
        """Return plain JSON values that lead to the same files from any folder of this machine."""
        fields = self._fields().items()
        return {name: value if value in (None, *_NAMES) else str(Path(value).resolve()) for name, value in fields}

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def check_required_files(
    stage: StageName, config: TrainConfig, init_from: InitFrom, others: Mapping[str, str] | None = None
) -> None:
    """Check that every file and folder that a stage asks for is named and is there, before any is read.

    Args:
        stage: stage1, stage2 or portrait4d.
        others: what else is missing -> the options that do without it.

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
    if stage != "stage2":
        missing += list(others or {})
        ways += list((others or {}).values())
        begun = init_from.weights or init_from.genhead or (stage == "portrait4d" and init_from.static)
        if stage_config.schedule.renderer_frozen_until and not begun:
            missing.append("--genhead FOLDER (a GenHead, whose renderer this one begins with, as it does not move)")
            ways.append("--renderer-frozen-until 0")
    elif init_from.static is None and (
        (config.stage2.teacher == "static" and config.stage2.draws_pseudo_views)
        or (config.stage2.init == "static" and init_from.init is None and init_from.weights is None)
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
        "genhead": init_from.genhead,
        "discriminator": init_from.discriminator,
    }
    options |= {"vgg": init_from.vgg} if config.perceptual == "lpips" else {}
    options |= {"identity": init_from.identity} if losses.identity else {}
    if stage == "portrait4d":
        options |= {"static": init_from.static, "motion": init_from.motion}
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
    frozen = config.stage1.schedule.renderer_frozen_until
    if init_from.weights is not None:
        take_named(
            portrait,
            init_from.weights,
            STATIC,
            "--weights",
            "name the static synthesizer that stage 1 shall go on from",
        )
    elif init_from.genhead is not None:
        take_renderer(portrait, load_genhead(init_from.genhead), init_from.genhead, config.superres_style)
    elif frozen:
        raise InputError(
            f"renderer: expected a trained one, as it does not move for the first {frozen:,} images, got a fresh one; "
            "name a GenHead by --genhead or weights by --weights, or set --renderer-frozen-until 0"
        )
    losses = config.stage1.losses
    return StaticModels(
        portrait.to(device),
        perceptual(config.perceptual, init_from.vgg).to(device),
        config.precision,
        _discriminator(config, losses, init_from, device),
        _identity(losses, init_from, device),
    )


def dynamic_models(
    config: TrainConfig, init_from: InitFrom, device: torch.device, head_model: ModelIdentity | None = None
) -> DynamicModels:
    """Return the networks of Portrait4D's training as it begins.

    Args:
        head_model: whose parameters the heads are drawn from; None: nobody is asked.

    Raises: `InputError` where one is missing, of another size or another network than is needed, or reenacts by another
        head model or motion encoder.
    """
    stage = config.portrait4d
    assert stage is not None, "a config of this training"
    if init_from.weights is not None and init_from.static is not None:
        raise InputError(
            f"--static {init_from.static}: expected none beside --weights, which says how it begins; leave one out"
        )
    encoder = named_encoder(init_from.motion, config).to(device).eval().requires_grad_(False)
    portrait = Portrait4D(config.model)
    initialize(portrait, config.seed)
    initialize_motion(portrait, config.seed)
    frozen = stage.schedule.renderer_frozen_until
    if init_from.weights is not None:
        take_named(
            portrait, init_from.weights, REENACTMENT, "--weights",
            "name the reenactment network to go on from, or begin as this one by --static",
            Reading("pictures", encoder, head_model),
        )  # fmt: skip
    elif init_from.static is not None:
        _begin_as(portrait, _static(init_from, config, init_from.static, "--static"))
    elif init_from.genhead is not None:
        take_renderer(portrait, load_genhead(init_from.genhead), init_from.genhead, config.superres_style)
    elif frozen:
        raise InputError(
            f"renderer: expected a trained one, as it does not move for the first {frozen:,} images, got a fresh one; "
            "name a static synthesizer by --static or a GenHead by --genhead, or set --renderer-frozen-until 0"
        )
    return DynamicModels(
        portrait.to(device),
        encoder,
        perceptual(config.perceptual, init_from.vgg).to(device),
        config.precision,
        _discriminator(config, stage.losses, init_from, device),
        _identity(stage.losses, init_from, device),
    )


def _begin_as(portrait: Portrait4D, static: Portrait4D) -> None:
    """Put all of a static synthesizer but what reads motion into a portrait."""
    shared = {name: value for name, value in static.state_dict().items() if not reads_motion(name)}
    portrait.load_state_dict(portrait.state_dict() | shared)


def take_renderer(portrait: Portrait4D, generator: GenHead, name: str, style: SuperresStyle) -> None:
    """Let a portrait begin with a GenHead's renderer: the MLP behind its planes and its super-resolution (section A).

    With GenHead's own style super-resolution draws as GenHead's does. The published code copies the mean style of the
    mapping in its place; both are the same in a file that was made without use_ws_ones.

    Args:
        generator: not folded. name: of its folder, for the sentence.
        style: of super-resolution.

    Raises: `InputError` where its renderer has other sizes.
    """
    mine = portrait.state_dict()
    renders = {key: value for key, value in generator.state_dict().items() if key.startswith(RENDERER)}
    wanted = {key: value.shape for key, value in mine.items() if key.startswith(RENDERER)}
    if wanted != {key: value.shape for key, value in renders.items()}:
        ours, theirs = portrait.config, generator.config
        raise InputError(
            f"--genhead {name}: expected a renderer of the sizes of preset {ours.preset} (planes of "
            f"{ours.render.plane_width} channels, {ours.image_size} px), got those of {theirs.preset} "
            f"({theirs.render.plane_width} channels, {theirs.image_size} px); name another GenHead or preset"
        )
    if style == "mean":
        renders["superres.style"] = generator.mapping.mean_style
    portrait.load_state_dict(mine | renders)


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
        encoder = named_encoder(init_from.motion, config).to(device).eval().requires_grad_(False)
    elif parameters is not None:
        encoder = parameter_encoder(init_from.motion, parameters).to(device)
    read_as = Reading(stage.motion, encoder, head_model)
    synthesizer = _view_synthesizer(init_from, config, initial, read_as)
    portrait = Portrait4D(config.model)
    initialize(portrait, config.seed)
    initialize_motion(portrait, config.seed)
    if init_from.weights is not None:
        take_named(
            portrait, init_from.weights, REENACTMENT, "--weights",
            "name the reenactment network that stage 2 shall go on from, or begin as this one by --init",
            read_as,
        )  # fmt: skip
    elif initial is not None:
        _begin_as(portrait, initial)
    return ReenactModels(
        portrait.to(device),
        None if synthesizer is None else synthesizer.to(device).eval().requires_grad_(False),
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
    return load_named(name, config.model, STATIC, option, advice, any_motion=True)


def _view_synthesizer(
    init_from: InitFrom, config: TrainConfig, initial: Portrait4D | None, read_as: Reading
) -> Portrait4D | None:
    """Return the network that draws the pseudo views of stage 2: the static synthesizer, or a dynamic teacher.

    Where all is learned from real frames it is None, unless one was named: previews show its views.
    """
    if config.stage2.teacher == "static":
        if init_from.teacher is not None:
            raise InputError(
                f"teacher: expected none, as the static synthesizer draws pseudo views here, got {init_from.teacher}; "
                "leave it out"
            )
        if initial is not None and init_from.init is None:
            return initial
        if init_from.static is None and not config.stage2.draws_pseudo_views:
            return None
        return _static(init_from, config, init_from.static, "--static")
    if init_from.teacher is None:
        raise InputError(
            "teacher: expected the weights of the reenactment network that draws pseudo views (Portrait4D in the "
            "paper), got none; name them by --teacher, and the static synthesizer to begin as by --static or --init"
        )
    advice = "name a network that reads motion, as stage 2 makes it, or leave --teacher and row G out"
    return load_named(init_from.teacher, config.model, REENACTMENT, "--teacher", advice, read_as)


def _discriminator(
    config: TrainConfig, losses: LossConfig, init_from: InitFrom, device: torch.device
) -> Discriminator | None:
    if not losses.adversarial:
        return None
    discriminator = make_discriminator(config)
    if init_from.discriminator is not None:
        take_discriminator(discriminator, init_from.discriminator)
    return discriminator.to(device)


def take_discriminator(discriminator: Discriminator, folder: Path) -> None:
    """Give a fresh discriminator the weights of another run, or of a checkpoint.

    Raises: `InputError` where there is none, or it has other sizes.
    """
    try:
        weights = _newest_discriminator(folder)
        check_tensors(folder, weights)
        discriminator.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{folder}: its discriminator has other sizes; name a run of the same preset") from error


def _newest_discriminator(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a run's newest whole checkpoint, or of a checkpoint; what is left out is logged."""
    inside = [path for stage in WITH_DISCRIMINATOR for path in reversed(checkpoints_of(folder, stage))]
    for number, path in enumerate(inside):
        try:
            return module_weights(path, "discriminator")
        except InputError as error:
            if number + 1 == len(inside):
                raise
            logger.warning("%s: left out, an older one is taken", str(error).rpartition(";")[0])
    return module_weights(folder, "discriminator")


def _identity(losses: LossConfig, init_from: InitFrom, device: torch.device) -> FaceIdentity | None:
    if not losses.identity:
        return None
    if init_from.identity is None:
        raise InputError(
            "identity: expected the converted file of ArcFace's r18, as its term counts, got none; name it by "
            "--identity, or set --identity-weight 0"
        )
    return FaceIdentity().load(read_tensor_file(init_from.identity)).to(device)
