"""The live server in a thread of the test, on a free port, with the package's own weights."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.face_models import why_missing
from triportrait.core.weights import DEMO
from triportrait.profiling.live.client import metrics
from triportrait.serve.faces.network_faces import NetworkFaces
from triportrait.serve.live.admission import Admission
from triportrait.serve.live.inference import EXAMPLES, Engine, encode_jpeg, example_picture
from triportrait.serve.live.messages import ResultOut, read_result, write_frame, write_shown
from triportrait.serve.live.prometheus import Metrics
from triportrait.serve.live.recording import Recordings
from triportrait.serve.live.refining import RefineOptions
from triportrait.serve.live.run_uvicorn import bind, make
from triportrait.serve.live.server import NOT_REFINED, LiveServer
from triportrait.serve.live.weights_notice import weights_notice
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.clips import open_clip
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.weight_loading import load_weights


@lru_cache(maxsize=1)
def reenactor() -> Reenactor:
    return Reenactor(*load_weights("demo"))


class Running:
    """One that serves."""

    def __init__(self, server: LiveServer, port: int) -> None:
        self.server, self.port = server, port
        self.address = f"http://127.0.0.1:{port}/"

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        return self.ask(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers))

    def post(self, path: str, body: Any, kind: str = "image/jpeg") -> tuple[int, dict[str, Any]]:
        where = f"http://127.0.0.1:{self.port}{path}"
        status, answer, _ = self.ask(urllib.request.Request(where, body, {"Content-Type": kind}, method="POST"))
        return status, json.loads(answer)

    def ask(self, request: urllib.request.Request) -> tuple[int, bytes, dict[str, str]]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def figures(self) -> dict[str, float]:
        return metrics(self.address)


@contextmanager
def running(
    sessions: int = 4, host: str = "127.0.0.1", token: str | None = None, refine: RefineOptions = NOT_REFINED
) -> Iterator[Running]:  # fmt: skip
    engine = Engine(reenactor(), finder(), Stamp("0" * 64, "demo"))
    notice = weights_notice(DEMO, reenactor())
    server = LiveServer(engine, Admission(0.1, 10, sessions), Metrics(), Recordings(), ["a note"], notice, refine)
    with bind(host, 0) as bound:
        uvicorn = make(server.application(host, token))
        thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            until = time.monotonic() + 20
            while not uvicorn.started:
                assert time.monotonic() < until
                assert thread.is_alive()
                time.sleep(0.01)
            yield Running(server, bound.getsockname()[1])
        finally:
            uvicorn.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def finder() -> NetworkFaces | None:
    """Make what finds faces, where the networks are, whatever a fixture says."""
    return NetworkFaces() if why_missing is None else None


class Visitor:
    """A page, in short: reads what the server says, in order."""

    def __init__(self, running: Running, example: str | None = "head-1", **more: Any) -> None:
        self._opened = ExitStack()
        address = f"ws://127.0.0.1:{running.port}/session"
        self.socket: ClientConnection = self._opened.enter_context(
            connect(address, compression=None, max_size=None, **more)
        )
        self.events: list[dict[str, Any]] = []
        self.results: list[ResultOut] = []
        self.hello = self.hear("hello", "refused", "waiting")
        if example is not None and self.hello["is"] == "hello":
            self.say(do="example", name=example)
            self.hear("portrait")
            self.result(view=True)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def hear(self, *kinds: str, about: str | None = None, seconds: float = 60) -> dict[str, Any]:
        """The next message of these kinds; results that come before are kept and acknowledged.

        Like the page it says now and then that it is here: a server ends sessions of which it hears nothing.
        """
        until = here = time.monotonic()
        until += seconds
        while True:
            if time.monotonic() > here + 10:
                self.say(do="here")
                here = time.monotonic()
            try:
                message = self.socket.recv(timeout=max(0.01, min(5.0, until - time.monotonic())))
            except TimeoutError:
                if time.monotonic() < until:
                    continue
                raise
            if isinstance(message, bytes):
                self.take(message)
                continue
            event = json.loads(message)
            self.events.append(event)
            if event["is"] in kinds and about in (None, event.get("about")):
                return event

    def result(self, view: bool = False, shown: bool = True, seconds: float = 60) -> ResultOut:
        """The next result: of a frame, or any view."""
        until = time.monotonic() + seconds
        while True:
            message = self.socket.recv(timeout=max(0.01, until - time.monotonic()))
            if isinstance(message, str):
                self.events.append(json.loads(message))
                continue
            result = self.take(message, shown)
            if view or not result.view:
                return result

    def take(self, message: bytes, shown: bool = True) -> ResultOut:
        result = read_result(message)
        self.results.append(result)
        if shown:
            self.socket.send(write_shown(result.number))
        return result

    def frame(self, number: int, image: np.ndarray | None = None) -> None:
        self.socket.send(write_frame(number, 1000.0 + number, encode_jpeg(driving() if image is None else image)))


@lru_cache(maxsize=8)
def driving(name: str = "head-2") -> np.ndarray:
    """A picture that drives."""
    return example_picture(name)


@lru_cache(maxsize=1)
def moving() -> list[np.ndarray]:
    """Frames of a face that talks, a quarter of a second apart."""
    with closing(open_clip(EXAMPLES / "driving.mp4").frames(150)) as frames:
        return [frame.image for frame in frames if frame.index % 6 == 0]


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def eventually(what: Callable[[], Any], seconds: float = 10) -> Any:
    """What it gives as soon as that is true."""
    until = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return value
