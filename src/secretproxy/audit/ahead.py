"""Writes groups of a log that is slow to commit ahead of their syncs. May import asyncpg.

One connection has only one group under way, so a group that takes long to commit keeps all rows that come meanwhile
from being sent. Here one connection commits groups without waiting until they are durable, one after the other, and
others wait for syncs: each commits a record of nothing after a group was committed. The WAL has one order, so what
makes that record durable, on a synchronous standby too, has made the group durable and all groups before it. No group
is committed before the one in front of it: an error leaves no gap.

All this holds on one server, and on connections that are each one process of it. So the journal's first connection
takes an advisory lock of a random number; whoever can take that lock, or is on a server that started at another moment,
is somewhere else. What answers as another process than the one that logged in is a pooler, whose processes others use
too. Where the first connection ends, these end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import asyncpg

from secretproxy.audit.durable import AGAIN, Warnings
from secretproxy.audit.groups import GroupWriter, open_writer
from secretproxy.audit.unwritable import CANCELLED, milliseconds

# Connections that wait for syncs.
SYNCS = 4
# Takes a lock until the session ends; says whether it was free, and where that is.
LOCK = (
    "SELECT pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8), pg_catalog.pg_backend_pid(),"
    " pg_catalog.pg_postmaster_start_time(), pg_catalog.current_database()::pg_catalog.text"
)


class ElsewhereError(Exception):
    """A connection leads to another server or database than the journal's first one, or to a pooler."""


class Place(NamedTuple):
    """Where the journal's first connection leads: the number of the lock that it holds there, when the server started,
    and the database."""

    key: int
    started: Any
    database: str


async def place_of(connection: Any, timeout: float) -> Place | None:
    """Takes a lock on the journal's first connection and gives its place; None where it may not, or where a pooler is
    in between. Raises asyncpg's other errors, and TimeoutError."""
    key = secrets.randbits(62)
    try:
        free, process, *there = await asyncio.wait_for(connection.fetchrow(LOCK, key), timeout)
    except asyncpg.InsufficientPrivilegeError:
        return None
    return Place(key, *there) if free and process == connection.get_server_pid() else None


class Ahead:
    """The connections. `close` ends them."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], timeout: float, where: Place) -> None:
        """`timeout`: seconds for each statement; `where`: what place_of() gave for the journal's first connection."""
        self._connect: Final = connect
        self._timeout: Final = timeout
        self._where: Final = where
        self._all: list[Any] = []
        self._free: list[tuple[Any, Warnings]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection: Any = None
        self._insert: Any = None
        self.writer: GroupWriter | None = None
        # Whether a wait for a sync has failed.
        self._failed = False
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
        free, process, *there = await self._run(connection.fetchrow(LOCK, self._where.key))
        if free or Place(self._where.key, *there) != self._where or process != connection.get_server_pid():
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
    def lame(self) -> bool:
        """Says whether another connection has ended or failed."""
        return self._failed or any(connection.is_closed() for connection in self._all)

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
        else:
            self._failed = True
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
