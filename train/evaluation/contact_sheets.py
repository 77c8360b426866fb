"""Sheets show driving pictures, results and truths beside each other, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from triportrait.train.data.scene_sampling import to_uint8
from triportrait.train.evaluation.measure import AxesRow, GroupResult
from triportrait.train.evaluation.protocol import VIEW_YAWS_DEG

AXES_ON_SHEET = ("jaw", "smile", "pucker", "blink", "brow left", "gaze x")
SHOWN_SIDE_PX = 128  # smaller pictures are shown at twice their size
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 34, 40), (120, 126, 134)
_GAP, _LINE, _MARGIN = 4, 22, 12
_GROUP_GAP = 18  # px between groups of columns
_ROW_LABEL_PX = 68
_TEXT_PX = 14

Row = tuple[str, Sequence[Tensor | str | None]]  # a label at the left, pictures [1, 3, S, S] or a line of words


def write_pictures_sheet(path: Path, results: Sequence[GroupResult]) -> None:
    """Write some heads of each group as PNG: source, driving picture, then result and truth from three sides."""
    sides = ["", *(f" {yaw:+.0f}°" for yaw in VIEW_YAWS_DEG)]
    columns = ["source", "driving", *(f"{what}{side}" for side in sides for what in ("result", "truth"))]
    blocks = []
    for result in results:
        rows: list[Row] = []
        for row in result.rows:
            pairs = [p for pair in zip(row.results, row.truths, strict=True) for p in pair]
            rows.append(("", [row.source, row.driving, *pairs]))
        blocks.append((group_title(result), rows))
    write_sheet(path, columns, blocks)


def write_axes_sheet(path: Path, results: Sequence[GroupResult]) -> None:
    """Write some heads of each group as PNG, at rest and along some axes: driving pictures, results, truths."""
    axes = [axis for axis in AXES_ON_SHEET if axis in next(iter(results)).axes[0].truths]
    blocks = []
    for result in results:
        for number, row in enumerate(result.axes):
            blocks.append((group_title(result) if number == 0 else "", _axes_rows(row, axes)))
    write_sheet(path, ["source", "at rest", *axes], blocks, _ROW_LABEL_PX)


def _axes_rows(row: AxesRow, axes: Sequence[str]) -> list[Row]:
    keys = ["", *axes]
    return [
        ("driving", [None, *(row.driving[key] for key in keys)]),
        ("result", [row.source, *(row.results[key] for key in keys)]),
        ("truth", [None, *(row.truths[key] for key in keys)]),
    ]


def group_title(result: GroupResult) -> str:
    """Return what stands above the rows of a group."""
    names = {"cast": "the cast: heads that training saw", "held out": "held out: heads that training never saw"}
    return names.get(result.group.name, result.group.name)


def write_sheet(
    path: Path,
    columns: list[str],
    blocks: Sequence[tuple[str, list[Row]]],
    left_px: int = 0,
    groups: Sequence[tuple[str, int]] = (),
) -> None:
    """Write rows of pictures, all of one size, as PNG.

    Args:
        columns: what stands above each column.
        blocks: rows under a title, which may be empty; a row holds pictures, or words that stand in their columns.
        left_px: the room for the rows' labels.
        groups: what stands above neighbouring columns, and how many they are; groups stand apart.
    """
    from PIL import Image, ImageDraw, ImageFont

    side = next(p.shape[-1] for _, rows in blocks for _, row in rows for p in row if isinstance(p, Tensor))
    shown = side * (2 if side < SHOWN_SIDE_PX else 1)
    ends = np.cumsum([count for _, count in groups])
    lefts = [
        _MARGIN + left_px + number * (shown + _GAP) + _GROUP_GAP * int((ends <= number).sum())
        for number in range(len(columns))
    ]
    heights = [sum(map(partial(_height, shown=shown), rows)) for _, rows in blocks]
    head = _LINE * (1 + bool(groups)) + _GAP * bool(groups)
    height = 2 * _MARGIN + head + sum(_LINE * bool(title) + _GAP for title, _ in blocks) + sum(heights) - 2 * _GAP
    image = Image.new("RGB", (lefts[-1] + shown + _MARGIN, height), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT_PX)
    for (label, count), end in zip(groups, ends, strict=True):
        first, last = lefts[end - count], lefts[end - 1] + shown
        draw.text(((first + last) // 2, _MARGIN), label, fill=_INK, font=font, anchor="ma")
        draw.line((first, _MARGIN + _LINE - 2, last, _MARGIN + _LINE - 2), fill=_FAINT if label else _PAPER)
    for left, label in zip(lefts, columns, strict=True):
        draw.text((left + shown // 2, _MARGIN + head - _LINE), label, fill=_INK, font=font, anchor="ma")
    top = _MARGIN + head
    for title, rows in blocks:
        if title:
            draw.text((_MARGIN, top), title, fill=_FAINT, font=font)
            top += _LINE
        for row in rows:
            label, cells = row
            draw.text((_MARGIN, top + shown // 2), label, fill=_INK, font=font, anchor="lm")
            for left, cell in zip(lefts, cells, strict=True):
                if isinstance(cell, Tensor):
                    image.paste(Image.fromarray(_tile(cell, shown // side)), (left, top))
                elif cell is not None:
                    draw.text((left + shown // 2, top), cell, fill=_FAINT, font=font, anchor="ma")
            top += _height(row, shown)
        top += _GAP
    image.save(path, optimize=True)


def _height(row: Row, shown: int) -> int:
    """Return the height of a row in px, with the gap below it."""
    return shown + _GAP if any(isinstance(cell, Tensor) for cell in row[1]) else _LINE


def _tile(picture: Tensor, scale: int) -> np.ndarray:
    """Return uint8 [S * scale, S * scale, 3], in which each pixel is scale² pixels."""
    return to_uint8(picture.detach().float().clamp(-1, 1))[0].numpy().repeat(scale, 0).repeat(scale, 1)
