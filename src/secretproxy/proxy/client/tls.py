"""TLS with clients: the context made of the settings, and the two ways in which a client begins it.

A client asks with an SSLRequest and is answered S, or sends its ClientHello at once (PostgreSQL 17's
sslnegotiation=direct), in which case it must name the protocol `postgresql` by ALPN. Sources:
https://www.postgresql.org/docs/current/protocol-flow.html, "SSL Session Encryption", and
src/backend/tcop/backend_startup.c, ProcessSSLStartup().
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import ssl
from datetime import UTC, datetime
from typing import Any

import structlog

from secretproxy.config import ConfigError, ListenSettings
from secretproxy.files import check_readable
from secretproxy.proxy.transport.secured import ALPN, Directions, feed, load_ca, load_pair, out_of_date
from secretproxy.scram.binding import end_point_of_pem

log: Any = structlog.get_logger("secretproxy")

# The first byte of a ClientHello's record; a startup packet begins with a length whose first byte is 0.
CLIENT_HELLO = 0x16
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ClientTls:
    """The TLS that a process offers its clients; `context` is None if TLS is off, `binding` is what they bind a SCRAM
    login to. Raises ConfigError.
    """

    def __init__(self, settings: ListenSettings) -> None:
        self._settings = settings
        # The problem that was logged last: any client of TLS 1.2 has a new context made.
        self._problem = ""
        self.context, self.binding = listen_context(settings), listen_binding(settings)

    def renew(self, *, asked: bool = True) -> None:
        """Makes a new context: with the certificate as it is now, and without the sessions that clients of TLS 1.2
        could resume. `asked`: somebody waits to hear of a problem, whether or not it was logged already."""
        try:
            secured, binding = listen_context(self._settings), listen_binding(self._settings)
            self.context, self.binding, self._problem = secured, binding, ""
            cert = self._settings.tls_cert
            lapsed = None if secured is None or cert is None else out_of_date(cert, datetime.now(UTC))
            if asked and lapsed is not None:
                log.warning("clients that verify it refuse the certificate", cause=lapsed, setting="listen.tls_cert")
        except ConfigError as error:
            if asked or str(error) != self._problem:
                self._problem = str(error)
                log.error("certificate not read again, the old one stays", problem=self._problem)


def listen_context(settings: ListenSettings) -> ssl.SSLContext | None:
    """Makes the context for clients, None if TLS is off. Raises ConfigError."""
    context = _serving(settings, ALPN)
    if context is not None:
        context.sslobject_class = Directions
    return context


def web_context(settings: ListenSettings) -> ssl.SSLContext | None:
    """Makes the context for browsers, from the same settings as for clients; None if TLS is off. Raises ConfigError."""
    return _serving(settings, "http/1.1")


def _serving(settings: ListenSettings, protocol: str) -> ssl.SSLContext | None:
    if settings.tls == "off":
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise ConfigError(f"listen.tls is {settings.tls}: set listen.tls_cert and listen.tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.tls_min_version]
    context.set_alpn_protocols([protocol])
    load_pair(context, settings.tls_cert, settings.tls_key, "listen")
    if settings.tls_client_ca is not None:
        load_ca(context, settings.tls_client_ca, "listen.tls_client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    # No session is resumed, as in PostgreSQL: a ticket would outlive the certificate, and the authority of clients',
    # that a reload replaces.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def listen_binding(settings: ListenSettings) -> bytes | None:
    """Gives what a client binds its SCRAM login to in TLS: the hash of the proxy's certificate; None if there is none.

    Raises ConfigError.
    """
    if settings.tls == "off" or settings.tls_cert is None:
        return None
    try:
        check_readable(settings.tls_cert)
        return end_point_of_pem(settings.tls_cert.read_bytes())
    except OSError as error:
        raise ConfigError(f"listen.tls_cert {settings.tls_cert}: {error.strerror}") from None


async def accept_direct(
    transport: asyncio.Transport, protocol: asyncio.Protocol, context: ssl.SSLContext, begun: bytes, timeout: float
) -> asyncio.Transport:
    """Performs a handshake whose first bytes have been read already, which loop.start_tls() cannot take.

    Raises OSError, ssl.SSLError.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    between = asyncio.sslproto.SSLProtocol(
        loop,
        protocol,
        context,
        waiter,
        server_side=True,
        call_connection_made=False,
        ssl_handshake_timeout=timeout,  # type: ignore[arg-type]
    )
    transport.pause_reading()
    transport.set_protocol(between)
    between.connection_made(transport)
    feed(between, begun)
    transport.resume_reading()
    await waiter
    return between._app_transport
