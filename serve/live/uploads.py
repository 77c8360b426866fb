"""Portraits that a browser sends: limited in size and kind before they are read, decoded in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.media.pictures.picture_file import decode_picture

LARGEST_BYTES = 20 << 20
LARGEST_PX = 50_000_000  # 150 MB decoded, a phone's largest; told from the header
MOST_RATIO = 6.0  # of the sides: faces are looked for in tiles along the longer one
LONGEST_S = 60.0
_DRAIN_S, _QUIET_S = 5.0, 0.5
KINDS = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff", "image/gif", "image/avif")
# Other names of these, and of files that a browser's system does not know: what a picture is, its content says.
_OTHER_NAMES = ("image/jpg", "image/pjpeg", "image/x-ms-bmp", "image/apng", "application/octet-stream")
_NAME = "portrait"


class Refused(InputError):
    """An upload that is turned away, with the HTTP status that says so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def check_head(headers: Mapping[str, str]) -> None:
    """What the header of a request says about its body, before a byte of it is read.

    Raises:
        Refused: another kind, or too large.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (*KINDS, *_OTHER_NAMES):
        known = ", ".join(name.partition("/")[2].upper() for name in KINDS)
        raise Refused(415, f"{_NAME}: expected a picture ({known}), got {kind[:60] or 'no type'}; choose another file")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > LARGEST_BYTES:
        raise _too_large(int(length))


async def read_body(chunks: AsyncIterator[bytes]) -> bytes:
    """The body of an upload, never more than the limit of it, never longer than a minute.

    Raises:
        Refused: it is too large, or stalls.
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
    """Let go by what still comes of a body that was refused: who sends it hears the answer only then."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while True:
                async with asyncio.timeout(_QUIET_S):
                    if await anext(chunks, None) is None:
                        return


def decode(body: bytes) -> np.ndarray:
    """Decode a portrait to uint8 [H, W, 3]; what would take long is refused by its structure.

    Raises:
        InputError: what is wrong with it.
    """
    return decode_picture(body, _NAME, LARGEST_PX, MOST_RATIO)


def _too_large(size: int) -> Refused:
    return Refused(
        413, f"{_NAME}: expected at most {LARGEST_BYTES >> 20} MB, got {size / (1 << 20):.0f} or more; make it smaller"
    )
