"""Checks the journal against a log that comes and goes, and the chain that it makes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from secretproxy.audit import chain
from secretproxy.audit import journal as journal_module
from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.columns import STORED
from secretproxy.audit.housekeeping import CHECKPOINT_INSERT
from secretproxy.audit.journal import RIDE, Journal, LogUnavailableError
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import INSERT, INSERT_AGAIN, INSERT_ONE, Line, Lines, stored_line
from secretproxy.connections import ConnectError
from secretproxy.session.events import Event, Identity, Timing

MASK = NameMask(200, [r"sk_live_"], b"k" * 32)
WHO = Identity(uuid.uuid4(), "app", "app", "tests")


def attempt(name: str = "key") -> Event:
    return Event("attempt", WHO, statement_no=1, function="f(uuid)", secret_names=(name,))


class Log:
    """A database in memory: it can be down, break off after its commit, or hang."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, str | None]] = {}
        self.groups: list[int] = []
        self.down = False
        self.refuses = False
        # Whether it has the next row already, and what was prepared.
        self.has_the_next = False
        self.prepared: list[str] = []
        self.statements: list[str | None] = []
        self.connected = 0
        self.break_after_commit = False
        self.gate: asyncio.Event | None = None
        self.encoding = "UTF8"
        # What was executed next to the rows, and what of it fails.
        self.beside: list[tuple[str, tuple[object, ...]]] = []
        self.fails: dict[str, Exception] = {}

    async def connect(self) -> Any:
        if self.down:
            raise ConnectionRefusedError
        self.connected += 1
        return Connection(self)


class Connection:
    def __init__(self, log: Log) -> None:
        self.log = log
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True

    def get_settings(self) -> Any:
        return SimpleNamespace(server_encoding=self.log.encoding)

    def get_server_pid(self) -> int:
        return 1

    def add_log_listener(self, listener: object) -> None:
        pass

    def get_statusmsg(self) -> str:
        return f"INSERT 0 {self.log.groups[-1]}"

    async def fetchval(self, sql: str, *values: object) -> str:
        return "1"

    async def fetchrow(self, sql: str) -> None:
        """Knows no type of a row."""

    async def execute(self, sql: str, *values: Any) -> str:
        if self.log.down:
            raise ConnectionResetError
        self.log.beside.append((sql, values))
        for part, error in self.log.fails.items():
            if part in sql:
                raise error
        if sql == INSERT_ONE:
            await self._store([values])
            return "INSERT 0 1"
        return sql

    async def prepare(self, sql: str, *, name: str | None = None) -> Connection:
        self.log.prepared.append(sql)
        self.log.statements.append(name)
        return self

    async def fetch(self, group: str, timeout: float | None = None) -> None:
        async with asyncio.timeout(timeout):
            await self._fetch(group)

    async def _fetch(self, group: str) -> None:
        if self.log.prepared[-1] == INSERT and self.log.has_the_next:
            self.log.has_the_next = False
            raise asyncpg.UniqueViolationError("the row was: canary")
        await self._store(
            [[None if field == "\\N" else field for field in line.split("\t")] for line in group.split("\n")]
        )

    async def executemany(self, sql: str, group: Sequence[Sequence[str | None]]) -> None:
        assert sql == INSERT_ONE
        await self._store(group)

    async def _store(self, group: Sequence[Sequence[str | None]]) -> None:
        if self.log.gate is not None:
            await self.log.gate.wait()
        if self.log.down:
            self.closed = True
            raise ConnectionResetError
        if self.log.refuses:
            raise asyncpg.DiskFullError("the row was: canary")
        for fields in group:
            row = dict(zip(STORED, fields, strict=True))
            self.log.rows.setdefault(int(row["seq"] or 0), row)
        self.log.groups.append(len(group))
        if self.log.break_after_commit:
            self.log.break_after_commit = False
            self.closed = True
            raise ConnectionResetError


@pytest.fixture
def log() -> Log:
    return Log()


async def started(log: Log) -> Journal:
    journal = Journal(log.connect, MASK, timeout=0.5)
    await journal.start()
    return journal


def in_order(log: Log) -> list[dict[str, str | None]]:
    return [log.rows[seq] for seq in sorted(log.rows)]


def names(log: Log) -> list[str | None]:
    return [row["secret_names"] for row in in_order(log)]


def assert_chain(log: Log) -> None:
    before = chain.GENESIS
    for number, row in enumerate(in_order(log), 1):
        line = chain.encode([row[name] for name in STORED[:-2]])
        assert row["seq"] == str(number) and row["prev_hash"] == "\\x" + before.hex()
        before = chain.link(before, line)
        assert row["row_hash"] == "\\x" + before.hex()


async def test_what_gathers_during_a_write_is_one_group(log: Log) -> None:
    journal = await started(log)
    log.gate = asyncio.Event()
    futures = [journal.append([attempt(str(number))], wait=True) for number in range(50)]
    await asyncio.sleep(0)
    log.gate.set()
    await asyncio.gather(*(future for future in futures if future is not None))
    assert len(log.rows) == 50 and len(log.groups) <= 2
    await journal.close()
    assert_chain(log)


async def test_a_future_is_done_only_when_the_row_is_there(log: Log) -> None:
    journal = await started(log)
    log.gate = asyncio.Event()
    future = journal.append([attempt()], wait=True)
    assert future is not None
    for _ in range(5):
        await asyncio.sleep(0)
    assert not future.done() and not log.rows
    log.gate.set()
    await future
    assert len(log.rows) == 1
    await journal.close()


class Waits:
    """Something that waits for the log, and breaks off when it is told."""

    def __init__(self) -> None:
        self.told: list[str | None] = []

    def settled(self, fault: str | None) -> None:
        self.told.append(fault)
        raise MemoryError


async def test_whoever_waits_is_told_once_and_not_before_the_row_is_there(log: Log) -> None:
    journal = await started(log)
    log.gate = asyncio.Event()
    waiters = [Waits() for _ in range(3)]
    for number, waiter in enumerate(waiters):
        journal.commit([attempt(str(number))], waiter.settled)
    future = journal.append([attempt("last")], wait=True)
    assert future is not None
    for _ in range(5):
        await asyncio.sleep(0)
    assert not log.rows and not any(waiter.told for waiter in waiters)
    log.gate.set()
    await asyncio.wait_for(future, 5)
    # One that breaks off keeps no other from hearing.
    assert len(log.rows) == 4 and [waiter.told for waiter in waiters] == [[None]] * 3
    await journal.close()


async def test_an_outage_tells_whoever_waits_and_keeps_the_rows(log: Log) -> None:
    journal = await started(log)
    log.gate = asyncio.Event()
    waiters = [Waits() for _ in range(3)]
    for number, waiter in enumerate(waiters):
        journal.commit([attempt(str(number))], waiter.settled)
    kept = journal.keep([attempt("happened")])
    await asyncio.sleep(0)
    log.down = True
    log.gate.set()
    while not all(waiter.told for waiter in waiters):
        await asyncio.sleep(0.01)
    assert all(len(waiter.told) == 1 and waiter.told[0] for waiter in waiters) and not kept.done()
    with pytest.raises(LogUnavailableError):
        journal.commit([attempt("refused")], Waits())
    log.down = False
    await asyncio.wait_for(kept, 5)
    assert len(log.rows) == 4 and all(len(waiter.told) == 1 for waiter in waiters)
    await journal.close()


async def test_a_new_row_that_is_there_already_is_no_row_that_went_in_unheard(log: Log) -> None:
    journal = await started(log)
    await asyncio.wait_for(journal.keep([attempt("before")]), 5)
    assert log.prepared == [INSERT]
    log.has_the_next = True
    await asyncio.wait_for(journal.keep([attempt("one"), attempt("two")]), 5)
    # On a new connection, which has shown that it takes rows, and as rows are written that may be there.
    assert log.prepared == [INSERT, INSERT, INSERT_AGAIN]
    # What every group runs is kept by the server, under a name that nobody else can have taken.
    first, second, again = log.statements
    assert first and second and first != second and again is None
    assert any(sql == INSERT_ONE for sql, _ in log.beside)
    assert names(log) == ["{before}", "{one}", "{two}"]
    await journal.close()
    assert_chain(log)


async def test_known_to_be_down_it_takes_nothing_that_waits(log: Log) -> None:
    log.down = True
    journal = await started(log)
    assert not journal.available
    with pytest.raises(LogUnavailableError):
        journal.append([attempt()], wait=True)
    assert journal.backlog == 0
    journal.append([attempt("outcome")], wait=False)
    kept = journal.keep([attempt("call")])
    log.down = False
    await asyncio.wait_for(kept, 5)
    assert names(log) == ["{outcome}", "{call}"]
    await journal.close()
    assert_chain(log)


async def test_an_outage_fails_those_that_wait_to_go_and_keeps_what_has_happened(log: Log) -> None:
    journal = await started(log)
    log.gate = asyncio.Event()
    going = journal.append([attempt("going")], wait=True)
    happened = journal.keep([attempt("happened")])
    assert going is not None
    await asyncio.sleep(0)
    log.down = True
    log.gate.set()
    with pytest.raises(LogUnavailableError):
        await going
    assert not happened.done()
    log.down = False
    await asyncio.wait_for(happened, 5)
    assert names(log) == ["{going}", "{happened}"]
    await journal.close()
    assert_chain(log)


async def test_a_commit_whose_fate_is_unknown_is_written_once(log: Log) -> None:
    journal = await started(log)
    log.break_after_commit = True
    await asyncio.wait_for(journal.keep([attempt("one"), attempt("two\\")]), 5)
    assert len(log.groups) == 2 and len(log.rows) == 2
    await journal.close()
    assert_chain(log)


async def test_what_nobody_waits_for_rides_with_what_somebody_waits_for(log: Log) -> None:
    journal = await started(log)
    journal.append([attempt("outcome")], wait=False)
    future = journal.append([attempt("next")], wait=True)
    assert future is not None
    await future
    assert log.groups == [2] and names(log) == ["{outcome}", "{next}"]
    journal.append([attempt("last")], wait=False)
    deadline = asyncio.get_running_loop().time() + 5
    while len(log.rows) < 3:
        assert asyncio.get_running_loop().time() < deadline, "what rides goes by itself where nothing follows it"
        await asyncio.sleep(RIDE)
    await journal.close()
    assert_chain(log)


async def test_a_log_that_hangs_is_unavailable_after_the_timeout(log: Log) -> None:
    journal = await started(log)
    log.gate = asyncio.Event()
    future = journal.append([attempt()], wait=True)
    assert future is not None
    with pytest.raises(LogUnavailableError, match=r"audit\.timeout"):
        await asyncio.wait_for(future, 5)
    log.gate.set()
    await journal.close()


async def test_close_writes_what_is_left_and_counts_what_it_could_not(log: Log) -> None:
    journal = await started(log)
    journal.append([attempt()], wait=False)
    assert await journal.close() == 0 and len(log.rows) == 1
    log.down = True
    other = await started(log)
    other.append([attempt()], wait=False)
    assert await other.close(timeout=0.3) == 1


async def test_refusals_of_an_outage_are_written_later_and_above_a_number_only_counted(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "KEPT_IN_OUTAGE", 3)
    log.down = True
    journal = await started(log)
    with capture_logs() as said:
        for number in range(5):
            refused = Event(
                "outcome", WHO, statement_no=1, function="f(uuid)", secret_names=(str(number),), outcome="refused"
            )
            journal.append([refused], wait=False)
        journal.append([attempt("happened")], wait=False)
        log.down = False
        await asyncio.wait_for(journal.keep([attempt("later")]), 5)
    assert names(log) == ["{0}", "{1}", "{2}", "{happened}", "{later}"], "what is no refusal is kept"
    assert [line["dropped_refusals"] for line in said if "dropped_refusals" in line] == [2]
    await journal.close()
    assert_chain(log)


async def test_the_time_of_a_statement_begins_with_its_first_event(log: Log) -> None:
    """A statement that no attempt showed begins with its first call, and has no other time."""
    journal = await started(log)
    timing = Timing()
    call = Event("call", WHO, statement_no=1, function="f(uuid)", timing=timing)
    outcome = Event("outcome", WHO, statement_no=1, function="f(uuid)", outcome="ok", timing=timing)
    await asyncio.wait_for(journal.keep([call]), 5)
    assert timing.began is not None
    await asyncio.wait_for(journal.keep([outcome]), 5)
    first, last = in_order(log)
    assert first["duration"] is None and last["duration"] is not None
    await journal.close()


async def test_partitions_and_notices_that_fail_do_not_fail_the_log(log: Log) -> None:
    log.fails = {
        "access_log_partitions": asyncpg.LockNotAvailableError("x"), "NOTIFY": asyncpg.ProgramLimitExceededError("x"),
        "checkpoints": asyncpg.InsufficientPrivilegeError("x"),
    }  # fmt: skip
    journal = await started(log)
    assert journal.available
    for number in range(20):
        await asyncio.wait_for(journal.keep([attempt(str(number))]), 2)
        await asyncio.sleep(0.01)
    assert journal.available and len(log.rows) == 20
    assert any("NOTIFY" in sql for sql, _ in log.beside)
    await journal.close()


async def test_a_function_that_is_not_installed_is_a_fault(log: Log) -> None:
    log.fails = {"access_log_partitions": asyncpg.UndefinedFunctionError("x")}
    journal = await started(log)
    assert not journal.available and "secretproxy install" in str(journal.fault)
    await journal.close(0.2)


async def test_whoever_follows_is_told_while_writing_never_pauses(log: Log) -> None:
    journal = await started(log)

    async def write_all_the_time() -> None:
        while True:
            await asyncio.gather(*(journal.keep([attempt()]) for _ in range(3)))

    writers = [asyncio.create_task(write_all_the_time()) for _ in range(3)]
    async with asyncio.timeout(10):
        while sum("NOTIFY" in sql for sql, _ in log.beside) < 4:
            await asyncio.sleep(0.01)
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    await journal.close()
    assert_chain(log)


async def test_a_checkpoint_command_that_hangs_holds_up_nothing(log: Log, tmp_path: Path) -> None:
    left = tmp_path / "pid"
    signer = Signer(tmp_path / "key", tmp_path / "file", f"sh -c 'echo $$ > {left}; sleep 60 & wait'")
    journal = Journal(log.connect, MASK, timeout=0.5, signer=signer, checkpoint_every=1)
    await journal.start()
    await journal.keep([attempt()])
    async with asyncio.timeout(10):
        while not left.exists():
            await asyncio.sleep(0.01)
    began = time.monotonic()
    for _ in range(50):
        await journal.keep([attempt()])
        await asyncio.sleep(0.005)
    assert time.monotonic() - began < 5 and journal.available
    assert sum("NOTIFY" in sql for sql, _ in log.beside) > 1
    began = time.monotonic()
    await journal.close(1.0)
    assert time.monotonic() - began < 4
    os.killpg(int(left.read_text()), signal.SIGKILL)
    assert len((tmp_path / "file").read_text().splitlines()) >= 1


@pytest.fixture
def signed_before(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[object]]]:
    """Gives the instance of each row that went to the log, and the instances whose beginning was signed by then."""
    found: list[tuple[str, set[object]]] = []
    store = Connection._store

    async def watched(self: Connection, group: Sequence[Sequence[str | None]]) -> None:
        signed = {values[0] for sql, values in self.log.beside if sql == CHECKPOINT_INSERT and values[1] == 0}
        found.extend((str(dict(zip(STORED, fields, strict=True))["instance"]), signed) for fields in group)
        await store(self, group)

    monkeypatch.setattr(Connection, "_store", watched)
    return found


async def test_a_chain_is_begun_with_a_signature_before_its_first_row(
    log: Log, tmp_path: Path, signed_before: list[tuple[str, set[object]]]
) -> None:
    """Checks that a process that is killed at any moment leaves no chain that nobody vouches for."""
    signer = Signer(tmp_path / "key", tmp_path / "file")
    journal = Journal(log.connect, MASK, timeout=0.5, signer=signer)
    await journal.start()
    await journal.keep([attempt()])
    assert signed_before == [(str(journal.instance), {journal.instance})]
    await journal.close()


async def test_a_chain_that_begins_in_an_outage_is_begun_with_a_signature_when_the_log_is_back(
    log: Log, tmp_path: Path, signed_before: list[tuple[str, set[object]]]
) -> None:
    signer = Signer(tmp_path / "key", tmp_path / "file")
    log.down = True
    journal = Journal(log.connect, MASK, timeout=0.5, signer=signer, spool_dir=tmp_path / "spool")
    await journal.start()
    await asyncio.wait_for(journal.keep([attempt("spooled")]), 10)
    log.down = False
    await asyncio.wait_for(journal.keep([attempt("after")]), 10)
    await journal.close()
    assert signed_before and all(one == (str(journal.instance), {journal.instance}) for one in signed_before)


async def test_a_chain_that_a_process_left_in_its_spool_is_begun_with_a_signature_too(
    log: Log, tmp_path: Path, signed_before: list[tuple[str, set[object]]]
) -> None:
    signer = Signer(tmp_path / "key", tmp_path / "file")
    log.down = True
    gone = Journal(log.connect, MASK, timeout=0.5, signer=signer, spool_dir=tmp_path / "spool")
    await gone.start()
    await asyncio.wait_for(gone.keep([attempt("left")]), 10)
    await gone.close(0.1)
    assert gone._spool is not None
    for _, descriptor, _ in gone._spool._segments:
        # As the end of its process closes it.
        os.close(descriptor)
    log.down = False
    other = Journal(log.connect, MASK, timeout=0.5, signer=signer, spool_dir=tmp_path / "spool")
    await other.start()
    async with asyncio.timeout(10):
        while not signed_before:
            await asyncio.sleep(0.01)
    await other.close()
    assert [instance for instance, _ in signed_before] == [str(gone.instance)]
    assert gone.instance in signed_before[0][1]


async def test_a_beginning_that_cannot_be_signed_holds_up_no_row(log: Log, tmp_path: Path) -> None:
    log.fails = {"secretproxy.checkpoints": asyncpg.LockNotAvailableError("x")}
    signer = Signer(tmp_path / "key", tmp_path / "file")
    journal = Journal(log.connect, MASK, timeout=0.5, signer=signer)
    await journal.start()
    await asyncio.wait_for(journal.keep([attempt()]), 2)
    assert journal.available
    log.fails = {}
    async with asyncio.timeout(10):
        while not (tmp_path / "file").exists() or not (tmp_path / "file").read_text():
            await asyncio.sleep(0.01)
    assert json.loads((tmp_path / "file").read_text().splitlines()[0])["seq"] == 0
    await journal.close()


async def test_the_last_checkpoint_is_an_end_where_everything_was_written(log: Log, tmp_path: Path) -> None:
    kinds = []
    for left in (False, True):
        signer = Signer(tmp_path / "key", tmp_path / f"file{left}")
        journal = Journal(log.connect, MASK, timeout=0.5, signer=signer)
        await journal.start()
        await journal.keep([attempt()])
        if left:
            log.gate = asyncio.Event()
            journal.append([attempt()], wait=False)
        await journal.close(0.5)
        log.gate = None
        kinds += [json.loads(line)["kind"] for line in (tmp_path / f"file{left}").read_text().splitlines()]
    # The first of each is that of its beginning.
    assert kinds == ["checkpoint", "end", "checkpoint", "checkpoint"]


async def test_a_name_that_the_logs_encoding_lacks_does_not_stop_the_log(log: Log) -> None:
    log.encoding = "LATIN1"
    mask = NameMask(200, (), b"k" * 32)
    journal = Journal(log.connect, mask, timeout=0.5)
    await journal.start()
    await journal.keep([attempt("Schl\xfcssel \u0416")])
    assert names(log) == ['{"escaped:Schl\xfcssel \\\\u0416"}']
    await journal.close()
    assert_chain(log)


async def test_spooled_events_leave_memory_and_come_back_in_order(log: Log, tmp_path: Path) -> None:
    journal = Journal(log.connect, MASK, timeout=0.5, spool_dir=tmp_path / "spool")
    await journal.start()
    await journal.keep([attempt("before")])
    log.down = True
    for number in range(200):
        await asyncio.wait_for(journal.keep([attempt(str(number))]), 10)
    assert len(journal._rows) == 0 and journal.backlog == 200
    more = [journal.keep([attempt(f"more {number}")]) for number in range(50)]
    log.down = False
    await asyncio.gather(*more)
    await asyncio.wait_for(journal.keep([attempt("after")]), 10)
    assert await journal.close() == 0
    assert names(log) == [
        "{before}",
        *(f"{{{n}}}" for n in range(200)),
        *(f'{{"more {n}"}}' for n in range(50)),
        "{after}",
    ]
    assert_chain(log)
    assert list((tmp_path / "spool").iterdir()) == []


async def test_calls_that_never_pause_do_not_keep_the_log_closed(log: Log, tmp_path: Path) -> None:
    """While the spool is replayed they spool more, which is replayed while they spool more."""
    journal = Journal(log.connect, MASK, timeout=5, spool_dir=tmp_path / "spool")
    await journal.start()
    log.down = True
    await journal.keep([attempt("first")])
    ended = asyncio.Event()

    async def calls(caller: int) -> int:
        for number in itertools.count(1):
            await journal.keep([attempt(f"{caller} {number}")])
            if ended.is_set():
                return number
        raise AssertionError

    running = [asyncio.create_task(calls(caller)) for caller in range(3)]
    # A write takes longer than to spool a call.
    log.gate = SimpleNamespace(wait=lambda: asyncio.sleep(0.03))  # type: ignore[assignment]
    log.down = False
    try:
        async with asyncio.timeout(10):
            while journal.fault is not None:
                await asyncio.sleep(0.01)
    finally:
        ended.set()
        made = sum(await asyncio.gather(*running))
    assert await journal.close() == 0
    assert len(log.rows) == made + 1
    assert_chain(log)


AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def line_of(event: Event, at: datetime = AT, duration: float | None = 0.5) -> Line:
    return Lines(MASK, uuid.UUID(int=1)).add(
        event, (at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1), duration
    )


FULL: dict[str, Any] = {
    "event": "attempt",
    "who": Identity(uuid.UUID(int=3), "app", "app", "tests", ip_address("::1"), 5432, True),
    "statement_no": 7,
    "function": "f(uuid)",
    "operation": "read",
    "owner_id": uuid.UUID(int=4),
    "secret_names": ("a",),
    "encoding": "pgp",
    "via": ("g()",),
    "protocol": "simple",
    "fingerprint": "abc",
    "role": "role",
    "accessed_by": uuid.UUID(int=5),
    "outcome": "ok",
    "sqlstate": "00000",
    "calls": 3,
}


def test_the_hash_covers_every_column() -> None:
    fields = line_of(Event(**FULL)).fields()
    fields[STORED.index("id")] = "00000000-0000-4000-8000-000000000006"
    base = chain.link(chain.GENESIS, chain.encode(fields[:-2]))
    for index, name in enumerate(STORED[:-2]):
        for other in (None, "changed"):
            changed: list[str | None] = list(fields)
            assert changed[index] != other, name
            changed[index] = other
            assert chain.link(chain.GENESIS, chain.encode(changed[:-2])) != base, name
    assert chain.link(b"x" * 32, chain.encode(fields[:-2])) != base


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "NULL", "null", "\\N", "\\.", 'a"b', "{}", "\t\r\n\b\f\v", "é\udc80\0"]
)


@given(
    function=TEXTS,
    secret_names=st.lists(TEXTS | st.none(), max_size=3),
    via=st.lists(TEXTS, max_size=2),
    role=TEXTS,
    sqlstate=TEXTS.map(lambda text: text.encode("ascii", "replace").decode()),
    duration=st.floats(0, 1e7),
    at=st.integers(0, 7 * 10**15).map(lambda micros: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)),
)
def test_a_line_is_the_canonical_one_of_its_columns(
    function: str,
    secret_names: list[str | None],
    via: list[str],
    role: str,
    sqlstate: str,
    duration: float,
    at: datetime,
) -> None:
    event = Event(
        **FULL
        | {
            "function": function,
            "secret_names": tuple(secret_names),
            "via": tuple(via),
            "role": role,
            "sqlstate": sqlstate,
        }
    )
    line = line_of(event, at, duration)
    row_id = line.fields()[STORED.index("id")]
    who = event.who
    columns = [
        uuid.UUID(int=1), 1, row_id, at, "attempt", who.session_id, 7, MASK(function), "read", event.owner_id,
        [MASK(name) for name in secret_names], "pgp", [MASK(step) for step in via], "simple", "abc", "app", MASK(role), event.accessed_by,
        "app", "tests", who.client_addr, 5432, True, "ok", sqlstate, round(duration, 6), 3,
    ]  # fmt: skip
    assert line.line == chain.encode(columns)
    assert uuid.UUID(row_id).version == 4
    assert stored_line(line.stored()) == line and line.prev_hash == chain.GENESIS
    assert line.fields()[7:9] == [MASK(function), "read"]
    plain = line.plain()
    if plain is not None:
        assert [None if field == "\\N" else field for field in plain.decode().split("\t")] == line.fields()
    else:
        assert b"\\" in line.line.replace(b"\\N", b"")


def test_neighbouring_columns_do_not_run_together() -> None:
    assert chain.encode(["ab", "c"]) != chain.encode(["a", "bc"])
    assert chain.encode([None, "a"]) != chain.encode(["a", None])
    assert chain.encode([["a", "b"]]) != chain.encode([["ab"]])
    assert chain.encode([[]]) != chain.encode([None])
    assert chain.encode([""]) != chain.encode([None])


@pytest.mark.parametrize("name", ["sk_live_abcdef", "x" * 201, "é" * 101])
def test_a_name_that_looks_like_a_value_is_masked(name: str) -> None:
    masked = MASK(name)
    assert masked is not None and masked.startswith("masked:") and name not in masked
    assert masked == MASK(name) != NameMask(200, [], b"other" * 7)(name * 2)


@pytest.mark.parametrize("name", ["key", "", "Schlüssel", "x" * 200])
def test_a_name_is_a_name(name: str) -> None:
    assert MASK(name) == name


def test_what_postgres_cannot_store_is_replaced() -> None:
    assert MASK("a\0b") == "a?b" and MASK("a\ud800b") == "escaped:a\\ud800b"


async def test_a_connection_that_was_ended_is_not_an_outage(log: Log) -> None:
    journal = await started(log)
    first = journal.append([attempt("first")], wait=True)
    assert first is not None
    await first
    log.break_after_commit = True
    for name in ("during", "after"):
        future = journal.append([attempt(name)], wait=True)
        assert future is not None
        await asyncio.wait_for(future, 5)
    assert journal.available and names(log) == ["{first}", "{during}", "{after}"]
    await journal.close()
    assert_chain(log)


async def test_a_log_that_lets_in_and_takes_nothing_is_not_up(log: Log) -> None:
    journal = await started(log)
    log.refuses = True
    future = journal.append([attempt("one")], wait=True)
    assert future is not None
    with pytest.raises(LogUnavailableError):
        await asyncio.wait_for(future, 5)
    connected = log.connected
    while log.connected < connected + 3:
        assert not journal.available
        with pytest.raises(LogUnavailableError):
            journal.append([attempt("two")], wait=True)
        await asyncio.sleep(0.01)
    log.refuses = False
    await asyncio.wait_for(journal.keep([attempt("three")]), 5)
    assert journal.available and names(log) == ["{one}", "{three}"]
    await journal.close()
    assert_chain(log)


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moments", "logged"),
    [
        ([100, 3600, 101, 102], [100, 3600, 101, 102]),
        ([100, 99.5, 99.9, 101], [100, 100, 100, 101]),
        ([100, 10, 11], [100, 10, 11]),
        ([100, 4e9, 101, 4e9, 102], [100, 4e9, 101, 4e9, 102]),
    ],
    ids=["a glitch forward", "a clock set right", "a step back", "glitches"],
)
async def test_a_glitch_of_the_clock_does_not_freeze_it(
    log: Log,
    capfd: pytest.CaptureFixture[str],
    moments: list[float],
    logged: list[float],
) -> None:
    journal = await started(log)
    for moment in moments:
        journal._time_ns = lambda moment=moment: int(moment * 1e9)
        await journal.keep([attempt()])
    expected = [f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S+00}" for moment in logged]
    assert [row["at"] for row in in_order(log)] == expected
    assert capfd.readouterr().out.count("the clock went back") == sum(b < a for a, b in itertools.pairwise(logged))
    await journal.close()
    assert_chain(log)


async def test_a_link_local_address_is_what_inet_takes(log: Log) -> None:
    """An address may have a zone, or be IPv4 in IPv6: the log would refuse the one, and show the other in another way
    than was hashed."""
    journal = await started(log)
    for address in ("fe80::1%eth0", "::ffff:192.0.2.7", "2001:db8::7", "192.0.2.7"):
        await journal.keep([Event("call", Identity(uuid.uuid4(), client_addr=ip_address(address)))])
    assert [row["client_addr"] for row in in_order(log)] == ["fe80::1", "192.0.2.7", "2001:db8::7", "192.0.2.7"]
    await journal.close()
    assert_chain(log)


@pytest.mark.parametrize(
    ("sqlstate", "longest"),
    [("28P01", 5.0), ("28000", 5.0), ("42501", 5.0), ("3D000", 5.0), ("55000", 5.0), ("57P03", 0.5), ("53300", 0.5)],
)
async def test_a_login_that_the_server_refuses_is_tried_more_seldom(
    monkeypatch: pytest.MonkeyPatch, sqlstate: str, longest: float
) -> None:
    """Each is a FATAL in the server's log; one that could not be made is tried again at once."""
    log, pauses, sleep = Log(), [], asyncio.sleep

    async def connect() -> Any:
        if len(pauses) < 12:
            cause = asyncpg.PostgresError.new({"C": sqlstate, "M": "refused"})
            raise ConnectError("refused", cause)
        return await log.connect()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(journal_module.asyncio, "sleep", pause)
    journal = Journal(connect, MASK, instance=uuid.uuid4())
    await journal.start()
    while not log.connected:
        await sleep(0)
    assert pauses[:2] == [0.05, 0.1] and max(pauses) == longest
    assert await journal.close() == 0
