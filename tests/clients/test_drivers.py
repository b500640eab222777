"""Checks psycopg2, pg8000, SQLAlchemy and Django."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
from typing import Any

import pg8000.dbapi
import pg8000.native
import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
import sqlalchemy
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.both import SCHEMA, Both, Way, told


def test_psycopg2(both: Both) -> None:
    def scenario(way: Way) -> Any:
        found: list[Any] = []
        with psycopg2.connect(way.dsn()) as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE t (a int, b text)")
            cursor.copy_expert("COPY t FROM STDIN", io.StringIO("".join(f"{n}\trow {n}\n" for n in range(2000))))
            out = io.StringIO()
            cursor.copy_expert("COPY (SELECT * FROM t WHERE a < 20 ORDER BY a) TO STDOUT (FORMAT csv)", out)
            found.append(out.getvalue())
            with connection.cursor("named", scrollable=True) as named:
                named.itersize = 100
                named.execute("SELECT a FROM t ORDER BY a")
                found += [
                    named.fetchmany(3),
                    sum(row[0] for row in named),
                    named.scroll(5, "absolute"),
                    named.fetchone(),
                ]
            large = connection.lobject(0, "wb")
            large.write(bytes(range(256)) * 1000)
            large.seek(100)
            large.truncate(200)
            oid = large.oid
            large.close()
            again = connection.lobject(oid, "rb")
            found.append(again.read())
            again.unlink()
            cursor.execute("DO $$ BEGIN RAISE NOTICE 'noted'; END $$")
            found.append(connection.notices[-1])
            psycopg2.extras.execute_values(
                cursor, "INSERT INTO t VALUES %s RETURNING a", [(n, "x") for n in range(500)]
            )
            for text in ("SELECT nothing", "SELECT 1/0"):
                cursor.execute("SAVEPOINT s")
                try:
                    cursor.execute(text)
                except psycopg2.Error as error:
                    found.append(told(error))
                cursor.execute("ROLLBACK TO s")
            connection.reset()
        return found

    assert both.same(scenario)


def test_psycopg2_asynchronously(both: Both) -> None:
    def wait(connection: Any) -> None:
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            ways = ([connection], [], []) if state == psycopg2.extensions.POLL_READ else ([], [connection], [])
            select.select(*ways, 10)

    def scenario(way: Way) -> Any:
        found: list[Any] = []
        connection = psycopg2.connect(way.dsn(), async_=True)
        wait(connection)
        cursor = connection.cursor()
        cursor.execute("LISTEN news; NOTIFY news, 'heard'; SELECT 1")
        wait(connection)
        found += [cursor.fetchall(), [note.payload for note in connection.notifies]]
        cursor.execute("SELECT pg_sleep(60)")
        with psycopg2.connect(way.dsn("postgres")) as other:
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            looking = other.cursor()
            while looking.execute(asleep, (connection.get_backend_pid(),)) or looking.fetchone() != (1,):
                other.rollback()
        connection.cancel()
        try:
            wait(connection)
        except psycopg2.Error as error:
            found.append(told(error))
        connection.close()
        return found

    assert len(both.same(scenario)) == 3


def test_pg8000(both: Both) -> None:
    def scenario(way: Way) -> Any:
        found: list[Any] = []
        connection = pg8000.native.Connection("app_user", host=way.host, port=way.port, database="app")
        connection.run(f"SET search_path = {SCHEMA}")
        connection.run("CREATE TABLE t (a int, b jsonb)")
        found.append(connection.run("INSERT INTO t VALUES (:a, :b) RETURNING a, b", a=1, b={"x": [1, None]}))
        statement = connection.prepare("SELECT :n::int + a FROM t")
        found += [statement.run(n=n) for n in range(5)]
        statement.close()
        out = io.BytesIO()
        connection.run("COPY t TO STDOUT", stream=out)
        connection.run("COPY t FROM STDIN", stream=io.BytesIO(out.getvalue() * 10))
        found += [out.getvalue(), connection.run("SELECT count(*) FROM t")]
        connection.run("LISTEN news")
        connection.run("NOTIFY news, 'heard'")
        connection.run("DO $$ BEGIN RAISE NOTICE 'noted'; END $$")
        found += [[payload for _, _, payload in connection.notifications], len(connection.notices)]
        for text in ("SELECT nothing", "SELECT 1/0"):
            try:
                connection.run(text)
            except pg8000.native.DatabaseError as error:
                found.append({key: value for key, value in error.args[0].items() if key in "SVCMP"})
        connection.close()
        with pg8000.dbapi.connect("app_user", host=way.host, port=way.port, database="app") as other:
            cursor = other.cursor()
            cursor.executemany("SELECT %s::int", [(n,) for n in range(5)])
            other.rollback()
            cursor.execute("SELECT 1, 'x', ARRAY[1.5], now() - now()")
            found += [cursor.fetchall(), [column[:2] for column in cursor.description]]
        return found

    assert both.same(scenario)


METADATA = sqlalchemy.MetaData(schema=SCHEMA)
PEOPLE = sqlalchemy.Table(
    "people", METADATA,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("name", sqlalchemy.String(40), nullable=False, unique=True),
    sqlalchemy.Column("facts", JSONB),
    sqlalchemy.Column("tags", sqlalchemy.ARRAY(sqlalchemy.Text)),
)  # fmt: skip


def _use(connection: sqlalchemy.Connection) -> Any:
    METADATA.drop_all(connection)
    METADATA.create_all(connection)
    rows = [{"name": f"name {n}", "facts": {"n": n}, "tags": ["a", str(n)]} for n in range(100)]
    found: list[Any] = [connection.execute(sqlalchemy.insert(PEOPLE).returning(PEOPLE.c.id, PEOPLE.c.name), rows).all()]
    found.append(connection.execute(sqlalchemy.select(PEOPLE).where(PEOPLE.c.facts["n"].as_integer() < 5)).all())
    try:
        with connection.begin_nested():
            connection.execute(sqlalchemy.insert(PEOPLE), {"name": "name 1"})
    except sqlalchemy.exc.IntegrityError as error:
        found.append(type(error.orig).__name__)
    seen = sqlalchemy.inspect(connection)
    found += [
        [(column["name"], str(column["type"])) for column in seen.get_columns("people", SCHEMA)],
        seen.get_pk_constraint("people", SCHEMA), seen.get_unique_constraints("people", SCHEMA), seen.get_table_names(SCHEMA),
    ]  # fmt: skip
    connection.rollback()
    return found


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000", "asyncpg"])
def test_sqlalchemy(both: Both, driver: str) -> None:
    def scenario(way: Way) -> Any:
        address = f"postgresql+{driver}://app_user@{way.host}:{way.port}/app"
        if driver == "asyncpg":
            return asynchronous(address)
        engine = sqlalchemy.create_engine(address, pool_size=2, pool_pre_ping=True)
        found = []
        for level in ("READ COMMITTED", "SERIALIZABLE"):
            with engine.connect().execution_options(isolation_level=level) as connection:
                found.append(_use(connection))
        with engine.connect().execution_options(stream_results=True, yield_per=10) as connection:
            found.append(connection.execute(sqlalchemy.text("SELECT generate_series(1, 100)")).scalars().all())
        engine.dispose()
        return found

    async def asynchronous(address: str) -> Any:
        engine = create_async_engine(address, pool_size=2, pool_pre_ping=True)
        async with engine.connect() as connection:
            found = await connection.run_sync(_use)
        await engine.dispose()
        return found

    assert both.same(scenario)


def test_django(both: Both) -> None:
    """Django runs in a process of its own, since Django has one set of settings a process."""

    def scenario(way: Way) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "tests.clients.django_app"], capture_output=True, text=True, timeout=120, check=False,
            env=os.environ | {"DJANGO_PORT": str(way.port), "DJANGO_HOST": way.host, "DJANGO_SCHEMA": SCHEMA},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    found = both.same(scenario)
    assert found["people"] == 150
