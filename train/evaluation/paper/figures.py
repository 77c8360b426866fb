"""Draws what the paper's figures 3 and 7 show, on procedural heads, whose truth is known, by the user's own weights.

`self` lays the static synthesizer beside the reenactment network: each head drives itself, and is seen by its own
camera and from both sides. `views` shows one face that two other heads make, seen from different sides: from the front
the results should be the same picture, whoever drives and from wherever the driver is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from triportrait.core.config import ModelConfig
from triportrait.core.errors import InputError
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.train.evaluation.contact_sheets import Row, write_sheet
from triportrait.train.evaluation.image_metrics import psnr
from triportrait.train.evaluation.methods import Method
from triportrait.train.evaluation.motion_response import face_mask
from triportrait.train.evaluation.protocol import VIEW_YAWS_DEG, Group, Sitter, driving_seed, unseen

FigureKind = Literal["self", "views"]
DRIVER_YAWS_DEG = (20.0, -20.0)
MOST_HEADS = 12  # of each group
ENLARGED = 4.0  # factor on the difference of two results
_CALM = 0.3  # factor on a source's blinks
GROUPS: dict[FigureKind, list[tuple[str, int]]] = {  # what stands above neighbouring columns, and how many
    "self": [("the source's own camera", 3), *((f"a camera at {yaw:+.0f}°", 3) for yaw in VIEW_YAWS_DEG)],
    "views": [
        ("", 1), *((f"driver {k}, seen from {yaw:+.0f}°", 2) for k, yaw in enumerate(DRIVER_YAWS_DEG, 1)),
        ("from the front", 2),
    ],
}  # fmt: skip
COLUMNS: dict[FigureKind, list[str]] = {
    "self": ["source, drives", "static", "dynamic", *("truth", "static", "dynamic") * len(VIEW_YAWS_DEG)],
    "views": ["source", *("drives", "result") * len(DRIVER_YAWS_DEG), f"{ENLARGED:.0f} x difference", "truth"],
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Holds the rows of one group of heads, and what they measure.

    Attributes:
        title: whose weights, and which heads.
        rows: pictures [1, 3, S, S] in [-1, 1], a row for each head.
        means: what was measured inside the face -> dB, the mean over the heads.
        of_columns: what was measured in each column of the figure; None where nothing was.
    """

    title: str
    rows: list[Row]
    means: dict[str, float]
    of_columns: list[float | None]

    def headline(self) -> str:
        """Return title and means in one line."""
        return f"{self.title} · inside the face: {', '.join(f'{n} {value:.1f} dB' for n, value in self.means.items())}"


def check_heads(heads: int) -> None:
    """Raises: `InputError` for more heads than a figure shows, or none."""
    if not 1 <= heads <= MOST_HEADS:
        raise InputError(f"--heads: expected 1 to {MOST_HEADS}, got {heads}; choose another")


def self_block(
    title: str, group: Group, model: ModelConfig, static: Method, dynamic: Method, drawn: Callable[[], None]
) -> Block:
    """Draw each head of a group as it drives itself: from its own camera, and from both sides beside the truth.

    Args:
        drawn: is called after each head.
    """
    rows: list[Row] = []
    values: dict[str, list[Tensor]] = {}
    of_columns: dict[int, list[Tensor]] = {}
    for head in range(group.count):
        sitter = Sitter.of(group.seed, head)
        face, camera = unseen(group.seed, head)
        source = sitter.photograph(face, camera, model)
        views = [turned(fixed_camera(), math.radians(yaw), 0.0) for yaw in VIEW_YAWS_DEG]
        truths = [source, *(sitter.photograph(face, view, model, necks=False) for view in views)]
        results = {name: method(source, source, [camera, *views]) for name, method in
                   {"static": static, "dynamic": dynamic}.items()}  # fmt: skip
        pictures = []
        for number, truth in enumerate(truths):
            where = "" if number == 0 else " from the sides"
            pictures.append(truth.image)
            for name, predictions in results.items():
                error = psnr(predictions[number].image, truth.image, face_mask(truth))
                values.setdefault(f"{name}{where}", []).append(error)
                of_columns.setdefault(len(pictures), []).append(error)
                pictures.append(predictions[number].image)
        rows.append(("", pictures))
        drawn()
    return Block(title, rows, _means(values), _in_columns("self", of_columns))


def views_block(title: str, group: Group, model: ModelConfig, dynamic: Method, drawn: Callable[[], None]) -> Block:
    """Draw each head of a group from the front, as two other heads drive it that are seen from different sides.

    Args:
        drawn: is called after each head.
    """
    rows: list[Row] = []
    values: dict[str, list[Tensor]] = {}
    of_columns: dict[int, list[Tensor]] = {}
    front = fixed_camera()
    for head in range(group.count):
        sitter = Sitter.of(group.seed, head)
        source_face, source_camera = unseen(group.seed, head)
        calm = {name: _CALM * getattr(source_face, name) for name in ("blink_left", "blink_right")}
        source = sitter.photograph(source_face.replace(**calm), source_camera, model, necks=False)
        face, _ = unseen(group.seed, head, 2)
        truth = sitter.photograph(face.replace(neck=0.0), front, model)
        pictures: list[Tensor] = [source.image]
        results: list[Tensor] = []
        for number, yaw in enumerate(DRIVER_YAWS_DEG):
            other = Sitter.of(driving_seed(group.seed), len(DRIVER_YAWS_DEG) * head + number)
            seen = other.photograph(face, turned(front, math.radians(yaw), 0.0), model, necks=False)
            results.append(dynamic(source, replace(seen, neck=truth.neck), [front])[0].image)
            pictures += [seen.image, results[-1]]
            error = psnr(results[-1], truth.image, face_mask(truth))
            values.setdefault("to the truth", []).append(error)
            of_columns.setdefault(len(pictures) - 1, []).append(error)
        agreement = psnr(results[0], results[1], face_mask(truth))
        values.setdefault("between the two results", []).append(agreement)
        of_columns.setdefault(len(pictures), []).append(agreement)
        rows.append(("", [*pictures, _difference(results[0], results[1]), truth.image]))
        drawn()
    return Block(title, rows, _means(values), _in_columns("views", of_columns))


def write_figure(path: Path, kind: FigureKind, blocks: Sequence[Block]) -> None:
    """Write the blocks of a figure as PNG: below a column of results stands the mean PSNR inside the face to the truth,
    and below a column of differences that between both results."""
    shown: list[tuple[str, list[Row]]] = []
    for block in blocks:
        words = [None if value is None else f"{value:.1f} dB" for value in block.of_columns]
        shown.append((f"{block.title} · below: mean PSNR inside the face", [*block.rows, ("", words)]))
    write_sheet(path, COLUMNS[kind], shown, groups=GROUPS[kind])


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """Return the absolute difference of two pictures in [-1, 1], enlarged: black where they agree."""
    return (ENLARGED * (one.clamp(-1, 1) - other.clamp(-1, 1)).abs()).clamp(max=2.0) - 1.0


def _in_columns(kind: FigureKind, values: dict[int, list[Tensor]]) -> list[float | None]:
    of_columns: list[float | None] = [None] * len(COLUMNS[kind])
    for column, of_heads in values.items():
        of_columns[column] = torch.cat(of_heads).nanmean().item()
    return of_columns


def _means(values: dict[str, list[Tensor]]) -> dict[str, float]:
    return {name: torch.cat(of_heads).nanmean().item() for name, of_heads in values.items()}
