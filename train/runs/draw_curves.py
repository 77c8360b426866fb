"""Draw how numbers of a run change with the images it has seen: one small panel for each metric, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from triportrait.core.atomic import write_text
from triportrait.train.runs.run_log import HELD_OUT

_WIDTH, _HEIGHT, _COLUMNS, _LEFT, _TOP, _RIGHT, _BOTTOM = 300, 180, 3, 52, 30, 16, 26  # px of a panel
_COLOURS = {"self": "#1f6fb4", "cross": "#c8501e", "views": "#1f6fb4"}


def write_curves(path: Path, measured: Mapping[int, Mapping[str, float]]) -> None:
    """Write an SVG with a panel for each metric and a line for each case in it.

    Args:
        path: appears whole.
        measured: images seen -> the numbers of an evaluation, `held_out CASE METRIC`.
    """
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for images, numbers in sorted(measured.items()):
        for name, value in numbers.items():
            case, _, metric = name.removeprefix(HELD_OUT).partition(" ")
            panels.setdefault(metric, {}).setdefault(case, []).append((images, value))
    rows = -(-len(panels) // _COLUMNS)
    width, height = _WIDTH * _COLUMNS, _HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="11" fill="#333"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    furthest = max(measured, default=0) or 1
    for number, (metric, cases) in enumerate(panels.items()):
        row, column = divmod(number, _COLUMNS)
        inside = _panel(metric, cases, furthest)
        parts.append(f'<g transform="translate({column * _WIDTH} {row * _HEIGHT})">{inside}</g>')
    write_text(path, "\n".join([*parts, "</svg>\n"]))


def _panel(metric: str, cases: Mapping[str, list[tuple[int, float]]], furthest: int) -> str:
    values = [value for points in cases.values() for _, value in points]
    low, high = min(values), max(values)
    span = high - low or max(abs(high), 1e-3) * 0.1
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(images: int, value: float) -> str:
        across = _LEFT + (right - _LEFT) * images / furthest
        return f"{across:.1f},{bottom - (bottom - _TOP) * (value - low) / span:.1f}"

    parts = [
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#bbb"/>',
        f'<text x="{_LEFT}" y="16" font-weight="bold">{metric}</text>',
        f'<text x="{_LEFT - 5}" y="{bottom}" text-anchor="end">{low:.4g}</text>',
        f'<text x="{_LEFT}" y="{bottom + 16}">0</text>',
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end">{furthest:,} images</text>',
    ]
    if high > low:
        parts.append(f'<text x="{_LEFT - 5}" y="{_TOP + 9}" text-anchor="end">{high:.4g}</text>')
    for number, (case, points) in enumerate(cases.items()):
        colour = _COLOURS.get(case, "#333")
        line = " ".join(at(*point) for point in points)
        x, y = line.rpartition(" ")[2].split(",")
        parts += [
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>',
            f'<circle cx="{x}" cy="{y}" r="2.4" fill="{colour}"/>',
            f'<text x="{right - 44 * (len(cases) - 1 - number)}" y="16" text-anchor="end" fill="{colour}">'
            f"{case}</text>",
        ]
    return "".join(parts)
