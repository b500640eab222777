"""A TLS connection whose two directions end apart, as those of TCP do; both sides' TLS is made of it.

Knows no settings but the names that its errors say. Must never decide who is trusted: that is the contexts'.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from cryptography import x509

from secretproxy.config import ConfigError
from secretproxy.files import check_readable
from secretproxy.proxy.transport.unread import unread

# The protocol's name at the handshake: https://www.postgresql.org/docs/current/protocol-flow.html, "SSL Session
# Encryption".
ALPN = "postgresql"
# Seconds between two looks at whether what is left to write has gone out.
_FLUSH_AGAIN = 0.02


class Directions(ssl.SSLObject):
    """TLS whose two directions end apart, as those of TCP do.

    asyncio and uvloop close a connection as soon as the peer says close_notify. PostgreSQL and libpq do not: what was
    asked before it is answered. With `on_end` set, a close_notify is told there and hidden from the event loop, which
    goes on writing."""

    on_end: Callable[[], object] | None = None
    _outgoing: ssl.MemoryBIO
    _end_reported = False
    # What was read before its turn.
    _kept = b""

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **named: Any) -> Directions:
        made: Directions = super()._create(incoming, outgoing, *arguments, **named)  # type: ignore[misc]
        made._outgoing = outgoing
        return made

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        """Reads as an SSLObject does. Raises ssl.SSLWantReadError instead of giving the end, which `on_end` gets."""
        if self._kept:
            data, self._kept = self._kept[:size], self._kept[size:]
            if buffer is None:
                return data
            buffer[: len(data)] = data
            return len(data)
        try:
            found = super().read(size, buffer) if buffer is not None else super().read(size)
        except ssl.SSLZeroReturnError:
            # A close_notify that comes once ours is sent.
            found = b""
        if found or self.on_end is None:
            return found
        if not self._end_reported:
            self._end_reported = True
            self.on_end()
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the peer writes no more")

    def pending(self) -> int:
        return len(self._kept) + super().pending()

    def end(self) -> bytes:
        """Ends the writing direction. Returns what is still to be sent: the last records and a close_notify.

        OpenSSL reads when it is asked to shut down, and would lose what has come. That is read before and kept.
        """
        with contextlib.suppress(ssl.SSLError):
            while data := super().read(65_536):
                self._kept += data
        with contextlib.suppress(ssl.SSLError):
            # It waits for the peer's close_notify, which comes later.
            self.unwrap()
        return self._outgoing.read()


class _Between(asyncio.BufferedProtocol):
    """Stands between a TCP connection and its TLS, for the end of the stream alone: the rest is the TLS layer's,
    without a detour."""

    def __init__(self, inner: Any, ended: Callable[[], bool], secured: Secured) -> None:
        self.eof_received = ended  # type: ignore[method-assign]
        self._inner = inner
        self._secured = secured
        for name in ("get_buffer", "buffer_updated", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(inner, name))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._secured.take_unread()
        self._inner.connection_lost(exc)


class Secured(asyncio.Transport):
    """A TLS connection that can be ended in one direction; asyncio's and uvloop's own cannot.

    `raw` is the connection below `secured`. What the peer's end is (a close_notify or the end of the TCP stream) is
    told to the protocol's eof_received() once all that came before has been, as it is without TLS."""

    def __init__(self, raw: asyncio.Transport, secured: asyncio.Transport) -> None:
        super().__init__()
        self._raw = raw
        self._secured = secured
        self._loop = asyncio.get_running_loop()
        self._inner: Any = raw.get_protocol()
        self._ended = self._end_reported = self._end_waits = self._raw_ended = self._finished = False
        self._paused = False
        for name in (
            "write", "writelines", "is_closing", "get_extra_info", "set_protocol", "get_protocol",
            "get_write_buffer_size", "get_write_buffer_limits", "set_write_buffer_limits",
        ):  # fmt: skip
            setattr(self, name, getattr(secured, name))
        self._object.on_end = lambda: self._loop.call_soon(self._report_end)
        raw.set_protocol(_Between(self._inner, self._stream_ended, self))

    @property
    def _object(self) -> Directions:
        return cast(Directions, self._secured.get_extra_info("ssl_object"))

    def pause_reading(self) -> None:
        self._paused = True
        self._secured.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._secured.resume_reading()
        if self._end_waits:
            # Behind what the TLS layer still has, which it hands on in a callback too.
            self._end_waits = False
            self._loop.call_soon(self._report_end)

    def is_reading(self) -> bool:
        return not self._paused

    def take_unread(self) -> None:
        """Delivers what arrived before the connection broke, whether or not the protocol is reading."""
        if self._raw_ended or self._secured.is_closing():
            return
        self._secured.resume_reading()
        for data in unread(self._raw):
            feed(self._inner, data)

    def _stream_ended(self) -> bool:
        """Handles the end of the TCP stream; gives whether the connection stays open."""
        self._raw_ended = True
        if self._secured.is_closing():
            self._finish()
        else:
            self._report_end()
        return True

    def _report_end(self) -> None:
        if self._end_reported or self._secured.is_closing():
            return
        if self._paused:
            self._end_waits = True
            return
        self._end_reported = True
        protocol = cast(asyncio.Protocol, self._secured.get_protocol())
        if not protocol.eof_received():
            self.close()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Sends what was written, a close_notify and the end of the TCP stream; what the peer still says is read."""
        if not self._ended and not self._secured.is_closing():
            self._ended = True
            self._raw.write(self._object.end())
            self._raw.write_eof()

    def close(self) -> None:
        """Writes what is left and a close_notify, and closes. The peer's close_notify is not waited for, as PostgreSQL
        does not: a peer that never says it would keep the connection."""
        self._secured.close()
        self._finish()

    def abort(self) -> None:
        """Cuts the connection, and what the TCP connection has not sent yet, which the TLS layer does not know of."""
        self._secured.abort()
        self._raw.abort()

    def _finish(self) -> None:
        """Ends the TLS layer too once it has written everything: it would wait for the peer's close_notify."""
        if self._finished or self._raw.is_closing():
            return
        if self._secured.get_write_buffer_size():
            self._loop.call_later(_FLUSH_AGAIN, self._finish)
            return
        self._finished = True
        self._inner.eof_received()


def feed(layer: Any, data: bytes) -> None:
    """Hands a TLS layer bytes that came another way than from its transport."""
    rest = memoryview(data)
    while rest:
        buffer = layer.get_buffer(len(rest))
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        layer.buffer_updated(count)
        rest = rest[count:]


def load_pair(context: ssl.SSLContext, cert: Path, key: Path, section: str) -> None:
    try:
        for path in (cert, key):
            check_readable(path)
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{section}.tls_cert {cert}, {section}.tls_key {key}: not a PEM certificate and its key "
            f"({error.reason or 'unreadable'})"
        ) from None
    except OSError as error:
        raise ConfigError(f"{section}.tls_cert {cert}, {section}.tls_key {key}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{section}.tls_key {key}: {error}") from None


def out_of_date(path: Path, now: datetime) -> str | None:
    """Says that the certificate which a PEM file shows is not valid now; None if it is, or cannot be read."""
    try:
        shown = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError, IndexError):
        return None
    begin, end = shown.not_valid_before_utc, shown.not_valid_after_utc
    if now > end:
        return f"{path}: the certificate expired at {end:%Y-%m-%d %H:%M} UTC: renew it, and send SIGHUP"
    if now < begin:
        return f"{path}: the certificate is not valid before {begin:%Y-%m-%d %H:%M} UTC: see the clock"
    return None


def _no_password() -> str:
    raise ValueError("the key is protected by a password; give one without")


def load_ca(context: ssl.SSLContext, path: Path, name: str) -> None:
    try:
        check_readable(path)
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(f"{name} {path}: holds no PEM certificate") from None
    except OSError as error:
        raise ConfigError(f"{name} {path}: {error.strerror}") from None
