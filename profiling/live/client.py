"""A client of the live server that does what the page does: it sends driving frames, shows results, and times both."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.live.messages import read_result, write_frame, write_shown
from triportrait.serve.media.video.clips import open_clip

LONGEST_SIDE_PX, JPEG_QUALITY = 480, 85  # as the page has them
MOST_FRAMES = 900


@dataclass(frozen=True)
class Sample:
    """One result: when it came (seconds, monotonic), and where its time went (milliseconds)."""

    at_s: float
    total: float
    capture: float
    network: float
    queue: float
    compute: float
    encode: float


@dataclass
class SessionRecord:
    """What a client has sent and received so far."""

    samples: list[Sample] = field(default_factory=list)
    sent: int = 0
    dropped: int = 0
    sentences: list[str] = field(default_factory=list)
    last_jpeg: bytes = b""


def driving_frames(path: Path) -> list[np.ndarray]:
    """Read the frames of a driving file, uint8 [H, W, 3], reduced as the page reduces them.

    Raises:
        InputError: the file is no video.
    """
    from PIL import Image

    frames = []
    with closing(open_clip(path).frames(MOST_FRAMES)) as read:
        for frame in read:
            picture = Image.fromarray(frame.image)
            picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
            frames.append(np.asarray(picture))
    return frames


def headers(address: str) -> dict[str, str]:
    """The headers of a request: the token, where the address holds one."""
    token = urlsplit(address).query.partition("token=")[2]
    return {"Authorization": f"Bearer {token}"} if token else {}


def url_of(address: str, path: str, scheme: str = "http") -> str:
    """The address of another path of the same server."""
    return f"{scheme}://{urlsplit(address).netloc}{path}"


def get(address: str, path: str) -> bytes:
    """Fetch a path of the server."""
    request = urllib.request.Request(url_of(address, path), headers=headers(address))
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def metrics(address: str) -> dict[str, float]:
    """Fetch the numbers of /metrics by name."""
    rows = [line.rpartition(" ") for line in get(address, "/metrics").decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows if name}


class Client:
    """One session of the live server.

    Args:
        address: the server's, with `?token=` where it wants one.
        frames: the driving frames, sent in a loop.
        fps: how many are sent per second, whatever comes back.
    """

    def __init__(self, address: str, frames: list[np.ndarray], fps: float) -> None:
        self.address, self.frames, self.fps = address, frames, fps
        self.record = SessionRecord()
        self.hello: dict[str, Any] = {}
        self._captures: dict[int, float] = {}

    async def run(self, seconds: float, then: Callable[[], object] | None = None) -> SessionRecord:
        """Open a session, drive it, and leave.

        Args:
            seconds: how long it is driven.
            then: called when the first result has come.

        Raises:
            InputError: the server refused, or ended the session.
        """
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed

        where = url_of(self.address, "/session", "ws")
        async with connect(where, additional_headers=headers(self.address), max_size=None, compression=None) as socket:
            started = asyncio.Event()
            reading = asyncio.create_task(self._read(socket, started, then))
            try:
                await asyncio.wait_for(started.wait(), 30)
                await self._send(socket, seconds)
            except (ConnectionClosed, TimeoutError) as error:
                why = self.record.sentences[-1] if self.record.sentences else "nothing was said"
                raise InputError(f"live: the session ended ({why})") from error
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        return self.record

    async def _send(self, socket: Any, seconds: float) -> None:
        started = due = time.perf_counter()
        for number in itertools.count(1):
            now = time.perf_counter()
            if now - started > seconds:
                return
            await asyncio.sleep(max(0.0, due - now))
            due = max(due + 1 / self.fps, time.perf_counter() - 1 / self.fps)
            captured = time.perf_counter()
            jpeg = _encoded(self.frames[number % len(self.frames)])
            self._captures[number] = 1e3 * (time.perf_counter() - captured)
            await socket.send(write_frame(number, 1e3 * captured, jpeg))
            self.record.sent += 1

    async def _read(self, socket: Any, started: asyncio.Event, then: Callable[[], object] | None) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            async for message in socket:
                if isinstance(message, bytes):
                    await self._take(socket, message)
                    if then is not None and len(self.record.samples) == 1:
                        then()
                    continue
                event = json.loads(message)
                if event["is"] == "hello":
                    self.hello = event
                    await socket.send(json.dumps({"do": "example", "name": event["examples"][0]}))
                elif event["is"] == "waiting":  # the server is full: somebody else's pace would be measured
                    self.record.sentences.append(event["sentence"].partition(";")[0])
                    await socket.close()
                elif event["is"] == "portrait":
                    started.set()
                elif event.get("sentence"):
                    self.record.sentences.append(event["sentence"])
        except ConnectionClosed:
            pass
        started.set()

    async def _take(self, socket: Any, message: bytes) -> None:
        from PIL import Image

        result = read_result(message)
        Image.open(io.BytesIO(result.jpeg)).load()  # as the page does before it shows it
        now = time.perf_counter()
        await socket.send(write_shown(result.number))
        self.record.dropped, self.record.last_jpeg = result.dropped, result.jpeg
        if result.view or not result.number:
            return
        parts = result.parts
        total, capture = 1e3 * now - result.clock_ms, self._captures.pop(result.number, 0.0)
        for number in [n for n in self._captures if n < result.number]:
            del self._captures[number]
        network, queue, compute = total - capture - parts.total, parts.wait + parts.send, parts.faces + parts.compute
        self.record.samples.append(Sample(time.monotonic(), total, capture, network, queue, compute, parts.encode))


def _encoded(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
