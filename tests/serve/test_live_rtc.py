"""WebRTC against a real peer: pictures both ways, numbers on the data channel, nothing left behind; demo weights."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import numpy as np
from websockets.asyncio.client import connect

from tests.serve.live_in_process import running
from tests.serve.rtc_visit import COUNTED, WANTED, Moving, aiortc, new_peer, visit


def test_pictures_go_both_ways_and_the_numbers_beside_them():
    with running() as live:
        pictures, numbers, states = asyncio.run(visit(live.port))
        assert "connected" in states
        assert len(pictures) == WANTED
        assert pictures[0].shape == (128, 128, 3)
        changes = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(pictures)]
        assert sum(change > 0.5 for change in changes) >= 3
        fresh = [n for n in numbers if not n.view]
        assert len(COUNTED) <= 3, COUNTED
        assert len(fresh) >= 3
        assert all(n.parts.compute > 1 and n.jpeg == b"" for n in fresh)
        assert [n.number for n in fresh] == sorted(n.number for n in fresh)
        threads = left(live)
        asyncio.run(visit(live.port))
        assert left(live) <= threads


def test_pictures_that_are_too_large_end_it_before_one_is_decoded(monkeypatch):
    from aiortc.codecs.vpx import Vp8Decoder

    widths, decode = [0], Vp8Decoder.decode

    def noted(decoder, encoded):
        frames = decode(decoder, encoded)
        widths.extend(frame.width for frame in frames)
        return frames

    monkeypatch.setattr(Vp8Decoder, "decode", noted)

    async def call(port: int) -> list[dict]:
        """What is said until WebRTC is told off, and for two seconds more."""
        events: list[dict] = []
        off = asyncio.Event()
        async with connect(f"ws://127.0.0.1:{port}/session", max_size=None) as socket:
            peer = new_peer()

            async def hear() -> None:
                async for message in socket:
                    if isinstance(message, bytes):
                        continue
                    events.append(json.loads(message))
                    if events[-1]["is"] == "answer":
                        await peer.setRemoteDescription(aiortc.RTCSessionDescription(events[-1]["sdp"], "answer"))
                    if events[-1] == {"is": "rtc", "state": "failed"}:
                        off.set()

            hearing = asyncio.create_task(hear())
            peer.addTrack(Moving([np.full((2178, 4096, 3), 90, np.uint8)]))
            await peer.setLocalDescription(await peer.createOffer())
            await socket.send(json.dumps({"do": "offer", "sdp": peer.localDescription.sdp}))
            await asyncio.wait_for(off.wait(), 30)
            await asyncio.sleep(2)
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            await peer.close()
            return events

    with running() as live:
        events = asyncio.run(call(live.port))
        sentences = [one["sentence"] for one in events if one.get("about") == "transport"]
        assert len(sentences) == 1
        assert "more than 4096 x 2160 pixels" in sentences[0]
        assert max(widths) <= 128, "only the server's own pictures are"
        left(live)


def left(live) -> float:
    """Threads when all sessions and tasks have gone."""
    until = time.monotonic() + 15
    while live.server.sessions or live.figures()["triportrait_tasks"] > 4:
        assert time.monotonic() < until, "it left something behind"
        time.sleep(0.1)
    return live.figures()["triportrait_threads"]
