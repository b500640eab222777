"""Decides when to look for new rows: when writers notify, and once a second everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from secretproxy.audit.follower import Endings, Follower
from secretproxy.audit.housekeeping import CHANNEL


class Wake:
    """Takes the notices of journals: which instances have written."""

    # Direct calls tell nobody, and a notice can get lost with the process that owed it.
    EVERYWHERE = 1.0

    def __init__(self) -> None:
        self._written: set[uuid.UUID] = set()
        self._woken = asyncio.Event()
        self._due = 0.0

    @classmethod
    async def of(cls, connection: Any) -> Wake:
        """Hears what is told on a connection, and its end."""
        wake = cls()
        await connection.add_listener(CHANNEL, wake)
        connection.add_termination_listener(wake)
        return wake

    def __call__(self, *notice: Any) -> None:
        with contextlib.suppress(ValueError, IndexError):
            # Anybody may send a notice: what is in it is a hint where to look.
            self._written.add(uuid.UUID(notice[3]))
        self._woken.set()

    async def wait(self, at_most: float | None = None) -> tuple[set[uuid.UUID], bool]:
        """Instances to look at, and whether it is time to look everywhere; waits no longer than `at_most` seconds for
        it."""
        clock = asyncio.get_running_loop().time
        self._due = self._due or clock() + self.EVERYWHERE
        left = self._due - clock()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), max(0.0, left if at_most is None else min(left, at_most)))
        self._woken.clear()
        written, self._written = self._written, set()
        everywhere = clock() >= self._due
        if everywhere:
            self._due = clock() + self.EVERYWHERE
        return written, everywhere


async def arrivals(
    connection: Any, wake: Wake, follower: Follower, endings: Endings, over: Callable[[], bool] = lambda: False
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yields the accesses to show now, often none, each time something is told or is due, until the connection has
    ended or it is `over`.
    """
    written: set[uuid.UUID] = set()
    everywhere = True
    while not connection.is_closed() and not over():
        yield await endings.of(connection, await follower.new_accesses(connection, written, everywhere=everywhere))
        written, everywhere = await wake.wait(endings.due())
