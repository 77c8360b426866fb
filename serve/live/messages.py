"""The messages of a session's WebSocket: pictures behind a binary header, all else as JSON (docs/live).

Headers are little-endian and times are milliseconds. A client sends frames (16 bytes, then the JPEG) and
acknowledgements (16 bytes); the server sends results (40 bytes, then the JPEG).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from triportrait.core.errors import InputError

FRAME, SHOWN, RESULT = 1, 2, 3
_TO_SERVER = struct.Struct("<BxxxId")  # kind, number of the frame, the client's clock when it was captured
_FROM_SERVER = struct.Struct("<BBxxIdfffffI")  # kind, flags, number, the same clock, five parts, drops
_FOUND, _VIEW = 1, 2
LARGEST_FRAME_BYTES = 2 << 20
LARGEST_TEXT = 64 << 10


@dataclass(frozen=True)
class Parts:
    """The server's time for one frame, in parts, milliseconds.

    Attributes:
        wait: the frame waited in slots until a thread took it.
        faces: it was decoded, its face was found and cropped.
        compute: the network computed the picture.
        encode: the picture got its watermark and became a JPEG.
        send: the result waited until the connection took it.
    """

    wait: float
    faces: float
    compute: float
    encode: float
    send: float

    @property
    def total(self) -> float:
        """Add the parts up."""
        return self.wait + self.faces + self.compute + self.encode + self.send


@dataclass(frozen=True)
class FrameIn:
    """A driving frame from a client, whose number and clock come back with its result."""

    number: int
    clock_ms: float
    jpeg: bytes


@dataclass(frozen=True)
class Shown:
    """A client's acknowledgement: it has shown the result of this frame."""

    number: int


def read_binary(message: bytes) -> FrameIn | Shown:
    """Read a binary message from a client.

    Raises:
        InputError: its header is cut short, or its kind is unknown.
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
    """Build a client's message with a driving frame."""
    return _TO_SERVER.pack(FRAME, number, clock_ms) + jpeg


def write_shown(number: int) -> bytes:
    """Build a client's acknowledgement of a result that it has shown."""
    return _TO_SERVER.pack(SHOWN, number, 0.0)


def result_header(number: int, clock_ms: float, parts: Parts, dropped: int, found: bool, view: bool) -> bytes:
    """Build the header of a result: it precedes the JPEG, or travels alone over WebRTC's data channel.

    Args:
        number, clock_ms: the driving frame's, as its client sent them.
        parts: where the time went.
        dropped: how many frames and results of this session newer ones have replaced so far.
        found: a face was found in the frame, or no face finder is installed.
        view: the result is a new view of the last frame, not a new frame.
    """
    flags = _FOUND * found | _VIEW * view
    times = (parts.wait, parts.faces, parts.compute, parts.encode, parts.send)
    return _FROM_SERVER.pack(RESULT, flags, number, clock_ms, *times, dropped)


@dataclass(frozen=True)
class ResultOut:
    """A result as a client receives it."""

    number: int
    clock_ms: float
    parts: Parts
    dropped: int
    found: bool
    view: bool
    jpeg: bytes


def read_result(message: bytes) -> ResultOut:
    """Read a result, as a client does."""
    kind, flags, number, clock_ms, *times, dropped = _FROM_SERVER.unpack_from(message)
    assert kind == RESULT
    jpeg = message[_FROM_SERVER.size :]
    return ResultOut(number, clock_ms, Parts(*times), dropped, bool(flags & _FOUND), bool(flags & _VIEW), jpeg)


def read_text(message: str) -> dict[str, Any]:
    """Read a client's text message: a JSON object whose `do` names the command.

    Raises:
        InputError: the text is too long, no JSON, or no such object.
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
