"""TLS on both sides: contexts made of the settings, and the two ways a client begins it.

A client asks with an SSLRequest and is answered S, or sends its ClientHello at once (PostgreSQL 17's sslnegotiation=direct), in which
case it must name the protocol `postgresql` by ALPN. Sources: https://www.postgresql.org/docs/current/protocol-flow.html, "SSL Session
Encryption", and src/backend/tcop/backend_startup.c, ProcessSSLStartup().
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import ssl
from pathlib import Path
from typing import Any

from secretproxy.config import BackendSettings, ConfigError, ListenSettings
from secretproxy.scram.binding import end_point_of_pem

ALPN = "postgresql"
# The first byte of a ClientHello's record; a startup packet begins with a length whose first byte is 0.
CLIENT_HELLO = 0x16
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def listen_context(settings: ListenSettings) -> ssl.SSLContext | None:
    """The context for clients, None where TLS is off. Raises ConfigError."""
    if settings.tls == "off":
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise ConfigError(f"listen.tls is {settings.tls}: set listen.tls_cert and listen.tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.tls_min_version]
    context.set_alpn_protocols([ALPN])
    _load_pair(context, settings.tls_cert, settings.tls_key, "listen")
    if settings.tls_client_ca is not None:
        _load_ca(context, settings.tls_client_ca, "listen.tls_client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    # No session is resumed, as in PostgreSQL: a ticket would outlive the certificate, and the authority of clients', that a reload replaces.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def listen_binding(settings: ListenSettings) -> bytes | None:
    """What a client binds its SCRAM login to in TLS: the hash of our certificate; None where there is none. Raises ConfigError."""
    if settings.tls == "off" or settings.tls_cert is None:
        return None
    try:
        return end_point_of_pem(settings.tls_cert.read_bytes())
    except OSError as error:
        raise ConfigError(f"listen.tls_cert {settings.tls_cert}: {error.strerror}") from None


class _Named(ssl.SSLContext):
    """Checks a server by the name it is known by, where whoever connects was given its address."""

    server_name: str | None = None

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return super().wrap_bio(*arguments, **(named | {"server_hostname": self.server_name or named.get("server_hostname")}))


def backend_context(settings: BackendSettings, server_name: str | None = None) -> ssl.SSLContext | None:
    """The context for the backend, None where TLS is off. Raises ConfigError.

    As in libpq, `require` checks the certificate only where an authority is named, `verify-full` always and with the host's name:
    that which is given at the handshake, or `server_name` whatever is given there.
    """
    if settings.tls == "off":
        return None
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    context.check_hostname = settings.tls == "verify-full"
    if settings.tls_ca is not None:
        _load_ca(context, settings.tls_ca, "backend.tls_ca")
    elif settings.tls == "verify-full":
        context.load_default_certs()
    else:
        context.verify_mode = ssl.CERT_NONE
    if settings.tls_cert is not None:
        _load_pair(context, settings.tls_cert, settings.tls_key or settings.tls_cert, "backend")
    return context


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path, section: str) -> None:
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(
            f"{section}.tls_cert {cert}, {section}.tls_key {key}: not a PEM certificate and its key ({error.reason or 'unreadable'})"
        ) from None
    except OSError as error:
        raise ConfigError(f"{section}.tls_cert {cert}, {section}.tls_key {key}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{section}.tls_key {key}: {error}") from None


def _no_password() -> str:
    raise ValueError("the key is protected by a password; give one without")


def _load_ca(context: ssl.SSLContext, path: Path, name: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(f"{name} {path}: holds no PEM certificate") from None
    except OSError as error:
        raise ConfigError(f"{name} {path}: {error.strerror}") from None


async def accept_direct(
    transport: asyncio.Transport, protocol: asyncio.Protocol, context: ssl.SSLContext, begun: bytes, timeout: float
) -> asyncio.Transport:
    """A handshake whose first bytes have been read already, which loop.start_tls() cannot be given. Raises OSError, ssl.SSLError."""
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
    rest = memoryview(begun)
    while rest:
        buffer = between.get_buffer(len(rest))
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        between.buffer_updated(count)
        rest = rest[count:]
    transport.resume_reading()
    await waiter
    return between._app_transport
