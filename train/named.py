"""The files and folders that a user has to name for a stage, all looked for before anything is read."""

from __future__ import annotations

from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.core.weights import DEMO
from triportrait.train.config import StageConfig, StageName, TrainConfig
from triportrait.train.networks import InitFrom


def check_named(stage: StageName, config: TrainConfig, init_from: InitFrom) -> None:
    """Look for every file and folder that a stage asks for.

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
    named = {name: str(value) for name, value in options.items() if value is not None and value != DEMO}
    return [f"--{name} {value}" for name, value in named.items() if not Path(value).exists()]
