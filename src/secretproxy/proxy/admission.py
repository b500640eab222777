"""Counts the connections and sessions of a process, admits new ones, and logs those that it refuses."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

import structlog

from secretproxy.ops.metrics import Metrics
from secretproxy.proxy.capacity import Share

log: Any = structlog.get_logger("secretproxy")

C = TypeVar("C")


class Admission(Generic[C]):
    """The connections of one process. `draining`: it ends, and accepts no more."""

    def __init__(self, share: Share, metrics: Metrics) -> None:
        self.draining = False
        # Set while there is no connection, and when nobody should wait for the last one any more.
        self.empty = asyncio.Event()
        self._share = share
        self._metrics = metrics
        self._connections: set[C] = set()
        # Those that nothing runs for any more, whose sockets are not closed yet.
        self._lingering: set[C] = set()
        self._admitted: set[C] = set()
        # By line and setting: those that came since this was said, and are said within a second.
        self._counted: dict[tuple[str, str], int] = {}

    @property
    def connections(self) -> list[C]:
        return list(self._connections)

    def opened(self, client: C) -> bool:
        """Counts a connection. Tells whether one more fits; one that does not is counted until it has closed."""
        fits = self._share.connection_fits
        self._connections.add(client)
        self.empty.clear()
        self._count()
        return fits

    def admit(self, client: C) -> bool:
        """Tells whether one more session fits, and counts it."""
        if not self._share.session_fits:
            return False
        self._admitted.add(client)
        self._count()
        self._metrics.sessions_total.inc()
        return True

    def closed(self, client: C, *, lingers: bool) -> None:
        """Notes that nothing runs for a connection any more. One that `lingers` counts until it has gone."""
        self._connections.discard(client)
        self._admitted.discard(client)
        if lingers:
            self._lingering.add(client)
        self._count()
        if not self._connections:
            self.empty.set()

    def gone(self, client: C) -> None:
        """Notes that the socket of a connection is closed."""
        if client in self._lingering:
            self._lingering.discard(client)
            self._count()

    def _count(self) -> None:
        connections = len(self._connections) + len(self._lingering)
        self._share.update(len(self._admitted), connections)
        self._metrics.sessions.set(len(self._admitted))
        self._metrics.connections.set(connections)

    def refused(self, setting: str, *, session: str, client: str) -> None:
        """Notes that this setting refused a connection.

        Logs it at once, and then once a second the number of further ones.
        """
        self._metrics.refuse_session(setting)
        words = "logins refused: too many have failed" if setting.startswith("auth.") else "sessions refused"
        self.count(words, setting, log.warning, session=session, client=client)

    def count(self, words: str, setting: str, say: Any, **first: str) -> None:
        """Logs what many sessions can meet at once: the first one at once with its facts, and then once a second the
        number of further ones."""
        waiting = self._counted.get((words, setting))
        if waiting is None:
            self._say_counted(words, setting, say, 1, **first)
        else:
            self._counted[words, setting] = waiting + 1

    def _say_counted(self, words: str, setting: str, say: Any, count: int, **first: str) -> None:
        say(words, count=count, setting=setting, **first)
        self._counted[words, setting] = 0
        asyncio.get_running_loop().call_later(1.0, self._counted_since, words, setting, say)

    def _counted_since(self, words: str, setting: str, say: Any) -> None:
        count = self._counted.pop((words, setting), 0)
        if count:
            self._say_counted(words, setting, say, count)
