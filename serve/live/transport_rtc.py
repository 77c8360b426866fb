"""Pictures over WebRTC: the page's video comes in, the results go out, their headers over a data channel.

No STUN or TURN server is used: it works on one machine and in one network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np

from triportrait.serve.live.inference import LARGEST_DRIVING_PX
from triportrait.serve.live.rtc_offers import checked_offer, vp8_size
from triportrait.serve.live.sessions import Result, Session

_CLOCK = 90_000
_TOO_LARGE = "the camera sends more than 4096 x 2160 pixels; choose a smaller size"
_GATHER_S = 5.0
_MOST_BUFFERED = 16 << 10
_MOST_UNDECODED = 60  # frames that wait for aiortc's decoder
_CODECS = ("video/VP8", "video/rtx")  # every browser has it, and its header tells the size before it is decoded


class Connection(Protocol):
    """What the WebRTC side needs of the WebSocket's connection that it belongs to."""

    session: Session

    def tell(self, message: dict[str, Any]) -> None: ...

    def take_frame(self, number: int, clock_ms: float, frame: Callable[[], Any]) -> None: ...

    def header(self, result: Result) -> bytes: ...

    def hang_up(self) -> None: ...


class Peer:
    """The WebRTC side of a connection, which its WebSocket starts and ends."""

    def __init__(self, connection: Connection) -> None:
        from aiortc import RTCConfiguration, RTCPeerConnection

        self._connection = connection
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._track: Any = _make_track(self)
        self._channel: Any = None
        self._ready = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._count = 0
        self._over = False  # it was ended for what the page sends
        self._peer.on("track", self._on_track)
        self._peer.on("datachannel", self._on_channel)
        self._peer.on("connectionstatechange", self._on_state)

    async def answer(self, sdp: object, address: str) -> str:
        """Answer the page's offer; the candidates are part of the answer.

        Args:
            sdp: the offer.
            address: the page's address.

        Raises:
            InputError: it is no offer, or holds something else than one video.
        """
        from aiortc import RTCRtpReceiver, RTCSessionDescription

        offer = checked_offer(sdp, address)
        capabilities: Any = RTCRtpReceiver.getCapabilities("video")
        transceiver = self._peer.addTransceiver(self._track, "sendrecv")
        transceiver.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType in _CODECS])
        async with asyncio.timeout(_GATHER_S):
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        return str(self._peer.localDescription.sdp)

    async def close(self) -> None:
        """Close the connection and its tasks."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._track.stop()
        await self._peer.close()

    def wake(self) -> None:
        """Note that a result is ready."""
        self._ready.set()

    async def next_result(self) -> Result:
        """Wait for the newest result, and send its header over the data channel."""
        while True:
            result = self._connection.session.slots.results.take()
            if result is not None:
                break
            self._ready.clear()
            await self._ready.wait()
        header = self._connection.header(result)
        channel = self._channel
        if channel is not None and channel.readyState == "open" and channel.bufferedAmount < _MOST_BUFFERED:
            channel.send(header)
        return result

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel

    def _on_track(self, track: Any) -> None:
        if track.kind == "video" and self._reading is None:
            self._bound(track)
            self._reading = asyncio.create_task(self._read(track))

    def _bound(self, track: Any) -> None:
        """See each frame before it is decoded: its size, and how many wait."""
        receiver: Any = next(t.receiver for t in self._peer.getTransceivers() if t.receiver.track is track)
        waiting = receiver._RTCRtpReceiver__decoder_queue  # aiortc offers no other place
        put = waiting.put

        def checked_put(task: Any) -> None:
            if task is None:  # the end
                return put(task)
            width, height = vp8_size(task[1].data) or (0, 0)
            if width * height > LARGEST_DRIVING_PX:
                self._end(_TOO_LARGE)
            elif waiting.qsize() >= _MOST_UNDECODED:
                self._end("the camera sends more than this server can decode; choose a smaller size")
            elif not self._over:
                put(task)

        waiting.put = checked_put

    def _end(self, sentence: str) -> None:
        """End the connection, and tell the page why."""
        if not self._over:
            self._over = True
            self._connection.session.notice("transport", sentence)
            self._connection.tell({"is": "rtc", "state": "failed"})
            self._connection.hang_up()

    async def _on_state(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connection.session.jpeg = False
        elif state == "failed":
            self._connection.session.jpeg = True
            self._connection.session.notice("transport", "WebRTC broke off; pictures go over the WebSocket")
        self._connection.tell({"is": "rtc", "state": state})

    async def _read(self, track: Any) -> None:
        """Take every frame at once, so that none queues; the worker uses the newest."""
        from aiortc.mediastreams import MediaStreamError

        try:
            while True:
                frame = await track.recv()
                if frame.width * frame.height > LARGEST_DRIVING_PX:
                    return self._end(_TOO_LARGE)
                self._count += 1
                self._connection.take_frame(self._count, 0.0, _pixels_of(frame))
        except MediaStreamError:
            return


class _pixels_of:
    """Converts a decoded frame when somebody wants it."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame

    def __call__(self) -> np.ndarray:
        return np.asarray(self._frame.to_ndarray(format="rgb24"))


def _make_track(peer: Peer) -> Any:
    from aiortc import MediaStreamTrack

    class Results(MediaStreamTrack):
        """What the page sees: each result once, stamped with the time it left."""

        kind = "video"

        async def recv(self) -> av.VideoFrame:
            result = await peer.next_result()
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(result.picture), "rgb24")
            frame.pts, frame.time_base = round(result.at_s * _CLOCK), Fraction(1, _CLOCK)
            return frame

    return Results()
