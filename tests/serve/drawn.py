"""Animated PNGs written chunk by chunk, and what each frame shows by the words of their specification."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from tests.serve.bombs import chunk

SIDE = 72
KEEP, BACKGROUND, PREVIOUS = 0, 1, 2
SOURCE, OVER = 0, 1

Piece = tuple[np.ndarray, int, int, int, int, tuple[int, int]]  # RGBA, x, y, disposal, blending, delay


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def pieces() -> list[Piece]:
    """Every way to leave a frame and to lay the next one over it, with half-transparent pixels."""
    rng = np.random.default_rng(3)
    found: list[Piece] = []
    for number, (leave, lay) in enumerate([(a, b) for a in (KEEP, BACKGROUND, PREVIOUS) for b in (SOURCE, OVER)] * 2):
        whole = number == 0
        size = (SIDE, SIDE) if whole else tuple(int(v) for v in rng.integers(20, 40, 2))
        pixels = rng.integers(0, 256, (*size, 4), dtype=np.uint8)
        pixels[..., 3] = rng.choice([0, 128, 255], size)
        x, y = (0, 0) if whole else (int(v) for v in rng.integers(0, 30, 2))
        found.append((pixels, x, y, leave, lay, (number + 1, 30)))
    return found


def write_apng(path: Path, pieces: list[Piece], still: np.ndarray | None = None) -> None:
    """Write an animated PNG; `still`, RGBA, is a picture before it for viewers that know no animations."""

    def packed(pixels: np.ndarray) -> bytes:
        return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0))
    data += chunk(b"acTL", struct.pack(">II", len(pieces), 0))
    if still is not None:
        data += chunk(b"IDAT", packed(still))
    number = 0
    for index, (pixels, x, y, leave, lay, delay) in enumerate(pieces):
        high, wide = pixels.shape[:2]
        data += chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, wide, high, x, y, *delay, leave, lay))
        number += 1
        if index == 0 and still is None:
            data += chunk(b"IDAT", packed(pixels))
        else:
            data += chunk(b"fdAT", struct.pack(">I", number) + packed(pixels))
            number += 1
    path.write_bytes(data + chunk(b"IEND", b""))


def composed(pieces: list[Piece]) -> list[np.ndarray]:
    """What each frame shows on white, uint8 [SIDE, SIDE, 3], by the specification of animated PNGs."""
    canvas = np.zeros((SIDE, SIDE, 4))
    shown = []
    for index, (pixels, x, y, leave, lay, _) in enumerate(pieces):
        before = canvas.copy()
        at = np.s_[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        if lay == SOURCE:
            canvas[at] = pixels
        else:
            over, under = pixels / 255.0, canvas[at] / 255.0
            alpha = over[..., 3:] + under[..., 3:] * (1 - over[..., 3:])
            mixed = over[..., :3] * over[..., 3:] + under[..., :3] * under[..., 3:] * (1 - over[..., 3:])
            colour = np.divide(mixed, alpha, out=np.zeros_like(mixed), where=alpha > 0)
            canvas[at] = np.concatenate((colour, alpha), -1) * 255
        alpha = canvas[..., 3:] / 255
        shown.append((canvas[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
        if leave == BACKGROUND or (leave == PREVIOUS and index == 0):
            canvas[at] = 0
        elif leave == PREVIOUS:
            canvas = before
    return shown
