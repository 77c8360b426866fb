"""The demo's tiles stand on a dark card, with a caption above each tile and a line below all."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

CAPTIONS = ("source", "driving: another head", "result", "result from any side")
_PAPER, _INK, _FAINT = (22, 24, 29), (236, 238, 242), (142, 148, 158)
_MARGIN, _GAP, _CAPTION, _LINE = 16, 8, 28, 30
_CAPTION_PX, _LINE_PX = 15, 13


def framed(tiles: np.ndarray, left: str, right: str) -> np.ndarray:
    """Put tiles beside each other on the card.

    Args:
        tiles: uint8 [4, S, S, 3].
        left, right: texts at both ends of the line below.

    Returns:
        uint8 [H, W, 3], H and W even.
    """
    side = tiles.shape[1]
    frame = _card(side, left, right).copy()
    for number, tile in enumerate(tiles):
        at = _MARGIN + number * (side + _GAP)
        frame[_MARGIN + _CAPTION : _MARGIN + _CAPTION + side, at : at + side] = tile
    return frame


@lru_cache(maxsize=4)
def _card(side: int, left: str, right: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    width = 2 * _MARGIN + len(CAPTIONS) * (side + _GAP) - _GAP
    height = _MARGIN + _CAPTION + side + _LINE
    image = Image.new("RGB", (width + width % 2, height + height % 2), _PAPER)
    draw = ImageDraw.Draw(image)
    for number, caption in enumerate(CAPTIONS):
        at = _MARGIN + number * (side + _GAP)
        font = ImageFont.load_default(_CAPTION_PX)
        draw.text((at, _MARGIN + _CAPTION // 2 - 4), caption, fill=_INK, font=font, anchor="lm")
    middle, font = _MARGIN + _CAPTION + side + _LINE // 2 + 1, ImageFont.load_default(_LINE_PX)
    draw.text((_MARGIN, middle), left, fill=_FAINT, font=font, anchor="lm")
    draw.text((width - _MARGIN, middle), right, fill=_FAINT, font=font, anchor="rm")
    return np.asarray(image)
