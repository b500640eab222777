"""The journal: takes the events of all sessions, numbers and links them, and writes them in groups on a connection of its own.

While one group is being committed the next one gathers, so a commit serves every session that waits. An event that was taken
is kept, in order and with its number, until the log has it: a group whose commit broke off is written again as it was and
the unique key keeps it single. May import asyncpg; must never let an asyncpg error's text through, for it can quote a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import asyncpg
import structlog

from secretproxy.audit import chain
from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.rows import CHAINED_AT, INSERT, PREV_HASH, ROW_HASH, NameMask, Row, row
from secretproxy.audit.spool import Spool, SpoolFull, left_behind, read
from secretproxy.session.events import Event

GROUP = 512
# Events that nobody waits for (outcomes, refusals) and that an outage may leave waiting, before the oldest refusals go.
KEPT_IN_OUTAGE = 100_000
RETRY_FIRST, RETRY_MOST = 0.05, 0.5
PARTITIONS_EVERY = 6 * 3600.0
# Whoever follows the log listens here. Told at most every NOTIFY_EVERY seconds: a commit with a NOTIFY costs more than one without.
CHANNEL = "secretproxy_access_log"
NOTIFY_EVERY = 0.05
CHECKPOINT_INSERT = (
    "INSERT INTO secretproxy.checkpoints (instance, seq, row_hash, at, signature, kind) "
    "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"
)
log: Any = structlog.get_logger("secretproxy.journal")


class LogUnavailable(Exception):  # noqa: N818 - says what is the matter
    """The access log cannot be written now; the text names the cause by its SQLSTATE or class, never by its message."""


class Journal:
    """The one writer of a process. `append` is the only way in."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        mask: NameMask,
        *,
        timeout: float = 5.0,
        instance: uuid.UUID | None = None,
        signer: Signer | None = None,
        checkpoint_every: int = 10_000,
        checkpoint_seconds: float = 60.0,
        spool_dir: Path | None = None,
        spool_max_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self.instance = instance or uuid.uuid4()
        self.written = 0
        self.groups = 0
        self._connect = connect
        self._mask = mask
        self._timeout = timeout
        self._seq = 0
        self._last_hash = chain.GENESIS
        self._last_at = datetime.fromtimestamp(0, UTC)
        self._rows: deque[Row] = deque()
        # (number of the last event, what waits for it, whether an outage ends the wait)
        self._waiting: deque[tuple[int, asyncio.Future[None], bool]] = deque()
        self._durable = 0
        self._more = asyncio.Event()
        self._connection: Any = None
        self._insert: Any = None
        self._trouble: str | None = "not connected yet"
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._first_try = asyncio.Event()
        self._dropped = 0
        self._signer = signer
        self._checkpoint_every = checkpoint_every
        self._checkpoint_seconds = checkpoint_seconds
        self._durable_hash = chain.GENESIS
        self._checkpointed = 0
        self._checkpoint_due = time.monotonic() + checkpoint_seconds
        self._told = 0
        self._tell_due = 0.0
        self._spool = None if spool_dir is None else Spool(spool_dir, self.instance, spool_max_bytes)
        self._spooled = 0
        self._spool_trouble = False
        self._spill = asyncio.Event()
        self._spool_lock = asyncio.Lock()
        self._spilling: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether the last thing known of the log is that it takes events."""
        return self._trouble is None

    @property
    def taking(self) -> bool:
        """Whether secret calls go on: the log takes events, or the spool does."""
        return self._trouble is None or (self._spool is not None and not self._spool_trouble)

    @property
    def trouble(self) -> str | None:
        return self._trouble

    @property
    def backlog(self) -> int:
        return len(self._rows)

    async def start(self) -> None:
        """Starts writing; returns when the first connection has been tried, whatever came of it."""
        self._task = asyncio.create_task(self._run(), name="journal")
        if self._spool is not None:
            self._spilling = asyncio.create_task(self._spill_as_wanted(self._spool), name="spool")
        await self._first_try.wait()

    def append(self, events: Sequence[Event], *, wait: bool) -> asyncio.Future[None] | None:
        """Takes events. With `wait`, gives a future that is done when all of them are durable.

        The future fails with LogUnavailable when the log turns out not to take them; the events are kept all the same. While the
        log is known to be unavailable, `wait` raises LogUnavailable at once and takes nothing; without `wait` the events are kept
        for its return.
        """
        if wait and self._trouble is not None and not self.taking:
            raise LogUnavailable(self._trouble)
        self._take(events)
        if not wait:
            return None
        return self._wait(until_outage=True)

    def keep(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """Takes events that have already happened: the future is done when they are durable, however long an outage lasts."""
        self._take(events)
        return self._wait(until_outage=False)

    def _wait(self, *, until_outage: bool) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._seq, future, until_outage))
        return future

    def _take(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        at = max(datetime.now(UTC), self._last_at)
        self._last_at = at
        for event in events:
            duration = None
            timing = event.timing
            if event.event == "outcome":
                duration = None if timing.began is None else now - timing.began
            elif timing.began is None:
                timing.began = now
            if event.outcome == "refused" and len(self._rows) >= KEPT_IN_OUTAGE:
                self._dropped += 1
                continue
            self._seq += 1
            columns = row(
                event,
                self._mask,
                instance=self.instance,
                seq=self._seq,
                at=at,
                duration=duration,
                row_id=uuid.uuid4(),
            )
            columns[PREV_HASH] = self._last_hash
            self._last_hash = chain.link(self._last_hash, chain.encode([columns[place] for place in CHAINED_AT]))
            columns[ROW_HASH] = self._last_hash
            self._rows.append(tuple(columns))
        self._more.set()
        if self._trouble is not None:
            self._spill.set()

    async def _run(self) -> None:
        pause = RETRY_FIRST
        partitions_due = 0.0
        while not (self._closing and not self._rows):
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncio.wait_for(self._connect(), self._timeout)
                    self._insert = await asyncio.wait_for(self._connection.prepare(INSERT), self._timeout)
                    await self._replay()
                    self._up()
                    pause = RETRY_FIRST
                if time.monotonic() >= partitions_due:
                    await asyncio.wait_for(self._connection.execute("SELECT secretproxy.access_log_partitions()"), self._timeout)
                    partitions_due = time.monotonic() + PARTITIONS_EVERY
                if not self._rows:
                    await self._wait_for_more()
                self._more.clear()
                while self._rows:
                    await self._write_group()
                    await self._checkpoint()
                self._empty_spool()
                await self._tell()
            except asyncio.CancelledError:
                break
            except Exception as error:
                self._down(error)
                await self._disconnect()
                if self._closing:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.sleep(pause), pause + 1)
                pause = min(pause * 2, RETRY_MOST)
        with contextlib.suppress(Exception):
            await self._checkpoint(last=True)
            await self._tell(now=True)
        await self._disconnect()

    async def _wait_for_more(self) -> None:
        """Until there are events, or something else is due."""
        due = []
        if self._told < self._durable:
            due.append(self._tell_due)
        if self._signer is not None and self._checkpointed < self._durable:
            due.append(self._checkpoint_due)
        if not due:
            await self._more.wait()
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._more.wait(), max(0.0, min(due) - time.monotonic()))
        await self._checkpoint()

    async def _tell(self, *, now: bool = False) -> None:
        """Wakes whoever follows the log."""
        moment = time.monotonic()
        if self._told < self._durable and (now or moment >= self._tell_due):
            await asyncio.wait_for(self._connection.execute(f"NOTIFY {CHANNEL}"), self._timeout)
            self._told = self._durable
            self._tell_due = moment + NOTIFY_EVERY

    async def _checkpoint(self, *, last: bool = False) -> None:
        """Signs how far the chain is in the log, where that is due."""
        signer = self._signer
        if signer is None or self._checkpointed == self._durable:
            return
        if not (last or self._durable - self._checkpointed >= self._checkpoint_every or time.monotonic() >= self._checkpoint_due):
            return
        made = signer.sign(self.instance, self._durable, self._durable_hash)
        try:
            await asyncio.to_thread(signer.keep, made)
        except OSError as error:
            log.error("checkpoint not kept", setting="audit.checkpoint_file, audit.checkpoint_command", cause=error.strerror)
        await asyncio.wait_for(
            self._connection.execute(
                CHECKPOINT_INSERT, made.instance, made.seq, made.row_hash, made.at, made.signature, made.kind
            ),
            self._timeout,
        )
        self._checkpointed = made.seq
        self._checkpoint_due = time.monotonic() + self._checkpoint_seconds

    async def _write_group(self) -> None:
        group = [self._rows[index] for index in range(min(GROUP, len(self._rows)))]
        async with asyncio.timeout(self._timeout):
            if len(group) == 1:
                await self._insert.fetch(*group[0])
            else:
                # One implicit transaction, one commit (Bind and Execute for each row, a single Sync).
                await self._insert.executemany(group)
        for _ in group:
            self._rows.popleft()
        self.written += len(group)
        self.groups += 1
        self._up()
        self._durable = int(group[-1][4])  # type: ignore[call-overload]
        self._durable_hash = cast(bytes, group[-1][ROW_HASH])
        self._done(self._durable)

    def _done(self, seq: int) -> None:
        """Everything up to this number is durable, in the log or in the spool."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= seq:
            future = waiting.popleft()[1]
            if not future.done():
                future.set_result(None)

    async def _spill_as_wanted(self, spool: Spool) -> None:
        """While the log takes nothing, what gathers goes into the spool, a group an fsync."""
        while True:
            await self._spill.wait()
            self._spill.clear()
            if self._trouble is not None:
                await self._spill_now(spool)

    async def _spill_now(self, spool: Spool) -> None:
        if not self._rows:
            return
        # Numbers follow one another: those that are spooled stand at the front.
        rows = list(itertools.islice(self._rows, max(0, self._spooled - cast(int, self._rows[0][4]) + 1), None))
        if not rows:
            return
        try:
            async with self._spool_lock:
                await asyncio.to_thread(spool.write, rows)
        except (OSError, SpoolFull) as error:
            if not self._spool_trouble:
                setting = "audit.spool_max_bytes" if isinstance(error, SpoolFull) else "audit.spool_dir"
                log.error("spool cannot be written, secret calls are refused", cause=type(error).__name__, setting=setting)
            self._spool_trouble = True
            self._fail_waiting(self._trouble or "spool")
            return
        if self._spool_trouble or not self._spooled:
            log.warning("access log cannot be written, events go into the spool", setting="audit.on_outage")
        self._spool_trouble = False
        self._spooled = cast(int, rows[-1][4])
        self._done(self._spooled)
        if self._trouble is None:
            self._empty_spool()

    def _empty_spool(self) -> None:
        """Called when the log has everything."""
        if self._spool is not None and self._spooled and not self._rows and not self._spool_lock.locked():
            self._spool.clear()
            log.info("spool replayed", up_to=self._spooled)
            self._spooled = 0
            self._spool_trouble = False

    async def _replay(self) -> None:
        """Writes what processes that are gone left in their spools; the unique key keeps out what the log has already."""
        if self._spool is None:
            return
        for path, file in left_behind(self._spool.directory):
            if path == self._spool.path:
                continue
            count = 0
            group: list[Row] = []
            try:
                for row_left in read(file):
                    group.append(row_left)
                    count += 1
                    if len(group) == GROUP:
                        await asyncio.wait_for(self._insert.executemany(group), self._timeout)
                        group = []
                if group:
                    await asyncio.wait_for(self._insert.executemany(group), self._timeout)
            except ValueError:
                log.error("a file in audit.spool_dir is no spool, it stays there", file=path.name)
                continue
            path.unlink(missing_ok=True)
            log.info("spool of a process that is gone replayed", file=path.name, events=count)

    def _up(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            log.info("access log can be written", waiting=len(self._rows), dropped_refusals=self._dropped)
            self._dropped = 0
        self._first_try.set()

    def _down(self, error: Exception) -> None:
        trouble = describe(error)
        if trouble != self._trouble:
            if self._spool is None:
                log.error("access log cannot be written, secret calls are refused", cause=trouble, setting="audit.dsn")
            else:
                log.error("access log cannot be written", cause=trouble, setting="audit.dsn")
        self._trouble = trouble
        self._first_try.set()
        if self._spool is not None and not self._spool_trouble:
            self._spill.set()
            return
        self._fail_waiting(trouble)
        self._spill.set()

    def _fail_waiting(self, trouble: str) -> None:
        # Statements that wait to go on are refused now. What has happened already keeps waiting for the log.
        still: deque[tuple[int, asyncio.Future[None], bool]] = deque()
        for number, future, until_outage in self._waiting:
            if not until_outage:
                still.append((number, future, until_outage))
            elif not future.done():
                future.set_exception(LogUnavailable(trouble))
        self._waiting = still

    async def _disconnect(self) -> None:
        connection, self._connection, self._insert = self._connection, None, None
        if connection is not None and not connection.is_closed():
            connection.terminate()

    async def close(self, timeout: float = 5.0) -> int:
        """Writes what is left, as long as the log takes it, and stops. Returns how many events were not written."""
        self._closing = True
        self._more.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), timeout)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._spilling is not None and self._spool is not None:
            self._spilling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._spilling
            if self._rows:
                await self._spill_now(self._spool)
            else:
                self._empty_spool()
        return sum(cast(int, row[4]) > self._spooled for row in self._rows)


def describe(error: BaseException) -> str:
    """What went wrong, without quoting a server's message: those of a failed INSERT can show the row."""
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or "?"
        return f"SQLSTATE {state} ({_MEANINGS.get(state, type(error).__name__)})"
    if isinstance(error, TimeoutError):
        return "no answer in time (audit.timeout)"
    if isinstance(error, OSError):
        return f"connection failed ({type(error).__name__})"
    if isinstance(error, asyncpg.InterfaceError):
        return "connection lost"
    return type(error).__name__


_MEANINGS = {
    "3F000": "the database has no schema secretproxy: run `secretproxy install` there",
    "42P01": "the database has no table secretproxy.access_log: run `secretproxy install` there",
    "42883": "the database has no function secretproxy.access_log_partitions: run `secretproxy install` there",
    "22023": "the server has no role secretproxy_writer: run `secretproxy install` there",
    "42704": "the server has no role secretproxy_writer: run `secretproxy install` there",
    "42501": "the login may not write the log: make it a member of secretproxy_writer",
    "3D000": "there is no such database",
    "28P01": "password authentication failed",
    "28000": "the server does not let this login in",
    "25006": "the database is read-only",
    "53100": "disk full",
    "53300": "too many connections",
    "57P03": "the server is starting up or shutting down",
}
