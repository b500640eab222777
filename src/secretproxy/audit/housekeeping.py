"""The journal's housekeeping, on a connection of its own: it cannot slow a write of the log or make one fail.

It makes partitions ahead, notifies followers of the log, signs checkpoints and has the log's sums kept. Each may fail
for a time: it says so once and tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import structlog

from secretproxy.audit import chain
from secretproxy.audit.checkpoints import CHECKPOINT, END, Checkpoint, Signer
from secretproxy.audit.durable import Warnings
from secretproxy.audit.errors import describe, task_is_cancelled
from secretproxy.connections import login_refused
from secretproxy.wire.types import SqlState

PARTITIONS = "SELECT secretproxy.access_log_partitions()"
PARTITIONS_EVERY, PARTITIONS_AGAIN = 6 * 3600.0, 60.0
# The database adds to its sums of the log in steps of a second, on a connection that is there for that time alone. So
# many steps one after another are enough for what a day has, and leave the server time.
SUMS = "SELECT secretproxy.keep_sums()"
SUMS_EVERY, SUMS_STEPS, SUMS_PAUSE, SUMS_TIMEOUT = 900.0, 200, 0.5, 60.0
# Whoever follows the log listens here; the payload is the instance that wrote. Told at most every NOTIFY_EVERY seconds.
CHANNEL = "secretproxy_access_log"
NOTIFY_EVERY = 0.03
# Seconds by which an event loop's timer may be off.
_TIMER_STEP = 0.001
# A notice needs no disk, and does not wait long behind those of others.
_NOTIFY = "SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '1s'; NOTIFY {channel}, '{instance}'"
CHECKPOINT_INSERT = (
    "INSERT INTO secretproxy.checkpoints (instance, seq, row_hash, at, signature, kind) "
    "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"
)
# Whoever locks the checkpoints keeps nobody from the log.
_BEGIN = "BEGIN; SET LOCAL lock_timeout = '1s'"
AGAIN, AGAIN_REFUSED = 1.0, 5.0
log: Any = structlog.get_logger("secretproxy.journal")


class Housekeeping:
    """Takes from the journal how far the log is. The journal waits for it only when it closes."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        instance: uuid.UUID,
        *,
        timeout: float,
        signer: Signer | None,
        checkpoint_every: int,
        checkpoint_seconds: float,
    ) -> None:
        self._connect = connect
        self._instance = instance
        self._timeout = timeout
        self._signer = signer
        self._every = checkpoint_every
        self._seconds = checkpoint_seconds
        self._connection: Any = None
        self._warnings: Warnings | None = None
        self._fault: str | None = None
        self._woken = asyncio.Event()
        self._seq = 0
        self._hash = chain.GENESIS
        # Chains whose beginning is in the log with a signature: one that none of our keys began shows.
        self._begun: set[uuid.UUID] = set()
        # Whether the beginning of the own chain is still to be signed, because that failed before its first row.
        self._beginning_unsigned = False
        self._notified = 0
        self._notify_due = 0.0
        self._signed = 0
        self._sign_due = time.monotonic() + checkpoint_seconds
        self._partitions_due = time.monotonic() + PARTITIONS_EVERY
        # Not all processes at the same time.
        self._sums_due = time.monotonic() + SUMS_EVERY * random.uniform(0.2, 1)  # noqa: S311 - no secret
        self._adding: asyncio.Task[None] | None = None
        self._sums_fault: str | None = None
        self._to_keep: deque[Checkpoint] = deque()
        self._keeping: asyncio.Task[None] | None = None
        self._closing = False
        self._again = asyncio.Event()
        # Of instances that are gone: the last row that was replayed for them.
        self._replayed: list[tuple[uuid.UUID, int, bytes]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="housekeeping of the journal")

    async def begin(self, connection: Any, instance: uuid.UUID) -> None:
        """Signs the beginning of a chain, on the journal's connection, before the first row goes to the log.

        A process that is killed behind it leaves no chain that nobody vouches for. The log does not wait for the
        signature if it cannot be stored: the housekeeping tries again. Raises TimeoutError if the connection hangs.
        """
        if self._signer is None or instance in self._begun:
            return
        made = self._signer.sign(instance, 0, chain.GENESIS)
        async with asyncio.timeout(self._timeout):
            try:
                await connection.execute(_BEGIN)
                await connection.execute(CHECKPOINT_INSERT, *_fields(made))
                await connection.execute("COMMIT")
            except asyncpg.PostgresError:
                await connection.execute("ROLLBACK")
                if instance == self._instance:
                    self._beginning_unsigned = True
                    self._woken.set()
                return
        self._begun.add(instance)
        if instance == self._instance:
            self._beginning_unsigned = False
        self._keep_outside(self._signer, made)

    def wrote(self, seq: int, row_hash: bytes) -> None:
        """Notes that the log has everything up to this row."""
        # Where something is unsaid already, a later row makes nothing due before that but a checkpoint.
        unsaid = self._notified < self._seq
        self._seq, self._hash = seq, row_hash
        if not unsaid or (self._signer is not None and seq - self._signed >= self._every):
            self._woken.set()

    def sign_soon(self) -> None:
        """Has what the log holds by now signed without waiting for more rows or time."""
        self._sign_due = 0.0
        self._woken.set()

    def replayed(self, instance: uuid.UUID, seq: int, row_hash: bytes) -> None:
        """Notes that the log has a row that another instance left in its spool."""
        self._replayed.append((instance, seq, row_hash))
        self._woken.set()

    def partitions_failed(self) -> None:
        self._partitions_due = time.monotonic() + PARTITIONS_AGAIN

    async def close(self, timeout: float, *, ended: bool) -> None:
        """Signs how far the chain is, as its end where it has `ended`, and tells of it, as long as that takes no more
        than `timeout`."""
        if self._task is None:
            return
        self._closing = True
        self._woken.set()
        self._again.set()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._task)
                if self._notified < self._seq or self._replayed or (self._signer is not None and self._seq):
                    await self._connected()
                    self._notify_due = 0.0
                    await self._tell()
                    await self._sign_replayed()
                    if self._signer is not None and self._seq:
                        await self._sign(self._signer, END if ended else CHECKPOINT)
                if self._keeping is not None:
                    await asyncio.shield(self._keeping)
        for task in (self._task, self._adding):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._disconnect()

    async def _run(self) -> None:
        while await self._something_is_due():
            try:
                await self._connected()
                await self._tell()
                await self._sign_replayed()
                await self._sign_as_due()
                await self._make_partitions()
                self._add_to_sums()
                if self._fault is not None:
                    self._fault = None
                    log.info("checkpoints, partitions and notices of the log continue")
            except (Exception, asyncio.CancelledError) as error:
                if task_is_cancelled():
                    raise
                fault = describe(error)
                if fault != self._fault:
                    log.error(
                        "checkpoints, partitions and notices of the log are delayed, the log itself is written",
                        cause=fault,
                        setting="audit.dsn",
                    )
                self._fault = fault
                self._disconnect()
                self._again.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), AGAIN_REFUSED if login_refused(error) else AGAIN)

    async def _something_is_due(self) -> bool:
        """Waits for it; False at the end."""
        while not self._closing:
            self._woken.clear()
            due = [self._partitions_due, self._sums_due]
            if self._notified < self._seq:
                due.append(self._notify_due)
            if self._replayed or self._beginning_unsigned:
                due.append(0.0)
            if self._signer is not None and self._signed < self._seq and not self._to_keep:
                due.append(0.0 if self._seq - self._signed >= self._every else self._sign_due)
            left = min(due) - time.monotonic()
            if left <= 0:
                return True
            # No wait_for(), which ends by two exceptions; and a timer may go off a moment early.
            timer = asyncio.get_running_loop().call_later(left + _TIMER_STEP, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
        return False

    async def _connected(self) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncio.wait_for(self._connect(), self._timeout)
            self._warnings = Warnings(self._connection)

    async def _execute(self, sql: str, *values: object) -> None:
        await asyncio.wait_for(self._connection.execute(sql, *values), self._timeout)
        if self._warnings is not None:
            # A checkpoint that the standby may lack is signed again, with a row of its own, which waits again.
            self._warnings.check()

    async def _tell(self) -> None:
        moment = time.monotonic()
        if self._notified < self._seq and moment >= self._notify_due:
            seq = self._seq
            await self._execute(_NOTIFY.format(channel=CHANNEL, instance=self._instance))
            self._notified, self._notify_due = seq, moment + NOTIFY_EVERY

    async def _make_partitions(self) -> None:
        if time.monotonic() >= self._partitions_due:
            self.partitions_failed()
            await self._execute(PARTITIONS)
            self._partitions_due = time.monotonic() + PARTITIONS_EVERY

    def _add_to_sums(self) -> None:
        """Has the database add to its sums, by a separate task."""
        moment = time.monotonic()
        if moment >= self._sums_due:
            self._sums_due = moment + SUMS_EVERY * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            if self._adding is None or self._adding.done():
                self._adding = asyncio.create_task(self._keep_sums(), name="sums of the log")

    async def _keep_sums(self) -> None:
        """Makes steps until nothing is to be added. Without sums a review takes longer, and that is all."""
        connection: Any = None
        try:
            connection = await asyncio.wait_for(self._connect(), self._timeout)
            for _ in range(SUMS_STEPS):
                if self._closing or not await asyncio.wait_for(_one_step(connection), SUMS_TIMEOUT):
                    break
                await asyncio.sleep(SUMS_PAUSE)
            self._sums_fault = None
        except Exception as error:
            fault = describe(error)
            if fault != self._sums_fault:
                log.warning("sums of the log are not kept, so that `audit stats` takes longer", cause=fault)
            self._sums_fault = fault
        finally:
            if connection is not None:
                connection.terminate()

    async def _sign_replayed(self) -> None:
        while self._replayed:
            instance, seq, row_hash = self._replayed[0]
            await self._execute(_NOTIFY.format(channel=CHANNEL, instance=instance))
            if self._signer is not None:
                await self._keep(self._signer, self._signer.sign(instance, seq, row_hash))
            del self._replayed[0]

    async def _sign_as_due(self) -> None:
        if self._signer is None:
            return
        if self._beginning_unsigned:
            await self._keep(self._signer, self._signer.sign(self._instance, 0, chain.GENESIS))
            self._begun.add(self._instance)
            self._beginning_unsigned = False
        if self._signed >= self._seq or self._to_keep:
            return
        if self._seq - self._signed >= self._every or time.monotonic() >= self._sign_due:
            await self._sign(self._signer, CHECKPOINT)

    async def _sign(self, signer: Signer, kind: str) -> None:
        await self._keep(signer, signer.sign(self._instance, self._seq, self._hash, kind))
        self._signed = self._seq
        self._sign_due = time.monotonic() + self._seconds

    async def _keep(self, signer: Signer, made: Checkpoint) -> None:
        """Stores a checkpoint in the log, and elsewhere by a separate task.

        A command that hangs delays the next checkpoint and nothing else.
        """
        await self._execute(CHECKPOINT_INSERT, *_fields(made))
        self._keep_outside(signer, made)

    def _keep_outside(self, signer: Signer, made: Checkpoint) -> None:
        self._to_keep.append(made)
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep_elsewhere(signer), name="checkpoints")

    async def _keep_elsewhere(self, signer: Signer) -> None:
        while self._to_keep:
            try:
                await asyncio.to_thread(signer.keep, self._to_keep[0])
            except OSError as error:
                cause = os.strerror(error.errno) if error.errno else type(error).__name__
                log.error("checkpoint not kept", setting="audit.checkpoint_file, audit.checkpoint_command", cause=cause)
            self._to_keep.popleft()
        self._woken.set()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()


async def _one_step(connection: Any) -> bool:
    """Adds to the sums; says whether there may be more to add. Raises asyncpg's errors."""
    async with connection.transaction():
        # A step that is lost is made again: it waits for no disk and no standby. Not for the session: behind a pooler
        # the next commit of the journal could be one of its.
        await connection.execute("SET LOCAL synchronous_commit = off")
        return bool(await connection.fetchval(SUMS))


def _fields(made: Checkpoint) -> tuple[object, ...]:
    """Gives what CHECKPOINT_INSERT takes."""
    return made.instance, made.seq, made.row_hash, made.at, made.signature, made.kind


def may_wait(error: asyncpg.PostgresError) -> bool:
    """Says whether the log may go on although partitions could not be made.

    True if somebody reads the log and holds a lock.
    """
    return error.sqlstate in (SqlState.LOCK_NOT_AVAILABLE, SqlState.QUERY_CANCELED, SqlState.DEADLOCK_DETECTED)
