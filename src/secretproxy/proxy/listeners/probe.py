"""Looks at the backend and at the log every few seconds, so that what is down is known before somebody waits for it.

Each look is bounded in time. What is found is told to /readyz, /logz and the metrics; no session is ended for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import structlog

from secretproxy.audit.journal import Journal
from secretproxy.config import Settings
from secretproxy.ops.metrics import Metrics
from secretproxy.proxy.backend.connect import AddressUnreachableError, BackendUnreachableError, answers, reach
from secretproxy.proxy.backend.hosts import Hosts
from secretproxy.proxy.backend.tls import BackendTls

log: Any = structlog.get_logger("secretproxy.health")

# How far an interval is from the one that is set, at most: the proxies of a site do not look all at once.
_JITTER = 0.2
# Seconds between two updates of what other workers' answers are made of.
_PUBLISH = 1.0
_PROCESS_EVERY = 10


class _Leaving(asyncio.Protocol):
    """Goes as soon as it is connected, which leaves no line in the server's log."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Probe:
    """The known state of the backend. `backend` says why no session can be served now; None: one can."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        hosts: Hosts,
        metrics: Metrics,
        publish: Callable[[], None],
        tls: BackendTls,
    ) -> None:
        """publish: publishes this process's numbers for the other workers."""
        self._journal = journal
        self._hosts = hosts
        self._metrics = metrics
        self._publish_all = publish
        self._tls = tls
        self._interval = settings.health.probe_interval
        self._timeout = min(settings.backend.connect_timeout, max(1.0, self._interval))
        self._again = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.backend: str | None = "not looked at yet" if self._interval else None

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._publish(), name="publish")]
        if self._interval:
            self._tasks.append(asyncio.create_task(self._run(), name="probe"))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def failed(self) -> None:
        """Probes now, because a session found no backend."""
        self._again.set()

    async def _run(self) -> None:
        while True:
            self._journal.prove()
            await self._look()
            self._again.clear()
            pause = self._interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
            try:
                await asyncio.wait_for(self._again.wait(), pause)
            except TimeoutError:
                continue
            # Not at every session that fails.
            await asyncio.sleep(min(1.0, pause))

    async def _look(self) -> None:
        """Asks the servers in turn until one answers."""
        hosts = self._hosts
        causes: list[str] = []
        try:
            async with asyncio.timeout(3 * self._timeout):
                targets = await hosts.candidates()
                for target in targets:
                    try:
                        if self._tls.context is None:
                            await answers(target, self._timeout)
                        else:
                            # A certificate that does not verify keeps every session out.
                            await reach(_Leaving, target, self._timeout, self._tls)
                    except AddressUnreachableError as error:
                        causes.append(str(error))
                    else:
                        self._is(None)
                        return
        except BackendUnreachableError as error:
            causes.append(str(error))
        except TimeoutError:
            causes.append(f"no answer within {3 * self._timeout:g} s")
        except Exception as error:
            log.error("internal error", kind=type(error).__name__)
            return
        self._is("; ".join(causes))

    def _is(self, fault: str | None) -> None:
        if fault is not None and self.backend != fault:
            log.error("no backend answers", tried=fault, setting="backend.hosts")
        elif fault is None and self.backend is not None:
            log.info("a backend answers")
        self.backend = fault
        self._metrics.backend_up.set(fault is None)

    async def _publish(self) -> None:
        """Keeps this worker's numbers fresh for whichever worker is asked."""
        count = 0
        while True:
            self._publish_all()
            if count % _PROCESS_EVERY == 0:
                self._metrics.look_at_process()
            count += 1
            await asyncio.sleep(_PUBLISH)
