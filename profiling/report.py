"""Put the figures of `profile all` into tables between two markers of the README, and into a chart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError
from triportrait.core.files import read_json
from triportrait.profiling import frame, kernels

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
WAYS = ("eager fp32", "ours", "ours bf16")
WIDTH, BAR, GAP, LEFT, TOP = 1200, 14, 14, 190, 70
COLOURS = {"eager fp32": (168, 176, 188), "ours": (72, 128, 200), "ours bf16": (30, 74, 140)}
FLOOR = (200, 60, 50)


def report(figures: Path, readme: Path, chart: Path) -> None:
    """Write the tables and the chart.

    Raises:
        InputError: the file is none of `profile all`, was made without a GPU, or has a row without a figure; or the
            README lacks the markers. Nothing is written then.
    """
    measured = _read(figures)
    try:
        text = readme.read_text()
    except OSError as error:
        raise InputError(f"{readme}: expected a file to write tables into ({error.strerror}); name it") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"{readme}: expected {BEGIN} and then {END}, each once; write them where the tables belong")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    draw(measured, chart)
    readme.write_text(f"{before}\n{tables(measured)}{after}")


def tables(figures: dict[str, Any]) -> str:
    """Tabulate the frame and the operators under a line that says where they are from."""
    where = ", ".join(f"{name} {value}" for name, value in figures["machine"].items() if value)
    return f"{where}\n\n{frame.table(figures['frame'])}\n{kernels.table(figures['kernels'])}"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw a bar for each part and way, in milliseconds on a logarithmic scale, and a mark at the part's floor."""
    from PIL import Image, ImageDraw, ImageFont

    rows = {row["way"]: row["parts"] for row in figures["frame"] if row.get("parts")}
    ways = [way for way in WAYS if way in rows]
    parts = [name for name in figures["work"] if any(name in rows[way] for way in ways)]
    if not parts:
        raise InputError("figures: expected a frame in parts, the file has none; make it again with `profile all`")
    milliseconds = {(part, way): rows[way][part]["p50"] for part in parts for way in ways if part in rows[way]}
    floors = {part: figures["work"][part]["floor_ms"] for part in parts}
    low, high = min([*floors.values(), *milliseconds.values()]), max([*floors.values(), *milliseconds.values()])
    low, high = max(low, 1e-4) / 1.5, high * 1.5

    def across(ms: float) -> float:
        return LEFT + (WIDTH - LEFT - 90) * math.log(max(ms, low) / low) / math.log(high / low)

    tall = len(ways) * BAR + GAP
    picture = Image.new("RGB", (WIDTH, TOP + len(parts) * tall + 20), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    pen.text((LEFT, 12), f"milliseconds a part, log scale: {figures['machine']['machine']}", "black", font)
    x = LEFT
    for name, colour in [*((way, COLOURS[way]) for way in ways), ("floor", FLOOR)]:
        pen.rectangle((x, 40, x + 12, 52), colour)
        pen.text((x + 18, 37), name, "black", font)
        x += 40 + int(pen.textlength(name, font))
    for i, part in enumerate(parts):
        y = TOP + i * tall
        pen.text((12, y + (tall - GAP) / 2 - 8), part, "black", font)
        for j, way in enumerate(ways):
            if (part, way) in milliseconds:
                end = across(milliseconds[part, way])
                pen.rectangle((LEFT, y + j * BAR, end, y + (j + 1) * BAR - 2), COLOURS[way])
                pen.text((end + 6, y + j * BAR - 3), f"{milliseconds[part, way]:.3f}", "black", font)
        at = across(floors[part])
        pen.line((at, y - 3, at, y + tall - GAP + 2), FLOOR, 3)
    picture.save(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        figures = read_json(path)
        machine, red = figures["machine"], [row for row in (*figures["frame"], *figures["kernels"]) if "red" in row]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what `triportrait profile all` writes; make it again") from error
    if not machine.get("chip"):
        raise InputError(f"{path}: expected figures of a GPU, these are of a CPU and no performance; run it on a GPU")
    if red:
        raise InputError(f"{path}: {len(red)} rows have no figure, the first: {red[0]['red']}; mend that first")
    return figures  # type: ignore[no-any-return]
