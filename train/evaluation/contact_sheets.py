"""Sheets show driving pictures, results and truths beside each other, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
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
_ROW_LABEL_PX = 68
_TEXT_PX = 14

Row = tuple[str, Sequence[Tensor | None]]  # a label at the left, pictures [1, 3, S, S]


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


def write_sheet(path: Path, columns: list[str], blocks: Sequence[tuple[str, list[Row]]], left_px: int = 0) -> None:
    """Write rows of pictures, all of one size, as PNG.

    Args:
        columns: what stands above each column.
        blocks: rows under a title, which may be empty.
        left_px: the room for the rows' labels.
    """
    from PIL import Image, ImageDraw, ImageFont

    side = next(p.shape[-1] for _, rows in blocks for _, pictures in rows for p in pictures if p is not None)
    scale = 2 if side < SHOWN_SIDE_PX else 1
    step = side * scale + _GAP
    width = 2 * _MARGIN + left_px + len(columns) * step - _GAP
    height = 2 * _MARGIN + _LINE + sum(_LINE * bool(title) + len(rows) * step + _GAP for title, rows in blocks) - _GAP
    image = Image.new("RGB", (width, height), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT_PX)
    for number, label in enumerate(columns):
        at = _MARGIN + left_px + number * step + side * scale // 2
        draw.text((at, _MARGIN), label, fill=_INK, font=font, anchor="ma")
    top = _MARGIN + _LINE
    for title, rows in blocks:
        if title:
            draw.text((_MARGIN, top), title, fill=_FAINT, font=font)
            top += _LINE
        for label, pictures in rows:
            draw.text((_MARGIN, top + side * scale // 2), label, fill=_INK, font=font, anchor="lm")
            for number, picture in enumerate(pictures):
                if picture is not None:
                    image.paste(Image.fromarray(_tile(picture, scale)), (_MARGIN + left_px + number * step, top))
            top += step
        top += _GAP
    image.save(path, optimize=True)


def _tile(picture: Tensor, scale: int) -> np.ndarray:
    """Return uint8 [S * scale, S * scale, 3], in which each pixel is scale² pixels."""
    return to_uint8(picture.detach().float().clamp(-1, 1))[0].numpy().repeat(scale, 0).repeat(scale, 1)
