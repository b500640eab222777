"""Cancel requests: which server a key belongs to, and one connection that carries the request there.

A session of this process says which server its key is good at. A key of another worker's, or of another proxy's before
the same servers, may belong to any: all are asked, at every address, and a server that does not know the key does
nothing. Keys are of any length."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import structlog

from secretproxy.proxy.backend.connect import BackendUnreachableError, Target, connect
from secretproxy.proxy.backend.hosts import Hosts
from secretproxy.proxy.backend.tls import BackendTls

log: Any = structlog.get_logger("secretproxy.session")

# Anybody may send a CancelRequest, and each costs a connection a server: more than so many wait.
_AT_ONCE = 64


class _CancelConnection(asyncio.Protocol):
    """A connection that carries one CancelRequest."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class Cancels:
    """The cancel keys of one process, and the way of a request."""

    def __init__(self, hosts: Hosts, timeout: float, tls: BackendTls) -> None:
        self._hosts = hosts
        self._timeout = timeout
        self._tls = tls
        self._targets: dict[bytes, tuple[Target, str]] = {}
        # The key of each session: one, whatever its backend says.
        self._keys: dict[str, bytes] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)

    def learn(self, key: bytes, target: Target, session_id: str) -> None:
        """Takes the key of a session, in place of one that it had before. What is another session's stays that one's:
        a server must not draw the cancel requests for another server to itself."""
        if self._keys.get(session_id) == key:
            return
        self.forget(session_id)
        if key not in self._targets:
            self._keys[session_id] = key
            self._targets[key] = target, session_id

    def forget(self, session_id: str) -> None:
        """Takes note that a session has ended."""
        key = self._keys.pop(session_id, None)
        if key is not None:
            del self._targets[key]

    async def send(self, packet: bytes, session_id: str) -> None:
        """Hands a CancelRequest on and returns when the server has closed, which is its only answer.

        `session_id`: that of the connection that brought it. What is said is said of the session that it is for, if
        that is known."""
        async with self._room:
            known = self._targets.get(packet[8:])
            targets = [known[0]] if known is not None else (await self._hosts.addresses())[0]
            reached = await asyncio.gather(*(self._send_to(packet, target) for target in targets))
        if not any(reached):
            log.warning(
                "cancel request did not reach the backend",
                session=known[1] if known else session_id,
                setting="backend.hosts",
            )

    async def _send_to(self, packet: bytes, target: Target) -> bool:
        try:
            carrier, _ = await connect(_CancelConnection, [target], self._timeout, self._tls)
        except BackendUnreachableError:
            return False
        try:
            carrier.transport.write(packet)
            async with asyncio.timeout(self._timeout):
                await carrier.closed
        except TimeoutError:
            return False
        finally:
            # A server that does not answer does not close either.
            carrier.transport.abort()
        return True
