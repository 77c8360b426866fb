"""Access control of the server: requests from other sites are refused, and from other machines a token is needed."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from triportrait.serve.live.addresses import is_loopback

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "triportrait_token"  # its name ends in the port, as cookies of one host are shared by all its ports
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(.*)", re.DOTALL)
OPEN_PATHS = ("/healthz",)
_HEADERS = (
    # blob: and data: are the user's own files and pictures that the page has drawn.
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
     b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=()"),
    (b"cache-control", b"no-store"),
)  # fmt: skip


class Guard:
    """Refuse requests before they reach the application (ASGI).

    - Where the server is bound to this machine alone, the Host header must name this machine, which stops DNS
      rebinding.
    - Requests from other sites, as browsers mark them (Origin, Sec-Fetch-Site), are refused, WebSockets too.
    - A token must come as `Authorization: Bearer`, or as the cookie that the first visit with `?token=` sets.

    Args:
        app: the guarded application.
        host: the address that the server is bound to.
        token: the token that requests must carry; None where they need none.
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
        if self._has_token_in_address(scope) and scope["type"] == "http":
            return await _redirect(send, f"{_cookie_name(headers)}={self._cookie_value()}")
        return await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name, site = "", None
        if host or not self._local:
            match = _HOST.fullmatch(host)
            if match is None or int(match[2] or 0) > 65535:
                return 400, "expected a Host and an Origin that are addresses, got others"
            name = match[1]
        if origin not in (None, "null"):
            match = _ORIGIN.fullmatch(origin)
            if match is None or _HOST.fullmatch(match[1]) is None:
                return 400, "expected a Host and an Origin that are addresses, got others"
            site = match[1]
        elif origin == "null":
            site = origin
        if self._local and not is_loopback(name):
            return 421, "this server answers to 127.0.0.1 and localhost alone; open it by that name"
        if site is not None and site.lower() != host.lower():
            return 403, "requests from other sites are refused; open the page of this server itself"
        writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if writes and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "requests from other sites are refused; open the page of this server itself"
        if self._token is None or scope["path"] in OPEN_PATHS or self._has_token_in_address(scope):
            return None
        if not self._is_authenticated(headers):
            return 401, "a token is wanted; open the address that the server printed when it started"
        return None

    def _is_authenticated(self, headers: dict[str, str]) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(_cookie_name(headers))
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._cookie_value().encode())

    def _cookie_value(self) -> str:
        """Compute the cookie's value from the token, which other servers of this host must not learn."""
        return hmac.new((self._token or "").encode(), b"triportrait cookie", "sha256").hexdigest()

    def _has_token_in_address(self, scope: Scope) -> bool:
        """Return whether a request for the page carries the token in its address, as the first visit does."""
        if self._token is None or scope["path"] != "/":
            return False
        return self._is_token(parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0])

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), (self._token or "").encode())


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        return await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": f"{sentence}\n".encode()})


def _cookie_name(headers: dict[str, str]) -> str:
    """Name the cookie after the port that the browser sees, which is a proxy's where there is one."""
    match = _HOST.fullmatch(headers.get("host", ""))
    return COOKIE if match is None or match[2] is None else f"{COOKIE}_{int(match[2])}"


async def _redirect(send: Send, cookie: str) -> None:
    # The token should not stay in the address bar and in the history.
    cookie += "; Path=/; HttpOnly; SameSite=Strict"
    headers = [(b"location", b"/"), (b"set-cookie", cookie.encode("latin-1")), *_HEADERS]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return wrapped
