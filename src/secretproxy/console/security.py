"""Adds the security headers to every answer of the console, and refuses requests before a page sees them.

No script and no style but the console's own runs, nothing is loaded from elsewhere, no page stands in another's frame,
nothing is kept in a cache. A request that changes something must come from the console's own page, and one without TLS
must name this machine."""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer a browser would name no origin in the forms that are sent here.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
# A year. Browsers look at it in answers over TLS alone.
STRICT_TRANSPORT = "max-age=31536000"
MOST_BODY = 65_536


class Guard:
    """ASGI middleware: the headers above on every answer; foreign writes, foreign hosts and long bodies refused."""

    def __init__(self, app: ASGIApp, *, tls: bool) -> None:
        self._app = app
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise ValueError("the console speaks HTTP alone")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if self._tls:
                    headers["Strict-Transport-Security"] = STRICT_TRANSPORT
            await send(message)

        refusal = _refusal(scope["method"], Headers(scope=scope), self._tls)
        if refusal is not None:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def _refusal(method: str, headers: Headers, tls: bool) -> str | None:
    """Gives the reason to refuse a request, or None."""
    host = headers.get("host", "")
    if not tls and not _is_here(host):
        # Another site's name that was made to lead to this machine.
        return "without TLS the console answers to this machine's own names alone: localhost, 127.0.0.1, [::1]"
    if method in ("GET", "HEAD"):
        return None
    # A browser sends at least one of the two; a request without them does not come from a page of the console.
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is None and site is None:
        return "this request does not say which page it came from"
    if site is not None and site != "same-origin":
        return "this request came from another site's page"
    if origin is not None and origin != f"{'https' if tls else 'http'}://{host}":
        return "this request came from another site's page"
    length = headers.get("content-length", "0")
    if not length.isdigit() or len(length) > 6 or int(length) > MOST_BODY or "transfer-encoding" in headers:
        return "this request is too long"
    return None


def from_elsewhere(headers: Headers) -> bool:
    """Says whether, according to the browser, a page of another site or port sent this request."""
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _is_here(host: str) -> bool:
    return re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", host) is not None


def same(given: str | None, expected: str) -> bool:
    """Says whether a form's token is the session's; takes the same time for every token."""
    return hmac.compare_digest((given or "").encode("utf-8", "replace"), expected.encode())


class Throttle:
    """Counts failures by a key in the last `seconds`; an attempt counts as one until it has gone well, so that many at
    once help nobody."""

    # Keys that are remembered; the oldest of more are not.
    MOST = 10_000

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._at: OrderedDict[str, list[float]] = OrderedDict()

    def begin(self, key: str) -> bool:
        """Says whether an attempt may be made now; counts it."""
        now = self._clock()
        recent = [at for at in self._at.get(key, ()) if now - at < self._seconds]
        allowed = len(recent) < self._most
        if allowed:
            recent.append(now)
        self._at[key] = recent
        self._at.move_to_end(key)
        while len(self._at) > self.MOST:
            self._at.popitem(last=False)
        return allowed

    def went_well(self, key: str) -> None:
        """Takes back the latest attempt of a key."""
        if self._at.get(key):
            self._at[key].pop()
