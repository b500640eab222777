"""Checks, for `check`, before the proxy serves: places to listen and to write, TLS that allows logins, poolers before
PostgreSQL.

Nothing is changed: a socket that is bound is not listened on, a login that is begun is broken off. Each fault names its
setting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
import struct
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import asyncpg

from secretproxy.config import Settings, revealed, socket_file
from secretproxy.connections import FAILURES, ConnectError, Place, close, connect
from secretproxy.connections import read as read_conninfo
from secretproxy.connections.conninfo import ConninfoError
from secretproxy.proxy.backend.connect import AddressUnreachableError, Target, reach
from secretproxy.proxy.backend.tls import BackendTls, monitor_tls
from secretproxy.proxy.client.tls import listen_binding
from secretproxy.proxy.transport.secured import out_of_date
from secretproxy.scram.binding import end_point_of_der
from secretproxy.wire.messages import AUTHENTICATION_SASL, PROTOCOL_3_0

Result = tuple[str, str]

# Bytes of the longest path of a Unix socket, its terminator left out: sun_path in sys/un.h.
_LONGEST_PATH = 107
_NOBODY = "secretproxy check"


def places(settings: Settings) -> Iterator[Result]:
    """Lists what keeps the proxy from listening, and from writing its files."""
    listen, health, audit = settings.listen, settings.health, settings.audit
    if listen.host:
        fault = _address("listen", listen.host, listen.port)
        if fault is not None:
            yield "listen.host, listen.port", fault
    if listen.unix_socket_dir is not None:
        path = socket_file(listen.unix_socket_dir, listen.port)
        fault = _directory(listen.unix_socket_dir)
        if fault is None and len(os.fsencode(path)) > _LONGEST_PATH:
            fault = f"{path}: a Unix socket's path has at most {_LONGEST_PATH} bytes; name a shorter directory"
        if fault is not None:
            yield "listen.unix_socket_dir", fault
    if health.port:
        fault = _address("health", health.host, health.port)
        if fault is not None:
            yield "health.host, health.port", fault
    written = {"audit.checkpoint_file": audit.checkpoint_file}
    if audit.checkpoint_key_file is not None and not os.path.exists(audit.checkpoint_key_file):
        # It is made, or it lies where this user may not look.
        written["audit.checkpoint_key_file"] = audit.checkpoint_key_file
    for setting, file in written.items():
        fault = None if file is None else _file(file)
        if fault is not None:
            yield setting, fault
    if audit.on_outage == "spool" and audit.spool_dir is not None:
        # It is made too, with what leads to it.
        nearest = next(path for path in (audit.spool_dir, *audit.spool_dir.absolute().parents) if os.path.exists(path))
        fault = _directory(nearest)
        if fault is not None:
            yield "audit.spool_dir", fault


def certificates(settings: Settings) -> Iterator[Result]:
    """Lists the proxy's own certificates that whoever verifies them refuses now."""
    shown = {
        "listen.tls_cert": settings.listen.tls_cert if settings.listen.tls != "off" else None,
        "backend.tls_cert": settings.backend.tls_cert if settings.backend.tls != "off" else None,
    }
    for setting, path in shown.items():
        fault = None if path is None else out_of_date(path, datetime.now(UTC))
        if fault is not None:
            yield setting, fault


def _directory(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return (
            f"{path}: this user may not look into a directory above it; give the proxy's user the right to search "
            "them all"
        )
    except OSError:
        return f"{path}: there is no such directory; make it, owned by the proxy's user"
    if not stat.S_ISDIR(mode):
        return f"{path}: it is no directory"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path}: this user may not write there; give the directory to the proxy's user"
    return None


def _file(path: Path) -> str | None:
    if not os.path.exists(path):
        return _directory(path.absolute().parent)
    return None if os.access(path, os.W_OK) else f"{path}: this user may not write it"


def _address(section: str, host: str, port: int) -> str | None:
    """Gives the reason why nothing can be served there; a proxy that already serves there is not an error."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return f"{host}: the name does not resolve ({error.strerror})"
    for number in (0, port):
        try:
            with socket.socket(family, kind, proto) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address[0], number, *address[2:]))
        except OSError as error:
            if number == 0:
                return (
                    f"{host}: {(error.strerror or str(error)).lower()}; {section}.host must be an address of this host"
                )
            if _serves(section, host, port):
                return None
            return (
                f"{host}:{port}: {(error.strerror or str(error)).lower()}; end what listens there, or choose "
                f"another {section}.port"
            )
    return None


def _serves(section: str, host: str, port: int) -> bool:
    """Says whether a secretproxy serves there now: PostgreSQL would name file and line of its source when it refuses a
    protocol.
    """
    somewhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    with contextlib.suppress(OSError), socket.create_connection((somewhere, port), 2) as sock:
        if section == "health":
            sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return sock.recv(12).startswith(b"HTTP/1.1 200")
        sock.sendall(struct.pack("!II", 8, 4 << 16))
        said = b""
        while data := sock.recv(4096):
            said += data
        return said[:1] == b"E" and b"\0F" not in said
    return False


async def logins_in_tls(settings: Settings, targets: list[Target]) -> AsyncIterator[Result]:
    """Backends that refuse clients in TLS: a login that is bound to one TLS connection does not pass through two."""
    if settings.auth.mode != "passthrough" or "off" in (settings.listen.tls, settings.backend.tls):
        return
    secured = BackendTls.of(settings.backend)
    ours = listen_binding(settings.listen)
    for target in targets:
        with contextlib.suppress(AddressUnreachableError, TimeoutError, OSError):
            offered, theirs = await _offered(settings, target, secured)
            if offered and theirs is not None and theirs != ours:
                yield (
                    f"auth.mode {target}",
                    "passthrough with TLS on both sides: the server offers SCRAM-SHA-256-PLUS, which binds a login to "
                    "one TLS "
                    "connection, and refuses who uses it through another, as libpq does in TLS; set auth.mode = "
                    '"scram", or give '
                    "listen.tls_cert and listen.tls_key the server's own, or have every client set "
                    "channel_binding=disable",
                )


async def _offered(settings: Settings, target: Target, secured: BackendTls) -> tuple[bool, bytes | None]:
    """Says whether some login is offered SCRAM-SHA-256-PLUS, and its binding.

    Raises AddressUnreachableError, TimeoutError, OSError.
    """
    user, database = _known_login(settings)
    timeout = settings.backend.connect_timeout
    binding = None
    for name in dict.fromkeys((user, _NOBODY)):
        login = await reach(_FirstWord, target, timeout, secured)
        try:
            secured_by = cast(ssl.SSLObject | None, login.transport.get_extra_info("ssl_object"))
            if secured_by is None:
                return False, None
            binding = end_point_of_der(secured_by.getpeercert(binary_form=True))
            parameters = b"user\0" + os.fsencode(name) + b"\0database\0" + os.fsencode(database) + b"\0\0"
            login.transport.write(struct.pack("!II", 8 + len(parameters), PROTOCOL_3_0) + parameters)
            async with asyncio.timeout(timeout):
                said = await login.said
        finally:
            login.transport.abort()
        if (
            said[:1] == b"R"
            and int.from_bytes(said[5:9], "big") == AUTHENTICATION_SASL
            and b"SCRAM-SHA-256-PLUS\0" in said
        ):
            return True, binding
    return False, binding


def _known_login(settings: Settings) -> tuple[str, str]:
    dsn = settings.backend.monitor_dsn or settings.audit.dsn
    with contextlib.suppress(ConninfoError):
        known = read_conninfo(revealed(dsn))
        return known.user, known.database
    return _NOBODY, "postgres"


class _FirstWord(asyncio.Protocol):
    """The first message of a server; nothing if it closes instead."""

    def __init__(self) -> None:
        self.said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if (
            len(self._buffer) >= 5
            and len(self._buffer) > int.from_bytes(self._buffer[1:5], "big")
            and not self.said.done()
        ):
            self.said.set_result(self._buffer)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.said.done():
            self.said.set_result(b"")


async def poolers(settings: Settings, targets: list[Target]) -> AsyncIterator[Result]:
    """Servers of backend.hosts that are poolers which give each transaction another session. Who cannot log in there
    finds none."""
    for target in targets:
        try:
            shared = await _shared(settings, target)
        except (*FAILURES, ConnectError):
            continue
        if shared:
            yield (
                f"backend.hosts {target}",
                "a connection pooler in transaction or statement mode: sessions through secretproxy are refused with "
                "0A000, for calls "
                "cannot be told apart there; set pool_mode = session for this database in the pooler, or put the "
                "pooler in front of "
                "secretproxy",
            )


async def _shared(settings: Settings, target: Target) -> bool:
    """Says whether two sessions that are open at once get the same backend process, or one gets two."""
    async with _session(settings, target) as one:
        pid = await _pid(one)
        if pid == one.get_server_pid():
            return False
        # What said its process id at the login is not who answers. In session mode each session keeps its own.
        async with _session(settings, target) as other:
            begun = other.transaction()
            try:
                await begun.start()
                if await _pid(other) == pid:
                    return True
                async with one.transaction():
                    return bool(await _pid(one) != pid)
            except asyncpg.PostgresError:
                # A pooler in statement mode takes no transaction block.
                return True


async def _pid(connection: Any) -> int:
    return int(await connection.fetchval("SELECT pg_catalog.pg_backend_pid()"))


@contextlib.asynccontextmanager
async def _session(settings: Settings, target: Target) -> AsyncIterator[Any]:
    dsn = settings.backend.monitor_dsn or settings.audit.dsn
    timeout = settings.backend.connect_timeout
    connection = await connect(
        revealed(dsn),
        _NOBODY,
        timeout=timeout,
        command_timeout=timeout,
        places=[Place(target.address, None, target.host.port)],
        target_session_attrs="any",
        tls=monitor_tls(settings.backend, target.host),
    )
    try:
        yield connection
    finally:
        await close(connection)
