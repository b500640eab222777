"""Counts sessions and connections over all workers, in memory that they share.

Each worker writes its own two numbers and reads everybody's; a worker that is started again begins at nothing.
"""

from __future__ import annotations

import mmap

from secretproxy.config import Settings


class Capacity:
    """Made before the workers are forked."""

    def __init__(self, settings: Settings) -> None:
        workers = settings.worker_count
        self.most_sessions = settings.listen.max_sessions
        self.most_connections = settings.listen.max_connections or 2 * settings.listen.max_sessions
        self._numbers = memoryview(mmap.mmap(-1, 8 * workers)).cast("I")
        self._workers = workers

    def share(self, worker: int) -> Share:
        return Share(self, self._numbers, self._workers, worker)


class Share:
    """One worker's part of it, and its view of the whole."""

    def __init__(self, capacity: Capacity, numbers: memoryview, workers: int, worker: int) -> None:
        self._capacity = capacity
        self._sessions = numbers[:workers]
        self._connections = numbers[workers:]
        self._worker = worker
        self.update(0, 0)

    def update(self, sessions: int, connections: int) -> None:
        """Says how many this worker has."""
        self._sessions[self._worker] = sessions
        self._connections[self._worker] = connections

    @property
    def session_fits(self) -> bool:
        return sum(self._sessions) < self._capacity.most_sessions

    @property
    def connection_fits(self) -> bool:
        return sum(self._connections) < self._capacity.most_connections
