"""A run on one page: its curves and its grids of pictures, in one HTML file that opens without a network."""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from triportrait import __version__
from triportrait.core.errors import InputError
from triportrait.core.files import MOST_INDEX, read_bytes, read_json
from triportrait.train.runs.record import LOG, SAMPLES
from triportrait.train.runs.run_config import CONFIG

NAME = "report.html"
MOST_GRIDS = 6  # of a stage, the first and the last among them
_WIDTH, _HEIGHT = 340, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 8, 8, 22
SMOOTHED_FROM = 40  # points
_HUES = ("#3b6fd4", "#c8553d", "#2f8f6b", "#9a6bc9", "#b58900", "#5b6770")
_NOT_DRAWN = {"stage", "images_seen", "step"}
_GROUPS = (  # heading, what its names begin with; what is left is a loss
    ("quality", ("psnr", "correlation", "gain", "jaw", "smile", "pucker", "blink", "brow", "gaze")),
    ("speed", ("images_per_s", "data_", "gpu_gb")),
    ("learning rate", ("lr", "rate")),
    ("discriminator", ("D ", "R1", "adversary")),
)
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--faint:#6b7380;--paper:#fbfbfa;--card:#fff;--line:#e3e5e8}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--faint:#98a0ab;--paper:#15171a;--card:#1d2024;--line:#30343a}}
body{margin:0 auto;padding:28px 24px 60px;max-width:1160px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:22px;margin:0 0 2px}h2{font-size:17px;margin:36px 0 4px}
h3{font-size:14px;margin:20px 0 6px;color:var(--faint)}
p{margin:2px 0;color:var(--faint)}.row{display:flex;flex-wrap:wrap;gap:12px}
figure{margin:0;padding:10px;background:var(--card);border:1px solid var(--line);border-radius:6px}
figcaption{font-size:13px;margin-bottom:4px}svg text{font:11px system-ui,sans-serif;fill:var(--faint)}
svg .grid{stroke:var(--line)}img{max-width:100%;image-rendering:auto;display:block}
details{margin-top:28px}pre{overflow:auto;font-size:12px}
"""


def write_report(run: Path) -> Path:
    """Write `run/report.html`; it appears whole.

    Raises: `InputError` for a folder that is no run, or one without a line in its log.
    """
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: expected the folder of a run, it has no {CONFIG}; name another folder")
    lines = _lines(run / LOG)
    if not lines:
        raise InputError(f"{run}: expected a log with numbers, {LOG} has none yet; let the run go on")
    config = read_json(run / CONFIG)
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    body = "".join(_stage(run, stage, [line for line in lines if line["stage"] == stage]) for stage in stages)
    name = html.escape(run.resolve().name)
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title><style>{_STYLE}</style>"
        f"<h1>{name}</h1><p>preset {html.escape(str(config.get('preset')))}, seed {config.get('seed')}, "
        f"triportrait {__version__}</p>{body}<details><summary>every number of the config</summary><pre>"
        f"{html.escape(json.dumps(config, indent=1))}</pre></details></html>\n"
    )
    part = run / f".{NAME}.part"
    part.write_text(text)
    os.replace(part, run / NAME)
    return run / NAME


def _lines(log: Path) -> list[dict[str, Any]]:
    if not log.is_file():
        return []
    found = []
    for line in read_bytes(log, MOST_INDEX).decode().splitlines():
        try:
            told = json.loads(line)
            told["stage"], told["images_seen"] = str(told["stage"]), int(told["images_seen"])
        except (ValueError, KeyError, TypeError):
            continue  # cut off
        found.append(told)
    return found


def _stage(run: Path, stage: str, lines: list[dict[str, Any]]) -> str:
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in _NOT_DRAWN and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, []).append((line["images_seen"], value))
    seen = lines[-1]["images_seen"]
    parts = [f"<h2>{html.escape(stage)}</h2><p>{seen:,} images, {lines[-1].get('step', 0):,} steps</p>"]
    left = dict(curves)
    groups = []
    for heading, starts in _GROUPS:
        own = {name: left.pop(name) for name in list(left) if name.startswith(starts)}
        groups.append((heading, own))
    for heading, own in [("losses", {"loss": left.pop("loss"), **left} if "loss" in left else left), *groups]:
        if own:
            drawn = "".join(_curve(name, points, i) for i, (name, points) in enumerate(own.items()))
            parts.append(f"<h3>{heading}</h3><div class=row>{drawn}</div>")
    grids = _spread(sorted((run / SAMPLES).glob(f"{stage}_*.png"), key=lambda p: int(p.stem.rsplit("_", 1)[1])))
    if grids:
        parts.append("<h3>samples</h3>")
        for path in grids:
            data = base64.b64encode(read_bytes(path, MOST_INDEX)).decode()
            caption = f"{int(path.stem.rsplit('_', 1)[1]):,} images"
            picture = f"<img alt='{caption}' src='data:image/png;base64,{data}'>"
            parts.append(f"<figure><figcaption>{caption}</figcaption>{picture}</figure>")
    return "".join(parts)


def _spread(paths: list[Path]) -> list[Path]:
    """At most MOST_GRIDS of them, evenly, with the first and the last."""
    if len(paths) <= MOST_GRIDS:
        return paths
    return [paths[round(i * (len(paths) - 1) / (MOST_GRIDS - 1))] for i in range(MOST_GRIDS)]


def _curve(name: str, points: list[tuple[float, float]], number: int) -> str:
    """One curve with its own scale; the last value stands in its caption."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x_low, x_high = _range(xs)
    y_low, y_high = _range(ys)

    def at(x: float, y: float) -> str:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    marks = []
    for share in (0.0, 0.5, 1.0):
        y = y_low + share * (y_high - y_low)
        down = at(x_low, y).split(",")[1]
        marks.append(f"<line class=grid x1={_LEFT} x2={_WIDTH - _RIGHT} y1={down} y2={down} />")
        marks.append(f"<text x={_LEFT - 6} y={down} text-anchor=end dominant-baseline=middle>{_short(y)}</text>")
    for share, anchor in ((0.0, "start"), (1.0, "end")):
        x = x_low + share * (x_high - x_low)
        across = at(x, y_low).split(",")[0]
        marks.append(f"<text x={across} y={_HEIGHT - 6} text-anchor={anchor}>{_short(x)}</text>")
    hue = _HUES[number % len(_HUES)]
    if len(points) == 1:
        across, down = at(*points[0]).split(",")
        line = f"<circle cx={across} cy={down} r=3 fill='{hue}' />"
    else:
        shown = list(_thinned(points))
        lines = [(shown, 1.6, 1.0)] if len(shown) < SMOOTHED_FROM else [(shown, 1.0, 0.3), (_smoothed(shown), 1.8, 1.0)]
        line = "".join(
            f"<polyline points='{' '.join(at(*p) for p in drawn)}' fill=none stroke='{hue}' stroke-width={width} "
            f"stroke-opacity={opacity} stroke-linejoin=round />"
            for drawn, width, opacity in lines
        )
    return (
        f"<figure><figcaption>{html.escape(name)} <b>{_short(ys[-1])}</b></figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width={_WIDTH} height={_HEIGHT}>{''.join(marks)}{line}</svg></figure>"
    )


def _thinned(points: list[tuple[float, float]], most: int = 400) -> Iterable[tuple[float, float]]:
    """Means of neighbours, where there are more points than a screen shows."""
    if len(points) <= most:
        return points
    each = math.ceil(len(points) / most)
    groups = (points[i : i + each] for i in range(0, len(points), each))
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups]


def _smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over a twentieth of the curve around each point."""
    reach = max(1, len(points) // 40)
    found = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - reach) : i + reach + 1]]
        found.append((x, sum(near) / len(near)))
    return found


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high > low:
        return low, high
    return low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9


def _short(value: float) -> str:
    if value == 0:
        return "0"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}" if abs(value) >= 1e-2 else f"{value:.1e}"
