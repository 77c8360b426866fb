"""What a picture file may ask of a decoder, told from its structure before anything of it is decoded.

Bytes and pixels do not bound the work: a JPEG may hold its coefficients in any number of scans, each of which goes
over all pixels, a PNG any number of profiles, a TIFF any number of JPEGs. Here segments, chunks and directories are
walked by their lengths, never searched for, and counted.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from triportrait.core.errors import InputError
from triportrait.core.files import opened
from triportrait.serve.media.pictures.tiff_directory import TiffDirectory

LARGEST_FILE = 1 << 30
MOST_SCANS = 100  # of a still; cameras and editors write 20 at most
PASSES = 20  # over the largest picture that is taken: scans x pixels
MOST_SEGMENTS = 2_000  # of a JPEG outside of its scans: metadata comes in pieces of 64 kB
MOST_EXIF = 4
MOST_LOOSE = 64 << 10  # bytes between the segments of a JPEG
MOST_CHUNKS = 1_000  # of a PNG, image data apart
SMALLEST_CHUNK = 1_024  # of its image data, on average, beyond the first MOST_CHUNKS
MOST_FRAMES = 20_000  # of an animation
MOST_BLOCKS, SMALLEST_BLOCK = 100_000, 64  # of a GIF: writers fill 255 bytes, so that more are smaller on average
MOST_PLAIN_PX = 16_000_000  # of kinds that Pillow reads in Python: BMP in runs, PPM in words

_SOI, _EOI, _SOS, _EXIF = 0xD8, 0xD9, 0xDA, 0xE1
_BMP_HEADS = tuple(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))
# What may stand before the first scan. Behind others readers differ in where they go on, and Pillow does so in Python.
_BEFORE_SCANS = frozenset((*range(0xC0, 0xD0), *range(0xDA, 0xE0))) - {0xC8} | _METADATA
# Where libjpeg goes on reading: at a marker that is no stuffed zero, no filling and no restart.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")


@dataclass(frozen=True)
class Segment:
    """A marker of a JPEG and where its bytes lie, marker and length included; scans without their coefficients."""

    marker: int
    begin: int
    end: int


def jpeg_segments(data: bytes, begin: int = 0, end: int | None = None) -> Iterator[Segment]:
    """The segments of a JPEG as libjpeg comes by them: up to its end marker, or to where the data break off."""
    end = len(data) if end is None else end
    at = begin + 2
    while (found := _MARKER.search(data, at, end)) is not None:
        marker, at = data[found.start() + 1], found.end()
        if marker == _EOI:
            yield Segment(marker, found.start(), at)
            return
        if marker == _SOI or marker < 0xC0:  # nothing follows; libjpeg refuses it
            yield Segment(marker, found.start(), at)
            continue
        if at + 2 > end:
            return
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
        yield Segment(marker, found.start(), min(at, end))


@dataclass(frozen=True)
class JpegWork:
    """What a JPEG asks for.

    Attributes:
        scans: how often its decoder goes over the picture.
        pixels: of the picture; of the largest, where it claims several.
        baseline: its frame is Huffman-coded and sequential.
    """

    scans: int
    pixels: int
    baseline: bool


def jpeg_work(name: str, data: bytes, begin: int = 0, end: int | None = None) -> JpegWork:
    """Walk a JPEG and count.

    Raises:
        InputError: more segments than any writer makes, where the counting ends; before its scans one of a kind that
            does not belong there.
    """
    scans = exif = pixels = loose = 0
    baseline, last = True, begin + 2
    for segments, segment in enumerate(jpeg_segments(data, begin, end), 1):
        if not scans and segment.marker not in _BEFORE_SCANS:
            raise InputError(f"{name}: this is not a picture that can be read; save it as PNG or JPEG")
        if segment.marker == _SOS:
            scans += 1
        elif segment.marker in _FRAMES:
            size = data[segment.begin + 5 : segment.begin + 9]
            pixels = max(pixels, int.from_bytes(size[:2], "big") * int.from_bytes(size[2:], "big"))
            baseline = baseline and segment.marker in (0xC0, 0xC1)
        elif segment.marker == _EXIF and data[segment.begin + 4 : segment.begin + 8] == b"Exif":
            exif += 1
        if not scans:
            loose += segment.begin - last
            last = segment.end
        if scans > MOST_SCANS:
            raise InputError(f"{name}: a JPEG of at most {MOST_SCANS} scans is wanted, more came; save it again")
        if segments - scans > MOST_SEGMENTS or exif > MOST_EXIF or loose > MOST_LOOSE:
            raise InputError(f"{name}: a JPEG of at most {MOST_SEGMENTS} segments is wanted, more came; save it again")
    return JpegWork(scans, pixels, baseline)


def bare_jpeg(data: bytes) -> bytes:
    """A JPEG without what its pixels do not need: profiles, comments, previews, more pictures; one EXIF is kept."""
    kept, begin, exif = [], 0, 0
    for segment in jpeg_segments(data):
        exif += segment.marker == _EXIF
        needed = segment.marker in (0xE0, 0xEE) or (segment.marker == _EXIF and exif == 1)
        if segment.marker in _METADATA and not needed:
            kept.append(data[begin : segment.begin])
            begin = segment.end
    return b"".join(kept) + data[begin:]


def check_ratio(name: str, width_px: int, height_px: int, most: float) -> None:
    """Refuse a picture that is a strip.

    Raises:
        InputError: it is more than `most` times as long as it is wide.
    """
    if max(width_px, height_px) > most * min(width_px, height_px):
        raise InputError(
            f"{name}: a picture at most {most:g} times as long as it is wide is wanted, {width_px} × {height_px} px "
            "came; cut the face out of it"
        )


def check_work(name: str, data: bytes, largest_px: int) -> None:
    """Check a whole picture file of any kind that is read here.

    Args:
        name: what the sentence calls it.
        data: the file.
        largest_px: pixels that are taken; the work is bounded by `PASSES` times as many.

    Raises:
        InputError: it asks for more work than pictures of its kind do. Damage is left to the decoder.
    """
    start = bytes(data[:32])
    if start.startswith(b"\xff\xd8"):
        work = jpeg_work(name, data)
        _check_passes(name, work.scans * work.pixels, largest_px)
    elif start.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(name, data)
    elif start.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(name, data)
    elif start[:4] in (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0"):
        _check_tiff(name, data, largest_px)
    elif start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        _check_webp(name, data, largest_px)
    elif start.startswith(b"BM"):
        _check_bmp(name, data[14:64])
    elif start[:4] in _BMP_HEADS:
        _check_bmp(name, data[:50])
    elif start[:1] == b"P":
        _check_ppm(name, data)


def check_file(path: str | os.PathLike[str], largest_px: int) -> None:
    """`check_work` of a file.

    Raises:
        InputError: as `check_work` does; it is larger than any picture, or cannot be read.
    """
    try:
        with opened(path) as file:
            data = file.read(LARGEST_FILE + 1)  # not mapped: a file that shrinks meanwhile would end the process
    except OSError as error:
        raise InputError(f"{path}: the picture cannot be read ({error.strerror}); check the path") from error
    if len(data) > LARGEST_FILE:
        raise InputError(f"{path}: a picture of at most {LARGEST_FILE >> 30} GB is wanted, more came; make it smaller")
    check_work(os.fspath(path), data, largest_px)


def _check_passes(name: str, pixels: int, largest_px: int) -> None:
    if pixels > PASSES * largest_px:
        raise InputError(
            f"{name}: the scans of a JPEG may go over {PASSES * largest_px // 1_000_000} megapixels in all, "
            f"these go over {pixels // 1_000_000}; save it with fewer scans"
        )


def _check_png(name: str, data: bytes) -> None:
    at, others, images, profiles, frames, bytes_of_images = 8, 0, 0, 0, 0, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind in (b"IDAT", b"fdAT"):
            images += 1
            bytes_of_images += length
        else:
            frames += kind == b"fcTL"
            others += kind != b"fcTL"
            profiles += kind == b"iCCP"
        if kind == b"IEND":
            break
        crumbs = images > MOST_CHUNKS + frames + bytes_of_images // SMALLEST_CHUNK
        if others > MOST_CHUNKS or crumbs or profiles > 1 or frames > MOST_FRAMES:
            raise InputError(
                f"{name}: a PNG of one profile and at most {MOST_CHUNKS} chunks beside its picture is wanted, "
                "more came; save it again"
            )


def _check_gif(name: str, data: bytes) -> None:
    flags = data[10] if len(data) > 10 else 0
    at = 13 + _palette_bytes(flags)
    blocks = frames = 0
    most = MOST_BLOCKS + len(data) // SMALLEST_BLOCK
    while at < len(data) and data[at] != ord(";"):
        introducer, blocks = data[at], blocks + 1
        at += 1
        if introducer == ord("!"):
            at += 1  # its label
        elif introducer == ord(","):
            frames += 1
            at += 9
            at += _palette_bytes(data[at - 1] if at <= len(data) else 0) + 1
        else:  # Pillow passes over what is none
            continue
        length = 1
        while length and at < len(data) and blocks <= most:
            length = data[at]
            at += 1 + length
            blocks += 1
        if blocks > most or frames > MOST_FRAMES:
            raise InputError(
                f"{name}: a GIF of at most {MOST_FRAMES} pictures, in blocks of 255 bytes, is wanted, more came; "
                "save it again"
            )


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _check_webp(name: str, data: bytes, largest_px: int) -> None:
    # libwebp makes room for the whole canvas when it opens one.
    kind, word = data[12:16], int.from_bytes(data[21:25], "little")
    if kind == b"VP8X":
        size = 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        size = 1 + (word & 0x3FFF), 1 + (word >> 14 & 0x3FFF)
    else:
        size = int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    if size[0] * size[1] > largest_px:
        raise InputError(
            f"{name}: at most {largest_px // 1_000_000} megapixels are wanted, {size[0]} × {size[1]} px came; "
            "make it smaller"
        )


def _check_bmp(name: str, head: bytes) -> None:
    if len(head) < 20 or head[:4] == _BMP_HEADS[0]:
        return
    width, height, _, _, compression = struct.unpack_from("<iiHHI", head, 4)
    if compression in (1, 2):
        _check_plain(name, "a BMP in runs", abs(width * height))


def _check_ppm(name: str, data: bytes) -> None:
    if data[1:2] not in b"123456" or not data[2:3].isspace():
        return
    words = re.sub(rb"#[^\r\n]*", b" ", data[: 64 << 10]).split(maxsplit=4)
    try:
        magic, width, height = words[0], int(words[1]), int(words[2])
        deepest = 255 if magic in (b"P1", b"P4") else int(words[3])
    except (IndexError, ValueError) as error:
        raise InputError(f"{name}: a PPM with its size first is wanted, another came; save it again") from error
    if magic in (b"P1", b"P2", b"P3") or deepest not in (255, 65535):
        _check_plain(name, "a PPM in words, or of an odd depth,", width * height)


def _check_plain(name: str, kind: str, pixels: int) -> None:
    if pixels > MOST_PLAIN_PX:
        raise InputError(
            f"{name}: {kind} of at most {MOST_PLAIN_PX // 1_000_000} megapixels is wanted, "
            f"{pixels // 1_000_000} came; save it as PNG"
        )


def _check_tiff(name: str, data: bytes, largest_px: int) -> None:
    try:
        directory = TiffDirectory.read(data)
    except (struct.error, ValueError, IndexError) as error:
        raise InputError(f"{name}: this is not a picture that can be read; save it as PNG or JPEG") from error
    directory.check(name, largest_px)
    if not directory.holds_jpegs:
        return
    passes = 0
    for (begin, end), pixels in directory.pieces():
        work = jpeg_work(name, data, begin, end)
        passes += max(pixels, work.pixels) * work.scans
        _check_passes(name, passes, largest_px)
