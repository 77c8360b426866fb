"""Decoded frames of a video become upright RGB pictures with square pixels, in sRGB whatever they are tagged with."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation, VideoReformatter

from triportrait.serve.media.pictures.colour_spaces import HDR_CURVES, follow_codes_of_pixels, follow_profile_of_pixels
from triportrait.serve.media.video.side_data import side_data

SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
# The YUV matrices that the scaler knows, by libav number; 10 is a variant of 9 that nobody writes knowingly.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}


class ToRgb:
    """What all frames of one video are turned and stretched by."""

    def __init__(self, first: av.VideoFrame, stretch: Fraction | None, still: bool) -> None:
        """Read what the first frame says.

        Args:
            stretch: width over height of a pixel; None, and what no camera has, is taken for 1.
            still: it is a picture of a kind that only libav reads: its colour profile is followed, as of pictures.
        """
        self._stretch = stretch if stretch and Fraction(1, 4) <= stretch <= 4 else Fraction(1)
        matrix = side_data(first, "DISPLAYMATRIX")
        self._matrix = None if matrix is None else np.frombuffer(matrix, np.int32).reshape(3, 3).copy()
        self._profile = side_data(first, "ICC_PROFILE") if still else None
        width, height = self._square_px(first)
        self.size_px = (height, width) if _lies(self._matrix) else (width, height)
        """Of the first frame: width, height."""

    def __call__(self, frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        """uint8 `[H, W, 3]` of a frame."""
        width, height = self._square_px(frame)
        options: dict[str, Any] = {}
        if not frame.format.is_rgb:
            # Players take what is untagged for 709 in HD sizes and for 601 below; libav alone would always say 601.
            guess = Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601
            options["src_colorspace"] = _MATRICES.get(frame.colorspace, int(guess))
        if frame.color_trc in HDR_CURVES:
            options["dst_color_trc"] = ColorTrc.IEC61966_2_1
            options["dst_color_primaries"] = ColorPrimaries.BT709
        rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1, **options)
        pixels = np.asarray(rgb.to_ndarray())
        if self._profile is not None:
            pixels = follow_profile_of_pixels(pixels, self._profile)
        elif frame.color_trc not in HDR_CURVES:
            pixels = follow_codes_of_pixels(pixels, frame.color_primaries, frame.color_trc)
        return _turned(pixels, self._matrix)

    def _square_px(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Give the size with square pixels: the longer side of a pixel decides, so that nothing is lost."""
        if self._stretch > 1:
            return round(frame.width * self._stretch), frame.height
        return frame.width, round(frame.height / self._stretch)


def _lies(matrix: np.ndarray | None) -> bool:
    """Tell whether a display matrix swaps width and height; slanted angles go to the nearest right one."""
    if matrix is None:
        return False
    (a, b), (c, d) = matrix[:2, :2].tolist()
    return abs(b) + abs(c) > abs(a) + abs(d)


def _turned(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Apply a display matrix `[3, 3]` (turns by right angles and mirrors) to `[H, W, 3]`."""
    if matrix is not None:
        # Row vectors: x' = a·x + c·y, y' = b·x + d·y.
        (a, b), (c, d) = matrix[:2, :2].tolist()
        if _lies(matrix):
            image, a, d = image.swapaxes(0, 1), c, b
        image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)
