"""The journal: takes the events of all sessions, numbers and links them, and writes them in groups on a connection of
its own.

While one group is being committed the next one gathers, so a commit serves every session that waits; events that nobody
waits for ride with it. An event that was taken is kept, in order and with its number, until the log has it: a group
whose commit broke off is written again as it was and the unique key keeps it single. A group that fails is written in
smaller ones, down to a row (see unwritable.py). May import asyncpg; must never let an asyncpg error's text through, for
it can quote a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog

from secretproxy.audit.ahead import SYNCS, Ahead, ElsewhereError, Place, place_of
from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.columns import STORED
from secretproxy.audit.durable import AGAIN, NotTakenError, Warnings
from secretproxy.audit.errors import describe, task_is_cancelled
from secretproxy.audit.groups import GroupWriter, open_writer, other_rows
from secretproxy.audit.housekeeping import PARTITIONS, Housekeeping, may_wait
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import INSERT_AGAIN, INSERT_ONE, INSERT_ROW, Line, Lines, joined
from secretproxy.audit.spool import (
    Spool,
    SpoolDamagedError,
    SpoolFullError,
    left_behind,
    read,
    strange,
    up_to_damage,
)
from secretproxy.audit.unwritable import CANCELLED, OneRow, may_be_the_row, milliseconds
from secretproxy.audit.waiting import Settled, Waiting
from secretproxy.connections import login_refused
from secretproxy.session.events import Event, Identity, LogState

# Rows and bytes of a group; a single row may have more.
GROUP: Final = 512
GROUP_BYTES: Final = 2 * 1024 * 1024
# A group that took too long is cut to the eighth: each try takes audit.timeout. One that failed at once, to the half.
SLOW, WRONG = 8, 2
# Seconds that events which nobody waits for wait for a group that somebody waits for.
RIDE = 0.01
# Rows, and bytes of them, that may wait in memory before refusals are counted only; a row takes some 2 KiB. What else
# an outage leaves waiting is one statement's a session.
KEPT_IN_OUTAGE = 20_000
KEPT_BYTES: Final = 64 * 1024 * 1024
# Microseconds by which the clock may go back before rows show it. A smaller step is a clock being set right; nothing is
# lost by waiting it out.
CLOCK_STEP = 1_000_000
RETRY_FIRST, RETRY_MOST, RETRY_REFUSED = 0.05, 0.5, 5.0
SPOOL_AGAIN = 1.0
# Bytes of the spool that are written while calls wait for it, instead of being spooled meanwhile.
SPOOL_REST = 64 * 1024
# Shows that a row could be inserted and committed now: a lock that INSERT takes, and a record of nothing that its
# commit makes durable.
PROOF = (
    "LOCK TABLE ONLY secretproxy.access_log IN ROW EXCLUSIVE MODE;"
    " SELECT pg_catalog.pg_logical_emit_message(true, 'secretproxy'::pg_catalog.text, ''::pg_catalog.text)"
)
# Whether the log takes an event `access`: one that an older version made checks its words and does not know this one,
# before it is brought up to date.
KNOWS_ACCESS = """
SELECT NOT EXISTS (
    SELECT FROM pg_catalog.pg_constraint AS c
     WHERE c.conrelid OPERATOR(pg_catalog.=) 'secretproxy.access_log'::pg_catalog.regclass
       AND c.conname OPERATOR(pg_catalog.=) 'access_log_event_check'::pg_catalog.name
       AND pg_catalog.strpos(pg_catalog.pg_get_constraintdef(c.oid), '''access''') OPERATOR(pg_catalog.=) 0)
"""
# Seconds of a commit, on average, from which groups are written ahead of their syncs; after how many such groups.
SLOW_COMMIT, SLOW_GROUPS = 0.005, 16
# After so many groups that one session waited for, and no other for the next, they are not written ahead.
ALONE = 8
# Seconds until the connections for it are tried again where they failed, and after which unused ones end.
AHEAD_AGAIN, AHEAD_UNUSED = 300.0, 60.0
# Compiled, it is at hand.
_monotonic: Final[Callable[[], float]] = time.monotonic
log: Any = structlog.get_logger("secretproxy.journal")


class LogUnavailableError(Exception):
    """The access log cannot be written now; the text names the cause by its SQLSTATE or class, never by its message."""


class _FutureWaiter:
    """A future that waits; it is done when the events are durable."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settled(self, fault: str | None) -> None:
        if self.future.done():
            return
        if fault is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(LogUnavailableError(fault))


class Journal:
    """The one writer of a process. `append`, `commit`, `hold` and `keep` are the ways in."""

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
        took: Callable[[float], None] | None = None,
        in_outage: str = "secret calls are refused",
    ) -> None:
        """Makes a journal; `in_outage`: what the process does while the log takes nothing, for its own log."""
        # Long because the state of a journal is listed here, with what each field means.
        self.instance = instance or uuid.uuid4()
        self.written = 0
        # Told the seconds that each group took until it was durable.
        self._took = took
        self._in_outage = in_outage
        self.groups = 0
        self._connect = connect
        self._mask = mask
        self._timeout = timeout
        self._lines = Lines(mask, self.instance)
        self._time_ns: Callable[[], int] = time.time_ns
        self._last_at = 0
        self._rows: deque[Line] = deque()
        self._row_bytes = 0
        self._waiting = Waiting()
        self._riding: asyncio.TimerHandle | None = None
        self._more = asyncio.Event()
        self._connection: Any = None
        self._insert: Any = None
        # The same for a single row, which the writer of groups runs; asyncpg lets it go with this.
        self._insert_row: Any = None
        # The same for rows that the log may have already; prepared where it is needed.
        self._insert_again: Any = None
        # What writes groups without a turn of this task for each; the group that it is at, and what ends that.
        self._writer: GroupWriter | None = None
        self._group: list[Line] | None = None
        self._group_began = 0.0
        self._handed_back: asyncio.Future[None] | None = None
        self._next_is_due = False
        # What writes the group under way; the groups that the log has, but that may not be durable yet, each with when
        # it began.
        self._writing: GroupWriter | None = None
        self._behind: deque[tuple[list[Line], float]] = deque()
        self._ahead: Ahead | None = None
        self._opening_ahead: asyncio.Task[None] | None = None
        self._ahead_again = 0.0
        self._ahead_timer: asyncio.TimerHandle | None = None
        # Where the connection leads; none if groups cannot be written ahead there.
        self._place: Place | None = None
        # Seconds of a commit, a running mean; how many groups in a row showed a slow one; how many more are written
        # for more than one session.
        self._commit_takes = 0.0
        self._slow_groups = 0
        self._crowd = 0
        self._warnings: Warnings | None = None
        # Whether the connection has written something, so that its end need not be that of the log.
        self._proven = False
        # Rows up to this number may be in the log already, but with no standby that should have them.
        self._unsure = 0
        self._not_taken = False
        # Rows of an instance, first and last, one of which may be what the log does not take, and how many of them are
        # written at a time.
        self._suspects: tuple[uuid.UUID, int, int] | None = None
        self._most = GROUP
        self._most_kept = KEPT_IN_OUTAGE
        self._one_row = OneRow(timeout)
        # The single row that took too long: it is examined on the next connection.
        self._too_slow: tuple[uuid.UUID, int] | None = None
        self._fault: str | None = "not connected yet"
        self.state = LogState()
        self._knows_access = True
        self._task: asyncio.Task[None] | None = None
        # Whether the log is to be tried although there is nothing to write, and how much had been written when it was
        # tried last.
        self._prove = False
        self._proved_at = -1
        self._closing = False
        self._first_try = asyncio.Event()
        self._dropped = 0
        self._housekeeping = Housekeeping(
            connect,
            self.instance,
            timeout=timeout,
            signer=signer,
            checkpoint_every=checkpoint_every,
            checkpoint_seconds=checkpoint_seconds,
        )
        self._spool = None if spool_dir is None else Spool(spool_dir, self.instance, spool_max_bytes)
        # Rows that are in the spool and not yet in the log.
        self._spooled = 0
        self._spool_is_broken = False
        self._spool_again = 0.0
        self._spill = asyncio.Event()
        self._spool_lock = asyncio.Lock()
        self._spilling: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Says whether the log accepted events when it was last used."""
        return self._fault is None

    @property
    def taking(self) -> bool:
        """Says whether secret calls are served: the log or the spool accepts events."""
        return self._fault is None or (self._spool is not None and not self._spool_is_broken)

    @property
    def fault(self) -> str | None:
        return self._fault

    @property
    def backlog(self) -> int:
        """Counts the rows that the log does not have yet."""
        return len(self._rows) + sum(len(group) for group, _ in self._behind) + self._spooled

    def prove(self) -> None:
        """Has the log tried where nothing has been written since the last time.

        One that hangs is known before a call waits for it.
        """
        if self._fault is None and not self._rows and not self._behind and self.groups == self._proved_at:
            self._prove = True
            self._wake()
        self._proved_at = self.groups

    def sign_soon(self) -> None:
        """Has what is durable by now signed as a checkpoint at once, where there is a key."""
        self._housekeeping.sign_soon()

    async def start(self) -> None:
        """Starts writing; returns when the first connection has been tried, whatever came of it."""
        self._task = asyncio.create_task(self._run(), name="journal")
        if self._spool is not None:
            self._spilling = asyncio.create_task(self._spill_as_wanted(self._spool), name="spool")
        self._housekeeping.start()
        await self._first_try.wait()

    async def tried(self) -> None:
        """Returns when the first connection has been tried, or after a connection's timeout."""
        if not self._first_try.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._first_try.wait(), self._timeout)

    def append(self, events: list[Event], *, wait: bool) -> asyncio.Future[None] | None:
        """Takes events. With `wait`, gives a future that is done when all of them are durable.

        The future fails with LogUnavailableError when the log turns out not to take them; the events are kept all the
        same. While the log is known to be unavailable, `wait` raises LogUnavailableError at once and takes nothing;
        without `wait` the events are kept for its return."""
        if wait:
            waiter = _FutureWaiter()
            self.commit(events, waiter.settled)
            return waiter.future
        self._take(events)
        if self._riding is None and events:
            self._riding = asyncio.get_running_loop().call_later(RIDE, self._ridden)
        return None

    def commit(self, events: list[Event], settled: Settled) -> None:
        """Takes events of what is about to happen, as `append` does with `wait`; `settled` is called in the place of a
        future."""
        if self._fault is not None and not self.taking:
            raise LogUnavailableError(self._fault)
        self._take(events)
        self._waiting.add(self._lines.seq, settled, through_outages=False)
        self._wake()

    def hold(self, events: list[Event], settled: Settled) -> None:
        """Takes events that have already happened, and whose answer is kept; `settled` is called when they are durable,
        or when an outage ended the wait. The events are kept all the same."""
        self._take(events)
        if self._fault is not None and not self.taking:
            self._settle([settled], self._fault)
            return
        self._waiting.add(self._lines.seq, settled, through_outages=False)
        self._wake()

    def keep(self, events: list[Event]) -> asyncio.Future[None]:
        """Takes events that have already happened.

        The future is done when they are durable, however long an outage lasts.
        """
        waiter = _FutureWaiter()
        self.keep_for(events, waiter.settled)
        return waiter.future

    def keep_for(self, events: list[Event], settled: Settled) -> None:
        """Does the same, but calls `settled`."""
        self._take(events)
        self._waiting.add(self._lines.seq, settled, through_outages=True)
        self._wake()

    def _wake(self) -> None:
        """Has the next group written, or whatever else is due."""
        if self._handed_back is None:
            self._more.set()
        elif self._group is None and not self._next_is_due:
            # In a turn of its own: what other sessions say in this one comes along.
            self._next_is_due = True
            asyncio.get_running_loop().call_soon(self._next_group)

    def _ridden(self) -> None:
        self._riding = None
        self._wake()

    @property
    def _pressing(self) -> bool:
        """Says whether something must be written now."""
        return bool(self._rows) and (
            not self._waiting.is_empty or self._riding is None or self._closing or len(self._rows) >= GROUP
        )

    def _take(self, events: list[Event]) -> None:
        now = _monotonic()
        at = self._time_ns() // 1000
        if at < self._last_at:
            at = self._stepped_back(at)
        self._last_at = at
        rows = self._rows
        count = len(rows)
        if count >= self._most_kept or self._row_bytes >= KEPT_BYTES:
            kept = [event for event in events if event.outcome != "refused"]
            self._dropped += len(events) - len(kept)
            events = kept
        self._row_bytes += self._lines.take(events, at, now, rows)
        if count + len(events) >= GROUP:
            self._wake()
        if self._fault is not None:
            self._spill.set()

    def _stepped_back(self, at: int) -> int:
        """Gives the time for the next row after the clock went back.

        The numbers of rows give their order, whatever `at` says.
        """
        step = self._last_at - at
        if step <= CLOCK_STEP:
            return self._last_at
        log.warning(
            "the clock went back, and so does the log's column at; the order of rows is that of seq",
            seconds=round(step / 1e6, 3),
        )
        return at

    async def _run(self) -> None:
        pause = RETRY_FIRST
        while not (self._closing and not self._rows and not self._spooled):
            failed: BaseException | None = None
            try:
                if self._connection is None or self._connection.is_closed():
                    await self._open()
                    pause = RETRY_FIRST
                if self._writer is not None and not self._closing:
                    await self._hand_over()
                    if self._closing or self._connection.is_closed():
                        continue
                if self._pressing:
                    await self._write_group()
                    continue
                if self._prove:
                    self._prove = False
                    await asyncio.wait_for(self._connection.execute(PROOF), self._timeout)
                    continue
                if self._writer is not None and not self._closing:
                    continue
                self._more.clear()
                await self._more.wait()
            except (Exception, asyncio.CancelledError) as error:
                if task_is_cancelled():
                    break
                failed = error
            if failed is None:
                continue
            # Not while it is handled: in compiled code an error handled across an `await` becomes the context of
            # whatever is raised meanwhile.
            again = self._proven and not isinstance(failed, TimeoutError)
            self._disconnect()
            if again:
                # A connection that was ended, a deadlock: a new one shows whether the log is down.
                continue
            self._down(failed)
            if self._closing and self._suspects is None:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_REFUSED if login_refused(failed) else RETRY_MOST)
        self._disconnect()

    async def _open(self) -> None:
        """Opens a connection that accepts rows, after it has written what waits in spools."""
        # What belongs to the last one does not outlive it: this one may lead to another server.
        self._let_go()
        self._connection = await asyncio.wait_for(self._connect(), self._timeout)
        if getattr(self._connection.get_settings(), "in_hot_standby", "off") == "on":
            # Its first statement that writes would end in another way than that of a database that only reads.
            raise asyncpg.ReadOnlySQLTransactionError
        # What takes too long is ended by the server, so that it is known what became of it; only what hangs altogether,
        # by us.
        await asyncio.wait_for(
            self._connection.execute(f"SET statement_timeout = {milliseconds(self._timeout)}"), self._timeout
        )
        self._insert, self._writer = await open_writer(self._connection, self._timeout, self._group_answered)
        if self._writer is not None:
            row = f"secretproxy_{uuid.uuid4().hex}"
            self._insert_row = await asyncio.wait_for(self._connection.prepare(INSERT_ROW, name=row), self._timeout)
            self._writer.takes_fields(row, len(STORED))
            self._place = await place_of(self._connection, self._timeout)
        self._warnings = Warnings(self._connection)
        self._mask.stored_in(self._connection.get_settings().server_encoding)
        await self._one_row.settle(self._connection, self._warnings)
        if self._not_taken:
            await self._prove_taken()
        try:
            await asyncio.wait_for(self._connection.execute(PARTITIONS), self._timeout)
        except asyncpg.PostgresError as error:
            if not may_wait(error):
                raise
            self._housekeeping.partitions_failed()
        await asyncio.wait_for(self._connection.execute(PROOF), self._timeout)
        await self._ask_for_access()
        await self._housekeeping.begin(self._connection, self.instance)
        if self._spool is not None:
            # What must be written meanwhile is spooled: nobody waits for the end of this.
            self._first_try.set()
            await self._replay_left(self._spool)
            await self._replay_own(self._spool)
        if not self._rows:
            # Otherwise the first group shows whether rows are taken.
            self._up()

    async def _ask_for_access(self) -> None:
        """Finds out whether an access may be one row."""
        known = bool(await asyncio.wait_for(self._connection.fetchval(KNOWS_ACCESS), self._timeout))
        if self._knows_access and not known:
            log.warning(
                "the access log is of an older version: a read takes two rows and waits twice until you run "
                "`secretproxy install`",
                setting="audit.dsn",
            )
        self._knows_access = known

    # --- groups that nothing is the matter with ---

    async def _hand_over(self) -> None:
        """Has groups written as they gather, until something else is to be done. Raises what a group's error means."""
        self._handed_back = asyncio.get_running_loop().create_future()
        try:
            self._next_group()
            await self._handed_back
        finally:
            self._handed_back = None
            if self._group is not None:
                self._unsure = max(self._unsure, self._group[-1].seq)
                self._group = None
            self._take_back()

    def _next_group(self) -> None:
        """Writes what waits, unless a group is under way; hands back what is not as usual, errors too."""
        self._next_is_due = False
        ended, writer = self._handed_back, self._writer
        if ended is None or writer is None or ended.done() or self._group is not None:
            return
        try:
            self._write_next(ended, writer)
        except (Exception, asyncio.CancelledError) as error:
            _fail(ended, error)

    def _write_next(self, ended: asyncio.Future[None], writer: GroupWriter) -> None:
        if self._prove or self._closing or writer.is_lost:
            ended.set_result(None)
            return
        if not self._pressing:
            return
        used = writer if self._ahead is None else self._written_by(self._ahead, writer)
        if used is None:
            return
        front = self._rows[0].seq
        group, bound = [], None
        replaced = self._one_row.replaced
        if self._suspects is None and front > self._unsure and not (replaced and (self.instance, front) in replaced):
            group = self._cut(self._rows, self.instance)
            bound = used.bound(group)
        if bound is None:
            ended.set_result(None)
            return
        self._writing = used
        self._group = group
        self._group_began = _monotonic()
        used.write(bound, len(group))

    def _group_answered(self, error: BaseException | None, count: int) -> None:
        """Takes the log's answer to the group under way; hands back whatever goes wrong with it."""
        group, ended = self._group, self._handed_back
        if group is None or ended is None or ended.done():
            return
        try:
            self._take_answer(group, ended, error, count)
        except (Exception, asyncio.CancelledError) as broken:
            _fail(ended, broken)

    def _take_answer(
        self, group: list[Line], ended: asyncio.Future[None], error: BaseException | None, count: int
    ) -> None:
        if error is None:
            try:
                self._check_taken(len(group), count)
            except Exception as found:
                error = found
        elif isinstance(error, asyncpg.UniqueViolationError | asyncpg.ExclusionViolationError):
            error = self._never_written()
        writer = self._writing
        if error is not None and writer is not None and writer.packs and other_rows(error):
            # None of them went in; they go as texts from now on.
            writer.takes_packed("", 0)
            self._group = None
            self._wake()
            return
        if error is not None:
            blamed = self._blame(error, self.instance, group, self._group_began)
            if blamed is None:
                # Its rows did not go in; smaller groups of them are written next.
                self._group = None
                ended.set_result(None)
            else:
                ended.set_exception(blamed)
            return
        if writer is not self._writer:
            self._group = None
            self._committed(group)
            return
        took = _monotonic() - self._group_began
        waiters = self._taken(group, self._group_began)
        self._group = None
        self._committed_in(took, len(waiters))
        _tell(waiters, None)
        self._housekeeping.wrote(group[-1].seq, group[-1].row_hash)
        self._wake()

    # --- groups of a log that is slow to commit ---

    def _committed_in(self, seconds: float, waiters: int) -> None:
        """Takes note how long it took until so many waiters could be told. Has groups written ahead where that is long
        and sessions wait for each other's commits."""
        self._commit_takes += (seconds - self._commit_takes) / 8
        if waiters > 1 or not self._waiting.is_empty:
            self._crowd = ALONE
        elif self._crowd:
            self._crowd -= 1
        if self._commit_takes < SLOW_COMMIT:
            self._slow_groups = 0
            return
        self._slow_groups += 1
        if (
            self._slow_groups >= SLOW_GROUPS
            and self._crowd
            and self._place is not None
            and self._ahead is None
            and self._opening_ahead is None
            and time.monotonic() >= self._ahead_again
        ):
            self._opening_ahead = asyncio.create_task(self._open_ahead(self._place), name="ahead")

    async def _open_ahead(self, where: Place) -> None:
        """Opens the connections beside the first one. What fails there concerns no row: they are written as before."""
        ahead = Ahead(self._connect, self._timeout, where)
        try:
            await ahead.open(self._group_answered)
        except (Exception, asyncio.CancelledError) as error:
            ahead.close()
            self._ahead_again = time.monotonic() + AHEAD_AGAIN
            if task_is_cancelled():
                raise
            elsewhere = isinstance(error, ElsewhereError)
            log.info(
                "the log is slow to commit, and groups are not written ahead of its syncs",
                cause="audit.dsn leads to more than one server" if elsewhere else describe(error),
                setting="audit.dsn",
            )
        else:
            self._ahead = ahead
        finally:
            if self._opening_ahead is asyncio.current_task():
                self._opening_ahead = None

    def _written_by(self, ahead: Ahead, writer: GroupWriter) -> GroupWriter | None:
        """Gives what writes the next group; None where it is too soon for it, or all connections wait for syncs."""
        if ahead.broken:
            if self._behind:
                raise asyncpg.ConnectionDoesNotExistError
            self._close_ahead()
            return writer
        if ahead.lame:
            # What is behind is durable when the others say so.
            if self._behind:
                return None
            self._close_ahead()
            return writer
        if not self._behind and (self._commit_takes < SLOW_COMMIT or not self._crowd):
            # The usual way: the next group is sent when this one is durable.
            if time.monotonic() - ahead.began > AHEAD_UNUSED:
                self._close_ahead()
            return writer
        if not ahead.free:
            return None
        if ahead.waits:
            left = ahead.began + self._commit_takes / SYNCS - time.monotonic()
            if left > 0:
                # Fewer and larger groups: what comes now would not be durable sooner.
                if self._ahead_timer is None:
                    self._ahead_timer = asyncio.get_running_loop().call_later(left, self._soon_enough)
                return None
        return ahead.writer

    def _soon_enough(self) -> None:
        self._ahead_timer = None
        self._wake()

    def _committed(self, group: list[Line]) -> None:
        """Takes note that the log has a group, and waits until it is durable."""
        self._drop_front(len(group))
        self._behind.append((group, self._group_began))
        ahead, ended, last = self._ahead, self._handed_back, group[-1].seq
        assert ahead is not None
        assert ended is not None

        def synced(error: BaseException | None, seconds: float) -> None:
            if ended is not self._handed_back or ended.done():
                # Its rows wait to be written again; whatever else does may have waited for this connection.
                self._wake()
                return
            try:
                self._synced(ended, last, error, seconds)
            except (Exception, asyncio.CancelledError) as broken:
                _fail(ended, broken)

        ahead.sync(synced)
        self._wake()

    def _synced(self, ended: asyncio.Future[None], seq: int, error: BaseException | None, seconds: float) -> None:
        """Takes note that rows up to this number are durable, or that this is not known."""
        if error is not None:
            if self._behind and self._behind[0][0][-1].seq <= seq:
                ended.set_exception(error)
            else:
                # Another sync has said it.
                self._wake()
            return
        last: Line | None = None
        waiters: list[Settled] = []
        while self._behind and self._behind[0][0][-1].seq <= seq:
            group, began = self._behind.popleft()
            last = group[-1]
            waiters += self._noted(group, began)
        self._committed_in(seconds, len(waiters))
        _tell(waiters, None)
        if last is not None:
            self._housekeeping.wrote(last.seq, last.row_hash)
        self._wake()

    def _take_back(self) -> None:
        """Has rows that the log has, but that may not be durable, written again as they were."""
        if self._ahead_timer is not None:
            self._ahead_timer.cancel()
            self._ahead_timer = None
        if self._behind:
            self._unsure = max(self._unsure, self._behind[-1][0][-1].seq)
            while self._behind:
                self._rows.extendleft(reversed(self._behind.pop()[0]))

    def _close_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if ahead.pid is not None:
                self._one_row.unanswered.add(ahead.pid)
            ahead.close()
        opening, self._opening_ahead = self._opening_ahead, None
        if opening is not None:
            opening.cancel()

    # --- any group ---

    async def _write_group(self) -> None:
        began = time.monotonic()
        front = self._rows[0]
        known = self._one_row.replaced.get((self.instance, front.seq)) if self._one_row.replaced else None
        if known is not None:
            self._replace_front(known)
            group = [known]
        else:
            group = self._cut(self._rows, self.instance)
            try:
                alone = not await self._write_group_of(self.instance, group, again=front.seq <= self._unsure)
            except BaseException:
                self._unsure = max(self._unsure, group[-1].seq)
                raise
            if alone:
                if len(group) > 1:
                    return
                found = await self._written_alone(front, left=False)
                if found is not front:
                    self._replace_front(found)
                group = [found]
        # Told before anything else can go wrong.
        self._settle(self._taken(group, began), None)
        self._housekeeping.wrote(group[-1].seq, group[-1].row_hash)

    def _taken(self, group: list[Line], began: float) -> list[Settled]:
        """Takes note that the log has a group; gives what waited for it, which must be told whatever comes then."""
        self._drop_front(len(group))
        return self._noted(group, began)

    def _drop_front(self, count: int) -> None:
        """Drops so many rows, which the log has."""
        rows = self._rows
        if count == len(rows):
            rows.clear()
        else:
            popleft = rows.popleft
            for _ in range(count):
                popleft()

    def _noted(self, group: list[Line], began: float) -> list[Settled]:
        """Does the same with rows that do not wait any more."""
        last = group[-1]
        if self._took is not None:
            self._took(_monotonic() - began)
        for line in group:
            self._row_bytes -= len(line.line)
        self.written += len(group)
        self.groups += 1
        self._up()
        self._proven = True
        self._wider(self.instance, last.seq)
        if self._one_row.unanswered and last.seq >= self._unsure:
            self._one_row.unanswered.clear()
        return self._waiting.take(last.seq)

    def _cut(self, rows: deque[Line], instance: uuid.UUID) -> list[Line]:
        """Takes the rows at the front that are written together."""
        most = GROUP
        if self._suspects is not None and self._suspects[0] == instance and rows[0].seq <= self._suspects[2]:
            most = self._most if rows[0].seq >= self._suspects[1] else min(GROUP, self._suspects[1] - rows[0].seq)
        if len(rows) <= most and rows is self._rows and self._row_bytes <= GROUP_BYTES:
            return list(rows)
        group = list(itertools.islice(rows, most))
        size = 0
        for place, line in enumerate(group):
            size += len(line.line)
            if size > GROUP_BYTES and place:
                del group[place:]
                break
        return group

    async def _write_group_of(self, instance: uuid.UUID, group: list[Line], *, again: bool) -> bool:
        """Writes a group. False where one of its rows may be what is wrong.

        Then the next groups are smaller. Raises an outage's error.
        """
        front = (instance, group[0].seq)
        if self._too_slow == front and len(group) == 1:
            return False
        began = time.monotonic()
        try:
            await self._write(group, again=again)
        except (TimeoutError, asyncpg.PostgresError) as error:
            blamed = self._blame(error, instance, group, began)
            if blamed is not None:
                raise blamed from None
        else:
            return True
        if again:
            await asyncio.wait_for(self._connection.execute("ROLLBACK"), self._timeout)
        return False

    def _blame(
        self, error: BaseException, instance: uuid.UUID, group: list[Line], began: float
    ) -> BaseException | None:
        """Gives what a group's error is to the journal; None where one of its rows may be what is wrong. Then the next
        groups are smaller."""
        # The server's own time limit, or somebody who cancels.
        cancelled = getattr(error, "sqlstate", None) == CANCELLED
        slow = isinstance(error, TimeoutError) or (cancelled and time.monotonic() - began >= self._timeout * 0.8)
        if slow or may_be_the_row(error):
            self._suspects = (instance, group[0].seq, group[-1].seq)
            self._most = max(1, len(group) // (SLOW if slow else WRONG))
        if slow:
            # Waiting statements are refused now. A single row is examined on the next connection.
            self._too_slow = (instance, group[0].seq) if len(group) == 1 else None
            return TimeoutError()
        return error if not may_be_the_row(error) or self._connection.is_closed() else None

    def _wider(self, instance: uuid.UUID, seq: int) -> None:
        """Widens the groups after the log has taken one."""
        if self._suspects is not None and self._suspects[0] == instance:
            if seq >= self._suspects[2]:
                self._suspects, self._most = None, GROUP
            elif seq >= self._suspects[1]:
                self._most = min(GROUP, self._most * 2)
        self._too_slow = None

    async def _written_alone(self, line: Line, *, left: bool) -> Line:
        assert self._warnings is not None
        found = await self._one_row.write(self._connection, self._warnings, line, left=left)
        if found is not line:
            log.error(
                "the access log did not take a row as it was: it has a reduced one in its place",
                instance=str(line.instance),
                seq=line.seq,
            )
        return found

    def _replace_front(self, found: Line) -> None:
        """Replaces the first waiting row by the one that the log has, and relinks the rows behind it."""
        self._row_bytes += len(found.line) - len(self._rows.popleft().line)
        self._relink(found.row_hash)
        self._rows.appendleft(found)

    async def _write(self, group: Sequence[Line], *, again: bool) -> None:
        """Writes rows in one transaction. `again`: the log may have some of them already."""
        assert self._warnings is not None
        lines = joined(group)
        if lines is not None and not again:
            await self._write_new(lines.decode(), len(group))
            return
        async with asyncio.timeout(self._timeout):
            if again:
                await self._connection.execute(f"BEGIN; {AGAIN}")
            if lines is None:
                # One implicit transaction, one commit (Bind and Execute for each row, a single Sync).
                await self._connection.executemany(INSERT_ONE, [line.fields() for line in group])
            else:
                if self._insert_again is None:
                    self._insert_again = await self._connection.prepare(INSERT_AGAIN)
                await self._insert_again.fetch(lines.decode())
            if again:
                await self._connection.execute("COMMIT")
        self._warnings.check()

    async def _write_new(self, lines: str, count: int) -> None:
        """Writes so many rows that the log cannot have."""
        try:
            # asyncpg's own timer: the connection is of no more use after it, either way.
            await self._insert.fetch(lines, timeout=self._timeout)
        except (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError):
            raise self._never_written() from None
        self._check_taken(count, int(self._insert.get_statusmsg().rpartition(" ")[2]))

    def _never_written(self) -> NotTakenError:
        """Makes the error where a row that nobody has written before is there, or another index than the log's own
        calls two the same."""
        self._not_taken = True
        return NotTakenError()

    def _check_taken(self, count: int, taken: int) -> None:
        """Raises NotReplicatedError, or NotTakenError where the log took another number of rows than it was given."""
        assert self._warnings is not None
        self._warnings.check()
        if taken != count:
            raise self._never_written()

    async def _prove_taken(self) -> None:
        """Writes a row that is then rolled back. Raises NotTakenError if it did not go in."""
        line = Lines(self._mask, uuid.uuid4()).add(Event("refusal", Identity(uuid.uuid4())), self._last_at, None)
        async with asyncio.timeout(self._timeout):
            await self._connection.execute("BEGIN")
            status = await self._connection.execute(INSERT_ONE, *line.fields())
            await self._connection.execute("ROLLBACK")
        if not str(status).endswith(" 1"):
            raise NotTakenError
        self._not_taken = False

    def _done(self, seq: int) -> None:
        """Notes that everything up to this number is durable, in the log or in the spool."""
        self._settle(self._waiting.take(seq), None)

    def _settle(self, waiters: list[Settled], fault: str | None) -> None:
        """Tells them in a turn of its own: what they do in it may be to hand over more events."""
        if waiters:
            asyncio.get_running_loop().call_soon(_tell, waiters, fault)

    async def _spill_as_wanted(self, spool: Spool) -> None:
        """While the log takes nothing, what gathers goes into the spool, a group an fsync."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._spill.wait(), SPOOL_AGAIN if self._spool_is_broken else None)
            self._spill.clear()
            try:
                await self._spill_now(spool)
            except (Exception, asyncio.CancelledError) as error:
                if task_is_cancelled():
                    raise
                self._spool_failed(error)

    async def _spill_now(self, spool: Spool, *, closing: bool = False) -> None:
        async with self._spool_lock:
            if not self._rows or (self._fault is None and not closing) or time.monotonic() < self._spool_again:
                return
            rows = list(self._rows)
            try:
                await asyncio.to_thread(spool.write, rows)
            except (OSError, SpoolFullError) as error:
                self._spool_failed(error)
                return
            # While the log is down, nothing else takes rows off the front.
            for line in rows:
                self._rows.popleft()
                self._row_bytes -= len(line.line)
            if self._spool_is_broken or not self._spooled:
                log.warning("access log cannot be written, events go into the spool", setting="audit.on_outage")
            self._spool_is_broken = False
            self._spooled += len(rows)
            self._done(rows[-1].seq)

    def _spool_failed(self, error: BaseException) -> None:
        # A full spool stays full until it is replayed; what else is the matter may pass.
        full = isinstance(error, SpoolFullError)
        self._spool_again = float("inf") if full else time.monotonic() + SPOOL_AGAIN
        if not self._spool_is_broken:
            setting = "audit.spool_max_bytes" if full else "audit.spool_dir"
            cause = "SpoolFull" if full else type(error).__name__
            log.error("spool cannot be written, secret calls are refused", cause=cause, setting=setting)
        self._spool_is_broken = True
        self._fail_waiting(self._fault or "spool")

    async def _replay_own(self, spool: Spool) -> None:
        """Writes what this process spooled; when the last of it is in the log, the log takes events again."""
        before: bytes | None = None
        written: set[Path] = set()
        for turn in itertools.count():
            async with self._spool_lock:
                sealed = [found for found in spool.seal() if found[0] not in written]
                # Calls that go on spool more while this writes: a short rest is written while they wait.
                if turn and sum(size for _, size in sealed) <= SPOOL_REST:
                    before = await self._replay_sealed(spool, sealed, before, written)
                    sealed = []
                if not sealed:
                    if self._spooled or self._spool_is_broken:
                        log.info("spool replayed")
                    for path in written:
                        spool.drop(path)
                    if before is not None:
                        self._relink(before)
                    self._spooled, self._spool_is_broken, self._spool_again = 0, False, 0.0
                    self._up()
                    return
            before = await self._replay_sealed(spool, sealed, before, written)

    async def _replay_sealed(
        self, spool: Spool, sealed: list[tuple[Path, int]], before: bytes | None, written: set[Path]
    ) -> bytes | None:
        """Writes segments of this process. `before` and what is given: the hash that the next row follows, if it is not
        the one that it was spooled with; `written` takes the segments that must be kept until the end.
        """
        for path, size in sealed:
            damage: list[SpoolDamagedError] = []
            last: Line | None = None
            try:
                with path.open("rb") as file:
                    lines = up_to_damage(read(file, size), damage)
                    last, before = await self._replay(lines, before, left=False)
            except FileNotFoundError:
                damage.append(SpoolDamagedError("it is not there any more"))
            if last is not None:
                self._housekeeping.wrote(last.seq, last.row_hash)
            if damage:
                # The log would stay closed for ever: it has a gap where these rows were.
                _set_aside(path, damage[0])
                before = None
            if before is None:
                spool.drop(path)
            else:
                # The rows of later ones do not follow the hashes that they name. Whoever starts again must see why.
                written.add(path)
        return before

    def _relink(self, before: bytes) -> None:
        """Links the waiting rows to this hash."""
        rows: deque[Line] = deque()
        for line in self._rows:
            rows.append(line.after(before))
            before = rows[-1].row_hash
        self._rows = rows
        self._lines.last_hash = before

    async def _replay_left(self, spool: Spool) -> None:
        """Writes what processes that are gone left in their spools."""
        for path in strange(spool.directory):
            log.error(
                "a file in the spool is not this user's own and is not replayed",
                file=path.name,
                setting="audit.spool_dir",
            )
        for segments in left_behind(spool.directory):
            last = None
            before: bytes | None = None
            written: list[Path] = []
            for path, file in segments:
                damage: list[SpoolDamagedError] = []
                found, before = await self._replay(up_to_damage(read(file), damage), before, left=True)
                last = found or last
                if damage:
                    _set_aside(path, damage[0])
                    continue
                written.append(path)
                log.info("spool of a process that is gone replayed", file=path.name)
                if before is None:
                    path.unlink(missing_ok=True)
            for path in written:
                path.unlink(missing_ok=True)
            if last is not None:
                self._housekeeping.replayed(last.instance, last.seq, last.row_hash)

    async def _replay(
        self, lines: Iterator[Line], before: bytes | None, *, left: bool
    ) -> tuple[Line | None, bytes | None]:
        """Writes spooled rows; the unique key keeps out what the log has already.

        `before`: the hash that the first of them follows, if it is not the one that it was spooled with. Gives the
        last row, and the hash that the next one follows where it is another than its own.
        """
        last: Line | None = None
        waiting: deque[Line] = deque()
        while True:
            before = self._linked(waiting, list(itertools.islice(lines, GROUP - len(waiting))), before)
            if not waiting:
                return last, before
            instance = waiting[0].instance
            await self._housekeeping.begin(self._connection, instance)
            group = self._cut(waiting, instance)
            if not await self._write_group_of(instance, group, again=True):
                if len(group) > 1:
                    continue
                found = await self._written_alone(group[0], left=left)
                if found is not group[0]:
                    rest = list(waiting)[1:]
                    waiting = deque([found])
                    before = self._linked(waiting, rest, found.row_hash)
                    group = [found]
            last = group[-1]
            for _ in group:
                waiting.popleft()
            self._wider(instance, last.seq)

    def _linked(self, waiting: deque[Line], more: list[Line], before: bytes | None) -> bytes | None:
        """Adds rows, which follow the hash `before` (None: the one they say), and gives the hash for what comes behind
        them.

        What is known to stand in the log instead of a row takes its place.
        """
        for line in more:
            known = self._one_row.replaced.get((line.instance, line.seq)) if self._one_row.replaced else None
            if known is not None:
                waiting.append(known)
                before = known.row_hash
            elif before is not None:
                waiting.append(line.after(before))
                before = waiting[-1].row_hash
            else:
                waiting.append(line)
        return before

    def _up(self) -> None:
        if self._fault is not None:
            self._fault = None
            log.info("access log can be written", waiting=len(self._rows), dropped_refusals=self._dropped)
            self._dropped = 0
            self._first_try.set()
        self.state.takes_accesses = self._knows_access

    def _down(self, error: BaseException) -> None:
        fault = describe(error)
        if fault != self._fault:
            if self._spool is None:
                log.error(f"access log cannot be written, {self._in_outage}", cause=fault, setting="audit.dsn")
            else:
                log.error("access log cannot be written", cause=fault, setting="audit.dsn")
        self._fault = fault
        self.state.takes_accesses = False
        self._first_try.set()
        if self._spool is not None and not self._spool_is_broken:
            self._spill.set()
            return
        self._fail_waiting(fault)
        self._spill.set()

    def _fail_waiting(self, fault: str) -> None:
        # Statements that wait to go on are refused now. What has happened already keeps waiting for the log.
        failed = self._waiting.take_ended()
        if failed:
            self._settle(failed, fault)

    def _disconnect(self) -> None:
        self._proven = False
        self._let_go()

    def _let_go(self) -> None:
        """Ends the connection and whatever belongs to it."""
        connection, self._connection, self._insert, self._insert_again = self._connection, None, None, None
        self._writer, self._place = None, None
        self._close_ahead()
        if connection is not None:
            self._one_row.unanswered.add(connection.get_server_pid())
            if not connection.is_closed():
                connection.terminate()

    async def close(self, timeout: float = 5.0) -> int:
        """Writes what is left, as long as the log takes it, and stops. Returns how many events were not written."""
        self._closing = True
        self._wake()
        if not self._first_try.is_set():
            # No event was taken before the log was tried, so nothing has to be written.
            timeout = 0.0
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), timeout)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._spilling is not None and self._spool is not None:
            async with self._spool_lock:
                # No thread is writing now.
                self._spilling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._spilling
            self._spool_again = 0.0
            await self._spill_now(self._spool, closing=True)
        await self._housekeeping.close(timeout, ended=not self.backlog)
        return len(self._rows)


def _set_aside(path: Path, error: SpoolDamagedError) -> None:
    """Keeps a damaged segment under another name, and says so."""
    kept = path.with_suffix(".damaged")
    with contextlib.suppress(FileNotFoundError):
        path.rename(kept)
    log.error("the rest of a spool cannot be replayed, it stays there", file=kept.name, cause=str(error))


def _fail(ended: asyncio.Future[None], error: BaseException) -> None:
    if not ended.done():
        ended.set_exception(error)


def _tell(waiters: list[Settled], fault: str | None) -> None:
    for settled in waiters:
        try:
            settled(fault)
        except (Exception, asyncio.CancelledError) as error:
            # Of one that breaks off the others must still hear.
            log.error("what waited for the log broke off", kind=type(error).__name__)
