"""Puts a result back into the picture that its source was cut out of, without a visible seam."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from triportrait.core.motion.motion_crop import ALIGNED_SIZE
from triportrait.serve.faces.alignment import Alignment

# Over this part of the square's side at its rim the picture passes into the result: at its foot, where the neck and the
# shoulders cross it, it takes longer than around the hair.
SEAM, SEAM_BELOW = 0.07, 0.14
MOST_SCALED, MOST_MOVED_PX = 1.25, 64.0  # how far off a network may draw a face, pixels of the 512² crop
LARGEST_SIDE_PX = 1920  # of the picture; larger ones are reduced, as a video of them could hardly be played


def registered(placed: Alignment, landmarks: np.ndarray, shown: np.ndarray) -> Alignment:
    """Find where a result must lie for its face to cover the portrait's: the network draws it a little beside.

    Args:
        placed: where the portrait's crop lies.
        landmarks: [68, 2 or 3] the portrait's landmarks in the 512² crop.
        shown: the landmarks in the result of the portrait that drives itself.

    Returns:
        The square, moved and scaled (least squares); as it was where the two are further apart than a network is off.
    """
    p, q = shown[:, :2].astype(np.float64) + 0.5, landmarks[:, :2].astype(np.float64) + 0.5
    p_mean, q_mean = p.mean(0), q.mean(0)
    scale = float(((p - p_mean) * (q - q_mean)).sum() / max(float(np.square(p - p_mean).sum()), 1e-9))
    shift = q_mean - scale * p_mean
    moved = np.abs(shift + (scale - 1) * ALIGNED_SIZE / 2).max()
    if not 1 / MOST_SCALED < scale < MOST_SCALED or moved > MOST_MOVED_PX:
        return placed
    left, top = shift / placed.scale
    return Alignment(placed.left + float(left), placed.top + float(top), placed.side * scale)


class PasteBack:
    """Holds a picture into which results are put.

    Args:
        picture: uint8 [H, W, 3], the raw source.
        placed: where its crop lies.

    Attributes:
        picture: the source, reduced where its longer side has more than 1920 px.
    """

    def __init__(self, picture: np.ndarray, placed: Alignment) -> None:
        height, width = picture.shape[:2]
        reduced = min(1.0, LARGEST_SIDE_PX / max(height, width))
        size = (max(2, round(width * reduced)), max(2, round(height * reduced)))
        whole = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS) if reduced < 1 else picture
        self.picture = np.asarray(whole)
        across, down = size[0] / width, size[1] / height
        left, top = placed.left * across, placed.top * down
        right, bottom = left + placed.side * across, top + placed.side * down
        # Whole pixels of the picture, those that the square covers.
        self._x = slice(max(0, math.ceil(left)), min(size[0], math.floor(right)))
        self._y = slice(max(0, math.ceil(top)), min(size[1], math.floor(bottom)))
        spans = ((left, right), (top, bottom))
        # Their bounds in shares of the square.
        self._from = [(s.start - a) / (b - a) for s, (a, b) in zip((self._x, self._y), spans, strict=True)]
        self._to = [(s.stop - a) / (b - a) for s, (a, b) in zip((self._x, self._y), spans, strict=True)]
        u, v = (
            (np.arange(s.start, s.stop) + 0.5 - a) / (b - a)
            for s, (a, b) in zip((self._x, self._y), spans, strict=True)
        )
        # 0 at the square's rim, 1 inside of the seam; round corners, no kink at either end.
        rim = (
            np.clip(1 - np.minimum(u, 1 - u) / SEAM, 0, 1),
            np.clip(1 - np.minimum(v / SEAM, (1 - v) / SEAM_BELOW), 0, 1),
        )
        inside = np.clip(1 - np.hypot(rim[0][None, :], rim[1][:, None]), 0, 1)
        self._share = (inside * inside * (3 - 2 * inside)).astype(np.float32)[..., None]

    @property
    def size_px(self) -> tuple[int, int]:
        """Return width and height of what comes out."""
        return self.picture.shape[1], self.picture.shape[0]

    def __call__(self, result: np.ndarray) -> np.ndarray:
        """Put a result into a copy of the picture.

        Args:
            result: uint8 [S, S, 3], seen from the fixed camera, the neck still.

        Returns:
            uint8 [H, W, 3].
        """
        out = self.picture.copy()
        height, width = self._share.shape[:2]
        if not height or not width:
            return out
        (x0, y0), (x1, y1) = ((share * result.shape[0] for share in end) for end in (self._from, self._to))
        fitted = Image.fromarray(result).resize((width, height), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
        under = out[self._y, self._x].astype(np.float32)
        mixed = under + self._share * (np.asarray(fitted, np.float32) - under)
        out[self._y, self._x] = np.rint(mixed).astype(np.uint8)
        return out
