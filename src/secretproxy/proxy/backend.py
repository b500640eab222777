"""Connections to the backend: which server, whether in TLS, how long to wait, and what to say when none answers."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from secretproxy.config import Host
from secretproxy.wire.messages import SSL_REQUEST

P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True)
class Tls:
    """How a backend is spoken to in TLS: not at all without a context, in clear if it must be where it is not `required`."""

    context: ssl.SSLContext | None = None
    required: bool = False


class TlsRefused(Exception):  # noqa: N818 - says what is the matter
    """The server does not do what backend.tls asks for."""


class _Asking(asyncio.Protocol):
    """Sends an SSLRequest and waits for the one byte that answers it."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(struct.pack("!II", 8, SSL_REQUEST))

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()
        if not self.answer.done():
            self.answer.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(TlsRefused("closed the connection"))


class BackendUnreachable(Exception):  # noqa: N818 - says what is the matter
    """No server of backend.hosts can be reached; the text says which were tried and why each failed."""


async def _tcp(factory: Callable[[], P], host: Host, tls: Tls) -> P:
    loop = asyncio.get_running_loop()
    if tls.context is None:
        return (await loop.create_connection(factory, host.host, host.port))[1]
    transport, asking = await loop.create_connection(_Asking, host.host, host.port)
    try:
        answer = await asking.answer
        protocol = factory()
        if answer == b"S":
            secured = await loop.start_tls(transport, protocol, tls.context, server_hostname=host.host)
            if secured is None:
                raise TlsRefused("closed the connection in the handshake")
            protocol.connection_made(secured)
            return protocol
        if answer != b"N":
            # More than the one byte may have been slipped in before the handshake (CVE-2021-23222).
            raise TlsRefused("answered an SSLRequest with something else")
        if tls.required:
            raise TlsRefused("does not speak TLS (backend.tls)")
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
    except BaseException:
        transport.abort()
        raise
    return protocol


async def connect(factory: Callable[[], P], hosts: Sequence[Host], timeout: float, tls: Tls = Tls()) -> tuple[P, Host]:
    """The first server that takes a connection, in the order of `hosts`. Raises BackendUnreachable."""
    loop = asyncio.get_running_loop()
    causes = []
    for host in hosts:
        try:
            async with asyncio.timeout(timeout):
                if host.is_unix:
                    _, protocol = await loop.create_unix_connection(factory, host.socket_path)
                else:
                    protocol = await _tcp(factory, host, tls)
        except TlsRefused as error:
            causes.append(f"{host}: {error}")
        except ssl.SSLCertVerificationError as error:
            causes.append(f"{host}: its certificate does not verify: {error.verify_message} (backend.tls_ca)")
        except ssl.SSLError as error:
            causes.append(f"{host}: TLS failed: {error.reason or 'handshake'}")
        except TimeoutError:
            causes.append(f"{host}: no answer within {timeout:g} s")
        except OSError as error:
            causes.append(f"{host}: {(error.strerror or type(error).__name__).lower()}")
        else:
            return protocol, host
    raise BackendUnreachable("; ".join(causes))
