"""Holds what the clients of one process share.

The process makes it (listeners/server.py) and passes it to each of them.

A client is given this and not the process: it can neither listen nor end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.config import Settings
from secretproxy.detect import Detector
from secretproxy.ops.metrics import Metrics
from secretproxy.proxy.admission import Admission
from secretproxy.proxy.authentication.login import Logins
from secretproxy.proxy.backend.cancel import Cancels
from secretproxy.proxy.backend.hosts import Hosts
from secretproxy.proxy.backend.tls import BackendTls
from secretproxy.proxy.catalog.proof import Proofs
from secretproxy.proxy.catalog.watcher import Catalogs
from secretproxy.proxy.parsing.pool import Parsers
from secretproxy.proxy.transport.direct import DirectReading
from secretproxy.session.session import Limits
from secretproxy.session.testimony import Keys

log: Any = structlog.get_logger("secretproxy")

# A process behind a pooler: its server, its process id, when it began.
Process = tuple[str, int, int | None]


class Tasks:
    """The tasks that run in addition to the event loop's callbacks; an error that none of them handles is logged by its
    kind alone."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task, which is kept until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("internal error", kind=type(task.exception()).__name__)

    def cancel(self) -> None:
        """Cancels all of them."""
        for task in list(self._tasks):
            task.cancel()


class BackendProcesses:
    """The sessions that own a backend process, for poolers."""

    def __init__(self) -> None:
        self._owners: dict[Process, object] = {}

    def take(self, process: Process, owner: object) -> bool:
        """Tells whether no other session has it."""
        return self._owners.setdefault(process, owner) is owner

    def release(self, process: Process, owner: object) -> None:
        """Lets others have it, if it is the owner's."""
        if self._owners.get(process) is owner:
            del self._owners[process]


@dataclass(frozen=True, eq=False)
class Runtime:
    """See the module."""

    settings: Settings
    metrics: Metrics
    journal: Journal
    hosts: Hosts
    cancels: Cancels
    catalogs: Catalogs
    proofs: Proofs
    parsers: Parsers
    # None if the backend authenticates clients.
    logins: Logins | None
    backend_tls: BackendTls
    keys: Keys
    # Of sessions whose database has none of its own yet.
    detector: Detector
    limits: Limits
    mask: NameMask
    admission: Admission[Any]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    # Called where a session found no backend.
    backend_failed: Callable[[], None]
    processes: BackendProcesses
    # Cancel requests of clients that are on their way at once; more wait.
    cancelling: asyncio.Semaphore
    # Reads the sockets of sessions past their transports; None where it was not compiled.
    reading: DirectReading | None
