"""Reads what a Python program hands over: pictures as paths, PIL images or arrays, or iterables of these."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sized
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import (
    DAMAGE,
    LARGEST_PICTURE_PX,
    SMALLEST_SIDE_PX,
    read_picture,
    tags_of,
    to_rgb,
)
from triportrait.serve.media.video.clips import PICTURES_FPS, Clip

Picture = str | os.PathLike[str] | Image.Image | np.ndarray


def to_picture(picture: Picture, name: str) -> np.ndarray:
    """Read a picture as upright 8-bit sRGB.

    Args:
        picture: a path; a PIL image, which is converted as its file would be (EXIF orientation, transparency on white,
            colour profile); or an array, uint8 [H, W, 3], RGB.
        name: what sentences call it.

    Returns:
        uint8 [H, W, 3].

    Raises:
        InputError: it is of another kind, type or shape, damaged, or its size is out of bounds.
    """
    if isinstance(picture, str | os.PathLike):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        _check_size(name, *picture.size)
        try:
            tags = tags_of(picture)
            picture.load()
            return to_rgb(name, picture, tags)
        except InputError:
            raise
        except DAMAGE as error:
            raise InputError(f"{name}: the PIL image cannot be read ({error}); open it again") from error
    if not isinstance(picture, np.ndarray):
        raise InputError(
            f"{name}: expected a path, a PIL image or a uint8 array [H, W, 3], got {type(picture).__name__}; convert it"
        )
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        advice = "give RGB without other channels"
        if picture.dtype.kind == "f":
            advice = "scale it to 0...255 and convert it with .astype(numpy.uint8)"
        came = f"{picture.dtype} {list(picture.shape)}"
        raise InputError(f"{name}: expected an array uint8 [H, W, 3], got {came}; {advice}")
    _check_size(name, picture.shape[1], picture.shape[0])
    return np.ascontiguousarray(picture)


def _check_size(name: str, width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE_PX or width * height > LARGEST_PICTURE_PX:
        raise InputError(
            f"{name}: expected sides of {SMALLEST_SIDE_PX} px at least and up to {LARGEST_PICTURE_PX // 10**6} "
            f"megapixels, got {width} x {height} px; resize it"
        )


class PictureStream(Clip):
    """Reads pictures that a program makes one by one as a clip; each when its frame is asked for, and none is kept.

    Args:
        pictures: of any kind that `to_picture` takes.
        fps: pictures per second.

    Raises:
        InputError: the rate is not positive.
    """

    def __init__(self, pictures: Iterable[Picture], fps: float | Fraction | None = None) -> None:
        rate = Fraction(PICTURES_FPS if fps is None else fps).limit_denominator(1001) if _positive(fps) else Fraction(0)
        if rate <= 0:
            raise InputError(f"fps: expected a number above 0, got {fps}; say how many frames a second has")
        count = len(pictures) if isinstance(pictures, Sized) else None
        super().__init__(Path("driving"), rate, (0, 0), count)  # sizes are known as the pictures come
        self.files = []
        self._pictures = pictures

    def _images(self) -> Generator[tuple[Fraction, Callable[[], np.ndarray | None]], None, None]:
        pictures = islice(self._pictures, self._limit)  # none beyond the limit is taken from the program
        count = 0
        for count, picture in enumerate(pictures, start=1):
            yield (count - 1) / self.fps, partial(to_picture, picture, f"driving frame {count - 1}")
        if not count:
            raise InputError("driving: expected at least one frame, got none; give an iterable that has some")


def _positive(fps: float | Fraction | None) -> bool:
    return fps is None or (isinstance(fps, int | float | Fraction) and 0 < fps < 1e6)
