"""Run the server with uvicorn on one socket, with deadlines for silent connections and a stop within seconds."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from triportrait.core.errors import InputError
from triportrait.serve.live.addresses import is_loopback
from triportrait.serve.live.guard import App
from triportrait.serve.live.json_logs import fields
from triportrait.serve.live.messages import LARGEST_FRAME_BYTES
from triportrait.serve.media.output_file import reason_of

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

REQUEST_S = 15.0  # a connection on which a request's header is not whole by then is closed
DEAD_S = 20  # unacknowledged bytes, or a window that stays shut: the other end has gone
GRACE_S = 1  # for open connections, when the server stops
STOP_S = 2.7  # from the signal to the end of the process, whatever a decoder or an encoder is at; 3 s are promised
MOST_CONNECTIONS = 512
MOST_OF_ADDRESS = 128  # of one address other than this machine's, behind which a proxy may stand


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to an address.

    Raises:
        InputError: the port is taken, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(AttributeError, OSError):  # Linux has it; sockets that are accepted inherit it
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * DEAD_S)
        if family == socket.AF_INET6:
            with suppress(AttributeError, OSError):  # `::` is every address, of both protocols
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"{host}:{port}: cannot be listened on ({reason}); choose another --port or --host") from error
    return bound


def make(app: App, at_last: Callable[[], None] | None = None) -> uvicorn.Server:
    """Make the uvicorn server; its `run(sockets=[bound])` serves until SIGINT, SIGTERM or `should_exit`.

    Args:
        app: the application.
        at_last: called when a signal has not ended the process in time, just before it is ended. Where it is None, the
            process is not ended.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        http=_deadline_protocol(),
        ws="websockets-sansio",
        ws_max_size=LARGEST_FRAME_BYTES + 1024,
        ws_ping_interval=10.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE_S,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who sends X-Forwarded-For names any address as its own
    )
    server = uvicorn.Server(config)
    if at_last is not None:
        server.handle_exit = _with_deadline(server.handle_exit, at_last)  # type: ignore[method-assign]
    return server


def run(app: App, bound: socket.socket, at_last: Callable[[], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; then close open sessions and end the process within seconds.

    Threads that decode, encode or compute for ever are not waited for.

    Args:
        at_last: as of `make`.
    """
    server = make(app, at_last)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # uvicorn does not hear it
        signal.signal(signal.SIGHUP, server.handle_exit)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has stopped
        server.run(sockets=[bound])
    logger.info("stopped")
    if server.started:  # all is closed; Python would take torch apart, for seconds where processors are busy
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)


def _with_deadline(handle: Callable[..., None], at_last: Callable[[], None]) -> Callable[..., None]:
    counting = threading.Event()

    def count() -> None:
        time.sleep(STOP_S)
        cleaning = threading.Thread(target=at_last, daemon=True)
        cleaning.start()
        cleaning.join(0.2)
        with suppress(Exception):
            logger.info("stopped", extra=fields(late=True))
        os._exit(0)

    def handle_exit(number: int, frame: Any) -> None:
        if not counting.is_set():
            counting.set()
            threading.Thread(target=count, name="live-end", daemon=True).start()
        handle(number, frame)

    return handle_exit


def _has_room(client: tuple[str, int] | None, connections: Iterable[Any]) -> bool:
    """Return whether an address has no more connections than one may have, so that others get theirs."""
    if client is None or is_loopback(client[0]):
        return True
    return sum(other.client is not None and other.client[0] == client[0] for other in connections) <= MOST_OF_ADDRESS


def _deadline_protocol() -> type[Any]:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class DeadlineProtocol(H11Protocol):
        """Close a connection on which a request's header never becomes whole; uvicorn would keep it for ever."""

        _deadline_after: Any = False  # the last request that a deadline was set behind; None is before the first

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if not _has_room(self.client, self.connections):
                return transport.abort()
            self._set_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._set_deadline()

        def _set_deadline(self) -> None:
            if self._has_request() or self._deadline_after is self.cycle:
                return
            self._deadline_after = self.cycle
            self.loop.call_later(REQUEST_S, self._close_if_silent, self.cycle)

        def _has_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _close_if_silent(self, last: Any) -> None:
            if self.cycle is last and not self._has_request() and self.transport.get_protocol() is self:
                self.transport.abort()

    return DeadlineProtocol
