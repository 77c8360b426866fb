"""Uploads of portraits: their type and size are checked before they are read, and they are decoded in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import decode_picture

LARGEST_BYTES = 20 << 20
LARGEST_PX = 50_000_000  # the largest of phones; 150 MB decoded; read from the picture's header
MOST_RATIO = 6.0  # of the sides, as faces are searched in tiles along the longer one
LONGEST_S = 60.0
_DRAIN_S, _QUIET_S = 5.0, 0.5
KINDS = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff", "image/gif", "image/avif")
# Other names of these types, and that of unknown files: the content decides what a picture is.
_OTHER_NAMES = ("image/jpg", "image/pjpeg", "image/x-ms-bmp", "image/apng", "application/octet-stream")
_NAME = "portrait"


class Refused(InputError):
    """An upload is refused, with this HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def check_head(headers: Mapping[str, str]) -> None:
    """Check an upload by the request's header, before a byte of its body is read.

    Raises:
        Refused: its type is no picture's, or it is too large.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (*KINDS, *_OTHER_NAMES):
        names = ", ".join(name.partition("/")[2].upper() for name in KINDS)
        raise Refused(415, f"{_NAME}: expected a picture ({names}), got {kind[:60] or 'no type'}; choose another file")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > LARGEST_BYTES:
        raise _too_large(int(length))


async def read_body(chunks: AsyncIterator[bytes]) -> bytes:
    """Read the body of an upload.

    Raises:
        Refused: it is larger than the limit, or takes longer than a minute.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(LONGEST_S):
            async for chunk in chunks:
                body += chunk
                if len(body) > LARGEST_BYTES:
                    raise _too_large(len(body))
    except TimeoutError as error:
        raise Refused(408, f"{_NAME}: it did not arrive within {LONGEST_S:g} s; try again on a faster line") from error
    return bytes(body)


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read and drop the rest of a refused body, as some clients read the answer only after they have sent it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while True:
                async with asyncio.timeout(_QUIET_S):
                    if await anext(chunks, None) is None:
                        return


def decode(body: bytes) -> np.ndarray:
    """Decode a portrait to uint8 [H, W, 3]; one that would take long is refused by its structure.

    Raises:
        InputError: the picture cannot be used; the sentence says why.
    """
    return decode_picture(body, _NAME, LARGEST_PX, MOST_RATIO)


def _too_large(size: int) -> Refused:
    return Refused(
        413, f"{_NAME}: expected at most {LARGEST_BYTES >> 20} MB, got {size / (1 << 20):.0f} or more; make it smaller"
    )
