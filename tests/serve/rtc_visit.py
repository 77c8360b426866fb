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


def new_peer():
    return aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))


async def hear(socket, kind: str) -> dict:
    """The next message of a kind."""
    async for message in socket:
        if isinstance(message, str) and (event := json.loads(message))["is"] == kind:
            return event
    raise AssertionError(f"no {kind}")


async def answer_to(socket, sdp: object) -> dict:
    """The server's answer to an offer."""
    await socket.send(json.dumps({"do": "offer", "sdp": sdp}))
    return await hear(socket, "answer")


async def visit(port: int) -> tuple[list[np.ndarray], list, list[str]]:
    """Call the server, take pictures and numbers, hang up."""
    pictures: list[np.ndarray] = []
    numbers: list = []
    states: list[str] = []
    async with connect(f"ws://127.0.0.1:{port}/session", max_size=None) as socket:
        await hear(socket, "hello")
        await socket.send(json.dumps({"do": "example", "name": "head-1"}))
        await hear(socket, "portrait")
        refused = await answer_to(socket, "v=0\r\n")
        assert refused["sdp"] == ""
        assert "over a WebSocket" in refused["sentence"]

        two = new_peer()
        for _ in range(2):  # nobody would read the second
            two.addTrack(Moving())
        await two.setLocalDescription(await two.createOffer())
        assert (await answer_to(socket, two.localDescription.sdp))["sdp"] == ""
        await two.close()

        peer = new_peer()
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
        answer = await answer_to(socket, peer.localDescription.sdp)
        await peer.setRemoteDescription(aiortc.RTCSessionDescription(answer["sdp"], "answer"))
        twice = asyncio.create_task(count(socket))
        await asyncio.wait_for(enough.wait(), 60)
        twice.cancel()
        await asyncio.gather(twice, return_exceptions=True)
        await peer.close()
        await asyncio.gather(*tasks)
    return pictures, numbers, states
