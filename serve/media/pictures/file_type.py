"""What a file is by its first bytes: names lie, browsers and mail programs save photographs under any ending."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from triportrait.core.files import opened

# Brands of pictures in the container that mp4 uses; other sequences (hevc, msf1) are videos to libav.
_STILL_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"avis")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_START_BYTES = 64
# What a scan of a JPEG ends at: neither a stuffed byte, nor a restart, nor a fill byte.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SIZES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_SCAN, _END, _APP2 = 0xDA, 0xD9, 0xE2


def kind_of_bytes(start: bytes) -> str | None:
    """Tell a picture by the first 64 bytes of its file.

    Returns: "PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF" or "HEIC"; None for anything else.
    """
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if start.startswith(b"BM") and int.from_bytes(start[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6][\s#]", start):
        return "PPM"
    if start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS:
        brands = start[8 : max(12, int.from_bytes(start[:4], "big"))]
        return "AVIF" if b"avif" in brands or b"avis" in brands else "HEIC"
    return None


def kind_of(path: Path) -> str | None:
    """Tell a picture by the first bytes of its file; None for anything else, and for what cannot be read."""
    if not path.is_file():
        return None
    try:
        with opened(path) as file:
            return kind_of_bytes(file.read(_START_BYTES))
    except OSError:
        return None


def is_picture(path: Path) -> bool:
    """Tell a still picture from a video by its content; of a file of pictures the first is one."""
    kind = kind_of(path)
    # libav reads one PPM as it reads many that follow each other.
    return kind not in (None, "PPM") and not (kind == "JPEG" and is_motion_jpeg(path))


def is_motion_jpeg(path: Path) -> bool:
    """Tell a raw stream of JPEGs, a video, from one JPEG: a second picture of the same size follows at once.

    What cameras put behind a photograph (previews, gain maps, the second view of an .mpo) is announced within it, or is
    of another size.
    """
    try:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            first = _jpeg(data, 0)
            if first is None or first[2] or data[first[0] : first[0] + 3] != b"\xff\xd8\xff":
                return False
            second = _jpeg(data, first[0], to_the_end=False)
            return second is not None and second[1] == first[1]
    except (OSError, ValueError):
        return False


def _jpeg(data: mmap.mmap, at: int, to_the_end: bool = True) -> tuple[int, bytes, bool] | None:
    """Walk the segments of the JPEG that begins at `at`.

    Returns: (where it ends, height and width as they stand there, whether it announces further pictures); None where
        its segments do not fit into the file.
    """
    at += 2
    size, announces = b"", False
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        kind = data[at + 1]
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        if kind == _END:
            return at + 2, size, announces
        body = data[at + 4 : at + 9]
        if kind in _SIZES:
            size = body[1:5]
            if not to_the_end:
                return at, size, announces
        announces |= kind == _APP2 and body.startswith(b"MPF\0")
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if kind == _SCAN:
            found = _MARKER.search(data, at)
            if found is None:
                return None
            at = found.start()
    return (len(data), size, announces) if data[-2:] == b"\xff\xd9" and at + 2 == len(data) else None
