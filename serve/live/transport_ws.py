"""A session over a WebSocket: commands as JSON, and pictures both ways where WebRTC cannot be used."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from triportrait.core.errors import InputError
from triportrait.serve.freed_memory import return_freed_memory
from triportrait.serve.live import waiting_line
from triportrait.serve.live.admission import Admission, Refusal
from triportrait.serve.live.inference import Engine, check_jpeg
from triportrait.serve.live.json_logs import fields
from triportrait.serve.live.messages import FrameIn, Shown, read_binary, read_text, result_header
from triportrait.serve.live.portraits import Portraits
from triportrait.serve.live.prometheus import Metrics
from triportrait.serve.live.rate_limit import TokenBucket
from triportrait.serve.live.refining import Refining
from triportrait.serve.live.sessions import DrivingFrame, Result, Session
from triportrait.serve.live.transport_rtc import Peer
from triportrait.serve.live.waiting_line import WaitingLine, wait_for_place
from triportrait.serve.live.worker import Worker

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

logger = logging.getLogger(__name__)

MOST_UNSHOWN = 4  # results on their way that the page has not acknowledged; more would be lag in the network
SILENT_S = 30.0  # a page that sent no message for so long has gone
IDLE_S = 300.0  # a session ends after so long without a frame
STALLED_S = 20.0  # a session ends when a message cannot be sent for so long
MESSAGES_PER_S, MESSAGES_AT_ONCE = 400.0, 800.0  # a page sends about a hundred a second
MESSAGE_BYTES = 64 << 10  # a longer message counts as several
OFFERS_PER_S, OFFERS_AT_ONCE = 0.5, 5.0
MOST_GARBAGE = 100  # unreadable messages after which the session ends
_MOST_TASKS = 4  # commands of a session that run beside its messages
_TRY_LATER, _ENDED = 1013, 1000  # status codes of a WebSocket's close (RFC 6455)


class Server(Protocol):
    """The parts of the server that a connection uses; `sessions` holds the open connections by session id."""

    engine: Engine
    worker: Worker
    admission: Admission
    metrics: Metrics
    waiting_line: WaitingLine
    portraits: Portraits
    refining: Refining
    sessions: dict[str, Connection]

    def hello(self, session: Session) -> dict[str, Any]: ...

    async def take_neutral(self, session: Session, on: bool, when: object = "") -> None: ...

    async def record(self, session: Session, on: bool) -> None: ...


class _End(Exception):
    """End the session; `how` is for metrics and the log, `sentence` for the page."""

    def __init__(self, how: str, sentence: str) -> None:
        super().__init__(sentence)
        self.how, self.sentence = how, sentence


class Connection:
    """Serve the WebSocket of one session.

    Args:
        websocket: the accepted connection.
        server: the server that it belongs to.
    """

    def __init__(self, websocket: WebSocket, server: Server) -> None:
        self._socket, self._server = websocket, server
        self._warned_s: float | None = None  # when the page was warned that others wait
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._unsent: dict[str, dict[str, Any]] = {}
        self._unshown: list[int] = []
        self._heard_s = self._frame_s = time.monotonic()
        self._garbage = 0
        self._peer: Peer | None = None
        self._answering = asyncio.Lock()
        self._address = websocket.client.host if websocket.client is not None else ""
        self._messages = TokenBucket(MESSAGES_PER_S, MESSAGES_AT_ONCE)
        self._offers = TokenBucket(OFFERS_PER_S, OFFERS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        tell, deliver = (partial(self._from_any_thread, call) for call in (self.tell, self._wake_both))
        self.session = Session(server.engine.follower(), tell, deliver)

    async def run(self) -> None:
        """Serve until the page leaves or falls silent, or the server stops."""
        from starlette.websockets import WebSocketDisconnect

        server, session = self._server, self.session
        server.worker.join(session)
        server.sessions[session.id] = self
        logger.info("session began", extra=fields(session=session.id[:6], active=server.admission.active))
        self.tell(server.hello(session))
        loops = [asyncio.create_task(loop()) for loop in (self._receive, self._send, self._watch)]
        how, sentence = "left", ""
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, _End):
                    how, sentence = error.how, error.sentence
                elif error is not None and not isinstance(error, WebSocketDisconnect):
                    how = "failed"
                    logger.error("a session failed", exc_info=error)
        finally:
            for task in (*loops, *self._tasks):
                task.cancel()
            await asyncio.gather(*loops, *self._tasks, return_exceptions=True)
            server.sessions.pop(session.id, None)
            frames, dropped = session.frames, session.slots.dropped
            server.worker.leave(session)
            server.refining.leave(session)
            if session.choice.upload is not None:
                session.choice.upload.cancel()
            with session.recording_lock:
                if session.recording is not None:
                    session.recording.abandon()
                    session.recording = None
            if self._peer is not None:
                await self._peer.close()
            await self._say_goodbye(sentence)
            length_s = time.monotonic() - session.began_s
            server.metrics.sessions.labels(how).inc()
            seconds = round(length_s, 1)
            about = fields(session=session.id[:6], how=how, frames=frames, dropped=dropped, seconds=seconds)
            logger.info("session ended", extra=about)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a JSON message when the connection next can; of each kind only the newest is sent."""
        self._unsent[f"{message['is']} {message.get('about', '')}"] = message
        self._wake.set()

    def _wake_both(self) -> None:
        self._wake.set()
        if self._peer is not None:
            self._peer.wake()

    def _from_any_thread(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    async def _say_goodbye(self, sentence: str) -> None:
        from starlette.websockets import WebSocketState

        if {self._socket.application_state, self._socket.client_state} != {WebSocketState.CONNECTED}:
            return  # one of the two ends has closed it
        try:
            async with asyncio.timeout(2.0):
                if sentence:
                    await self._socket.send_text(json.dumps({"is": "end", "sentence": sentence}))
                await self._socket.close(_ENDED)
        except Exception as error:  # the other end can have done anything to the connection
            logger.info("an end could not be told", extra=fields(session=self.session.id[:6], reason=repr(error)[:200]))

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._heard_s = time.monotonic()
            try:
                data, text = message.get("bytes"), message.get("text")
                if data is not None:
                    self._binary(data)
                elif text is not None:
                    await self._text(read_text(text))
            except InputError as error:
                self._count_garbage(error)
            # Messages that are not read wait at the sender, and take none of the server's time.
            if debt_s := self._messages.spend(1 + len(data or b"") / MESSAGE_BYTES):
                await asyncio.sleep(debt_s)

    def _count_garbage(self, error: InputError) -> None:
        self._server.metrics.unreadable.inc()
        self._garbage += 1
        if self._garbage > MOST_GARBAGE:
            raise _End("garbage", "the session ended: too many messages could not be read; reload the page")
        self.session.notice("message", str(error))

    def _binary(self, data: bytes) -> None:
        message = read_binary(data)
        if isinstance(message, Shown):
            if message.number in self._unshown:  # earlier results were shown or overtaken
                del self._unshown[: self._unshown.index(message.number) + 1]
            self._wake.set()
            return
        try:
            check_jpeg(message.jpeg)  # now, before a face thread takes it up
        except InputError as error:
            self._server.metrics.unreadable.inc()
            self._frame_s = time.monotonic()
            return self.session.notice("frame", str(error))
        self.take_frame(message.number, message.clock_ms, message)

    def take_frame(self, number: int, clock_ms: float, frame: FrameIn | Callable[[], Any]) -> None:
        """Queue a driving frame, which either transport has received."""
        self._frame_s = time.monotonic()
        decode = partial(self._server.engine.decode, frame.jpeg) if isinstance(frame, FrameIn) else frame
        self._server.worker.add_frame(self.session, DrivingFrame(number, clock_ms, decode, time.perf_counter()))

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._unsent:
                message = self._unsent.pop(next(iter(self._unsent)))
                await self._leave(self._socket.send_text(json.dumps(message)))
            if len(self._unshown) < MOST_UNSHOWN and self.session.jpeg:
                result = self.session.slots.results.take()
                if result is not None:
                    self._unshown.append(result.number)
                    await self._leave(self._socket.send_bytes(self.header(result) + result.jpeg))
                    self._wake.set()

    def header(self, result: Result) -> bytes:
        """Build the header of a result, and count the result as sent."""
        self._server.worker.delivered(self.session)
        parts = dataclasses.replace(result.parts, send=1e3 * (time.perf_counter() - result.at_s))
        self._server.metrics.sent(parts, result.view)
        return result_header(
            result.number, result.clock_ms, parts, self.session.slots.dropped, result.found, result.view
        )

    async def _leave(self, sending: Any) -> None:
        try:
            async with asyncio.timeout(STALLED_S):
                await sending
        except TimeoutError as error:
            raise _End("stalled", "") from error
        except RuntimeError as error:  # uvicorn has closed it: a ping was not answered, or a message was malformed
            raise _End("silent", "") from error

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            if now - self._heard_s > SILENT_S:
                raise _End("silent", "the session ended: nothing was heard from this page; click anywhere to go on")
            silent_s = now - self._frame_s
            if silent_s > IDLE_S:
                raise _End(
                    "idle", "the session ended after five minutes without a driving picture; click anywhere to go on"
                )
            self._server.waiting_line.let_in()  # frames may take less time than before, so that more sessions fit
            idle_longer = sum(other._frame_s < self._frame_s for other in self._server.sessions.values())
            if silent_s > waiting_line.IDLE_S and self._server.waiting_line.waiting > idle_longer:
                raise _End(
                    "idle", "the session ended after a minute without a driving picture, as others wait; click "
                    "anywhere to wait for a place"
                )  # fmt: skip
            self._watch_turn(now)

    def _watch_turn(self, now: float) -> None:
        """Warn a session that has run for long while others wait, and end it a while later; the oldest go first."""
        session, server = self.session, self._server
        older = sum(other.session.began_s < session.began_s for other in server.sessions.values())
        if now - session.began_s < waiting_line.TURN_S or server.waiting_line.waiting <= older:
            if self._warned_s is not None:
                self._warned_s = None
                session.notice("place", "")
        elif self._warned_s is None:
            self._warned_s = now
            ends = f"this session ends in {waiting_line.WARNED_S:g} s"
            session.notice("place", f"others wait for a place: {ends}; save what is being recorded")
        elif now - self._warned_s >= waiting_line.WARNED_S:
            raise _End("turn", "the session ended as others wait for a place; click anywhere to wait for one again")

    async def _text(self, message: dict[str, Any]) -> None:
        do = message.pop("do")
        session, server = self.session, self._server
        if do == "settings":
            settings = session.settings.changed(message)
            server.engine.check_show(settings.show)
            session.settings = settings
            server.worker.settings_changed(session)
        elif do == "example":
            self._start(server.portraits.take_example(session, message.get("name")))
        elif do == "neutral":
            self._start(server.take_neutral(session, _switch(message), message.get("when", "")))
        elif do == "refine":
            self._start(server.refining.ask(session, _switch(message)))
        elif do == "refined":
            self._start(server.refining.switch(session, _switch(message)))
        elif do == "record":
            self._start(server.record(session, _switch(message)))
        elif do == "offer":
            self._start(self._answer(message.get("sdp")))
        elif do == "websocket":
            await self._hang_up()
        elif do != "here":
            raise InputError(f'message: expected a known "do", got {do[:40]!r}; see docs/live')

    def _start(self, work: Any) -> None:
        """Run a command that takes a while beside the messages; no more than a few run at a time."""
        if len(self._tasks) >= _MOST_TASKS:
            work.close()
            raise InputError("message: the last wishes are still under way; wait a moment")

        async def guarded() -> None:
            try:
                await work
            except InputError as error:
                self.session.notice("wish", str(error))
            except Exception:
                logger.exception("a wish failed", extra=fields(session=self.session.id[:6]))
                self.session.notice("wish", "that failed on the server; try again")

        self._keep(asyncio.create_task(guarded()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hang_up(self) -> None:
        """End WebRTC; from now on pictures go over the WebSocket."""
        self._keep(asyncio.create_task(self._hang_up()))

    async def _answer(self, sdp: object) -> None:
        async with self._answering:  # one offer after the other
            if not self._offers.take():
                sentence = "WebRTC was offered too often; pictures go over a WebSocket"
                return self.tell({"is": "answer", "sdp": "", "sentence": sentence})
            await self._hang_up()
            peer = Peer(self)
            try:
                answer = await peer.answer(sdp, self._address)
            except asyncio.CancelledError:  # the page has left
                await asyncio.shield(peer.close())
                raise
            except Exception as error:
                await peer.close()
                reason = str(error) if isinstance(error, InputError) else repr(error)
                logger.warning("webrtc failed", extra=fields(session=self.session.id[:6], reason=reason[:200]))
                sentence = "WebRTC could not be started; pictures go over a WebSocket"
                self.tell({"is": "answer", "sdp": "", "sentence": sentence})
                return
            self._peer = peer
            self.tell({"is": "answer", "sdp": answer})

    async def _hang_up(self) -> None:
        peer, self._peer = self._peer, None
        self.session.jpeg = True
        if peer is not None:
            await peer.close()


def _switch(message: dict[str, Any]) -> bool:
    on = message.get("on")
    if not isinstance(on, bool):
        raise InputError('message: expected "on" to be true or false, got something else; see docs/live')
    return on


async def serve(websocket: WebSocket, server: Server) -> None:
    """Serve a page that has connected: its session begins when there is room, or it is told when to try again."""
    await websocket.accept()
    ticket = server.waiting_line.ask(websocket.client.host if websocket.client is not None else "")
    if isinstance(ticket, Refusal):
        return await _refuse(websocket, server, ticket)
    if not ticket.admitted:
        logger.info("session waits", extra=fields(position=server.waiting_line.position(ticket)))
        try:
            connected = await wait_for_place(websocket, server.waiting_line, ticket)
        except InputError as error:
            return await _close(websocket, {"is": "end", "sentence": f"the session ended: {error}"}, _ENDED)
        if ticket.refused:
            return await _refuse(websocket, server, server.admission.refusal())
        if not connected:
            if ticket.admitted:
                server.waiting_line.leave(0.0)
            return
    began_s = time.monotonic()
    try:
        await Connection(websocket, server).run()
    finally:
        server.waiting_line.leave(time.monotonic() - began_s)
        await asyncio.to_thread(return_freed_memory)


async def _refuse(websocket: WebSocket, server: Server, refusal: Refusal) -> None:
    server.metrics.sessions.labels("refused").inc()
    logger.info("session refused", extra=fields(active=server.admission.active, retry_s=refusal.retry_s))
    message = {"is": "refused", "sentence": refusal.sentence, "retry_s": refusal.retry_s}
    await _close(websocket, message, _TRY_LATER)


async def _close(websocket: WebSocket, message: dict[str, Any], code: int) -> None:
    with suppress(TimeoutError, RuntimeError):  # the page has gone
        async with asyncio.timeout(2.0):
            await websocket.send_text(json.dumps(message))
            await websocket.close(code)
