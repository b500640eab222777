"""Checks that a row counts when the synchronous standby has it: a wait that is cancelled, ended or timed out is none,
and a second try waits again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs
from tests.conftest import Backend, prepare
from tests.support.standby import Standby

from secretproxy.audit import journal as journal_module
from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.audit.spool import read
from secretproxy.audit.verify import verify_database
from secretproxy.demo.postgres import PrivateServer
from secretproxy.session.events import Event, Identity

MASK = NameMask(200, (), b"k" * 32)
WHO = Identity(uuid.uuid4(), "app")
WAITING = "SELECT pid, xact_start FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'journal' AND query NOT LIKE '%checkpoints%'"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrivateServer, Backend]]:
    with PrivateServer() as server:
        yield server, prepare(server.host, server.port, tmp_path_factory.mktemp("log"))


@asynccontextmanager
async def without_its_standby(backend: Backend) -> AsyncIterator[Any]:
    """Makes every commit wait for a standby, and there is none."""
    admin = await asyncpg.connect(backend.dsn(), server_settings={"synchronous_commit": "local"})
    await admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await admin.execute("SELECT pg_reload_conf()")
    # The server is told by its checkpointer: a commit shows when it knows.
    probe = await asyncpg.connect(backend.dsn(), server_settings={"synchronous_commit": "on"})
    async with asyncio.timeout(10):
        while True:
            task = asyncio.create_task(probe.execute("SELECT pg_logical_emit_message(true, 'x', 'x')"))
            if not (await asyncio.wait([task], timeout=0.2))[0]:
                await admin.execute("SELECT pg_cancel_backend($1)", probe.get_server_pid())
                await task
                break
    await probe.close()
    try:
        yield admin
    finally:
        await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()


def journal_of(backend: Backend, timeout: float = 30, **given: Any) -> Journal:
    async def connect() -> Any:
        return await asyncpg.connect(backend.dsn("journal"), server_settings={"synchronous_commit": "on"})

    return Journal(connect, MASK, timeout=timeout, **given)


def event(name: str) -> Event:
    return Event("call", WHO, 1, "f(uuid)", "read", None, (name,))


async def waiting(admin: Any, known: set[Any]) -> int:
    """Gives the journal's backend that waits for the standby, in another transaction than those that are known."""
    async with asyncio.timeout(10):
        while True:
            for row in await admin.fetch(WAITING):
                if row["xact_start"] not in known:
                    known.add(row["xact_start"])
                    return int(row["pid"])
            await asyncio.sleep(0.02)


async def names_of(backend: Backend, journal: Journal) -> list[str]:
    admin = await asyncpg.connect(backend.dsn())
    rows = await admin.fetch(
        "SELECT secret_names[1] FROM secretproxy.access_log WHERE instance = $1 ORDER BY seq", journal.instance
    )
    await admin.close()
    report = await verify_database(backend.dsn(), [], None, lambda done, total: None)
    assert report.findings == []
    return [row[0] for row in rows]


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
@pytest.mark.parametrize("name", ["plain", "esc\\aped"])
async def test_a_wait_that_is_ended_releases_nothing(site: tuple[PrivateServer, Backend], how: str, name: str) -> None:
    backend = site[1]
    journal = journal_of(backend)
    await journal.start()
    await journal.keep([event("before")])
    async with without_its_standby(backend) as admin:
        going = journal.append([event(name)], wait=True)
        kept = journal.keep([event("kept")])
        assert going is not None
        known: set[Any] = set()
        for _ in range(4):
            pid = await waiting(admin, known)
            if len(known) > 1:
                # After the first wait the row is there for all to see, and a second try changes nothing.
                count = "SELECT count(*) FROM secretproxy.access_log WHERE instance = $1"
                assert await admin.fetchval(count, journal.instance) == 3
            await admin.execute(f"SELECT {how}($1)", pid)
            await asyncio.sleep(0.1)
            assert not kept.done() and (not going.done() or going.exception() is not None)
        await waiting(admin, known)
    await asyncio.wait_for(kept, 20)
    assert await journal.close() == 0
    assert await names_of(backend, journal) == ["before", name, "kept"]


async def test_a_wait_that_takes_too_long_releases_nothing(site: tuple[PrivateServer, Backend]) -> None:
    """The proxy itself cancels it then."""
    backend = site[1]
    journal = journal_of(backend, timeout=0.4)
    await journal.start()
    await journal.keep([event("before")])
    async with without_its_standby(backend) as admin:
        kept = journal.keep([event("slow")])
        await waiting(admin, set())
        await asyncio.sleep(2)  # several tries
        assert not kept.done() and not journal.available
    await asyncio.wait_for(kept, 20)
    assert await journal.close() == 0
    assert await names_of(backend, journal) == ["before", "slow"]


async def test_a_spool_is_kept_until_the_standby_has_its_rows(
    site: tuple[PrivateServer, Backend], tmp_path: Path
) -> None:
    backend = site[1]
    journal = journal_of(backend, timeout=0.4, spool_dir=tmp_path)
    await journal.start()
    async with without_its_standby(backend) as admin:
        # In the log, without its standby; then in the spool, which is what lets the call go on.
        await asyncio.wait_for(journal.keep([event("spooled")]), 10)
        assert [path.suffix for path in tmp_path.iterdir()] == [".spool"]
        known: set[Any] = set()
        for _ in range(3):
            pid = await waiting(admin, known)
            await admin.execute("SELECT pg_cancel_backend($1)", pid)
        assert list(tmp_path.iterdir()) and not journal.available
    async with asyncio.timeout(20):
        while not journal.available:
            await asyncio.sleep(0.02)
    assert await journal.close() == 0 and list(tmp_path.iterdir()) == []
    assert await names_of(backend, journal) == ["spooled"]


async def test_a_checkpoint_is_signed_again_until_the_standby_has_it(
    site: tuple[PrivateServer, Backend], tmp_path: Path
) -> None:
    backend = site[1]
    kept = tmp_path / "kept"
    journal = journal_of(backend, signer=Signer(tmp_path / "key", kept), checkpoint_seconds=0.1)
    await journal.start()
    async with asyncio.timeout(10):
        while not kept.read_text():
            await asyncio.sleep(0.02)
    async with without_its_standby(backend) as admin:
        row = journal.keep([event("signed")])
        await waiting(admin, set())
    await asyncio.wait_for(row, 20)
    async with without_its_standby(backend) as admin:
        # Whatever is signed now waits, and is cancelled.
        before = kept.read_text()
        journal._housekeeping._signed = 0
        journal._housekeeping._woken.set()
        query = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%checkpoints%'"
        for _ in range(2):
            async with asyncio.timeout(10):
                while not (pid := await admin.fetchval(query)):
                    await asyncio.sleep(0.02)
            assert await admin.fetchval("SELECT pg_cancel_backend($1)", pid)
            async with asyncio.timeout(10):
                while await admin.fetchval(query) == pid:
                    await asyncio.sleep(0.02)
        assert kept.read_text() == before
    async with asyncio.timeout(20):
        while kept.read_text() == before:
            await asyncio.sleep(0.02)
    assert await journal.close() == 0
    assert await names_of(backend, journal) == ["signed"]


async def test_a_standby_that_comes_later_has_the_row_before_it_is_released(
    site: tuple[PrivateServer, Backend],
) -> None:
    server, backend = site
    journal = journal_of(backend)
    await journal.start()
    async with without_its_standby(backend) as admin:
        kept = journal.keep([event("awaited")])
        known: set[Any] = set()
        await admin.execute("SELECT pg_cancel_backend($1)", await waiting(admin, known))
        await waiting(admin, known)
        assert not kept.done()
        standby = Standby(server)
        await asyncio.to_thread(standby._initialize)
        standby._launch()
        try:
            async with asyncio.timeout(25):
                while not kept.done():
                    # A standby tells how far it is when something comes.
                    await admin.execute("SELECT pg_logical_emit_message(false, 'x', 'x')")
                    await asyncio.sleep(0.1)
            reader = await asyncpg.connect(standby.dsn("app"))
            async with asyncio.timeout(10):
                # Durable there; replayed a moment later.
                while not await reader.fetchval(
                    "SELECT count(*) FROM secretproxy.access_log WHERE instance = $1", journal.instance
                ):
                    await asyncio.sleep(0.02)
            await reader.close()
            assert await journal.close() == 0
        finally:
            await asyncio.to_thread(standby.stop)


async def test_a_trigger_that_warns_is_no_standby_that_is_missing(site: tuple[PrivateServer, Backend]) -> None:
    backend = site[1]
    admin = await asyncpg.connect(backend.dsn())
    await admin.execute(
        "CREATE FUNCTION public.warns() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'x'; RETURN NEW; END $$;"
        "CREATE TRIGGER warns BEFORE INSERT ON secretproxy.access_log FOR EACH ROW EXECUTE FUNCTION public.warns()"
    )
    journal = journal_of(backend)
    await journal.start()
    await asyncio.wait_for(journal.keep([event("warned")]), 10)
    assert await journal.close() == 0
    await admin.execute("DROP FUNCTION public.warns CASCADE")
    await admin.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every commit taken for a slow one."""
    monkeypatch.setattr(journal_module, "SLOW_COMMIT", 0.0)
    monkeypatch.setattr(journal_module, "SLOW_GROUPS", 1)


async def writing_ahead(backend: Backend, **given: Any) -> tuple[Journal, list[str]]:
    """Starts a journal that writes groups ahead of their syncs; gives what it has written for that."""
    journal = journal_of(backend, **given)
    await journal.start()
    names: list[str] = []
    async with asyncio.timeout(20):
        while journal._ahead is None:
            await asyncio.gather(journal.keep([event("one")]), journal.keep([event("other")]))
            names += ["one", "other"]
    return journal, names


async def committed(admin: Any, journal: Journal, count: int) -> None:
    """Waits until everybody sees so many rows."""
    query = "SELECT count(*) FROM secretproxy.access_log WHERE instance = $1"
    async with asyncio.timeout(10):
        while await admin.fetchval(query, journal.instance) < count:
            await asyncio.sleep(0.01)
        assert await admin.fetchval(query, journal.instance) == count


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend", "writer", "nothing"])
async def test_groups_written_ahead_release_nothing_before_their_sync(
    site: tuple[PrivateServer, Backend], slow: None, how: str
) -> None:
    backend = site[1]
    journal, names = await writing_ahead(backend)
    async with without_its_standby(backend) as admin:
        kept = []
        for number in range(3):
            names.append(f"row {number}")
            kept.append(journal.keep([event(names[-1])]))
            # In the log before the one in front of it is durable.
            await committed(admin, journal, len(names))
        known: set[Any] = set()
        pid = await waiting(admin, known)
        assert not any(each.done() for each in kept) and journal.written == len(names) - 3
        if how == "writer":
            assert journal._ahead is not None
            await admin.execute("SELECT pg_terminate_backend($1)", journal._ahead.pid)
            # What comes next shows it.
            names.append("behind")
            kept.append(journal.keep([event("behind")]))
        elif how != "nothing":
            await admin.execute(f"SELECT {how}($1)", pid)
        if how != "nothing":
            async with asyncio.timeout(10):
                while journal._ahead is not None:
                    await asyncio.sleep(0.01)
            # All of it is written again, and waits again.
            await waiting(admin, known)
        assert not any(each.done() for each in kept) and journal.backlog == len(kept)
    await asyncio.wait_for(asyncio.gather(*kept), 20)
    assert await journal.close() == 0
    assert await names_of(backend, journal) == names


async def test_a_group_that_fails_leaves_none_behind_it(site: tuple[PrivateServer, Backend], slow: None) -> None:
    backend = site[1]
    journal, names = await writing_ahead(backend)
    async with without_its_standby(backend) as admin:
        kept = [journal.keep([event("waits")])]
        await committed(admin, journal, len(names) + 1)
        async with admin.transaction():
            await admin.execute("LOCK TABLE secretproxy.access_log IN SHARE MODE")
            kept.append(journal.keep([event("fails")]))
            async with asyncio.timeout(10):
                while journal._group is None:
                    await asyncio.sleep(0)
            kept.append(journal.keep([event("behind")]))
            assert journal._ahead is not None
            await admin.execute("SELECT pg_terminate_backend($1)", journal._ahead.pid)
            async with asyncio.timeout(10):
                while journal._ahead is not None:
                    await asyncio.sleep(0.01)
            await committed(admin, journal, len(names) + 1)
        assert not any(each.done() for each in kept)
    await asyncio.wait_for(asyncio.gather(*kept), 20)
    assert await journal.close() == 0
    assert await names_of(backend, journal) == [*names, "waits", "fails", "behind"]


async def test_what_waits_for_its_sync_at_the_end_counts_as_not_written(
    site: tuple[PrivateServer, Backend], slow: None, tmp_path: Path
) -> None:
    backend = site[1]
    journal, names = await writing_ahead(backend, spool_dir=tmp_path)
    async with without_its_standby(backend) as admin:
        for name in ("last", "and least"):
            journal.keep([event(name)])
            names.append(name)
            await committed(admin, journal, len(names))
        # Into the spool, as whatever else is not durable at the end.
        assert await journal.close(0.3) == 0
        assert journal.written == len(names) - 2
    (spooled,) = tmp_path.glob("*.spool")
    with spooled.open("rb") as file:
        assert len(list(read(file))) == 2
    assert await names_of(backend, journal) == names


async def test_nothing_is_written_ahead_where_the_other_connections_lead_elsewhere(
    site: tuple[PrivateServer, Backend], slow: None
) -> None:
    backend = site[1]
    databases: list[str] = []

    async def connect() -> Any:
        # The journal's own connection, and housekeeping's; then another server's, as a balancer would have it.
        databases.append("postgres" if len(databases) > 1 else "")
        dsn = backend.dsn("journal", databases[-1]) if databases[-1] else backend.dsn("journal")
        return await asyncpg.connect(dsn)

    journal = Journal(connect, MASK, timeout=30)
    await journal.start()
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            while not journal._ahead_again:
                await asyncio.gather(journal.keep([event("a")]), journal.keep([event("b")]))
    assert [line["cause"] for line in logs] == ["audit.dsn leads to more than one server"]
    assert journal._ahead is None and databases[-1] == "postgres"
    await journal.keep([event("c")])
    assert await journal.close() == 0
    names = await names_of(backend, journal)
    assert len(names) == journal.written and names[-1] == "c"


async def test_a_session_that_is_alone_waits_for_no_second_round_trip(
    site: tuple[PrivateServer, Backend], slow: None
) -> None:
    backend = site[1]
    journal, names = await writing_ahead(backend)
    ahead = journal._ahead
    assert ahead is not None
    for number in range(journal_module.ALONE + 8):
        await journal.keep([event(f"alone {number}")])
        names.append(f"alone {number}")
        if number == journal_module.ALONE + 2:
            began = ahead.began
    assert journal._ahead is ahead and ahead.began == began
    assert await journal.close() == 0
    assert await names_of(backend, journal) == names
