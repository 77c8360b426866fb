"""What a picture file says of its colours beside a profile: PNG's chunks, AVIF's boxes, EXIF's colour space."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import Image

from triportrait.serve.media.pictures.colour_spaces import (
    Primaries,
    follow_adobe_rgb,
    follow_codes,
    follow_gamma,
    known_codes,
)

_EXIF, _INTEROPERABILITY, _COLOUR_SPACE = 0x8769, 0xA005, 0xA001
_ADOBE_RGB, _UNCALIBRATED = 2, 0xFFFF
_MOST_CHUNKS = 1000
_BOXES = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # that hold others, with the bytes before those


@dataclass(frozen=True)
class Tags:
    """Colours that a file states by numbers.

    Attributes:
        codes: primaries and curve, code points of H.273.
        above_profile: whether `codes` go before an embedded profile.
        gamma: the exponent that coded the picture. primaries: red, green, blue, white.
        adobe_rgb: a camera says Adobe RGB.
    """

    codes: tuple[int, int] | None = None
    above_profile: bool = False
    gamma: float | None = None
    primaries: Primaries | None = None
    adobe_rgb: bool = False

    def follow(self, picture: Image.Image) -> Image.Image:
        """Bring an RGB picture to sRGB. Raises: `ValueError` for numbers that no picture can have."""
        if self.codes is not None:
            return follow_codes(picture, *self.codes)
        if self.adobe_rgb:
            return follow_adobe_rgb(picture)
        if self.gamma is None and self.primaries is None:
            return picture
        return follow_gamma(picture, self.gamma, self.primaries)


def colour_tags(picture: Image.Image) -> Tags:
    """What an opened picture, whose pixels are not loaded yet, says of its colours."""
    info, file = picture.info, getattr(picture, "fp", None)
    if picture.format == "PNG" and file is not None:
        codes = _cicp(file)
        if codes is not None:
            return Tags(codes, above_profile=True)
        if "srgb" in info:
            return Tags()
        return Tags(gamma=info.get("gamma"), primaries=_pairs(info.get("chromaticity")))
    if picture.format == "AVIF" and file is not None:
        return Tags(_nclx(file))
    return Tags(adobe_rgb=_says_adobe_rgb(picture))


def _cicp(file: IO[bytes]) -> tuple[int, int] | None:
    """The chunk cICP of a PNG: its primaries and curve, where both can be followed."""
    for name, at, size in _chunks(file):
        if name == b"cICP" and size == 4:
            primaries, curve, matrix, full = _read(file, at, 4)
            # RGB in full range is all that the standard allows.
            return (primaries, curve) if matrix == 0 and full == 1 and known_codes(primaries, curve) else None
    return None


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a PNG before its pixels: name, place and size of the data."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        head = _read(file, at, 8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            return
        size = int.from_bytes(head[:4], "big")
        yield head[4:], at + 8, size
        at += 12 + size


def _nclx(file: IO[bytes]) -> tuple[int, int] | None:
    """The first box colr of kind nclx among an AVIF's properties: its primaries and curve."""
    at, end = 0, file.seek(0, 2)
    for _ in range(_MOST_CHUNKS):
        head = _read(file, at, 16)
        if len(head) < 8 or at >= end:
            return None
        size, name, skip = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, skip = int.from_bytes(head[8:16], "big"), 16
        if name == b"colr" and _read(file, at + skip, 4) == b"nclx":
            primaries, curve = struct.unpack(">HH", _read(file, at + skip + 4, 4).ljust(4, b"\0"))
            return (primaries, curve) if known_codes(primaries, curve) else None
        if name in _BOXES:
            at += skip + _BOXES[name]
        elif size < skip:
            return None
        else:
            at += size
    return None


def _read(file: IO[bytes], at: int, size: int) -> bytes:
    """Read somewhere, and leave the file where it stood: Pillow reads on from there."""
    before = file.tell()
    try:
        file.seek(at)
        return file.read(size)
    finally:
        file.seek(before)


def _pairs(values: tuple[float, ...] | None) -> Primaries | None:
    """PNG's order is white, red, green, blue."""
    if values is None or len(values) != 8:
        return None
    white, red, green, blue = zip(values[::2], values[1::2], strict=True)
    return red, green, blue, white


def _says_adobe_rgb(picture: Image.Image) -> bool:
    """Cameras name no profile for Adobe RGB: its interoperability index is R03, or the colour space 2."""
    if "exif" not in picture.info:
        return False
    exif = picture.getexif()
    details = exif.get_ifd(_EXIF)
    space = details.get(_COLOUR_SPACE)
    index = exif.get_ifd(_INTEROPERABILITY).get(1) if space == _UNCALIBRATED else None
    return space == _ADOBE_RGB or (isinstance(index, str) and index.startswith("R03"))
