"""Draw grids of pictures that show how far a training is: labelled columns, one head a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from triportrait.core.atomic import replacing
from triportrait.train.data.scene_sampling import to_uint8

LABEL_PX, GAP_PX = 14, 2
_PAPER, _INK = 250, (40, 40, 40)


def write_grid(path: Path, columns: dict[str, Tensor], scale: int = 1) -> None:
    """Write a PNG.

    Args:
        path: appears whole.
        columns: label -> pictures [B, 3, S, S] in [-1, 1], one per row; [B, 1, S, S] in [0, 1] is shown grey.
        scale: each pixel becomes scale² pixels.
    """
    from PIL import Image, ImageDraw

    tiles = {label: _tiles(pictures, scale) for label, pictures in columns.items()}
    rows, side = next(iter(tiles.values())).shape[:2]
    width, height = len(tiles) * (side + GAP_PX) + GAP_PX, LABEL_PX + rows * (side + GAP_PX)
    sheet = np.full((height, width, 3), _PAPER, np.uint8)
    for column, pictures in enumerate(tiles.values()):
        left = GAP_PX + column * (side + GAP_PX)
        for row, picture in enumerate(pictures):
            top = LABEL_PX + row * (side + GAP_PX)
            sheet[top : top + side, left : left + side] = picture
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    for column, label in enumerate(tiles):
        draw.text((GAP_PX + column * (side + GAP_PX) + side // 2, 1), label, fill=_INK, anchor="ma")
    with replacing(path, only_writer=True) as part:
        image.save(part)


def _tiles(pictures: Tensor, scale: int) -> np.ndarray:
    """uint8 [B, S * scale, S * scale, 3]."""
    if pictures.shape[1] == 1:
        pictures = (2 * pictures - 1).expand(-1, 3, -1, -1)
    shown = to_uint8(pictures.detach().float().clamp(-1, 1)).numpy()
    return shown.repeat(scale, 1).repeat(scale, 2)


def shown_depth(depth: Tensor, opacity: Tensor, size: int) -> Tensor:
    """Show depths [B, 1, h, h] as pictures [B, 1, size, size] in [0, 1]: near is bright, beside the head is black."""
    inside = opacity > 0.5
    far = torch.where(inside, depth, depth.new_full((), -1e9)).amax((2, 3), keepdim=True)
    near = torch.where(inside, depth, depth.new_full((), 1e9)).amin((2, 3), keepdim=True)
    shown = torch.where(inside, 1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-3), torch.zeros_like(depth))
    return torch.nn.functional.interpolate(shown, size=(size, size), mode="nearest")
