"""`--show-schedule` prints the schedule of a stage, its cameras, and the columns of Table 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triportrait.train.ablations import INIT, MOTION, TABLE, TEACHER, RowName
from triportrait.train.config import ReenactConfig, StageConfig, TrainConfig
from triportrait.train.data.cameras import shown_cameras, shown_range
from triportrait.train.engines.schedule import active_terms, lazy_corrected


def shown_schedule(name: str, config: StageConfig, full_size: int, motion_lr_factor: float = 1.0) -> str:
    """Describe what is on when in a stage, a line each; spans are in images seen.

    Args:
        name: of the stage: `stage1`, `stage2` or `portrait4d`.
        full_size: side of the model's ray grid, px.
        motion_lr_factor: factor on the learning rate of the layers that read motion.
    """
    schedule, losses = config.schedule, config.losses
    highest_rate, _ = lazy_corrected(config.optimizer)
    lines = {"learning rate": f"up to {highest_rate:.3g}"}
    if motion_lr_factor != 1:
        lines["  of what reads motion"] = f"up to {highest_rate * motion_lr_factor:.3g}"
    sizes = [
        active_terms(schedule, losses, images, full_size).neural_size or full_size for images in (0, config.images)
    ]
    grows = (
        f"{sizes[0]} to {sizes[1]} px, between {schedule.neural_size_grows[0]:,} and {schedule.neural_size_grows[1]:,}"
    )
    lines["ray grid"] = grows if sizes[0] != sizes[1] else f"{full_size} px"
    frozen = schedule.renderer_frozen_until
    lines["renderer moves"] = f"from {frozen:,}" if frozen else "always"
    lines["identity"] = f"{losses.identity:g} from {schedule.identity_from:,}" if losses.identity else "off"
    lines["adversary"] = f"{losses.adversarial:g} from {schedule.adversarial_from:,}" if losses.adversarial else "off"
    if losses.adversarial and isinstance(config, ReenactConfig):
        lines["adversary"] += (
            f", on every real target, {_alone(config):.1%} of them judged alone in micro-batches of "
            f"{config.batch // config.micro_batches}"
        )
    if name in ("stage1", "portrait4d"):
        until = f"until {schedule.distill_until:,}" if schedule.distill_until < config.images else "always"
        known = {
            "depth": losses.depth, "GenHead's planes": losses.distill_planes,
            "GenHead's feature images": losses.distill_feature,
        }  # fmt: skip
        lines |= {label: f"{weight:g} {until}" for label, weight in known.items() if weight}
        density = f"{losses.density:g}, every {schedule.density_every} steps"
        lines["density smoothness"] = density if losses.density else "off"
    if isinstance(config, ReenactConfig):
        lines["real targets"] = f"{config.real_target:.0%}"
        lines["real targets"] += ", the others are pseudo views" if config.real_target < 1 else ""
        read = config.motion == "pictures"
        unread = "none is read: motion is the parameters of the data"
        lines["motion off pseudo views"] = f"{1 - config.real_driving:.0%}" if read else unread
        if schedule.pseudo_every:
            lines["pseudo views"] = f"every {schedule.pseudo_every} steps, in a phase of their own"
    r1 = f"every {schedule.r1_every} steps from {schedule.adversarial_from:,}"
    lines["R1"] = r1 if losses.adversarial else "off"
    width = max(map(len, lines))
    table = [f"{label:{width}}  {text}" for label, text in lines.items()]
    return "\n".join([f"{name}: {config.images:,} images in steps of {config.batch}", *table])


def _alone(config: ReenactConfig) -> float:
    """The share of real targets that the discriminator sees without another one, as no other is in its micro-batch."""
    return (1 - config.real_target) ** (config.batch // config.micro_batches - 1)


def shown_views(name: str, config: TrainConfig) -> str:
    """Describe the cameras of a stage, a line each: those of its set, and which views are sources."""
    stage: StageConfig = getattr(config, name)
    lines = [f"views of the set: {shown_cameras(config.cast.cameras)}"] if name == "stage1" else []
    if isinstance(stage, ReenactConfig):
        uses_p = stage.motion == "pictures" and stage.real_driving < 1
        uses_q = stage.real_target < 1 or bool(stage.schedule.pseudo_every)
        lines = [
            f"θ_p: {shown_range(stage.camera_p) if uses_p else 'not used'}",
            f"θ_q: {shown_range(stage.camera_q) if uses_q else 'not used'}",
        ]
    sources = "any view or frame alike"
    if stage.front_sources:
        sources = f"of a set {stage.front_sources:.0%} the first view, the others any alike"
        sources += "; of clips any frame alike" if isinstance(stage, ReenactConfig) else ""
    return "\n".join([*lines, f"sources: {sources}"])


def shown_columns(
    config: TrainConfig, row: RowName | None, changed: Sequence[str] = (), networks: Sequence[tuple[str, str, str]] = ()
) -> str:
    """Describe stage 2 by the columns of the paper's Table 3, with the paper's values where a row was named.

    Args:
        row: the row that was named.
        changed: options beside it that won over it.
        networks: further lines of the row, see `shown_networks`: label, the paper's value, the value here.
    """
    stage, columns = config.stage2, None if row is None else TABLE[row]
    rate, factor = lazy_corrected(stage.optimizer)[0], stage.optimizer.motion_lr_factor
    numbers = f"{config.model.transformer.motion_width} numbers"
    p = f"{1 - stage.real_driving:.0%} of the motions are read off them" if stage.real_driving < 1 else "off"
    if stage.motion == "parameters":
        p = f"{p}; none is read, as motion is parameters" if stage.real_driving == 1 else "none is read: see motion"
    q = f"{1 - stage.real_target:.0%} of the targets" if stage.real_target < 1 else "off"
    if stage.schedule.pseudo_every:
        q = f"a phase of their own every {stage.schedule.pseudo_every} steps"
    here = {
        "initialisation": _key(INIT, stage.init),
        "pseudo views p": p,
        "pseudo views q": q,
        "motion": f"{_key(MOTION, stage.motion)}, {numbers}{' of the data' if stage.motion == 'parameters' else ''}",
        "teacher": _key(TEACHER, stage.teacher),
        "clips": f"{stage.clips:,}" if stage.clips else "all of the data",
        "images": f"{stage.images:,}",
        "motion's rate": f"{rate * factor:.3g}, {factor:g} times the others' {rate:.3g}",
    }
    head = f"stage2, preset {config.preset}"
    if columns is None:
        lines = [(label, "", value) for label, value in here.items()]
    else:
        printed = (
            columns.initialisation, "on" if columns.pseudo_p else "off", "on" if columns.pseudo_q else "off",
            columns.motion, columns.teacher, f"{columns.clips:,}", f"{columns.images:,}",
            f"factor {columns.motion_rate_factor:g}",
        )  # fmt: skip
        lines = [(label, paper, value) for (label, value), paper in zip(here.items(), printed, strict=True)]
        lines = [(f"row {row} of Table 3", "the paper", "here"), *lines, *networks]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    table = [f"{label:{widths[0]}}  {paper:{widths[1]}}  {value}" for label, paper, value in lines]
    won = [f"options that won over the row: {', '.join(changed)}"] if changed else []
    return "\n".join([head, *table, *won, shown_views("stage2", config)])


def _key(names: Mapping[str, str], value: str) -> str:
    return next(name for name, key in names.items() if key == value)
