"""`secretproxy audit tail`: accesses as they happen, through any loss of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import uuid
from typing import Any

from secretproxy.cli.audit.options import DSN, JSON, run
from secretproxy.cli.audit.showing import names_of, origin, record_of, who
from secretproxy.config import ConfigError


def tail(as_json: bool = JSON, dsn: str | None = DSN) -> None:
    """Follow accesses as they happen."""
    from secretproxy.audit import review
    from secretproxy.audit.beside import CHANNEL
    from secretproxy.audit.following import Follower

    async def work() -> None:
        import asyncpg

        follower = Follower()
        first = True
        while True:
            try:
                connection = await review.connect(dsn)
            except ConfigError:
                if first:
                    raise
                await asyncio.sleep(1)
                continue
            try:
                wake = _Wake()
                await connection.add_listener(CHANNEL, wake)
                connection.add_termination_listener(wake)
                await follower.begin(connection)
                print("following the log" if first else "connected again", file=sys.stderr, flush=True)
                first = False
                told: set[uuid.UUID] = set()
                everywhere = True
                while not connection.is_closed():
                    for row in await follower.news(connection, told, everywhere=everywhere):
                        _told(row, as_json)
                    sys.stdout.flush()
                    told, everywhere = await wake.wait()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if isinstance(error, BrokenPipeError) or getattr(error, "sqlstate", None) in ("42501", "42P01", "3F000"):
                    raise
            finally:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(connection.close(), 1)
            print("connection lost, connecting again", file=sys.stderr, flush=True)
            await asyncio.sleep(0.2)

    run(work())


class _Wake:
    """Takes the notices of journals: which instances have written."""

    # Direct calls tell nobody, and a notice can get lost with the process that owed it.
    EVERYWHERE = 1.0

    def __init__(self) -> None:
        self._told: set[uuid.UUID] = set()
        self._news = asyncio.Event()
        self._due = 0.0

    def __call__(self, *notice: Any) -> None:
        with contextlib.suppress(ValueError, IndexError):
            # Anybody may send a notice: what is in it is a hint where to look.
            self._told.add(uuid.UUID(notice[3]))
        self._news.set()

    async def wait(self) -> tuple[set[uuid.UUID], bool]:
        """Instances to look at, and whether it is time to look everywhere."""
        clock = asyncio.get_running_loop().time
        self._due = self._due or clock() + self.EVERYWHERE
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(0.0, self._due - clock()))
        self._news.clear()
        told, self._told = self._told, set()
        everywhere = clock() >= self._due
        if everywhere:
            self._due = clock() + self.EVERYWHERE
        return told, everywhere


def _told(row: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(record_of(row)))
        return
    owner = "?" if row["owner_id"] is None else str(row["owner_id"])
    print(f"{row['at'].astimezone():%H:%M:%S}  {who(row)}  {row['operation'] or '?'}  {names_of(row)} of {owner}  {origin(row)}")
