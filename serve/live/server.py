"""The live server: its HTTP routes, and the commands of a session that concern more than its connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triportrait.core.errors import InputError
from triportrait.core.person import ENDING
from triportrait.serve.live import transport_ws, uploads
from triportrait.serve.live.admission import Admission
from triportrait.serve.live.byte_ranges import UnsatisfiableError, requested_range
from triportrait.serve.live.guard import App, Guard
from triportrait.serve.live.inference import EXAMPLES, Engine, examples
from triportrait.serve.live.json_logs import fields
from triportrait.serve.live.neutral import FIRST, STILL, NeutralWish
from triportrait.serve.live.portraits import Portraits
from triportrait.serve.live.prometheus import Metrics
from triportrait.serve.live.recording import Recordings
from triportrait.serve.live.refining import RefineOptions, Refining
from triportrait.serve.live.sessions import Session
from triportrait.serve.live.settings import RANGES
from triportrait.serve.live.waiting_line import WaitingLine
from triportrait.serve.live.weights_notice import WeightsNotice
from triportrait.serve.live.worker import Worker

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

logger = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".jpg": "image/jpeg", ".mp4": "video/mp4"}
MOST_FPS = 30  # driving frames per second that the page sends at most
NOT_REFINED = RefineOptions()
_FILE_THREADS = 2
_SWEEP_S = 30.0
_STOP_S = 0.5  # time for threads to end their work when the server stops


class LiveServer:
    """Hold all that runs between start and stop of the server.

    Args:
        engine: finds faces and runs the network.
        admission: decides how many sessions fit.
        metrics: the counters behind /metrics.
        recordings: keeps recordings until they are fetched.
        notes: sentences that every page shows.
        weights_notice: shown beside the picture; None for weights that were trained on photographs of people.
        refine: how portraits are refined.
    """

    def __init__(
        self, engine: Engine, admission: Admission, metrics: Metrics, recordings: Recordings, notes: list[str],
        weights_notice: WeightsNotice | None = None, refine: RefineOptions = NOT_REFINED,
    ) -> None:  # fmt: skip
        self.engine, self.admission, self.metrics, self.recordings = engine, admission, metrics, recordings
        self.worker = Worker(engine, admission, metrics)
        self.sessions: dict[str, transport_ws.Connection] = {}
        self._notes, self._weights_notice = notes, weights_notice
        self.refining = Refining(engine, self.worker, metrics, refine)
        self.portraits = Portraits(engine, self.worker, self.refining)
        self.waiting_line = WaitingLine(admission)
        # Files are read once, so that no request can name another one.
        files = [*PAGE.glob("*.*"), *EXAMPLES.glob("*.*")]
        self._files = {f"/{path.relative_to(PAGE)}": (path.read_bytes(), _KINDS[path.suffix]) for path in files}

    def application(self, host: str, token: str | None) -> App:
        """Build the ASGI application, with the guard before it.

        Args:
            host: the address that the server is bound to.
            token: the token that visitors must send; None where they need none.
        """
        from fastapi import FastAPI
        from starlette.routing import Route, WebSocketRoute

        routes = [
            Route("/portrait", self._post_portrait, methods=["POST"]),
            Route("/recordings/{name}", self._get_recording),
            Route("/people/{name}", self._get_person),
            Route("/healthz", self._get_health),
            Route("/metrics", self._get_metrics),
            WebSocketRoute("/session", self._session),
            Route("/{path:path}", self._get_file),
        ]
        app = FastAPI(routes=routes, lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        return Guard(app, host, token)

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        # Two threads are enough for files and for freed memory, however many sessions end at once.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_FILE_THREADS, "live-files"))
        self.worker.start()
        await asyncio.gather(*map(asyncio.wrap_future, self.portraits.start()))  # no session should wait for a decoder
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self.portraits.stop()
        self.refining.stop()
        if self.worker.stop(_STOP_S) and self.portraits.join(_STOP_S):
            self.engine.close()  # no thread uses it any more
        self.recordings.close()

    def abandon(self) -> None:
        """Remove files and processes; the server's own ends without waiting for its threads."""
        self.portraits.stop()
        self.refining.stop()
        self.recordings.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await asyncio.to_thread(self.recordings.sweep)

    def hello(self, session: Session) -> dict[str, Any]:
        """Build the first message to a page: its session, the limits, and what the weights can do."""
        reenactor = self.engine.reenactor
        return {
            "is": "hello",
            "session": session.id,
            "side_px": self.engine.side_px,
            "most_fps": MOST_FPS,
            "settings": asdict(session.settings),
            "ranges": RANGES,
            "not_shown": self.engine.not_shown,
            "can": {
                "neck": reenactor.can_turn_neck,
                "gaze": reenactor.can_steer_gaze,
                "motion": not reenactor.static,
                "faces": self.engine.finds_faces,
                "watermark": self.engine.stamp.claim.message is not None,
            },
            "refine_minutes": self.refining.minutes,
            "examples": examples(),
            "most_bytes": uploads.LARGEST_BYTES,
            "notes": self._notes,
            "weights": None if self._weights_notice is None else asdict(self._weights_notice),
        }

    async def take_neutral(self, session: Session, on: bool, when: object = "") -> None:
        """Let the present driving face count as neutral, or a later one, or none.

        Args:
            session: the session whose face it is.
            on: whether a face counts as neutral.
            when: empty for the present face; `FIRST` or `STILL` for a later one, see `NeutralWish`.
        """
        if when not in ("", FIRST, STILL):
            raise InputError(f"neutral face: expected {FIRST!r} or {STILL!r}, got something else; see docs/live")
        last = session.shown.ready
        if on and not when:
            if last is None or last.frame is None or not last.face.is_known:
                raise InputError("neutral face: expected a driving face, none has come yet; start the camera first")
            face = last.face
            neutral = await asyncio.wrap_future(self.worker.on_network(lambda: self.engine.motion(face)))
            self.worker.set_neutral(session, neutral, None)
        else:
            wish = NeutralWish(when, time.perf_counter()) if on else None
            self.worker.set_neutral(session, None, wish)
        session.tell_neutral()

    async def record(self, session: Session, on: bool) -> None:
        """Begin a recording, or end it and tell the page its address."""
        if on:
            await asyncio.to_thread(self._begin_recording, session)
            session.tell({"is": "recording", "on": True})
            return
        with session.recording_lock:
            recording, session.recording = session.recording, None
        session.tell({"is": "recording", "on": False})
        if recording is None:
            raise InputError("recording: none is running; press record first")
        recorded = await asyncio.to_thread(self.recordings.finish, recording, session.id)
        logger.info(
            "recorded",
            extra=fields(session=session.id[:6], frames=recorded.frames, seconds=round(recorded.seconds, 1)),
        )
        session.tell(
            {
                "is": "recorded", "address": f"/recordings/{recorded.name}", "frames": recorded.frames,
                "seconds": round(recorded.seconds, 2), "bytes": recorded.path.stat().st_size,
            }
        )  # fmt: skip

    def _begin_recording(self, session: Session) -> None:
        with session.recording_lock:
            if session.closed or session.portrait is None:
                raise InputError("recording: expected a portrait, none is chosen yet; choose one first")
            if session.recording is None:
                session.recording = self.recordings.begin(self.engine.side_px, session.portrait.stamp)

    async def _session(self, websocket: WebSocket) -> None:
        await transport_ws.serve(websocket, self)

    async def _post_portrait(self, request: Request) -> Response:
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse

        status, answer = 200, {}
        chunks = request.stream()
        try:
            connection = self.sessions.get(request.query_params.get("session", ""))
            if connection is None:
                raise uploads.Refused(409, "portrait: its session has ended; reload the page")
            answer = await self.portraits.upload(connection.session, request.headers, chunks)
        except uploads.Refused as error:
            status, answer = error.status, {"sentence": str(error)}
            with suppress(ClientDisconnect):
                await uploads.drain(chunks)
        except InputError as error:
            status, answer = 422, {"sentence": str(error)}
        except ClientDisconnect:
            status = 499
        self.metrics.uploads.labels(str(status)).inc()
        # The rest of a refused body is not read.
        return JSONResponse(answer, status, {"connection": "close"} if status in (409, 413, 415) else None)

    async def _get_recording(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        recorded = self.recordings.find(request.path_params["name"])
        if recorded is None:
            return PlainTextResponse("this recording is not kept any more; record again\n", 404)
        return _download(request, recorded.path, "video/mp4", ".mp4")

    async def _get_person(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        file = self.refining.find(request.path_params["name"])
        if file is None:
            return PlainTextResponse("this person's file is not kept any more; refine the portrait again\n", 404)
        return _download(request, file.path, "application/octet-stream", f"-person{ENDING}")

    async def _get_health(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        alive = self.worker.alive
        health = {
            "ok": alive,
            "sessions": self.admission.active,
            "capacity": self.admission.capacity,
            "waiting": self.waiting_line.waiting,
        }
        return JSONResponse(health, 200 if alive else 503)

    async def _get_metrics(self, request: Request) -> Response:
        from starlette.responses import Response

        self.metrics.active.set(self.admission.active)
        self.metrics.waiting.set(self.waiting_line.waiting)
        self.metrics.capacity.set(self.admission.capacity)
        for part, cost in self.admission.costs().items():
            self.metrics.part_seconds.labels(part).set(cost.seconds)
            self.metrics.part_threads.labels(part).set(cost.threads)
        self.metrics.tasks.set(len(asyncio.all_tasks()))
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _get_file(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        path = request.url.path
        file = self._files.get("/index.html" if path == "/" else path)
        if file is None:
            return PlainTextResponse("there is no such page here\n", 404)
        return _ranged(request, *file)


def _download(request: Request, path: Path, kind: str, ending: str) -> Response:
    """Answer with a file that was made here, under a name that says when."""
    from starlette.responses import FileResponse

    with suppress(UnsatisfiableError):  # FileResponse answers that itself
        if requested_range(request.headers.get("range", ""), path.stat().st_size) is None:
            request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    return FileResponse(path, media_type=kind, filename=time.strftime("triportrait-%Y%m%d-%H%M%S") + ending)


def _ranged(request: Request, data: bytes, kind: str) -> Response:
    """Answer with the whole file, or with the byte range that a <video> asks for."""
    from starlette.responses import Response

    headers = {"accept-ranges": "bytes"}
    # If-Range names a version of the file, and the server names none that it could match.
    takes_part = request.method == "GET" and "if-range" not in request.headers
    try:
        part = requested_range(request.headers.get("range", "") if takes_part else "", len(data))
    except UnsatisfiableError:
        return Response(b"", 416, {**headers, "content-range": f"bytes */{len(data)}"}, media_type=kind)
    if part is None:
        return Response(data, 200, headers, media_type=kind)
    first, last = part
    headers = {**headers, "content-range": f"bytes {first}-{last}/{len(data)}"}
    return Response(data[first : last + 1], 206, headers, media_type=kind)
