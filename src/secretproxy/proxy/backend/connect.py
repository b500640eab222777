"""Connections to the backend: which address of which server, whether in TLS, how long to wait, and what to say when
none answers."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

from secretproxy.config import Host
from secretproxy.proxy.backend.tls import BackendTls
from secretproxy.proxy.transport.secured import Secured
from secretproxy.wire.messages import SSL_REQUEST

P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a server of backend.hosts."""

    host: Host
    address: str

    def __str__(self) -> str:
        return str(self.host) if self.address == self.host.host else f"{self.host} ({self.address})"


class TlsRefusedError(Exception):
    """The server does not do what backend.tls asks for."""


class AddressUnreachableError(Exception):
    """A server cannot be reached; the text says which and why."""


class NoAnswerError(AddressUnreachableError):
    """A server does not answer at all."""


class BackendUnreachableError(Exception):
    """No server of backend.hosts can be reached or will do; the text says which were tried and why each failed."""


class _Asking(asyncio.Protocol):
    """Sends an SSLRequest and waits for the one byte that answers it; nothing if the connection ends instead."""

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
            self.answer.set_result(b"")


def _why(error: OSError) -> str:
    """Gives the system's message, without asyncio's own words."""
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


async def resolve(host: Host, timeout: float) -> list[Target]:
    """Gives every address of a server, in the order of the tries. Raises AddressUnreachableError."""
    if host.is_unix:
        return [Target(host, host.host)]
    try:
        ipaddress.ip_address(host.host.partition("%")[0])
    except ValueError:
        pass
    else:
        return [Target(host, host.host)]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise AddressUnreachableError(f"{host}: its name does not resolve within {timeout:g} s") from None
    except OSError:
        raise AddressUnreachableError(f"{host}: its name does not resolve") from None
    return list(dict.fromkeys(Target(host, str(entry[4][0])) for entry in found))


async def _tcp(factory: Callable[[], P], target: Target, tls: BackendTls) -> P:
    loop = asyncio.get_running_loop()
    port = target.host.port
    if tls.context is None:
        return (await loop.create_connection(factory, target.address, port))[1]
    transport, asking = await loop.create_connection(_Asking, target.address, port)
    try:
        answer = await asking.answer
        if not answer:
            raise TlsRefusedError("closed the connection")
        protocol = factory()
        if answer == b"S":
            # The certificate must be for the name in backend.hosts, which is also the SNI unless it is an address.
            secured = await loop.start_tls(transport, protocol, tls.context, server_hostname=target.host.host)
            if secured is None:
                raise TlsRefusedError("closed the connection in the handshake")
            secured = Secured(transport, secured)
            protocol.connection_made(secured)
            return protocol
        if answer != b"N":
            # More than the one byte may have been slipped in before the handshake (CVE-2021-23222).
            raise TlsRefusedError("answered an SSLRequest with something else")
        if tls.required:
            raise TlsRefusedError("does not speak TLS (backend.tls)")
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
    except BaseException:
        transport.abort()
        raise
    return protocol


async def answers(target: Target, timeout: float) -> None:
    """Asks the server whether it speaks TLS, which takes a process of its own and leaves no line in its log. Raises
    AddressUnreachableError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            if target.host.is_unix:
                transport, asking = await loop.create_unix_connection(_Asking, target.host.socket_path)
            else:
                transport, asking = await loop.create_connection(_Asking, target.address, target.host.port)
            try:
                answer = await asking.answer
            finally:
                transport.abort()
    except TimeoutError:
        raise NoAnswerError(f"{target}: no answer within {timeout:g} s") from None
    except OSError as error:
        raise AddressUnreachableError(f"{target}: {_why(error)}") from None
    if answer not in (b"S", b"N"):
        raise AddressUnreachableError(
            f"{target}: {'does not answer as PostgreSQL does' if answer else 'closed the connection'}"
        )


async def reach(factory: Callable[[], P], target: Target, timeout: float, tls: BackendTls) -> P:
    """Connects to this address, in TLS if `tls` says so. Raises AddressUnreachableError."""
    try:
        async with asyncio.timeout(timeout):
            if target.host.is_unix:
                return (await asyncio.get_running_loop().create_unix_connection(factory, target.host.socket_path))[1]
            return await _tcp(factory, target, tls)
    except TlsRefusedError as error:
        cause = str(error)
    except ssl.SSLCertVerificationError as error:
        cause = f"its certificate does not verify: {error.verify_message} (backend.tls_ca)"
    except ssl.SSLError as error:
        cause = f"TLS failed: {error.reason or 'handshake'}"
    except TimeoutError:
        raise NoAnswerError(f"{target}: no answer within {timeout:g} s") from None
    except OSError as error:
        cause = _why(error)
    raise AddressUnreachableError(f"{target}: {cause}")


async def connect(
    factory: Callable[[], P],
    targets: Iterable[Target],
    timeout: float,
    tls: BackendTls,
    silent: Callable[[Target], None] | None = None,
) -> tuple[P, Target]:
    """Connects to the first address that accepts; calls `silent` for those that do not answer.

    Raises BackendUnreachableError.
    """
    causes = []
    for target in targets:
        try:
            return await reach(factory, target, timeout, tls), target
        except AddressUnreachableError as error:
            causes.append(str(error))
            if silent is not None and isinstance(error, NoAnswerError):
                silent(target)
    raise BackendUnreachableError("; ".join(causes))
