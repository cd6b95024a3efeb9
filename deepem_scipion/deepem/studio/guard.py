# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may talk to the studio: only pages that it served itself to somebody who knows the token."""

from __future__ import annotations

import hmac
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What a page may load: only what the studio itself serves, and pictures that the page makes.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# No request is longer, in bytes.
MAX_BODY = 1_000_000
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Refuses requests from elsewhere, and adds headers that keep the page to itself.

    Parameters
    ----------
    app : ASGI application
    token : str
        Whoever asks for anything below /api must send it as `Authorization: Bearer TOKEN`. Other pages hold nothing of
        the session.
    host : str
        A host name that is accepted beside those of the loopback interface.

    Notes
    -----
    The Host is checked because the name of another site may lead to this machine (DNS rebinding), the Origin because
    a page of another site may send requests. The token is sent in a header, not as a cookie: a browser sends cookies
    of one server to all others on the same machine.
    """

    def __init__(self, app: ASGIApp, token: str, host: str = "127.0.0.1") -> None:
        self._app, self._token, self._hosts = app, token, {*_LOOPBACK, host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = Headers(scope=scope)
            problem = self._problem(scope["path"], headers)
            answer = PlainTextResponse(problem[1], problem[0]) if problem else self._app
            await answer(scope, receive, _Hardened(send))

    def _problem(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and text of the refusal, None where the request is all right."""
        host = headers.get("host", "")
        if re.sub(r":\d+$", "", host) not in self._hosts:
            return 421, "wrong host"
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return 403, "wrong origin"
        private = path.startswith("/api/")
        if private and headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "wrong origin"
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            return 400, "wrong length"
        if length > MAX_BODY or headers.get("transfer-encoding"):
            return 413, "too long"
        sent = headers.get("authorization", "").encode()
        if private and not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            return 401, "open the address that the studio printed"
        return None


class _Hardened:
    """Sends an answer with more headers."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await self._send(message)
