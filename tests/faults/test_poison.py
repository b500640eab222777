"""Checks that one row that the log does not take never takes the log down: it goes in reduced, in its place, once; an
outage costs no row a column."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from tests.conftest import Backend

from secretproxy.audit import groups
from secretproxy.audit.journal import GROUP, Journal, LogUnavailableError
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import ROW_NAMES, STATEMENT_NAMES
from secretproxy.audit.unwritable import NOTE
from secretproxy.audit.verify import verify_database
from secretproxy.install import install
from secretproxy.session.events import Event, Identity

DATABASE = "poisoned"
MASK = NameMask(200, (), b"k" * 32)
WHO = Identity(uuid.uuid4(), "app", "app", "tests")
TRIGGER = """
CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
CREATE TRIGGER no BEFORE INSERT ON secretproxy.access_log FOR EACH ROW EXECUTE FUNCTION public.no()
"""
MEND_TRIGGER = "DROP FUNCTION public.no CASCADE"
IS_BAD = "NEW.secret_names @> '{bad}'"


def trigger(body: str) -> tuple[str, str]:
    return TRIGGER.format(body=body), MEND_TRIGGER


def check(condition: str) -> tuple[str, str]:
    return (
        f"ALTER TABLE secretproxy.access_log ADD CONSTRAINT no CHECK ({condition}) NOT VALID",
        "ALTER TABLE secretproxy.access_log DROP CONSTRAINT no",
    )


def bad(**given: Any) -> Event:
    fields: dict[str, Any] = {
        "statement_no": 5,
        "function": "f(uuid)",
        "owner_id": uuid.UUID(int=5),
        "secret_names": ("bad",),
    }
    return Event("call", given.pop("who", WHO), **fields | given)


NOTHING = ("SELECT 1", "SELECT 1")
# What is done to the log, and the row that it then does not take.
POISONS: dict[str, tuple[tuple[str, str], Event]] = {
    "a CHECK on names": (check("NOT secret_names @> '{bad}'"), bad()),
    "a CHECK on the owner": (check(f"owner_id <> '{uuid.UUID(int=5)}'"), bad()),
    "a CHECK on the event and the names": (
        check("event <> 'call' OR secret_names IS NULL OR secret_names[1] <> 'bad'"),
        bad(),
    ),
    "a trigger that raises": (trigger(f"IF {IS_BAD} THEN RAISE EXCEPTION 'no'; END IF;"), bad()),
    "a trigger that divides by zero": (trigger(f"IF {IS_BAD} THEN NEW.calls := 1 / 0; END IF;"), bad()),
    "a trigger with an error of its own": (trigger(f"IF {IS_BAD} THEN PERFORM public.nothing(); END IF;"), bad()),
    "a trigger that refuses rights": (trigger(f"IF {IS_BAD} THEN RAISE insufficient_privilege; END IF;"), bad()),
    "a trigger that cancels": (trigger(f"IF {IS_BAD} THEN RAISE query_canceled; END IF;"), bad()),
    "a trigger that takes for ever": (trigger(f"IF {IS_BAD} THEN PERFORM pg_sleep(60); END IF;"), bad()),
    "a policy": (
        (
            "ALTER TABLE secretproxy.access_log ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY no ON secretproxy.access_log FOR INSERT WITH CHECK (NOT secret_names @> '{bad}')",
            "DROP POLICY no ON secretproxy.access_log; ALTER TABLE secretproxy.access_log DISABLE ROW LEVEL SECURITY",
        ),
        bad(),
    ),
    "a character that no text has": (NOTHING, bad(fingerprint="a\0b")),
    "a number that no bigint is": (NOTHING, bad(statement_no=2**70)),
    "an address that is none": (NOTHING, bad(who=Identity(uuid.uuid4(), "app", client_addr="999.1.1.1"))),  # type: ignore[arg-type]
    "a port that is none": (NOTHING, bad(who=Identity(uuid.uuid4(), "app", client_port=2**40))),
    "a name too long for an index": (NOTHING, bad(secret_names=(random.Random(1).randbytes(9000).hex(),))),
    # That of an older version, which checked such words.
    "a word that the log does not take": (
        (
            "ALTER TABLE secretproxy.access_log ADD CONSTRAINT access_log_protocol_check"
            " CHECK (protocol = ANY (ARRAY['simple', 'extended', 'fastpath'])) NOT VALID",
            "ALTER TABLE secretproxy.access_log DROP CONSTRAINT access_log_protocol_check",
        ),
        bad(protocol="carrier pigeon"),
    ),
    "a login too long for an index": (
        ("CREATE INDEX no ON secretproxy.access_log (fingerprint)", "DROP INDEX secretproxy.no"),
        bad(fingerprint=random.Random(2).randbytes(9000).hex()),
    ),
}


@pytest.fixture(scope="module")
def server(postgres: Backend) -> Iterator[Backend]:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    asyncio.run(install(postgres.dsn(database=DATABASE), postgres.key_file, direct_calls="log"))
    yield postgres
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@asynccontextmanager
async def altered(server: Backend, statements: tuple[str, str]) -> AsyncIterator[Any]:
    admin = await asyncpg.connect(server.dsn(database=DATABASE))
    await admin.execute(statements[0])
    try:
        yield admin
    finally:
        await admin.execute(statements[1])
        await admin.close()


def journal_of(server: Backend, **given: Any) -> Journal:
    async def connect() -> Any:
        return await asyncpg.connect(server.dsn("journal", DATABASE))

    mask = NameMask(50_000, (), b"k" * 32) if given.pop("long", False) else MASK
    return Journal(connect, mask, **{"timeout": 0.5} | given)


def good(number: int) -> Event:
    return Event("call", WHO, number, "f(uuid)", "read", uuid.UUID(int=7), (f"good {number}",))


async def rows_of(admin: Any, journal: Journal) -> list[Any]:
    return list(
        await admin.fetch("SELECT * FROM secretproxy.access_log WHERE instance = $1 ORDER BY seq, at", journal.instance)
    )


async def sound(server: Backend, journal: Journal) -> None:
    report = await verify_database(server.dsn(database=DATABASE), [], None, lambda done, total: None)
    assert [found for found in report.findings if found.instance == str(journal.instance)] == []


def as_told(rows: list[Any], told: list[Event], poison: Event) -> None:
    """Checks that the log has every event once and in order, all whole but the poisoned one, which says that it is
    not."""
    assert [row["seq"] for row in rows] == list(range(1, len(told) + 1))
    for row, event in zip(rows, told, strict=True):
        assert row["session_id"] == event.who.session_id
        if event is poison:
            assert row["secret_names"] == [NOTE]
        else:
            assert (row["secret_names"], row["statement_no"]) == (list(event.secret_names or ()), event.statement_no)


@pytest.mark.parametrize("name", POISONS)
async def test_a_poisoned_row_goes_in_reduced(server: Backend, name: str) -> None:
    statements, poison = POISONS[name]
    journal = journal_of(server, long=True)
    await journal.start()
    async with altered(server, statements) as admin:
        told = [*(good(number) for number in range(40)), poison, *(good(number) for number in range(40, 90))]
        kept = [journal.keep([event]) for event in told]
        await asyncio.wait_for(asyncio.gather(*kept), 30)
        assert journal.available and journal.backlog == 0
        after = journal.append([good(99)], wait=True)
        assert after is not None
        await asyncio.wait_for(after, 5)
        assert await journal.close() == 0
        as_told(await rows_of(admin, journal), [*told, good(99)], poison)
    await sound(server, journal)


async def test_what_the_row_still_says(server: Backend) -> None:
    """The row leaves out only as much as it must."""
    journal = journal_of(server)
    await journal.start()
    async with altered(server, POISONS["a CHECK on names"][0]) as admin:
        await asyncio.wait_for(journal.keep([bad(role="r", sqlstate="00000")]), 10)
        row = (await rows_of(admin, journal))[0]
        assert (row["db_user"], row["owner_id"], row["function"], row["role"]) == (
            "app",
            uuid.UUID(int=5),
            "f(uuid)",
            "r",
        )
        await journal.close()


async def test_every_row_poisoned_and_the_stop_loses_none(server: Backend) -> None:
    journal = journal_of(server)
    await journal.start()
    async with altered(server, POISONS["a CHECK on names"][0]) as admin:
        journal.append([bad() for _ in range(60)], wait=False)
        assert await journal.close(20) == 0
        rows = await rows_of(admin, journal)
        assert [row["secret_names"] for row in rows] == [[NOTE]] * 60
    await sound(server, journal)


OUTAGES = {
    "disk full": trigger("RAISE disk_full;"),
    "disk full for what is large": trigger(f"IF {IS_BAD} THEN RAISE disk_full; END IF;"),
    "an error for every row": trigger("RAISE EXCEPTION 'no';"),
    "no rights": ("REVOKE INSERT ON secretproxy.access_log FROM secretproxy_writer", "GRANT INSERT ON secretproxy.access_log TO secretproxy_writer"),
    "every row takes for ever": trigger("PERFORM pg_sleep(60);"),
    "a deadlock for that row": trigger(f"IF {IS_BAD} THEN RAISE deadlock_detected; END IF;"),
    "a lock not had": trigger(f"IF {IS_BAD} THEN RAISE lock_not_available; END IF;"),
    "a rule that drops every row": ("CREATE RULE no AS ON INSERT TO secretproxy.access_log DO INSTEAD NOTHING", "DROP RULE no ON secretproxy.access_log"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTAGES)
async def test_an_outage_costs_no_row_a_column(server: Backend, name: str) -> None:
    journal = journal_of(server)
    await journal.start()
    told = [*(good(number) for number in range(3)), bad(), *(good(number) for number in range(3, 6))]
    async with altered(server, OUTAGES[name]) as admin:
        kept = journal.keep(told)
        async with asyncio.timeout(10):
            while journal.available:
                await asyncio.sleep(0.02)
        with pytest.raises(LogUnavailableError):
            journal.append([good(50)], wait=True)
        assert not kept.done()
    admin = await asyncpg.connect(server.dsn(database=DATABASE))
    await asyncio.wait_for(kept, 20)
    as_told(await rows_of(admin, journal), told, good(0))
    assert await journal.close() == 0
    await admin.close()
    await sound(server, journal)


async def test_an_outage_with_a_poisoned_row_in_the_middle(server: Backend) -> None:
    """A lock makes everything wait, then come rows of which one is poisoned."""
    journal = journal_of(server)
    await journal.start()
    poison = bad()
    told = [good(1), poison, good(2)]
    async with altered(server, POISONS["a trigger that takes for ever"][0]) as admin:
        async with admin.transaction():
            await admin.execute("LOCK TABLE secretproxy.access_log IN ACCESS EXCLUSIVE MODE")
            kept = journal.keep(told)
            async with asyncio.timeout(10):
                while journal.available:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(1.2)  # some tries
        await asyncio.wait_for(kept, 20)
        as_told(await rows_of(admin, journal), told, poison)
        assert await journal.close() == 0
    await sound(server, journal)


async def test_a_poisoned_row_in_a_spool(server: Backend, tmp_path: Path) -> None:
    journal = journal_of(server, spool_dir=tmp_path)
    await journal.start()
    poison = bad()
    told = [*(good(number) for number in range(20)), poison, *(good(number) for number in range(20, 700))]
    async with altered(server, POISONS["a CHECK on names"][0]) as admin:
        await admin.execute("ALTER TABLE secretproxy.access_log RENAME TO elsewhere")
        for event in told:
            await asyncio.wait_for(journal.keep([event]), 10)
        assert journal.backlog == len(told)
        await admin.execute("ALTER TABLE secretproxy.elsewhere RENAME TO access_log")
        async with asyncio.timeout(20):
            while not journal.available:
                await asyncio.sleep(0.02)
        await asyncio.wait_for(journal.keep([good(999)]), 10)
        assert await journal.close() == 0
        as_told(await rows_of(admin, journal), [*told, good(999)], poison)
    await sound(server, journal)
    assert list(tmp_path.iterdir()) == []


async def test_a_poisoned_row_in_the_spool_of_a_process_that_is_gone(server: Backend, tmp_path: Path) -> None:
    """This holds also where the one that replayed it was itself killed in the middle."""

    async def nowhere() -> Any:
        raise ConnectionRefusedError

    gone = Journal(nowhere, MASK, timeout=0.5, spool_dir=tmp_path / "gone")
    await gone.start()
    poison = bad()
    told = [good(1), poison, *(good(number) for number in range(2, 30))]
    for event in told:
        await gone.keep([event])
    assert await gone.close() == 0
    spool = tmp_path / "spool"
    spool.mkdir()
    left = {spool / path.name: path.read_bytes() for path in (tmp_path / "gone").iterdir()}
    async with altered(server, POISONS["a CHECK on names"][0]) as admin:
        for killed in (True, False):
            for path, data in left.items():
                path.write_bytes(data)
            journal = journal_of(server, spool_dir=spool)
            await journal.start()
            async with asyncio.timeout(10):
                while not journal.available:
                    await asyncio.sleep(0.02)
            await journal.close()
            assert list(spool.iterdir()) == []
            as_told(await rows_of(admin, gone), told, poison)
            if killed:
                # As if it had been killed before the later rows were written.
                await admin.execute("SET session_replication_role = replica")
                await admin.execute(
                    "DELETE FROM secretproxy.access_log WHERE instance = $1 AND seq > 10", gone.instance
                )
    await sound(server, gone)


async def test_names_are_bounded_by_row_statement_and_group(server: Backend) -> None:
    """Sixty rows have eight megabytes each, as `prepare ... secrets_delete($1, $2), ...` and one parameter make
    them."""
    names = tuple(f"name-{number:07}" for number in range(600_000))
    journal = journal_of(server, timeout=5.0)
    await journal.start()
    events = [Event("attempt", WHO, 1, "f(uuid,text[])", "delete", uuid.UUID(int=1), names) for _ in range(60)]
    future = journal.append(events, wait=True)
    assert future is not None
    assert sum(len(line.line) for line in journal._rows) < STATEMENT_NAMES + 60 * 2048
    await asyncio.wait_for(future, 20)
    assert await journal.close() == 0
    admin = await asyncpg.connect(server.dsn(database=DATABASE))
    rows = await rows_of(admin, journal)
    await admin.close()
    assert len(rows) == 60
    for row in rows:
        shown, more = row["secret_names"][:-1], row["secret_names"][-1]
        assert tuple(shown) == names[: len(shown)] and sum(map(len, shown)) <= ROW_NAMES
        assert more.startswith("masked:") and more.endswith(f"(more names: {len(names) - len(shown)})")
    assert len(rows[0]["secret_names"]) > 10_000 and len(rows[-1]["secret_names"]) == 1
    await sound(server, journal)


async def test_a_row_that_is_slow_for_its_size_does_not_stop_the_others(server: Backend) -> None:
    journal = journal_of(server)
    await journal.start()
    slow = trigger("PERFORM pg_sleep(pg_column_size(NEW.secret_names) / 1e5);")
    async with altered(server, slow) as admin:
        big = Event("call", WHO, 1, secret_names=tuple(os.urandom(50).hex() for _ in range(2400)))
        told = [*(good(number) for number in range(GROUP // 2)), big, *(good(number) for number in range(20))]
        await asyncio.wait_for(asyncio.gather(*(journal.keep([event]) for event in told)), 60)
        as_told(await rows_of(admin, journal), told, big)
        assert await journal.close() == 0
    await sound(server, journal)


async def test_a_column_that_is_added_while_rows_are_written_costs_none(
    server: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in binary form are of the columns that there were; they go as texts then, and at once."""
    # In Python too, where that takes longer than it saves.
    monkeypatch.setattr(groups, "PACKS", True)
    journal = journal_of(server, timeout=5)
    await journal.start()
    told = [good(number) for number in range(30)]
    for number, event in enumerate(told[:20]):
        if number == 10:
            async with altered(server, ("ALTER TABLE secretproxy.access_log ADD COLUMN more int", "SELECT 1")):
                assert journal._writer is not None and journal._writer.packs
        await asyncio.wait_for(journal.keep([event]), 10)
    assert journal.available and not journal._writer.packs
    async with altered(server, ("ALTER TABLE secretproxy.access_log DROP COLUMN more", "SELECT 1")) as admin:
        kept = [journal.keep([event]) for event in told[20:]]
        await asyncio.wait_for(asyncio.gather(*kept), 10)
        assert await journal.close() == 0
        as_told(await rows_of(admin, journal), told, bad())
        # A column that is gone is none of a row's.
        after = journal_of(server, timeout=5)
        await after.start()
        kept = [after.keep([event]) for event in told]
        await asyncio.wait_for(asyncio.gather(*kept), 10)
        assert after._writer is not None and after._writer.packs
        assert await after.close() == 0
        as_told(await rows_of(admin, after), told, bad())
    await sound(server, journal)
    await sound(server, after)
