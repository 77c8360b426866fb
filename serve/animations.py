"""Animations of pictures (GIF, animated PNG, WebP and AVIF): their frames, composed, with the times that they state."""

from __future__ import annotations

from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.serve.contents import kind_of
from triportrait.serve.pictures import DAMAGE, Say, opened_picture, pictures_inside, tags_of, to_rgb

_KINDS = ("GIF", "PNG", "WEBP", "AVIF")
# Browsers show a frame that asks for no time, or for less than they can keep, for a tenth of a second.
_SHORTEST_MS, _INSTEAD_MS = 10, 100
# The average rate is taken from so many frames: some formats tell a frame's time only as it is decoded.
_MEASURED = 16
_FINEST = 1_000_000

_Images = Generator[tuple[Fraction, Callable[[], np.ndarray | None]], None, Fraction]


def is_animation(path: Path) -> bool:
    """Tell whether a file holds several pictures that are shown one after another; pages and views are not."""
    if kind_of(path) not in _KINDS:
        return False
    try:
        with opened_picture(path, smallest_px=1) as picture:
            return pictures_inside(picture) > 1
    except (InputError, *DAMAGE):
        return False


class Animation:
    """An animated picture file.

    Attributes:
        path: the file.
        count: frames.
        size_px: (width, height) of the first frame, upright.
        fps: average rate of the first frames, per second.
    """

    def __init__(self, path: Path) -> None:
        """Decode the first frame, and the times of some more.

        Raises: `InputError` when the file is unreadable, too large, or its first frame does not decode.
        """
        self.path = path
        with opened_picture(path, smallest_px=1) as picture:
            self.count = pictures_inside(picture)
            total_s = Fraction(0)
            try:
                picture.seek(_first(picture))
                tags = tags_of(picture)
                picture.load()
                height, width, _ = to_rgb(path, picture, tags).shape
            except DAMAGE as error:
                raise InputError(f"{path}: its first frame is damaged; save or copy it again") from error
            measured = 0
            for index in range(min(self.count, _MEASURED)):
                try:
                    picture.seek(_first(picture) + index)
                    picture.load()
                except DAMAGE:
                    break
                total_s, measured = total_s + _duration_s(picture), index + 1
        self.size_px = (width, height)
        self.fps = (measured / total_s).limit_denominator(1001)

    def images(self, say: Say) -> _Images:
        """Generate (time from the first frame in seconds, function that gives the pixels) of each frame.

        The function gives None for a frame that is damaged. A frame is composed of those before it; transparent parts
        are white.

        Args:
            say: hears, in a sentence, what was damaged or not followed.

        Returns: when the last frame's own time ends.
        """
        time_s, damaged, words = Fraction(0), 0, dict[str, None]()
        with opened_picture(self.path, smallest_px=1) as picture:
            tags = tags_of(picture)

            def pixels() -> np.ndarray | None:
                try:
                    picture.load()
                    return self._fitted(to_rgb(self.path, picture, tags, lambda word: words.update({word: None})))
                except (InputError, *DAMAGE):
                    return None

            for index in range(self.count):
                try:
                    picture.seek(_first(picture) + index)
                except DAMAGE:
                    damaged += self.count - index
                    break
                yield time_s, pixels
                try:
                    picture.load()
                except DAMAGE:
                    damaged += 1
                time_s += _duration_s(picture)
        for word in words:
            say(f"{self.path}: {word}")
        if damaged:
            say(f"{self.path}: {damaged} of its {self.count} frames are damaged and were left out")
        return time_s

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        """A frame that reaches beyond the picture is cut; Pillow would make the picture larger from there on."""
        width, height = self.size_px
        if image.shape[:2] == (height, width):
            return image
        fitted = np.full((height, width, 3), 255, np.uint8)
        cut = image[:height, :width]
        fitted[: cut.shape[0], : cut.shape[1]] = cut
        return fitted


def _first(picture: Image.Image) -> int:
    """The number of the first frame: an animated PNG may begin with a picture for viewers that know only still ones."""
    return int(bool(getattr(picture, "default_image", False)))


def _duration_s(picture: Image.Image) -> Fraction:
    """How long the frame that was loaded is shown."""
    stated = picture.info.get("duration")
    milliseconds = Fraction(stated).limit_denominator(_FINEST) if isinstance(stated, int | float) else Fraction(0)
    return (milliseconds if milliseconds > _SHORTEST_MS else Fraction(_INSTEAD_MS)) / 1000
