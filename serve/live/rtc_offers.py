"""WebRTC offers (SDP) are checked before a socket is opened for them, and cannot point the server at other machines."""

from __future__ import annotations

import re
from typing import Any

from triportrait.core.errors import InputError
from triportrait.serve.live.addresses import is_loopback, own_addresses, plain

MOST_BYTES = 32 << 10
MOST_CANDIDATES = 16
_DIGESTS = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
# foundation, component, transport, priority, address, port
_CANDIDATE = re.compile(r"a=candidate:(\S{1,64} [0-9]{1,3} \S{1,8} [0-9]{1,10}) (\S{1,255}) ([0-9]{1,5}) (typ .*)")


def checked_offer(sdp: object, address: str) -> str:
    """Check that an offer has one video and no sound, and keep only the candidates at the page's own address.

    The server would send packets to whatever address a candidate names. The names that browsers hide their addresses
    behind (`.local`) are not resolved; they stand for the page's address.

    Args:
        sdp: the offer that the page sent.
        address: the address that the page's WebSocket comes from.

    Raises:
        InputError: it is no offer, or holds something else.
    """
    if not isinstance(sdp, str) or not sdp or len(sdp) > MOST_BYTES or not sdp.isascii():
        raise _refused("an offer of a browser")
    local = own_addresses()
    here = is_loopback(address) or plain(address) in local
    allowed = {*local, "127.0.0.1", "::1"} if here else {plain(address)}
    stand_in = local or ["127.0.0.1"] if here else [plain(address)]
    lines: list[str] = []
    count = 0
    for line in sdp.splitlines():
        if not line.startswith("a=candidate"):
            lines.append(line)
            continue
        match = _CANDIDATE.fullmatch(line)
        if match is None or int(match[3]) > 65535:
            raise _refused("candidates as browsers write them")
        hidden = match[2].lower().endswith(".local")
        for target in stand_in if hidden else [match[2]]:
            if (hidden or plain(target) in allowed) and count < MOST_CANDIDATES:
                lines.append(f"a=candidate:{match[1]} {target} {match[3]} {match[4]}")
                count += 1
    offer = "\r\n".join(lines) + "\r\n"
    _check(offer)
    return offer


def _check(offer: str) -> None:
    from aiortc.sdp import SessionDescription

    try:
        media = SessionDescription.parse(offer).media
    except Exception as error:  # its parser splits and converts what it gets
        raise _refused("an offer of a browser") from error
    kinds = sorted(part.kind for part in media)
    if kinds not in (["video"], ["application", "video"]):
        # A track that nobody reads would be decoded and kept.
        raise _refused("one video and no sound")
    for part in media:
        if part.ice is None or part.dtls is None or not part.ice.usernameFragment or not part.ice.password:
            raise _refused("the keys of each part")
        if not part.dtls.fingerprints or not all(map(_is_digest, part.dtls.fingerprints)):
            raise _refused("a fingerprint of each part")
        if part.kind == "application" and not part.sctp_port and part.profile != "DTLS/SCTP":
            raise _refused("a data channel with a port")


def _is_digest(fingerprint: Any) -> bool:
    length = _DIGESTS.get(fingerprint.algorithm.lower())
    return (
        length is not None
        and re.fullmatch(rf"([0-9A-Fa-f]{{2}}:){{{length - 1}}}[0-9A-Fa-f]{{2}}", fingerprint.value) is not None
    )


def _refused(expected: str) -> InputError:
    return InputError(f"offer: expected {expected}, got something else; use the WebSocket")


def vp8_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height, pixels, from the header of a VP8 key frame (RFC 6386, section 9.1); None for others."""
    if len(data) < 10 or data[0] & 1 or data[3:6] != b"\x9d\x01\x2a":
        return None
    return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
