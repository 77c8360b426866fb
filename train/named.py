"""What a stage needs that a user has to name, all of it looked for before anything is read."""

from __future__ import annotations

from pathlib import Path

from triportrait.core.errors import InputError
from triportrait.core.weights import DEMO
from triportrait.train.config import TrainConfig
from triportrait.train.networks import Begin


def check_named(stage: str, config: TrainConfig, begin: Begin) -> None:
    """Look for every file and folder that a stage asks for.

    Args:
        stage: stage1 or stage2.

    Raises: `InputError` that names all that are missing, where there are two or more; where one is, loading it says so.
    """
    own, wanted, ways = getattr(config, stage), [], []
    if config.perceptual == "lpips" and begin.vgg is None:
        wanted.append("--vgg FILE (VGG-16 as torchvision has it)")
        ways.append("--perceptual gradients")
    if own.losses.identity and begin.identity is None:
        wanted.append("--identity FILE (ArcFace's r18 as `triportrait convert` writes it)")
        ways.append("--identity-weight 0")
    if stage == "stage1":
        frozen = own.schedule.renderer_frozen_until > 0 and begin.weights is None
        taught = own.losses.planes > 0 or own.losses.feature > 0
        if begin.teacher is None and taught:
            what = "a static synthesizer that teaches, and whose renderer this one takes" if frozen else "that teaches"
            wanted.append(f"--teacher FOLDER (weights of {what if frozen else f'a static synthesizer {what}'})")
            ways.append("--planes-weight 0 --feature-weight 0")
        elif begin.teacher is None and frozen:
            wanted.append("--weights FOLDER (a trained renderer, as it does not move at first)")
        if begin.teacher is None and frozen:
            ways.append("--renderer-frozen-until 0")
    elif begin.static is None and (own.teacher == "static" or (own.init == "static" and begin.init is None)):
        wanted.append("--static FOLDER (weights of the static synthesizer)")
    if stage == "stage2" and own.teacher == "dynamic" and begin.teacher is None:
        wanted.append("--teacher FOLDER (weights of the reenactment network that draws pseudo views)")
    gone = [f"{name}, which is not there" for name in _not_there(stage, config, begin)]
    if len(wanted) + len(gone) < 2:
        return
    without = f", or go without by {' '.join(ways)}" if ways else ""
    raise InputError(
        f"{stage} of preset {config.preset}: {len(wanted) + len(gone)} things are missing: "
        f"{', '.join([*wanted, *gone])}; name them{without}"
    )


def _not_there(stage: str, config: TrainConfig, begin: Begin) -> list[str]:
    """Options that name nothing, as far as this training reads what they name."""
    own = getattr(config, stage)
    asked: dict[str, object] = {
        "weights": begin.weights,
        "teacher": begin.teacher,
        "discriminator": begin.discriminator,
    }
    asked |= {"vgg": begin.vgg} if config.perceptual == "lpips" else {}
    asked |= {"identity": begin.identity} if own.losses.identity else {}
    if stage == "stage2":
        asked |= {"static": begin.static, "init": begin.init, "flame": begin.flame}
        asked |= {"motion": begin.motion} if own.motion == "pictures" else {}
    named = {name: str(value) for name, value in asked.items() if value is not None and value != DEMO}
    return [f"--{name} {value}" for name, value in named.items() if not Path(value).exists()]
