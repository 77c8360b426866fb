"""Draw contact sheets of the population: many faces, one face doing everything, some faces from all sides."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from triportrait.core.errors import InputError
from triportrait.core.render.cameras import look_at
from triportrait.core.types import Camera
from triportrait.train.data.folders import check_file, whole_file
from triportrait.train.data.heads.population import Expression, check_seed_and_count, sample_expression, stream
from triportrait.train.data.heads.render import HeadRenderer, check_size
from triportrait.train.data.multiview import check_pixels
from triportrait.train.data.scene_sampling import filming_cameras, population, take_pictures, to_uint8

SheetKind = Literal["identities", "expressions", "views"]
MOST_ON_A_SHEET = 400

POSES: tuple[dict[str, float | tuple[float, float, float]], ...] = (  # what the faces of an expression sheet do
    {}, {"jaw": 0.5}, {"jaw": 1.0}, {"smile": 1.0}, {"smile": 1.0, "jaw": 0.5}, {"smile": -0.7}, {"pucker": 1.0},
    {"blink_left": 1.0, "blink_right": 1.0}, {"blink_left": 1.0}, {"brow_left": 1.0, "brow_right": 1.0},
    {"brow_left": -1.0, "brow_right": -1.0}, {"gaze_x": -1.0}, {"gaze_x": 1.0}, {"gaze_y": 1.0}, {"gaze_y": -1.0},
    {"neck": (0.0, 0.35, 0.0)}, {"neck": (0.2, 0.0, 0.0)}, {"neck": (0.0, 0.0, 0.15)},
)  # fmt: skip
YAWS = (-0.78, -0.4, 0.0, 0.4, 0.78, 0.0, 0.0, 0.5)  # of the columns of a view sheet, radians
PITCHES = (0.1, 0.1, 0.1, 0.1, 0.1, -0.25, 0.65, 0.5)


def posed(changes: dict[str, float | tuple[float, float, float]]) -> Expression:
    """Return one face at rest but for `changes`."""
    values = {n: torch.tensor([v]) if isinstance(v, tuple) else v for n, v in changes.items()}
    return Expression.neutral(1).replace(**values)


def check_sheet(kind: SheetKind, seed: int, count: int, size: int, antialias: int) -> None:
    """Raises: `InputError` for numbers out of range."""
    check_seed_and_count(seed, count)
    if count > MOST_ON_A_SHEET:
        raise InputError(f"count: expected at most {MOST_ON_A_SHEET} heads on a sheet, got {count}; choose fewer")
    check_size(size, antialias)
    each = {"identities": 1, "expressions": len(POSES), "views": len(YAWS)}[kind]
    check_pixels("count", count * each, size)


def sheet(kind: SheetKind, seed: int, count: int, size: int, antialias: int = 2) -> np.ndarray:
    """Draw a contact sheet, uint8 [H, W, 3].

    Args:
        kind: `identities` shows `count` heads, each with an expression of its own; `expressions` shows each head doing
            all of POSES, 9 to a row; `views` shows each head from the sides of YAWS and PITCHES.
        size: side of each picture, px.
    """
    check_sheet(kind, seed, count, size, antialias)
    who, light = population(seed, count)
    if kind == "identities":
        columns = math.ceil(math.sqrt(1.5 * count))
        face = sample_expression(count, stream(seed, 2))
        calm = {"blink_left": face.blink_left * 0.3, "blink_right": face.blink_right * 0.3, "neck": face.neck * 0.5}
        face, camera, rows = face.replace(**calm), filming_cameras(seed, count), torch.arange(count)
    elif kind == "expressions":
        columns = len(POSES) // 2
        face = Expression.cat([posed(pose) for pose in POSES] * count)
        rows = torch.arange(count).repeat_interleave(len(POSES))
        camera = around(torch.full((len(rows),), 0.1), torch.full((len(rows),), 0.05))
    else:
        columns = len(YAWS)
        rows = torch.arange(count).repeat_interleave(columns)
        face = Expression.neutral(len(rows)).replace(smile=0.4, jaw=0.4)
        camera = around(torch.tensor(YAWS).repeat(count), torch.tensor(PITCHES).repeat(count))
    view = take_pictures(HeadRenderer(), who.take(rows), face, light.take(rows), camera, size, antialias)
    return tiled(to_uint8(view.image), columns)


def around(yaw: Tensor, pitch: Tensor) -> Camera:
    """Return cameras that look at the face from yaw and pitch [B], radians, upright, at the middle distance."""
    flat = torch.zeros_like(yaw)
    return look_at(yaw, pitch, flat, flat + 4.05, torch.stack([flat, flat, flat + 0.09], -1))


def tiled(pictures: Tensor, columns: int) -> np.ndarray:
    """Tile pictures uint8 [B, S, S, 3] beside and below each other; what is left over stays white."""
    count, size = len(pictures), pictures.shape[1]
    rows = math.ceil(count / columns)
    blank = pictures.new_full((rows * columns - count, size, size, 3), 255)
    grid = torch.cat([pictures, blank]).reshape(rows, columns, size, size, 3)
    return grid.transpose(1, 2).reshape(rows * size, columns * size, 3).numpy()


def write_sheet(
    out: Path, kind: SheetKind, seed: int, count: int, size: int, antialias: int = 2, overwrite: bool = False
) -> None:
    """Write a contact sheet as PNG. Raises: `InputError` before any work."""
    check_sheet(kind, seed, count, size, antialias)
    check_file(out, overwrite, ".png")
    from PIL import Image

    with whole_file(out, overwrite) as path:
        Image.fromarray(sheet(kind, seed, count, size, antialias)).save(path, optimize=True)
