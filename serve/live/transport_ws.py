"""A session over a WebSocket: control as JSON, and pictures both ways where WebRTC does not come about."""

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
from triportrait.serve.live import places
from triportrait.serve.live.admission import Admission, Refusal
from triportrait.serve.live.budget import Budget
from triportrait.serve.live.engine import Engine, check_jpeg, decode_jpeg
from triportrait.serve.live.logs import fields
from triportrait.serve.live.messages import FrameIn, Shown, read_binary, read_text, result_header
from triportrait.serve.live.metrics import Metrics
from triportrait.serve.live.places import Places, wait_for_place
from triportrait.serve.live.portraits import Portraits
from triportrait.serve.live.sessions import Arrived, Result, Session
from triportrait.serve.live.transport_rtc import Peer
from triportrait.serve.live.worker import Worker

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

logger = logging.getLogger(__name__)

MOST_UNSHOWN = 4  # results on their way that the page has not said it has shown: more would be lag in the network
SILENT_S = 30.0  # without any message: the other end has gone
IDLE_S = 300.0  # without a frame: somebody else may want the place
STALLED_S = 20.0  # a message that does not leave
MESSAGES_PER_S, MESSAGES_AT_ONCE = 400.0, 800.0  # a page sends about a hundred a second
MESSAGE_BYTES = 64 << 10  # more than so many count as several messages
OFFERS_PER_S, OFFERS_AT_ONCE = 0.5, 5.0
MOST_GARBAGE = 100  # messages that nobody can read, before the session ends
_TRY_LATER, _ENDED = 1013, 1000


class Server(Protocol):
    """What a connection needs of the server that it belongs to.

    Attributes:
        sessions: the connections that are open, by the id of their session.
    """

    engine: Engine
    worker: Worker
    admission: Admission
    metrics: Metrics
    places: Places
    portraits: Portraits
    sessions: dict[str, Connection]

    def hello(self, session: Session) -> dict[str, Any]: ...

    async def take_neutral(self, session: Session, on: bool, when: object = "") -> None: ...

    async def record(self, session: Session, on: bool) -> None: ...


class _End(Exception):
    """The session ends; says how, and what the page is told."""

    def __init__(self, how: str, sentence: str) -> None:
        super().__init__(sentence)
        self.how, self.sentence = how, sentence


class Connection:
    """One WebSocket from its first message to its last."""

    def __init__(self, websocket: WebSocket, server: Server) -> None:
        self._socket, self._server = websocket, server
        self._warned_s: float | None = None  # since when it knows that others want its place
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._unsent: dict[str, dict[str, Any]] = {}
        self._unshown: list[int] = []
        self._heard_s = self._frame_s = time.monotonic()
        self._garbage = 0
        self._peer: Peer | None = None
        self._calling = asyncio.Lock()
        self._address = websocket.client.host if websocket.client is not None else ""
        self._messages, self._offers = Budget(MESSAGES_PER_S, MESSAGES_AT_ONCE), Budget(OFFERS_PER_S, OFFERS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.session = Session(server.engine.follower(), self._tell_from_anywhere, self._wake_from_anywhere)

    async def run(self) -> None:
        """Serve until the page leaves, falls silent, or the server stops."""
        from starlette.websockets import WebSocketDisconnect

        server, session = self._server, self.session
        server.worker.join(session)
        server.sessions[session.id] = self
        logger.info("session began", extra=fields(session=session.id[:6], active=server.admission.active))
        self.tell(server.hello(session))
        parts = [asyncio.create_task(part()) for part in (self._receive, self._send, self._watch)]
        how, sentence = "left", ""
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, _End):
                    how, sentence = error.how, error.sentence
                elif error is not None and not isinstance(error, WebSocketDisconnect):
                    how = "failed"
                    logger.error("a session failed", exc_info=error)
        finally:
            for task in (*parts, *self._tasks):
                task.cancel()
            await asyncio.gather(*parts, *self._tasks, return_exceptions=True)
            server.sessions.pop(session.id, None)
            frames, dropped = session.frames, session.slots.dropped
            server.worker.leave(session)
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
            ended = fields(session=session.id[:6], how=how, frames=frames, dropped=dropped, seconds=seconds)
            logger.info("session ended", extra=ended)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a JSON message when the connection next can; of one kind only the newest."""
        self._unsent[f"{message['is']} {message.get('about', '')}"] = message
        self._wake.set()

    def _tell_from_anywhere(self, message: dict[str, Any]) -> None:
        self._from_anywhere(partial(self.tell, message))

    def _wake_from_anywhere(self) -> None:
        self._from_anywhere(self._wake_both)

    def _wake_both(self) -> None:
        self._wake.set()
        if self._peer is not None:
            self._peer.wake()

    def _from_anywhere(self, call: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    async def _say_goodbye(self, sentence: str) -> None:
        from starlette.websockets import WebSocketState

        if {self._socket.application_state, self._socket.client_state} != {WebSocketState.CONNECTED}:
            return  # one of both has closed it
        try:
            async with asyncio.timeout(2.0):
                if sentence:
                    await self._socket.send_text(json.dumps({"is": "end", "sentence": sentence}))
                await self._socket.close(_ENDED)
        except Exception as error:  # whatever the other end has done to the connection
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
            # What is not read fast fills the sender's line, not our time.
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
            if message.number in self._unshown:  # those before it were shown or overtaken
                del self._unshown[: self._unshown.index(message.number) + 1]
            self._wake.set()
            return
        try:
            check_jpeg(message.jpeg)  # at once, and not when the thread of the faces comes to it
        except InputError as error:
            self._server.metrics.unreadable.inc()
            self._frame_s = time.monotonic()
            return self.session.notice("frame", str(error))
        self.take_frame(message.number, message.clock_ms, message)

    def take_frame(self, number: int, clock_ms: float, frame: FrameIn | Callable[[], Any]) -> None:
        """A driving frame has come, over either transport."""
        self._frame_s = time.monotonic()
        decode = partial(decode_jpeg, frame.jpeg) if isinstance(frame, FrameIn) else frame
        self._server.worker.arrive(self.session, Arrived(number, clock_ms, decode, time.perf_counter()))

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
        """What stands before a result, counted as sent."""
        self._server.worker.taken(self.session)
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
        except RuntimeError as error:  # uvicorn has closed it: no ping came back, or no message was one
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
            self._server.places.let_in()  # frames may cost less than before
            idler = sum(other._frame_s < self._frame_s for other in self._server.sessions.values())
            if silent_s > places.IDLE_S and self._server.places.waiting > idler:
                raise _End(
                    "idle", "the session ended after a minute without a driving picture, as others wait; click "
                    "anywhere to wait for a place"
                )  # fmt: skip
            self._watch_turn(now)

    def _watch_turn(self, now: float) -> None:
        """While others wait nobody stays for ever: the oldest sessions are told, and end a while later."""
        session, server = self.session, self._server
        older = sum(other.session.began_s < session.began_s for other in server.sessions.values())
        if now - session.began_s < places.TURN_S or server.places.waiting <= older:
            if self._warned_s is not None:
                self._warned_s = None
                session.notice("place", "")
        elif self._warned_s is None:
            self._warned_s = now
            session.notice("place", f"others wait for a place: this session ends in {places.WARNED_S:g} s; save what "
                           "is being recorded")  # fmt: skip
        elif now - self._warned_s >= places.WARNED_S:
            raise _End("turn", "the session ended as others wait for a place; click anywhere to wait for one again")

    async def _text(self, message: dict[str, Any]) -> None:
        do = message.pop("do")
        session, server = self.session, self._server
        if do == "settings":
            session.settings = session.settings.changed(message)
            server.worker.touch(session)
        elif do == "example":
            self._start(server.portraits.take_example(session, message.get("name")))
        elif do == "neutral":
            self._start(server.take_neutral(session, _switch(message), message.get("when", "")))
        elif do == "record":
            self._start(server.record(session, _switch(message)))
        elif do == "offer":
            self._start(self._answer(message.get("sdp")))
        elif do == "websocket":
            await self._hang_up()
        elif do != "here":
            raise InputError(f'message: expected a known "do", got {do[:40]!r}; see docs/live')

    def _start(self, work: Any) -> None:
        """Do something that takes a while beside the messages; no more than a few at a time."""
        if len(self._tasks) >= 4:
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
        """End WebRTC: pictures go over the WebSocket from now on."""
        self._keep(asyncio.create_task(self._hang_up()))

    async def _answer(self, sdp: object) -> None:
        async with self._calling:  # one offer after the other
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
    """A page has connected: its session begins when there is a place, or it is refused with a time to come again."""
    await websocket.accept()
    refusal: Refusal | None = None
    address = websocket.client.host if websocket.client is not None else ""
    ticket = server.places.ask(address)
    try:
        if isinstance(ticket, Refusal):
            refusal = ticket
        elif not ticket.in_:
            logger.info("session waits", extra=fields(position=server.places.position(ticket)))
            there = await wait_for_place(websocket, server.places, ticket)
            if ticket.refused:
                refusal = server.places.refusal()
            elif not there:
                if ticket.in_:
                    server.places.leave(0.0)
                return
    except InputError as error:
        await _close(websocket, {"is": "end", "sentence": f"the session ended: {error}"}, _ENDED)
        return
    if refusal is not None:
        server.metrics.sessions.labels("refused").inc()
        logger.info("session refused", extra=fields(active=server.admission.active, retry_s=refusal.retry_s))
        message = {"is": "refused", "sentence": refusal.sentence, "retry_s": refusal.retry_s}
        await _close(websocket, message, _TRY_LATER)
        return
    began_s = time.monotonic()
    try:
        await Connection(websocket, server).run()
    finally:
        server.places.leave(time.monotonic() - began_s)
        await asyncio.to_thread(return_freed_memory)


async def _close(websocket: WebSocket, message: dict[str, Any], code: int) -> None:
    with suppress(TimeoutError, RuntimeError):  # it has gone
        async with asyncio.timeout(2.0):
            await websocket.send_text(json.dumps(message))
            await websocket.close(code)
