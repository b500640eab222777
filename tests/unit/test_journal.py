"""The journal against a log that comes and goes, and the chain that it makes."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from secretproxy.audit import chain
from secretproxy.audit.journal import Journal, LogUnavailable
from secretproxy.audit.rows import CHAINED_AT, COLUMNS, PREV_HASH, ROW_HASH, NameMask, row
from secretproxy.session.events import Event, Identity

MASK = NameMask(200, [r"sk_live_"], b"k" * 32)
WHO = Identity(uuid.uuid4(), "app", "app", "tests")


def attempt(name: str = "key") -> Event:
    return Event("attempt", WHO, statement_no=1, function="f(uuid)", secret_names=(name,))


class Log:
    """A database in memory: it can be down, break off after its commit, or hang."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, object], tuple[object, ...]] = {}
        self.groups: list[int] = []
        self.down = False
        self.break_after_commit = False
        self.gate: asyncio.Event | None = None

    async def connect(self) -> Any:
        if self.down:
            raise ConnectionRefusedError
        return Connection(self)


class Connection:
    def __init__(self, log: Log) -> None:
        self.log = log
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True

    async def execute(self, sql: str) -> None:
        if self.log.down:
            raise ConnectionResetError

    async def prepare(self, sql: str) -> Connection:
        return self

    async def fetch(self, *values: object) -> None:
        await self.executemany([values])

    async def executemany(self, group: list[tuple[object, ...]]) -> None:
        if self.log.gate is not None:
            await self.log.gate.wait()
        if self.log.down:
            self.closed = True
            raise ConnectionResetError
        for values in group:
            self.log.rows.setdefault((values[3], values[4]), tuple(values))
        self.log.groups.append(len(group))
        if self.log.break_after_commit:
            self.log.break_after_commit = False
            self.closed = True
            raise ConnectionResetError


@pytest.fixture
def log() -> Log:
    return Log()


def line_of(columns: list[object] | tuple[object, ...]) -> bytes:
    return chain.encode([columns[place] for place in CHAINED_AT])


async def started(log: Log) -> Journal:
    journal = Journal(log.connect, MASK, timeout=0.5)
    await journal.start()
    return journal


def in_order(log: Log) -> list[tuple[object, ...]]:
    return [log.rows[key] for key in sorted(log.rows, key=lambda key: key[1])]  # type: ignore[arg-type,return-value]


def assert_chain(log: Log) -> None:
    before = chain.GENESIS
    for number, values in enumerate(in_order(log), 1):
        assert values[4] == number and values[PREV_HASH] == before
        columns = list(values)
        before = chain.link(before, line_of(columns))
        assert values[ROW_HASH] == before


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


async def test_known_to_be_down_it_takes_nothing_that_waits(log: Log) -> None:
    log.down = True
    journal = await started(log)
    assert not journal.available
    with pytest.raises(LogUnavailable):
        journal.append([attempt()], wait=True)
    assert journal.backlog == 0
    journal.append([attempt("outcome")], wait=False)
    kept = journal.keep([attempt("call")])
    log.down = False
    await asyncio.wait_for(kept, 5)
    assert [values[12] for values in in_order(log)] == [["outcome"], ["call"]]
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
    with pytest.raises(LogUnavailable):
        await going
    assert not happened.done()
    log.down = False
    await asyncio.wait_for(happened, 5)
    assert [values[12] for values in in_order(log)] == [["going"], ["happened"]]
    await journal.close()
    assert_chain(log)


async def test_a_commit_whose_fate_is_unknown_is_written_once(log: Log) -> None:
    journal = await started(log)
    log.break_after_commit = True
    future = journal.keep([attempt("one"), attempt("two")])
    await asyncio.wait_for(future, 5)
    assert len(log.groups) == 2 and len(log.rows) == 2
    await journal.close()
    assert_chain(log)


async def test_a_log_that_hangs_is_unavailable_after_the_timeout(log: Log) -> None:
    journal = await started(log)
    log.gate = asyncio.Event()
    future = journal.append([attempt()], wait=True)
    assert future is not None
    with pytest.raises(LogUnavailable, match=r"audit\.timeout"):
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


AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def columns(event: Event) -> list[object]:
    return row(event, MASK, instance=uuid.UUID(int=1), seq=1, at=AT, duration=0.5, row_id=uuid.UUID(int=2))


def test_the_hash_covers_every_column() -> None:
    full = Event(
        "attempt",
        WHO,
        1,
        "f(uuid)",
        "read",
        uuid.uuid4(),
        ("a",),
        "pgp",
        ("g()",),
        "simple",
        "abc",
        "role",
        uuid.uuid4(),
        "ok",
        "00000",
        3,
    )
    values = columns(full)
    base = chain.link(chain.GENESIS, line_of(values))
    for index, name in enumerate(COLUMNS):
        if name in ("prev_hash", "row_hash"):
            continue
        for other in (None, "changed", ["changed"]):
            changed = list(values)
            if changed[index] == other:
                continue
            changed[index] = other
            assert chain.link(chain.GENESIS, line_of(changed)) != base, name
    assert chain.link(b"x" * 32, line_of(values)) != base


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
    assert MASK("a\0b") == "a?b" and MASK("a\ud800b") == "a?b"
