"""The schedule of a stage as a chart of text: what is on when, over the images seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from triportrait.train.ablations import INIT, MOTION, TEACHER
from triportrait.train.config import ReenactConfig, StageConfig, TrainConfig
from triportrait.train.data.cameras import shown_cameras, shown_range
from triportrait.train.engines.schedule import active_terms, lazy_corrected, learning_rate
from triportrait.train.table3 import TABLE, RowName

COLUMNS = 60
_SHADES = " ▁▂▃▄▅▆▇█"


def chart(name: str, config: StageConfig, full_size: int, motion_lr_factor: float = 1.0) -> str:
    """A line for everything that depends on the images seen; columns are sixtieths of the stage.

    Args:
        name: of the stage.
        full_size: side of the model's ray grid, px.
        motion_lr_factor: of the layers that read motion, on the learning rate.
    """
    schedule, losses = config.schedule, config.losses
    at = [round(config.images * (column + 0.5) / COLUMNS) for column in range(COLUMNS)]
    moments = [active_terms(schedule, losses, images, full_size) for images in at]
    lines: list[tuple[str, str, str]] = []

    def row(label: str, draw: Callable[[int], bool], said: str) -> None:
        lines.append((label, "".join("█" if draw(i) else "·" for i in range(COLUMNS)), said))

    rates = [learning_rate(config.optimizer, images, config.images) for images in at]
    lines.append(("learning rate", _levels(rates), f"up to {max(rates):.3g}"))
    if motion_lr_factor != 1:
        lines.append(("  of what reads motion", _levels(rates), f"up to {max(rates) * motion_lr_factor:.3g}"))
    sizes = [m.neural_size or full_size for m in moments]
    said = (
        f"{full_size} px"
        if min(sizes) == max(sizes)
        else f"{sizes[0]} to {sizes[-1]} px, {_span(schedule.neural_size_grows)}"
    )
    lines.append(("ray grid", _levels(sizes), said))
    until = schedule.renderer_frozen_until
    row("renderer moves", lambda i: at[i] >= until, f"from {until:,}" if until else "always")
    for label, on, since, weight in (
        ("identity", "identity", schedule.identity_from, losses.identity),
        ("adversary", "adversarial", schedule.adversarial_from, losses.adversarial),
    ):
        said = f"{weight:g} from {since:,}" if weight else "off"
        if weight and label == "adversary" and isinstance(config, ReenactConfig):
            each = config.batch // config.micro_batches
            said += f", on every real target, {_alone(config):.1%} of them judged alone in micro-batches of {each}"
        row(label, lambda i, on=on: getattr(moments[i], on), said)  # type: ignore[misc]
    if name == "stage1":
        ends = f"until {schedule.teacher_until:,}" if schedule.teacher_until < config.images else "always"
        for label, weight in (
            ("depth", losses.depth),
            ("teacher's planes", losses.distill_planes),
            ("teacher's feature images", losses.distill_feature),
        ):
            if weight:
                row(label, lambda i: moments[i].teacher, f"{weight:g} {ends}")
        density = f"{losses.density:g}, every {schedule.density_every} steps" if losses.density else "off"
        row("density smoothness", lambda i: losses.density > 0, density)
    if isinstance(config, ReenactConfig):
        others = ", the others are pseudo views" if config.real_target < 1 else ""
        row("real targets", lambda i: config.real_target > 0, f"{config.real_target:.0%}{others}")
        read = config.motion == "pictures"
        off = f"{1 - config.real_driving:.0%}" if read else "none is read: motion is the parameters of the data"
        row("motion off pseudo views", lambda i: read and config.real_driving < 1, off)
        if schedule.pseudo_every:
            row("pseudo views", lambda i: True, f"every {schedule.pseudo_every} steps, in a phase of their own")
    r1 = f"every {schedule.r1_every} steps from {schedule.adversarial_from:,}" if losses.adversarial else "off"
    row("R1", lambda i: moments[i].adversarial, r1)
    width = max(len(label) for label, _, _ in lines)
    head = f"{name}: {config.images:,} images in steps of {config.batch}, a column is {config.images / COLUMNS:,.0f}"
    return "\n".join([head, *(f"{label:{width}}  {drawn}  {said}" for label, drawn, said in lines)])


def _alone(config: ReenactConfig) -> float:
    """The share of real targets that the discriminator sees without another one, as no other is in its micro-batch."""
    return (1 - config.real_target) ** (config.batch // config.micro_batches - 1)


def shown_views(name: str, config: TrainConfig) -> str:
    """From where a stage sees heads, a line each: what its set must be, and which views are sources."""
    own: StageConfig = getattr(config, name)
    lines = [f"views of the set: {shown_cameras(config.cast.cameras)}"] if name == "stage1" else []
    if isinstance(own, ReenactConfig):
        read, drawn = own.motion == "pictures" and own.real_driving < 1, own.real_target < 1
        lines = [
            f"θ_p: {shown_range(own.camera_p) if read else 'not used'}",
            f"θ_q: {shown_range(own.camera_q) if drawn or own.schedule.pseudo_every else 'not used'}",
        ]
    sources = "any view or frame alike"
    if own.front_sources:
        sources = f"of a set {own.front_sources:.0%} the first view, the others any alike"
        sources += "; of clips any frame alike" if isinstance(own, ReenactConfig) else ""
    return "\n".join([*lines, f"sources: {sources}"])


def shown_columns(config: TrainConfig, row: RowName | None, changed: Sequence[str] = ()) -> str:
    """Stage 2 by the columns of the paper's Table 3: a row's as they are printed, and what this training has.

    Args:
        row: that was asked for.
        changed: options beside it that won over it.
    """
    own, columns = config.stage2, None if row is None else TABLE[row]
    rate, factor = lazy_corrected(own.optimizer)[0], own.optimizer.motion_lr_factor
    numbers = f"{config.model.transformer.motion_width} numbers"
    p = f"{1 - own.real_driving:.0%} of the motions are read off them" if own.real_driving < 1 else "off"
    if own.motion == "parameters":
        p = f"{p}; none is read, as motion is parameters" if own.real_driving == 1 else "none is read: see motion"
    q = f"{1 - own.real_target:.0%} of the targets" if own.real_target < 1 else "off"
    if own.schedule.pseudo_every:
        q = f"a phase of their own every {own.schedule.pseudo_every} steps"
    here = {
        "initialisation": _key(INIT, own.init),
        "pseudo views p": p,
        "pseudo views q": q,
        "motion": f"{_key(MOTION, own.motion)}, {numbers}{' of the data' if own.motion == 'parameters' else ''}",
        "teacher": _key(TEACHER, own.teacher),
        "clips": f"{own.clips:,}" if own.clips else "all of the data",
        "images": f"{own.images:,}",
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
        lines = [(label, said, value) for (label, value), said in zip(here.items(), printed, strict=True)]
        lines = [(f"row {row} of Table 3", "the paper", "here"), *lines]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    table = [f"{label:{widths[0]}}  {said:{widths[1]}}  {value}" for label, said, value in lines]
    won = [f"options that won over the row: {', '.join(changed)}"] if changed else []
    return "\n".join([head, *table, *won, shown_views("stage2", config)])


def _key(names: Mapping[str, str], value: str) -> str:
    return next(name for name, known in names.items() if known == value)


def _levels(values: list[float] | list[int]) -> str:
    highest = max(values)
    return "".join(_SHADES[max(1, round(8 * value / highest))] if highest else " " for value in values)


def _span(span: tuple[int, int]) -> str:
    return f"between {span[0]:,} and {span[1]:,}"
