"""Animations of pictures (GIF, animated PNG, WebP and AVIF): their frames, composed, with the times that they state."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.file_type import kind_of
from triportrait.serve.media.pictures.picture_file import DAMAGE, Say, opened_picture, pictures_inside, tags_of, to_rgb

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
            lengths_s: list[Fraction] = []
            try:
                tags = tags_of(picture)
                for image, length_s in islice(self._decoded(picture), _MEASURED):
                    if not lengths_s:
                        height, width, _ = to_rgb(path, image, tags).shape
                    lengths_s.append(length_s)
            except DAMAGE as error:
                if not lengths_s:
                    raise InputError(f"{path}: its first frame is damaged; save or copy it again") from error
        self.size_px = (width, height)
        self.fps = (len(lengths_s) / sum(lengths_s, Fraction(0))).limit_denominator(1001)

    def images(self, say: Say) -> _Images:
        """Generate (time from the first frame in seconds, function that gives the pixels) of each frame.

        A frame is composed of those before it, so that what follows a damaged one is left out; transparent parts are
        white.

        Args:
            say: hears, in a sentence, what was damaged or not followed.

        Returns: when the last frame's own time ends.
        """
        time_s, count, words = Fraction(0), 0, dict[str, None]()
        with opened_picture(self.path, smallest_px=1) as picture:
            tags = tags_of(picture)

            def pixels(image: Image.Image) -> np.ndarray | None:
                with suppress(*DAMAGE):
                    return self._fitted(to_rgb(self.path, image, tags, lambda word: words.update({word: None})))
                return None

            whole = False
            with suppress(*DAMAGE):
                for image, length_s in self._decoded(picture):
                    yield time_s, partial(pixels, image)
                    time_s, count = time_s + length_s, count + 1
                whole = count == self.count and self._ends_well(picture)
        for word in words:
            say(f"{self.path}: {word}")
        if not whole:
            of = f" of its {self.count}" if count < self.count else ""
            say(f"{self.path}: {count}{of} frames could be decoded; the rest is damaged")
        return time_s

    def _decoded(self, picture: Image.Image) -> Iterator[tuple[Image.Image, Fraction]]:
        """Decode the frames, each with how long it is shown; an image may be the same object, changed."""
        if picture.format == "PNG":
            # Pillow lays half-transparent pixels over others as if these were opaque.
            yield from _apng(picture, self.path)
            return
        for index in range(self.count):
            picture.seek(index)
            picture.load()
            yield picture, _shown_s(picture.info.get("duration", 0))

    def _ends_well(self, picture: Image.Image) -> bool:
        try:
            return picture.format == "PNG" or int(getattr(picture, "n_frames", 1)) == self.count
        except DAMAGE:
            return False

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        """A frame that reaches beyond the picture is cut; Pillow would make the picture larger from there on."""
        width, height = self.size_px
        if image.shape[:2] == (height, width):
            return image
        fitted = np.full((height, width, 3), 255, np.uint8)
        cut = image[:height, :width]
        fitted[: cut.shape[0], : cut.shape[1]] = cut
        return fitted


def _apng(picture: Image.Image, path: Path) -> Iterator[tuple[Image.Image, Fraction]]:
    """Decode an animated PNG by libav.

    Raises: `OSError` where it breaks off.
    """
    try:
        with av.open(f"file:{path}", "r", format="apng", container_options={"protocol_whitelist": "file"}) as container:
            for frame in container.decode(video=0):
                image = Image.fromarray(frame.to_ndarray(format="rgba"))
                image.info.update(
                    {name: picture.info[name] for name in ("icc_profile", "exif") if name in picture.info}
                )
                length_s = (frame.duration or 0) * (frame.time_base or Fraction(0))
                yield image, _shown_s(length_s * 1000)
    except av.FFmpegError as error:
        raise OSError(str(error)) from error


def _shown_s(milliseconds: float | Fraction) -> Fraction:
    """How long a frame is shown that states a time."""
    stated = Fraction(milliseconds).limit_denominator(_FINEST)
    return (stated if stated > _SHORTEST_MS else Fraction(_INSTEAD_MS)) / 1000
