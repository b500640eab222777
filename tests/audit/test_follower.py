"""Checks that who follows the log misses no row and sees none twice, whoever writes it, however late it commits,
whatever its time says."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest

from secretproxy.audit.columns import STORED
from secretproxy.audit.follower import Follower
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Lines
from secretproxy.install import install
from secretproxy.session.events import Event, Identity
from tests.conftest import Backend

WHO = Identity(uuid.uuid4(), "app_user", "app")
MASK = NameMask(200, (), b"k" * 32)
DIRECT = "INSERT INTO secretproxy.access_log (event, function, secret_names) VALUES ('direct', 'f', ARRAY[%s])"


@pytest.fixture
def database(postgres: Backend) -> Iterator[str]:
    name = f"following_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    asyncio.run(install(postgres.dsn(database=name), postgres.key_file, direct_calls="log"))
    yield name
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def call(name: str) -> Event:
    return Event("call", WHO, 1, "f()", "read", secret_names=(name,))


def names(rows: list[Any]) -> list[str]:
    return [row["secret_names"][0] for row in rows]


async def followed(dsn: str) -> tuple[Any, Follower]:
    connection, follower = await asyncpg.connect(dsn), Follower()
    await follower.begin(connection)
    return connection, follower


async def test_several_writers_at_once_and_lost_connections(postgres: Backend, database: str) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(postgres.dsn("journal", database))

    connection, follower = await followed(postgres.dsn("auditor", database))
    journals = [Journal(connect, MASK) for _ in range(3)]
    for journal in journals:
        await journal.start()
    draw = random.Random(5)
    seen: Counter[str] = Counter()
    written: list[str] = []

    async def write(number: int, journal: Journal) -> None:
        for count in range(60):
            name = f"{number}-{count}"
            journal.append([call(name), Event("outcome", WHO, 1, outcome="ok")], wait=False)
            written.append(name)
            await asyncio.sleep(draw.random() * 0.02)

    writers = asyncio.gather(*(write(number, journal) for number, journal in enumerate(journals)))
    while not writers.done():
        seen.update(
            names(
                await follower.new_accesses(
                    connection, [draw.choice(journals).instance], everywhere=draw.random() < 0.3
                )
            )
        )
        if draw.random() < 0.1:
            connection.terminate()
            connection = await asyncpg.connect(postgres.dsn("auditor", database))
            await follower.begin(connection)
    await writers
    for journal in journals:
        assert await journal.close() == 0
    seen.update(names(await follower.new_accesses(connection)))
    assert seen == Counter(written)
    assert await follower.new_accesses(connection) == []
    await connection.close()


async def test_direct_calls_that_commit_late_and_out_of_order(postgres: Backend, database: str) -> None:
    with psycopg.connect(postgres.dsn(database=database)) as early:
        early.execute(DIRECT, ("before the beginning",))
        connection, follower = await followed(postgres.dsn("auditor", database))
        with (
            psycopg.connect(postgres.dsn(database=database)) as late,
            psycopg.connect(postgres.dsn(database=database)) as quick,
        ):
            late.execute(DIRECT, ("late",))
            for number in range(3):
                quick.execute(DIRECT, (f"quick {number}",))
                quick.commit()
                assert names(await follower.new_accesses(connection)) == [f"quick {number}"]
            late.commit()
            assert names(await follower.new_accesses(connection)) == ["late"]
            early.commit()
            assert names(await follower.new_accesses(connection)) == ["before the beginning"]
            assert await follower.new_accesses(connection) == []
    await connection.close()


async def test_what_is_remembered_of_direct_calls_goes_away(
    postgres: Backend, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secretproxy.audit.follower._MARGIN", timedelta(0))
    connection, follower = await followed(postgres.dsn("auditor", database))
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as sql:
        for number in range(50):
            sql.execute(DIRECT, (str(number),))
        assert len(await follower.new_accesses(connection)) == 50
        for _ in range(3):
            sql.execute("SELECT pg_current_xact_id()")
            assert await follower.new_accesses(connection) == []
    assert follower._direct == {} and len(follower._marks) <= 2
    await connection.close()


async def test_rows_of_long_ago_that_are_replayed_now(postgres: Backend, database: str) -> None:
    """A process that is gone left them in its spool; the log had never heard of it."""
    connection, follower = await followed(postgres.dsn("auditor", database))
    lines = Lines(MASK, instance := uuid.uuid4())
    began = time.time_ns() // 1000 - 3 * 3600 * 1_000_000
    into = f"COPY secretproxy.access_log ({', '.join(STORED)}) FROM STDIN"
    with psycopg.connect(postgres.dsn(database=database)) as sql, sql.cursor().copy(into) as copy:
        for number in range(1, 4):
            copy.write(lines.add(call(f"spooled {number}"), began + number, None).stored() + b"\n")
    assert names(await follower.new_accesses(connection, [uuid.uuid4(), instance], everywhere=False)) == [
        f"spooled {n}" for n in (1, 2, 3)
    ]
    assert await follower.new_accesses(connection) == []
    # The notice got lost: found all the same.
    other = Follower()
    other._floor, other._seen = follower._floor, {}
    assert names(await other.new_accesses(connection)) == [f"spooled {n}" for n in (1, 2, 3)]
    await connection.close()


async def test_more_rows_than_a_page(postgres: Backend, database: str) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(postgres.dsn("journal", database))

    connection, follower = await followed(postgres.dsn("auditor", database))
    journal = Journal(connect, MASK)
    await journal.start()
    await journal.keep([call(str(number)) for number in range(2500)])
    assert sorted(names(await follower.new_accesses(connection)), key=int) == [str(number) for number in range(2500)]
    assert await follower.new_accesses(connection) == []
    await journal.close()
    await connection.close()
