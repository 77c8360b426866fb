"""Picture files that cost their decoder far more than their size says, made from the formats' descriptions."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def jpeg(size: tuple[int, int] = (4000, 2160), **how: object) -> bytes:
    """A picture as Pillow saves it."""
    out = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(out, "JPEG", **how)
    return out.getvalue()


def scans(count: int, size: tuple[int, int] = (4000, 2160), before: bytes = b"", end: bytes = b"\xff\xd9") -> bytes:
    """A progressive JPEG that holds its last scan `count` times more, each behind the bytes `before`."""
    whole = jpeg(size, progressive=True)
    last = whole.rfind(b"\xff\xda")
    return whole[:-2] + (before + whole[last:-2]) * count + end


def segment(marker: int, data: bytes) -> bytes:
    """A marker of a JPEG with its length."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(more: bytes = b"", side: int = 64, pixels: bytes | None = None) -> bytes:
    """A black PNG with more chunks before its picture."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    raw = chunk(b"IDAT", zlib.compress(bytes(side * (3 * side + 1)))) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + head + more + raw + chunk(b"IEND", b"")


def tiff(tags: dict[int, list[int]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of these tags (32-bit numbers), whose picture data begin at byte 8."""
    at = 8 + len(data)
    entries, values = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, values = struct.pack(order + "I", behind + len(values)), values + packed
        entries += struct.pack(order + "HHI", tag, 4, len(numbers)) + packed
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HI", 42, at)
    return head + data + struct.pack(order + "H", len(tags)) + entries + bytes(4) + values


def jpeg_in_tiff(inner: bytes, size: tuple[int, int], order: str = "<", compression: int = 7) -> bytes:
    """A TIFF of one strip, which is a JPEG."""
    tags = {256: [size[0]], 257: [size[1]], 258: [8, 8, 8], 259: [compression], 262: [6], 273: [8], 277: [3],
            278: [size[1]], 279: [len(inner)], 530: [2, 2]}  # fmt: skip
    return tiff(tags, inner, order)


def strips(count: int, size: tuple[int, int]) -> bytes:
    """A TIFF whose `count` strips are all the same one, nearly as high as the picture."""
    data = bytes(size[0] * size[1])
    tags = {256: [size[0]], 257: [size[1]], 258: [8], 259: [1], 262: [1], 273: [8] * count, 277: [1],
            278: [size[1] - 1], 279: [len(data)] * count}  # fmt: skip
    return tiff(tags, data)


def tiles(size: tuple[int, int], tile: tuple[int, int]) -> bytes:
    """A TIFF whose tiles are all the same one, which is packed."""
    data = zlib.compress(bytes(tile[0] * tile[1]), 1)
    count = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
    tags = {256: [size[0]], 257: [size[1]], 258: [8], 259: [8], 262: [1], 277: [1], 322: [tile[0]], 323: [tile[1]],
            324: [8] * count, 325: [len(data)] * count}  # fmt: skip
    return tiff(tags, data)


def round_tiff() -> bytes:
    """A TIFF whose first page is followed by itself."""
    whole = tiff(
        {256: [64], 257: [64], 258: [8], 259: [1], 262: [1], 273: [8], 277: [1], 278: [64], 279: [4096]}, bytes(4096)
    )
    at = 8 + 4096
    return whole[: at + 2 + 12 * 9] + struct.pack("<I", at) + whole[at + 2 + 12 * 9 + 4 :]


def bmp(size: tuple[int, int], data: bytes, compression: int = 1) -> bytes:
    """A BMP whose pixels come in runs."""
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, compression, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + bytes(1024) + data


def gif(before: bytes) -> bytes:
    """A GIF with these bytes before its picture."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(out, "GIF")
    whole = out.getvalue()
    at = 13 + (3 << ((whole[10] & 7) + 1) if whole[10] & 0x80 else 0)
    return whole[:at] + before + whole[at:]
