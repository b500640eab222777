"""Writes groups of a log that is slow to commit ahead of their syncs. May import asyncpg.

One connection has only one group under way, so a group that takes long to commit keeps all rows that come meanwhile
from being sent. Here one connection commits groups without waiting until they are durable, one after the other, and
others wait for syncs: each commits a record of nothing after a group was committed. The WAL has one order, so what
makes that record durable, on a synchronous standby too, has made the group durable and all groups before it. No group
is committed before the one in front of it: an error leaves no gap.

All this holds on one server. A connection of the journal holds an advisory lock of a random number, and whoever could
take that lock is somewhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from secretproxy.audit.durable import AGAIN, Warnings
from secretproxy.audit.groups import GroupWriter, open_writer
from secretproxy.audit.unwritable import CANCELLED, milliseconds

# Connections that wait for syncs.
SYNCS = 4
# Takes a lock until the session ends; says whether it was free.
LOCK = "SELECT pg_catalog.pg_try_advisory_lock({key}::pg_catalog.int8)"


class ElsewhereError(Exception):
    """A connection leads to another server or database than the journal's first one."""


class Ahead:
    """The connections. `close` ends them."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], timeout: float, key: int) -> None:
        """`timeout`: seconds for each statement; `key`: number of the lock that the journal's connection holds."""
        self._connect: Final = connect
        self._timeout: Final = timeout
        self._key: Final = key
        self._all: list[Any] = []
        self._free: list[tuple[Any, Warnings]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection: Any = None
        self._insert: Any = None
        self.writer: GroupWriter | None = None
        # When the last wait for a sync began, by the monotonic clock.
        self.began = time.monotonic()

    async def open(self, answered: Callable[[BaseException | None, int], None]) -> None:
        """Opens the connections; `answered` is told what became of each group that `writer` writes. Raises the first
        error, ElsewhereError among them; the caller closes."""
        for _ in range(SYNCS):
            connection = await self._one()
            self._free.append((connection, Warnings(connection)))
        self._connection = await self._one()
        await self._run(self._connection.execute("SET synchronous_commit = off"))
        self._insert, self.writer = await open_writer(self._connection, self._timeout, answered)

    async def _one(self) -> Any:
        connection = await self._run(self._connect())
        self._all.append(connection)
        await self._run(connection.execute(f"SET statement_timeout = {milliseconds(self._timeout)}"))
        if await self._run(connection.fetchval(LOCK.format(key=self._key))):
            raise ElsewhereError
        return connection

    async def _run(self, step: Awaitable[Any]) -> Any:
        return await asyncio.wait_for(step, self._timeout)

    @property
    def pid(self) -> int | None:
        """Gives the process of the server that writes groups."""
        return None if self._connection is None else int(self._connection.get_server_pid())

    @property
    def broken(self) -> bool:
        """Says whether the connection that writes has ended."""
        return self.writer is None or bool(self._connection.is_closed())

    @property
    def free(self) -> bool:
        """Says whether a connection can wait for another sync."""
        return bool(self._free)

    @property
    def waits(self) -> bool:
        """Says whether one waits for a sync now."""
        return bool(self._tasks)

    def sync(self, ended: Callable[[BaseException | None, float], None]) -> None:
        """Waits until what is committed by now is durable. `ended`: is called with the error, or with None, and with
        the seconds that it took. A connection must be free."""
        connection, warnings = self._free.pop()
        task = asyncio.create_task(self._sync(connection, warnings, ended), name="sync")
        self._tasks.add(task)
        self.began = time.monotonic()

    async def _sync(
        self, connection: Any, warnings: Warnings, ended: Callable[[BaseException | None, float], None]
    ) -> None:
        began = time.monotonic()
        found: BaseException | None = None
        try:
            await self._run(connection.execute(AGAIN))
            warnings.check()
        except asyncpg.PostgresError as error:
            slow = error.sqlstate == CANCELLED and time.monotonic() - began >= self._timeout * 0.8
            found = TimeoutError() if slow else error
        except (Exception, asyncio.CancelledError) as error:
            found = error
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)
        if found is None:
            self._free.append((connection, warnings))
        ended(found, time.monotonic() - began)

    def close(self) -> None:
        """Ends the connections, whatever they are at."""
        for task in self._tasks:
            task.cancel()
        for connection in self._all:
            with contextlib.suppress(Exception):
                if not connection.is_closed():
                    connection.terminate()
        self._all, self._free = [], []
        self.writer = None
