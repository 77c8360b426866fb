"""A visit over WebRTC: pictures both ways, then it hangs up."""

from __future__ import annotations

import asyncio
import json
from fractions import Fraction

import av
import numpy as np
import pytest
from websockets.asyncio.client import connect

from tests.serve.live_in_process import moving
from triportrait.serve.live.messages import read_result, write_shown

aiortc = pytest.importorskip("aiortc")


WANTED = 8


COUNTED: list[int] = []  # results that came over the WebSocket all the same


class Moving(aiortc.MediaStreamTrack):
    """A face that talks, ten frames a second."""

    kind = "video"

    def __init__(self, frames: list[np.ndarray] | None = None) -> None:
        super().__init__()
        self.count = 0
        self.frames = frames or moving()

    async def recv(self):
        await asyncio.sleep(0.1)
        frame = av.VideoFrame.from_ndarray(self.frames[self.count % len(self.frames)], "rgb24")
        frame.pts, frame.time_base = self.count * 9000, Fraction(1, 90_000)
        self.count += 1
        return frame


async def count(socket) -> None:
    """Results over the WebSocket end where those over WebRTC begin."""
    COUNTED.clear()
    async for message in socket:
        if isinstance(message, bytes):
            COUNTED.append(read_result(message).number)
            await socket.send(write_shown(COUNTED[-1]))


async def visit(port: int) -> tuple[list[np.ndarray], list, list[str]]:
    """Call the server, take pictures and numbers, hang up."""
    pictures: list[np.ndarray] = []
    numbers: list = []
    states: list[str] = []
    async with connect(f"ws://127.0.0.1:{port}/session", max_size=None) as socket:

        async def hear(kind: str) -> dict:
            async for message in socket:
                if isinstance(message, str) and (told := json.loads(message))["is"] == kind:
                    return told
            raise AssertionError(f"no {kind}")

        await hear("hello")
        await socket.send(json.dumps({"do": "example", "name": "head-1"}))
        await hear("portrait")
        await socket.send(json.dumps({"do": "offer", "sdp": "v=0\r\n"}))
        refused = await hear("answer")
        assert refused["sdp"] == ""
        assert "over a WebSocket" in refused["sentence"]

        two = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        for _ in range(2):  # nobody would read the second
            two.addTrack(Moving())
        await two.setLocalDescription(await two.createOffer())
        await socket.send(json.dumps({"do": "offer", "sdp": two.localDescription.sdp}))
        assert (await hear("answer"))["sdp"] == ""
        await two.close()

        peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        channel = peer.createDataChannel("numbers", ordered=False, maxRetransmits=0)
        channel.on("message", lambda data: numbers.append(read_result(data)))
        enough = asyncio.Event()

        async def take(track) -> None:
            while len(pictures) < WANTED:
                pictures.append((await track.recv()).to_ndarray(format="rgb24"))
            enough.set()

        tasks = []
        peer.on("track", lambda track: tasks.append(asyncio.create_task(take(track))))
        peer.on("connectionstatechange", lambda: states.append(peer.connectionState))
        peer.addTrack(Moving())
        await peer.setLocalDescription(await peer.createOffer())
        await socket.send(json.dumps({"do": "offer", "sdp": peer.localDescription.sdp}))
        answer = await hear("answer")
        await peer.setRemoteDescription(aiortc.RTCSessionDescription(answer["sdp"], "answer"))
        twice = asyncio.create_task(count(socket))
        await asyncio.wait_for(enough.wait(), 60)
        twice.cancel()
        await asyncio.gather(twice, return_exceptions=True)
        await peer.close()
        await asyncio.gather(*tasks)
    return pictures, numbers, states
