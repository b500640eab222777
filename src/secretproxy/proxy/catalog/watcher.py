"""Keeps each database's detector informed of what its catalog says leads to a secret function.

One watch a database, shared by its sessions: a reading at the first session, another when a session has defined
something, when testimony shows a call that no attempt announced, and every `monitor.catalog_refresh` seconds; each on a
connection of its own that is closed after it. Never on a statement's path: until a reading is done, and where none can
be, testimony covers. May import asyncpg; must never let an asyncpg error's text through."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import structlog

from secretproxy.config import Settings
from secretproxy.connections import ConnectError, cause_of
from secretproxy.detect import Detector
from secretproxy.detect.dependencies import NO_DEPENDENCIES
from secretproxy.detect.string_literals import EITHER
from secretproxy.detect.verdict import HARMLESS
from secretproxy.proxy.catalog import queries
from secretproxy.proxy.catalog.reading import read
from secretproxy.proxy.catalog.refusal import Refusals, is_cut
from secretproxy.proxy.parsing.pool import Account, Parsers
from secretproxy.session.session import Session
from secretproxy.wire.types import SqlState

log: Any = structlog.get_logger("secretproxy.catalog")

# Between two readings of a database: at least, while something keeps changing; after one that found nothing new, twice
# as long.
GAP = 0.2
# A database whose last session has gone is remembered so long.
LINGER = 300.0
# Seconds that one session's prepared statements may take to be looked into again; what is left is known by testimony.
_RECONSIDERED = 5.0


class Watch:
    """One database: its detector, its sessions, and when its catalog is to be read next."""

    def __init__(self, database: str, detector: Detector, refresh: float) -> None:
        self.database = database
        self.detector = detector
        self.sessions: set[Session] = set()
        self.left_at = 0.0
        self.wake = asyncio.Event()
        self.urgent = True
        self.unannounced = False
        self.fingerprint: str | None = None
        self.read_at = 0.0
        self.version = 0
        self.dependencies = NO_DEPENDENCIES
        self.fault: str | None = None
        # Whether the server says that the database does not exist: not asked again until a session is let into one.
        self.gone = False
        # Whether the last reading's connection was ended.
        self.cut = False
        self.refusals = Refusals(refresh)
        self.task: asyncio.Task[None] | None = None


class Catalogs:
    """All watches of a process."""

    def __init__(
        self,
        settings: Settings,
        detector: Callable[[], Detector],
        connect: Callable[[str], Awaitable[Any]],
        spawn: Callable[[Any], asyncio.Task[None]],
        parsers: Parsers,
        took: Callable[[float], None],
        prove: Callable[[Any, str], Awaitable[None]],
    ) -> None:
        """Takes `prove`, which gets each connection, and its database, before anything else is asked there."""
        self._prove = prove
        self._took = took
        self._parsers = parsers
        self._account = Account()
        self._settings = settings
        self._detector = detector
        self._connect = connect
        self._spawn = spawn
        self._refresh = settings.monitor.catalog_refresh
        self._watches: dict[str, Watch] = {}
        # Many databases at once are read a few at a time.
        self._turn = asyncio.Semaphore(2)

    def join(self, session: Session) -> None:
        """Notes that a session has been let into its database."""
        database = session.identity.database
        # A physical replication session is in no database, whatever name it gave.
        if database is None or not self._refresh or session.physical:
            return
        watch = self._watches.get(database)
        if watch is None:
            watch = self._watches[database] = Watch(database, self._detector(), self._refresh)
            watch.task = self._spawn(self._keep(watch))
        elif watch.gone or watch.refusals.closed:
            # A database of that name is there again, or it takes connections again.
            watch.gone = False
            watch.refusals.clear()
            watch.urgent = True
            watch.wake.set()
        elif not watch.sessions and time.monotonic() - watch.read_at > self._refresh:
            watch.urgent = True
            watch.wake.set()
        watch.sessions.add(session)
        session.use(watch.detector)

    def leave(self, session: Session) -> None:
        watch = self._watches.get(session.identity.database or "")
        if watch is not None:
            watch.sessions.discard(session)
            watch.left_at = time.monotonic()

    def changed(self, session: Session) -> None:
        """Notes that a session has defined something."""
        watch = self._watches.get(session.identity.database or "")
        if watch is not None:
            watch.urgent = True
            watch.wake.set()

    def unannounced(self, session: Session) -> None:
        """Notes a call that nobody announced."""
        watch = self._watches.get(session.identity.database or "")
        if watch is not None and not watch.unannounced:
            watch.unannounced = True
            watch.wake.set()

    async def _keep(self, watch: Watch) -> None:
        gap, due = GAP, 0.0
        try:
            while True:
                refused = watch.read_at + watch.refusals.pause - time.monotonic()
                if refused > 0:
                    # Whatever changes there, the server refuses the next login too.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(watch.wake.wait(), refused)
                elif not watch.urgent:
                    wait = self._refresh if watch.gone or not watch.unannounced else max(0.0, due - time.monotonic())
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(watch.wake.wait(), wait)
                watch.wake.clear()
                now = time.monotonic()
                if not watch.sessions and not watch.urgent:
                    if now - watch.left_at > LINGER:
                        return
                    continue
                if (watch.gone and not watch.urgent) or now < watch.read_at + watch.refusals.pause:
                    continue
                if watch.urgent or now >= (due if watch.unannounced else watch.read_at + self._refresh):
                    watch.urgent = watch.unannounced = False
                    async with self._turn:
                        new = await self._read(watch)
                    gap = GAP if new else min(2 * gap, self._refresh)
                    due = watch.read_at + gap
                    await asyncio.sleep(GAP)
        finally:
            self._watches.pop(watch.database, None)

    async def _read(self, watch: Watch) -> bool:
        """Reads a catalog if it has changed. Gives whether it had."""
        before = watch.fingerprint
        watch.read_at = time.monotonic()
        try:
            connection = await self._connect(watch.database)
            watch.refusals.clear()
            try:
                await self._prove(connection, watch.database)
                # Each question is a transaction of its own: no snapshot is held for longer than one of them takes.
                fingerprint: str | None = str(await connection.fetchval(queries.FINGERPRINT))
                if fingerprint == before:
                    return False
                leads, full, left_out = await read(connection, self._detector().monitored, watch.version + 1)
                if str(await connection.fetchval(queries.FINGERPRINT)) != fingerprint:
                    # Something changed meanwhile: what was read is better than nothing, and is read again.
                    fingerprint = None
                    watch.unannounced = True
                elif left_out:
                    # What is locked or has just gone is looked for again, when the next reading is due.
                    fingerprint = None
            finally:
                connection.terminate()
                self._took(time.monotonic() - watch.read_at)
        except Exception as error:
            self._took_failure(watch, error)
            return False
        watch.cut = False
        watch.fingerprint = fingerprint
        if watch.fault is not None:
            watch.fault = None
            log.info("catalog read", database=watch.database)
        if full:
            log.warning("more leads to secret functions than are kept", database=watch.database, kept=len(leads))
        if not leads.same_as(watch.dependencies):
            watch.version, watch.dependencies = leads.version, leads
            watch.detector.learn(leads)
            log.debug("catalog says what leads to secret functions", database=watch.database, names=len(leads))
            for session in list(watch.sessions):
                await self._reconsider(session, watch.detector)
        return True

    async def _reconsider(self, session: Session, detector: Detector) -> None:
        """Finds the verdicts on what a session has prepared again, as its texts are found: none holds up the event
        loop."""
        encoding, found = session.codec, {}
        before = self._account.seconds
        for text in session.texts():
            if self._account.seconds - before > _RECONSIDERED:
                break
            if not detector.may_concern(text):
                found[text] = HARMLESS
            else:
                verdict = detector.cached(text, encoding, EITHER)
                found[text] = verdict or await self._parsers.verdict(detector, text, encoding, EITHER, self._account)
            if len(found) % 20 == 0:
                await asyncio.sleep(0)
        session.reconsider(found)
        await asyncio.sleep(0)

    def _took_failure(self, watch: Watch, error: Exception) -> None:
        """Says what a failed reading is, unless it is likely to pass: a connection that ended, as when the database is
        dropped, or an object that went while the server looked it up; the second time in a row is said."""
        refused = watch.refusals.add(error)
        if isinstance(error, ConnectError) and error.sqlstate == SqlState.INVALID_CATALOG_NAME:
            watch.gone = True
            log.info("the database is not there any more: its catalog is not read", database=watch.database)
        elif watch.refusals.closed:
            if watch.fault is None:
                log.info("the database takes no connections: its catalog is not read", database=watch.database)
            watch.fault = refused
        elif refused is None and not watch.cut and (is_cut(error) or isinstance(error, asyncpg.InternalServerError)):
            watch.cut = watch.unannounced = True
        else:
            self._failed(watch, refused or cause_of(error))

    def _failed(self, watch: Watch, cause: str) -> None:
        if watch.fault is None:
            log.warning(
                "catalog cannot be read: calls by way of views, functions and the like are known by testimony alone",
                database=watch.database,
                cause=cause,
                setting="audit.dsn, monitor.catalog_refresh",
            )
        watch.fault = cause
