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
from tests.conftest import Backend, prepare
from tests.support.standby import Standby

from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
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
