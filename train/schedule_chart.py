"""The schedule of a stage as a chart of text: what is on when, over the images seen."""

from __future__ import annotations

from collections.abc import Callable

from triportrait.train.config import ReenactConfig, StageConfig
from triportrait.train.schedule import learning_rate, moment

COLUMNS = 60
_SHADES = " ▁▂▃▄▅▆▇█"


def chart(name: str, config: StageConfig, full_size: int, motion_factor: float = 1.0) -> str:
    """A line for everything that depends on the images seen; columns are sixtieths of the stage.

    Args:
        name: of the stage.
        full_size: side of the model's ray grid, px.
        motion_factor: of the layers that read motion, on the learning rate.
    """
    schedule, losses = config.schedule, config.losses
    at = [round(config.images * (column + 0.5) / COLUMNS) for column in range(COLUMNS)]
    moments = [moment(schedule, losses, images, full_size) for images in at]
    lines: list[tuple[str, str, str]] = []

    def row(label: str, draw: Callable[[int], bool], said: str) -> None:
        lines.append((label, "".join("█" if draw(i) else "·" for i in range(COLUMNS)), said))

    rates = [learning_rate(config.optimizer, images, config.images) for images in at]
    lines.append(("learning rate", _levels(rates), f"up to {max(rates):.3g}"))
    if motion_factor != 1:
        lines.append(("  of what reads motion", _levels(rates), f"up to {max(rates) * motion_factor:.3g}"))
    sizes = [m.neural_size or full_size for m in moments]
    said = f"{full_size} px" if min(sizes) == max(sizes) else f"{sizes[0]} to {sizes[-1]} px, {_span(schedule.grows)}"
    lines.append(("ray grid", _levels(sizes), said))
    until = schedule.renderer_frozen_until
    row("renderer moves", lambda i: at[i] >= until, f"from {until:,}" if until else "always")
    for label, on, since, weight in (
        ("identity", "identity", schedule.identity_from, losses.identity),
        ("adversary", "adversary", schedule.adversary_from, losses.adversary),
    ):
        row(label, lambda i, on=on: getattr(moments[i], on), f"{weight:g} from {since:,}" if weight else "off")  # type: ignore[misc]
    if name == "stage1":
        ends = f"to {schedule.teacher_until:,}" if schedule.teacher_until < config.images else "always"
        for label, weight in (
            ("depth", losses.depth),
            ("teacher's planes", losses.planes),
            ("teacher's feature images", losses.feature),
        ):
            if weight:
                row(label, lambda i: moments[i].teacher, f"{weight:g} {ends}")
        density = f"{losses.density:g}, every {schedule.density_every} steps" if losses.density else "off"
        row("density smoothness", lambda i: losses.density > 0, density)
    if isinstance(config, ReenactConfig):
        row("real targets", lambda i: True, f"{config.real_target:.0%}, the others are pseudo views")
        row("motion off pseudo views", lambda i: config.real_driving < 1, f"{1 - config.real_driving:.0%}")
        if schedule.pseudo_every:
            row("pseudo views", lambda i: True, f"every {schedule.pseudo_every} steps, in a phase of their own")
    r1 = f"every {schedule.r1_every} steps from {schedule.adversary_from:,}" if losses.adversary else "off"
    row("R1", lambda i: moments[i].adversary, r1)
    width = max(len(label) for label, _, _ in lines)
    head = f"{name}: {config.images:,} images in steps of {config.batch}, a column is {config.images / COLUMNS:,.0f}"
    return "\n".join([head, *(f"{label:{width}}  {drawn}  {said}" for label, drawn, said in lines)])


def _levels(values: list[float] | list[int]) -> str:
    highest = max(values)
    return "".join(_SHADES[max(1, round(8 * value / highest))] if highest else " " for value in values)


def _span(span: tuple[int, int]) -> str:
    return f"between {span[0]:,} and {span[1]:,}"
