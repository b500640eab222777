"""Checks that groups written ahead of their syncs are durable when they count, where a part of the journal's connections
breaks, hangs, leads elsewhere or is shared by a pooler, and that no part of it stops or closes the log."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs
from tests.conftest import Backend

from secretproxy.audit import groups
from secretproxy.audit import journal as journal_module
from secretproxy.audit.ahead import SYNCS, Ahead, ElsewhereError
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.session.events import Event, Identity

MASK = NameMask(200, (), b"k" * 32)
WHO = Identity(uuid.uuid4(), "app")


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every commit taken for a slow one."""
    monkeypatch.setattr(journal_module, "SLOW_COMMIT", 0.0)
    monkeypatch.setattr(journal_module, "SLOW_GROUPS", 1)


def event(name: str) -> Event:
    return Event("call", WHO, 1, "f(uuid)", "read", None, (name,))


async def crowd(journal: Journal, count: int = 2) -> None:
    await asyncio.wait_for(asyncio.gather(*[journal.keep([event(f"row {number}")]) for number in range(count)]), 10)


async def written_ahead(journal: Journal) -> Ahead:
    """Has rows written until they are written ahead; gives what does that."""
    async with asyncio.timeout(20):
        while journal._ahead is None:
            await crowd(journal)
    return journal._ahead


async def rows_of(backend: Backend, journal: Journal) -> list[int]:
    """Ends a journal and gives the numbers of its rows, which must be a whole chain."""
    written = journal._lines.seq
    assert await journal.close() == 0
    admin = await asyncpg.connect(backend.dsn())
    rows = await admin.fetch(
        "SELECT seq, prev_hash, row_hash FROM secretproxy.access_log WHERE instance = $1 ORDER BY seq", journal.instance
    )
    await admin.close()
    before = bytes(32)
    for row in rows:
        assert row["prev_hash"] == before
        before = row["row_hash"]
    assert [row["seq"] for row in rows] == list(range(1, written + 1))
    return [row["seq"] for row in rows]


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Has these processes of the server stand still."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def waiting_ones(ahead: Ahead) -> list[int]:
    """Gives the server's processes that wait for syncs."""
    return [connection.get_server_pid() for connection, _ in ahead._free]


async def start(backend: Backend, timeout: float = 10, **given: Any) -> Journal:
    async def connect() -> Any:
        return await asyncpg.connect(backend.dsn("journal"))

    journal = Journal(connect, MASK, timeout=timeout, **given)
    await journal.start()
    return journal


async def end(backend: Backend, connection: Any) -> None:
    """Ends a connection at the server, and waits until its client has heard of it."""
    admin = await asyncpg.connect(backend.dsn())
    await admin.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await admin.close()
    async with asyncio.timeout(10):
        while not connection.is_closed():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("when", ["idle", "behind", "opening"])
async def test_with_the_first_connection_the_others_end(postgres: Backend, when: str) -> None:
    """The next first one may lead to another server. Those to the one that was fenced off may still answer, and would
    take rows that nobody reads there."""
    journal = await start(postgres)
    opened: list[Any] = []
    if when == "opening":
        # The last of the five comes when the first connection is a new one.
        connect, going = journal._connect, asyncio.Event()

        async def late() -> Any:
            if len(opened) == 4:
                await going.wait()
            opened.append(await connect())
            return opened[-1]

        journal._connect = late
        async with asyncio.timeout(10):
            while len(opened) < 4:
                await crowd(journal)
        journal._connect = connect
    else:
        opened = (await written_ahead(journal))._all
    first = journal._connection
    with stopped(waiting_ones(journal._ahead) if when == "behind" and journal._ahead else []):
        kept = [journal.keep([event("kept")])] if when == "behind" else []
        await end(postgres, first)
        kept.append(journal.keep([event("next")]))
        await asyncio.wait_for(asyncio.gather(*kept), 8)
        assert journal._connection is not first
        assert len(opened) >= 4 and all(connection.is_closed() for connection in opened)
    if when == "opening":
        going.set()
    await crowd(journal)
    assert journal._ahead is None or journal._ahead._where == journal._place
    assert journal.available
    await rows_of(postgres, journal)


async def test_a_connection_that_ended_while_idle_costs_nothing(postgres: Backend) -> None:
    journal = await start(postgres)
    ahead = await written_ahead(journal)
    first, pids = journal._connection, waiting_ones(ahead)
    for connection in [one for one in ahead._all if one.get_server_pid() in pids]:
        await end(postgres, connection)
    await crowd(journal)
    assert journal._connection is first and journal._unsure == 0 and journal._ahead is not ahead
    await written_ahead(journal)
    await rows_of(postgres, journal)


async def test_a_sync_that_hangs_behind_another_one_is_no_outage(postgres: Backend) -> None:
    """What the other one showed as durable needs it no more."""
    journal = await start(postgres, timeout=1)
    ahead = await written_ahead(journal)
    first = journal._connection
    # The next sync is on the last one.
    with stopped(waiting_ones(ahead)[-1:]):
        stuck = journal.keep([event("stuck")])
        async with asyncio.timeout(10):
            while not journal._behind:
                await asyncio.sleep(0)
        assert not stuck.done()
        with capture_logs() as logs:
            async with asyncio.timeout(10):
                while journal._ahead is ahead:
                    await crowd(journal)
        assert stuck.done() and journal._connection is first and journal._unsure == 0
        assert [line for line in logs if line["log_level"] == "error"] == []
    await rows_of(postgres, journal)


async def test_syncs_that_fail_when_nobody_waits_for_them_stop_nothing(postgres: Backend) -> None:
    """Their rows were taken back and written by the first connection."""
    journal = await start(postgres, timeout=1)
    ahead = await written_ahead(journal)
    assert ahead.writer is not None
    with stopped(waiting_ones(ahead)):
        kept = []
        for _ in range(SYNCS):
            kept.append(journal.keep([event("behind")]))
            count = len(journal._behind)
            async with asyncio.timeout(10):
                while len(journal._behind) == count:
                    journal._commit_takes = 0.0
                    journal._wake()
                    await asyncio.sleep(0.001)
        assert not ahead.free
        # Something else is to be done meanwhile.
        journal._prove = True
        journal._wake()
        await asyncio.wait_for(asyncio.gather(*kept), 8)
        async with asyncio.timeout(10):
            while ahead.waits:
                await asyncio.sleep(0.01)
    await crowd(journal)
    await crowd(journal)
    assert journal.available and journal._ahead is not ahead
    await rows_of(postgres, journal)


async def test_what_is_elsewhere_and_holds_the_same_lock_is_elsewhere(postgres: Backend) -> None:
    """Anybody may read the lock's number, and take it on another server or in another database."""
    dsns = [postgres.dsn("journal")]

    async def connect() -> Any:
        return await asyncpg.connect(dsns[-1])

    journal = Journal(connect, MASK, timeout=10)
    await journal.start()
    assert journal._place is not None
    other = await asyncpg.connect(postgres.dsn(database="postgres"))
    await other.execute(f"SELECT pg_advisory_lock({journal._place.key})")
    await asyncio.sleep(0)
    dsns.append(postgres.dsn("journal", "postgres"))
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            while not journal._ahead_again:
                await crowd(journal)
    assert [line["cause"] for line in logs] == ["audit.dsn leads to more than one server"]
    # A server that is the copy of this one differs in when it started.
    started = journal._place._replace(started=journal._place.started + timedelta(microseconds=1))
    dsns.pop()
    ahead = Ahead(connect, 10, started)
    with pytest.raises(ElsewhereError):
        await ahead.open(lambda error, rows: None)
    ahead.close()
    await other.close()
    await rows_of(postgres, journal)


async def test_what_the_server_says_of_a_row_is_told_to_nobody(
    postgres: Backend, capfd: pytest.CaptureFixture[str]
) -> None:
    """A trigger quotes it, for a group that is written ahead and then for each smaller one."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(repr(context)))
    journal = await start(postgres)
    ahead = await written_ahead(journal)
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(
        "CREATE FUNCTION public.quotes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.secret_names[1] = 'quoted-7f3a' THEN RAISE EXCEPTION 'not %', NEW USING ERRCODE = TG_ARGV[0]; END IF;"
        " RETURN NEW; END $$;"
        "CREATE TRIGGER quotes BEFORE INSERT ON secretproxy.access_log FOR EACH ROW"
        f" WHEN (NEW.instance = '{journal.instance}') EXECUTE FUNCTION public.quotes('23514')"
    )
    try:
        assert ahead.writer is not None and journal._ahead is ahead
        names = ["quoted-7f3a", *[f"row {number}" for number in range(6)]]
        await asyncio.wait_for(asyncio.gather(*[journal.keep([event(name)]) for name in names]), 20)
    finally:
        await admin.execute("DROP FUNCTION public.quotes CASCADE")
        await admin.close()
    await rows_of(postgres, journal)
    gc.collect()
    await asyncio.sleep(0)
    out, err = capfd.readouterr()
    assert "did not take a row as it was" in out and "quoted-7f3a" not in out + err + "".join(told)


@pytest.mark.parametrize("packs", [False, True])
async def test_no_connection_that_waits_for_rows_holds_a_lock(
    postgres: Backend, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    """Whoever wants to take a partition away would wait for it, and all rows behind that."""
    monkeypatch.setattr(groups, "PACKS", packs)
    journal = await start(postgres)
    ahead = await written_ahead(journal)
    pids = [connection.get_server_pid() for connection in (journal._connection, *ahead._all)]
    admin = await asyncpg.connect(postgres.dsn())
    states = await admin.fetch("SELECT pid, state FROM pg_stat_activity WHERE pid = ANY ($1::int[])", pids)
    assert {row["pid"]: row["state"] for row in states} == dict.fromkeys(pids, "idle")
    locks = "SELECT locktype FROM pg_locks WHERE pid = ANY ($1::int[]) AND locktype <> 'advisory'"
    assert await admin.fetch(locks, pids) == []
    await admin.close()
    await rows_of(postgres, journal)
