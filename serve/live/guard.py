"""Who may talk to the server: nobody from another site, and away from this machine nobody without the token."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "triportrait_token"
OPEN_PATHS = ("/healthz",)
_HEADERS = (
    # blob: and data: are the user's own files and what the page drew.
    ("content-security-policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("permissions-policy", "camera=(self), microphone=()"),
    ("cache-control", "no-store"),
)  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """Stands before the application (ASGI) and turns away who may not come in.

    - Bound to this machine: the Host header must mean this machine, so that a name of a stranger that leads here
      (DNS rebinding) opens nothing.
    - Requests that a browser says come from another site (Origin, Sec-Fetch-Site) are refused, WebSockets too.
    - With a token: it must come as `Authorization: Bearer`, or as the cookie that the first visit with `?token=` sets.

    Args:
        app: what is guarded.
        host: where the server is bound.
        token: the token, None where none is wanted.
    """

    def __init__(self, app: App, host: str, token: str | None) -> None:
        self._app = app
        self._local = is_loopback(host)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            return await _refuse(scope, send, *refusal)
        entered = self._enters(scope)
        if entered is not None and scope["type"] == "http":
            return await _redirect(send, entered)
        return await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._local and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return 421, "this server answers to 127.0.0.1 and localhost alone; open it by that name"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "requests from other sites are refused; open the page of this server itself"
        writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if writes and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "requests from other sites are refused; open the page of this server itself"
        if self._token is None or scope["path"] in OPEN_PATHS or self._enters(scope) is not None:
            return None
        if not self._knows(headers):
            return 401, "a token is wanted; open the address that the server printed when it started"
        return None

    def _knows(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _enters(self, scope: Scope) -> str | None:
        """The token, where the first visit brings it in the address."""
        if self._token is None or scope["path"] != "/":
            return None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        return self._token if self._is_token(given) else None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        return await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_encoded()]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": f"{sentence}\n".encode()})


async def _redirect(send: Send, token: str) -> None:
    # So that the token does not stay in the address bar and in the history.
    cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode("latin-1")), *_encoded()]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _encoded() -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in _HEADERS]


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_encoded()]
        await send(message)

    return wrapped
