"""A chart of a frame's parts on a GPU: a bar for each way to compute it, and a mark where no GPU can be faster."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from triportrait.core.errors import InputError

WAYS = ("eager fp32", "ours", "ours bf16")
WIDTH, BAR, GAP, LEFT, TOP = 1200, 14, 14, 190, 70  # pixels
COLOURS = {"eager fp32": (168, 176, 188), "ours": (72, 128, 200), "ours bf16": (30, 74, 140)}
FLOOR = (200, 60, 50)


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
