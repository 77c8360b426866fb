"""Offers that strangers make: malformed ones get a sentence, and none makes the server talk to a third machine."""

from __future__ import annotations

import asyncio
import gc
import logging
import re

import pytest
from websockets.asyncio.client import connect

from tests.serve.live_in_process import running
from tests.serve.rtc_visit import aiortc, answer_to, new_peer
from triportrait.core.errors import InputError
from triportrait.serve.live import rtc_offers
from triportrait.serve.live.rtc_offers import checked_offer, vp8_size


async def offer() -> str:
    peer = new_peer()
    peer.createDataChannel("numbers")
    peer.addTransceiver("video")
    await peer.setLocalDescription(await peer.createOffer())
    sdp = peer.localDescription.sdp
    await peer.close()
    return str(sdp)


@pytest.fixture(scope="module")
def sdp() -> str:
    return asyncio.run(offer())


WRONG = {
    "no fingerprint": lambda s: re.sub(r"a=fingerprint.*\r\n", "", s),
    "half a fingerprint": lambda s: re.sub(r"(a=fingerprint:\S+ \S{20})\S*", r"\1", s),
    "a fingerprint of another kind": lambda s: re.sub(r"a=fingerprint:sha-\d+", "a=fingerprint:md5", s),
    "no user": lambda s: re.sub(r"a=ice-ufrag.*\r\n", "", s),
    "no password": lambda s: re.sub(r"a=ice-pwd.*\r\n", "", s),
    "no mid": lambda s: re.sub(r"a=mid.*\r\n", "", s),
    "no codec": lambda s: re.sub(r"a=rtpmap.*\r\n", "", s),
    "no media": lambda s: s.partition("m=")[0],
    "sound": lambda s: s.replace("m=video", "m=audio"),
    "two videos": lambda s: s + s[s.index("m=video") :].partition("m=application")[0],
    "no port of the channel": lambda s: re.sub(r"a=sctp-port.*\r\n", "", s),
    "a port too high": lambda s: re.sub(r"(a=candidate:\S+ \d+ udp \d+ \S+) \d+", r"\1 99999", s),
    "a candidate cut off": lambda s: s + "a=candidate:1 1 udp\r\n",
    "no numbers": lambda s: re.sub(r"m=video \d+", "m=video x", s),
    "half a character": lambda s: s + "a=x:\ud800\r\n",
    "cut": lambda s: s[: len(s) // 2],
    "large": lambda s: s + "a=x\r\n" * 7_000,
    "a number": lambda s: 10**4000,
    "a list": lambda s: [s],
    "nothing": lambda s: None,
}  # fmt: skip


def test_a_malformed_offer_is_one_sentence_and_no_traceback(sdp, caplog, monkeypatch):
    from triportrait.serve.live import transport_ws

    monkeypatch.setattr(transport_ws, "OFFERS_AT_ONCE", 100.0)

    async def call(port: int) -> list[dict]:
        async with connect(f"ws://127.0.0.1:{port}/session", max_size=None) as socket:
            return [await answer_to(socket, change(sdp)) for change in (*WRONG.values(), lambda s: s)]

    with caplog.at_level(logging.DEBUG), running() as live:
        *answers, right = asyncio.run(call(live.port))
        gc.collect()
    assert right["sdp"]
    for name, answer in zip(WRONG, answers, strict=True):
        if not (name == "no mid" and answer["sdp"]):
            assert answer["sdp"] == "", name
            assert "over a WebSocket" in answer["sentence"], name
    logged = [record.getMessage() for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert not logged, logged


def test_offers_without_end_are_refused(sdp):
    async def call(port: int) -> list[dict]:
        async with connect(f"ws://127.0.0.1:{port}/session", max_size=None) as socket:
            return [await answer_to(socket, "v=0") for _ in range(8)]

    with running() as live:
        answers = asyncio.run(call(live.port))
    assert "offered too often" in answers[-1]["sentence"]
    assert "offered too often" not in answers[0]["sentence"]


def candidates(sdp: str) -> list[str]:
    return re.findall(r"a=candidate:\S+ \d+ \S+ \d+ (\S+) ", sdp)


def test_candidates_lie_at_the_page_itself_and_are_few(sdp, monkeypatch):
    monkeypatch.setattr(rtc_offers, "own_addresses", lambda: ["192.168.1.7", "fd00::7"])
    bare = re.sub(r"a=candidate.*\r\n", "", sdp)

    def offered(*hosts: str) -> str:
        lines = [f"a=candidate:{i} 1 udp 100 {host} {5000 + i} typ host\r\n" for i, host in enumerate(hosts)]
        return bare + "".join(lines)

    others = ["10.0.0.9", "192.168.1.8", "127.0.0.2", "printer.example", "1.2.3.4"]
    near = checked_offer(offered(*others, "192.168.1.7", "127.0.0.1", "abc-1.local"), "127.0.0.1")
    assert candidates(near) == ["192.168.1.7", "127.0.0.1", "192.168.1.7", "fd00::7"]
    for address in ("10.0.0.9", "::ffff:10.0.0.9"):
        far = checked_offer(offered(*others, "192.168.1.7", "127.0.0.1", "abc-1.local", "ABC.LOCAL"), address)
        assert candidates(far) == ["10.0.0.9"] * 3
    assert len(candidates(checked_offer(offered(*["127.0.0.1"] * 300), "127.0.0.1"))) == rtc_offers.MOST_CANDIDATES
    with pytest.raises(InputError, match="candidates as browsers write them"):
        checked_offer(bare + "a=candidate:1 1 udp 100 127.0.0.1 5000\r\n", "127.0.0.1")


def test_the_size_of_a_frame_is_known_before_it_is_decoded():
    import av
    import numpy as np
    from aiortc.codecs import depayload
    from aiortc.codecs.vpx import Vp8Encoder
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters

    kind = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=97)
    encoder, sizes = Vp8Encoder(), []
    for index in range(2):
        picture = av.VideoFrame.from_ndarray(np.full((240, 322, 3), 40 * index, np.uint8), "rgb24")
        picture.pts, picture.time_base = index * 3000, aiortc.mediastreams.VIDEO_TIME_BASE
        packets, _ = encoder.encode(picture)
        sizes.append(vp8_size(b"".join(depayload(kind, packet) for packet in packets)))
    assert sizes == [(322, 240), None]
    assert vp8_size(b"") is None
    assert vp8_size(bytes(20)) is None
