"""What travels over a session's WebSocket: pictures behind a small header, and sentences as JSON.

Little-endian. To the server: a frame (16 bytes, then the JPEG) or an acknowledgement (16 bytes). From the server: a
result (40 bytes, then the JPEG). Times are milliseconds. All else is JSON in text messages (docs/live).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from triportrait.core.errors import InputError

FRAME, SHOWN, RESULT = 1, 2, 3
_TO_SERVER = struct.Struct("<BxxxId")  # kind, number of the frame, the client's clock
_FROM_SERVER = struct.Struct("<BBxxIdfffffI")  # kind, flags, number, that clock again, five parts, drops
_FOUND, _VIEW = 1, 2
LARGEST_FRAME_BYTES = 2 << 20
LARGEST_TEXT = 64 << 10


@dataclass(frozen=True)
class Parts:
    """Where the time of a frame went on the server, milliseconds.

    Attributes:
        wait: in slots, until somebody took it.
        faces: decoding, finding the face, cropping it.
        compute: the network.
        encode: watermark and JPEG.
        send: until the connection took it.
    """

    wait: float
    faces: float
    compute: float
    encode: float
    send: float


@dataclass(frozen=True)
class FrameIn:
    """A driving frame as it came: its number and clock are the client's and are sent back as they are."""

    number: int
    clock_ms: float
    jpeg: bytes


@dataclass(frozen=True)
class Shown:
    """The client has shown the result of this frame."""

    number: int


def read_binary(message: bytes) -> FrameIn | Shown:
    """A message of a client.

    Raises:
        InputError: it is none that we know.
    """
    if len(message) < _TO_SERVER.size:
        raise InputError(f"message: expected a header of {_TO_SERVER.size} bytes, got {len(message)}; see docs/live")
    kind, number, clock_ms = _TO_SERVER.unpack_from(message)
    if kind == FRAME:
        return FrameIn(number, clock_ms, message[_TO_SERVER.size :])
    if kind == SHOWN:
        return Shown(number)
    raise InputError(f"message: expected a frame (1) or an acknowledgement (2), got kind {kind}; see docs/live")


def write_frame(number: int, clock_ms: float, jpeg: bytes) -> bytes:
    """What a client sends for a driving frame."""
    return _TO_SERVER.pack(FRAME, number, clock_ms) + jpeg


def write_shown(number: int) -> bytes:
    """What a client sends when it has shown a result."""
    return _TO_SERVER.pack(SHOWN, number, 0.0)


def result_header(number: int, clock_ms: float, parts: Parts, dropped: int, found: bool, view: bool) -> bytes:
    """What stands before the JPEG of a result, and alone on WebRTC's data channel.

    Args:
        number, clock_ms: of the driving frame, as its client gave them.
        dropped: frames and results of this session that a newer one replaced, so far.
        found: a face was found in it, or nobody looks for faces.
        view: a new view of the last frame, not a new frame.
    """
    flags = _FOUND * found | _VIEW * view
    times = (parts.wait, parts.faces, parts.compute, parts.encode, parts.send)
    return _FROM_SERVER.pack(RESULT, flags, number, clock_ms, *times, dropped)


@dataclass(frozen=True)
class ResultOut:
    """A result as a client reads it."""

    number: int
    clock_ms: float
    parts: Parts
    dropped: int
    found: bool
    view: bool
    jpeg: bytes


def read_result(message: bytes) -> ResultOut:
    """What a client reads off a binary message of the server."""
    kind, flags, number, clock_ms, *times, dropped = _FROM_SERVER.unpack_from(message)
    assert kind == RESULT
    jpeg = message[_FROM_SERVER.size :]
    return ResultOut(number, clock_ms, Parts(*times), dropped, bool(flags & _FOUND), bool(flags & _VIEW), jpeg)


def read_text(message: str) -> dict[str, Any]:
    """The JSON object of a text message, which says in `do` what is wanted.

    Raises:
        InputError: it is none.
    """
    try:
        if len(message) > LARGEST_TEXT:
            raise ValueError
        values = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise InputError("message: expected a JSON object, got something else; see docs/live") from error
    if not isinstance(values, dict) or not isinstance(values.get("do"), str):
        raise InputError('message: expected a JSON object with "do", got another; see docs/live')
    return values
