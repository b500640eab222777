"""Checks that what leads to a secret function without its name being said is an attempt, committed before the statement
runs.

One database holds an object of every kind that can lead to a secret function; the proxy reads its catalog by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from secretproxy.install import install
from tests.conftest import Backend
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

DATABASE = "catalogued"
OWNER = "00000000-0000-4000-8000-00000000000c"
GETTER = "encrypted_secrets.secrets_getter(uuid,text,text)"
OBJECTS = (Path(__file__).parent / "catalog.sql").read_text()
KNOWN = "catalog says what leads to secret functions"


@pytest.fixture(scope="module")
def database(postgres: Backend) -> str:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    asyncio.run(install(postgres.dsn(database=DATABASE), postgres.key_file, direct_calls="log"))
    with psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True) as connection:
        for statement in OBJECTS.split("\n\n"):
            connection.execute(statement)
    return DATABASE


@pytest.fixture(scope="module")
def watched(postgres: Backend, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Gives a proxy that has read the catalog and will not look again by itself."""
    directory = tmp_path_factory.mktemp("watched")
    proxy = Proxy(directory, postgres.address, postgres.dsn("journal"), postgres.key_file, catalog=3600)
    proxy.start()
    proxy.wait_for_text("access log can be written")
    with psycopg.connect(proxy.dsn(database=database)):
        proxy.wait_for_text(KNOWN)
    yield proxy
    proxy.stop()


def attempts(log: AccessLog) -> list[dict[str, Any]]:
    """Gives the attempts since the mark; every call of a statement stands behind them."""
    rows = log.settled()
    found = [dict(row) for row in rows if row["event"] == "attempt"]
    for attempt in found:
        assert (attempt["function"], attempt["owner_id"], attempt["secret_names"]) == (GETTER, None, None)
        later = [
            row
            for row in rows
            if row["statement_no"] == attempt["statement_no"] and row["session_id"] == attempt["session_id"]
        ]
        assert all(row["seq"] >= attempt["seq"] for row in later if row["event"] in ("call", "outcome"))
    return found


WRAPPED = "public.wrapped(text)"
USES = [
    ("SELECT wrapped('a')", [WRAPPED], 1),
    ("SELECT public.wrapped('a')", [WRAPPED], 1),
    ("SELECT \"wrapped\"('a'), U&\"wr\\0061pped\"('b')", [WRAPPED], 2),
    ("SELECT outer_fn('a')", ["public.outer_fn(text)", WRAPPED], 1),
    ("SELECT dynamic()", ["public.dynamic()", WRAPPED], 1),
    ("SELECT with_default()", ["public.with_default(text)", WRAPPED], 1),
    ("SELECT * FROM seen", ["view public.seen", "public.outer_fn(text)", WRAPPED], 2),
    ("SELECT over_view()", ["public.over_view()", "view public.seen_twice", "view public.seen", "public.outer_fn(text)", WRAPPED], 2),
    ("SELECT over_view_atomic()", ["public.over_view_atomic()", "view public.seen_twice", "view public.seen", "public.outer_fn(text)", WRAPPED], 2),
    ("COPY (SELECT v FROM seen_twice) TO STDOUT", ["view public.seen_twice", "view public.seen", "public.outer_fn(text)", WRAPPED], 2),
    ("REFRESH MATERIALIZED VIEW kept", ["materialized view public.kept", "view public.seen", "public.outer_fn(text)", WRAPPED], 2),
    ("EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT * FROM seen", ["view public.seen", "public.outer_fn(text)", WRAPPED], 2),
    ("INSERT INTO triggered VALUES (1)", ["trigger tells on public.triggered", "public.tell()", WRAPPED], 1),
    ("INSERT INTO over_triggered VALUES (1)", ["view public.over_triggered", "trigger tells on public.triggered", "public.tell()", WRAPPED], 1),
    ("INSERT INTO triggered SELECT 1 WHERE false", ["trigger tells on public.triggered", "public.tell()", WRAPPED], 0),
    ("UPDATE parted SET id = id", ["table public.parted", "trigger tells on public.part", "public.tell()", WRAPPED], 1),
    ("INSERT INTO defaults (id) VALUES (1)", ["default for public.defaults.v", WRAPPED], 1),
    ("DELETE FROM defaults", ["rule also on public.defaults", WRAPPED], 1),
    ("INSERT INTO generated VALUES ('a')", ["default for public.generated.g", "public.steady(text)", WRAPPED], 1),
    ("INSERT INTO indexed VALUES ('a')", ["index public.index_of_it", "public.steady(text)", WRAPPED], 1),
    ("INSERT INTO checked VALUES ('a')", ["constraint checked_v_check on public.checked", WRAPPED], 1),
    ("SELECT 'a'::strict_text", ["constraint strict_text_check on public.strict_text", WRAPPED], 1),
    ("SELECT CAST('a' AS stricter_text)", ["type public.stricter_text", "constraint strict_text_check on public.strict_text", WRAPPED], 1),
    ("INSERT INTO of_domain VALUES ('a')", ["table public.of_domain", "type public.stricter_text", "constraint strict_text_check on public.strict_text", WRAPPED], 1),
    ("SELECT * FROM policed", ["policy p on public.policed", WRAPPED], 1),
    (f"SELECT '{OWNER}'::uuid ==> 'a'", ["operator public.==>(uuid,text)", "public.reads(uuid,text)"], 1),
    ("SELECT * FROM by_operator", ["view public.by_operator", "operator public.==>(uuid,text)", "public.reads(uuid,text)"], 2),
    ("SELECT gather(name) FROM items", ["public.gather(text)", "public.step(text,text)", WRAPPED], 2),
    ("SELECT gather(name) OVER () FROM items", ["public.gather(text)", "public.step(text,text)", WRAPPED], 2),
    ("SELECT (SELECT i FROM items i LIMIT 1)::text_of_item", ["cast (public.items AS public.text_of_item)", "public.to_text(public.items)", WRAPPED], 1),
    ("SELECT i.revealed FROM items i WHERE id = 1", ["public.revealed(public.items)", WRAPPED], 1),
    ("CALL proceed()", ["public.proceed()", WRAPPED], 1),
    ("SELECT writes()", ["public.writes()", "trigger tells on public.triggered", "public.tell()", WRAPPED], 1),
    ("DELETE FROM parents", ["constraint cascading_id_fkey on public.cascading", "trigger tells on public.cascading", "public.tell()", WRAPPED], 1),
    ("DO $$ BEGIN PERFORM outer_fn('a'); END $$", ["public.outer_fn(text)", WRAPPED], 1),
    ("DO $$ BEGIN EXECUTE 'SELECT outer_fn(''a'')'; END $$", ["public.outer_fn(text)", WRAPPED], 1),
    ("DO $$ DECLARE x strict_text := 'a'; BEGIN END $$", ["constraint strict_text_check on public.strict_text", WRAPPED], 1),
    ("SELECT \"Größe und 'Preis'\"('a')", ["public.\"Größe und 'Preis'\"(text)", WRAPPED], 1),
    ("SELECT f()", ["public.f()", WRAPPED], 1),
    ("WITH seen AS (SELECT v FROM seen) SELECT * FROM seen", ["view public.seen", "public.outer_fn(text)", WRAPPED], 2),
    ("MERGE INTO triggered USING items ON false WHEN NOT MATCHED AND items.id = 1 THEN INSERT VALUES (1)", ["trigger tells on public.triggered", "public.tell()", WRAPPED], 1),
]  # fmt: skip


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize(("text", "via", "calls"), USES, ids=[use[0][:60] for use in USES])
def test_the_use_of_what_leads_there_is_an_attempt(
    watched: Proxy, log: AccessLog, text: str, via: list[str], calls: int, extended: bool
) -> None:
    with psycopg.connect(watched.dsn(database=DATABASE)) as sql, sql.cursor() as cursor:
        if text.startswith("COPY"):
            with cursor.copy(text) as copy:
                list(copy)
        else:
            # With parameters psycopg speaks the extended protocol.
            cursor.execute(text.replace("%", "%%"), () if extended else None, prepare=extended)
        sql.rollback()
    found = attempts(log)
    assert [row["via"] for row in found] == [via]
    rows = log.settled()
    assert sum(row["event"] == "call" for row in rows) == calls
    # Which of these calls the attempt stands for nobody can tell; that there was none is sure.
    assert {row["calls"] for row in rows if row["event"] == "outcome"} == {None if calls else 0}
    read = log.query("SELECT calls FROM secretproxy.secret_access WHERE session_id = %s", found[0]["session_id"])
    assert sum(row["calls"] for row in read) == calls


LOOK_ALIKES = [
    "SELECT wrapped FROM (SELECT 1 AS wrapped) AS s",
    "SELECT 'wrapped(1)', $$outer_fn$$",
    "SELECT seen.id FROM items AS seen",
    "WITH seen AS (SELECT 1) SELECT * FROM seen",
    "SELECT * FROM items, (WITH seen AS (SELECT 1 AS one) SELECT * FROM seen) AS s",
    "SELECT other.wrapped('a')",
    "SELECT * FROM other.seen",
    "SELECT wrapped('a', 'b')",
    "SELECT * FROM kept",
    "SELECT * FROM triggered",
    "DELETE FROM triggered",
    "SELECT * FROM over_triggered",
    "COPY triggered TO STDOUT",
    "INSERT INTO parted VALUES (1)",
    "SELECT * FROM defaults",
    "SELECT * FROM unpoliced",
    "SELECT * FROM generated",
    "SELECT * FROM of_domain",
    "SELECT 5 ==> 3",
    "SELECT harmless(), count_triggered()",
    "SELECT name::text, id::text FROM items",
    "CREATE TEMPORARY TABLE made (x strict_text)",
    "SELECT revealed FROM (SELECT 1 AS revealed) AS s",
    "SELECT relname FROM pg_class WHERE relname = 'seen'",
]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_look_alikes_of_what_leads_there(watched: Proxy, log: AccessLog, text: str) -> None:
    with psycopg.connect(watched.dsn(database=DATABASE)) as sql, sql.cursor() as cursor:
        if text.startswith("COPY"):
            with cursor.copy(text) as copy:
                list(copy)
        else:
            cursor.execute(text)
        sql.rollback()
        cursor.execute("SELECT encrypted_secrets.secrets_getter(%s, 'mark')", (OWNER,))
    rows = [
        row
        for row in log.settled()
        if row["secret_names"] != ["mark"] and row["event"] not in ("outcome", "definition")
    ]
    if text == "SELECT 5 ==> 3":
        # The operator's name is all that a text shows of it.
        assert [(row["event"], row["via"]) for row in rows] == [
            ("attempt", ["operator public.==>(uuid,text)", "public.reads(uuid,text)"])
        ]
    else:
        assert rows == []


def test_what_is_defined_through_the_proxy_is_known_soon(watched: Proxy, log: AccessLog, database: str) -> None:
    with (
        psycopg.connect(watched.dsn(database=database), autocommit=True) as sql,
        psycopg.connect(watched.dsn(database=database), autocommit=True) as other,
    ):
        before = watched.text().count(KNOWN)
        prepared = "SELECT length(later('a'))"
        sql.execute("CREATE FUNCTION later(text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
        other.execute(prepared, prepare=True)
        assert attempts(log) == []
        # Under way in a transaction it is nobody's to know; then it is.
        with sql.transaction():
            sql.execute("CREATE OR REPLACE FUNCTION later(text) RETURNS text LANGUAGE sql AS 'SELECT outer_fn($1)'")
        watched.wait_for_text(KNOWN, before + 1)
        log.mark()
        other.execute(prepared, prepare=True)
        assert [row["via"] for row in attempts(log)] == [["public.later(text)", "public.outer_fn(text)", WRAPPED]]
        # By a block that does not show what it defines.
        before = watched.text().count(KNOWN)
        sql.execute("DO $$ BEGIN EXECUTE 'CREATE VI' || 'EW hidden AS SELECT later(name) AS v FROM items'; END $$")
        watched.wait_for_text(KNOWN, before + 1)
        log.mark()
        other.execute("SELECT * FROM hidden")
        assert [row["via"][0] for row in attempts(log)] == ["view public.hidden"]
        before = watched.text().count(KNOWN)
        sql.execute("DROP VIEW hidden")
        sql.execute("DROP FUNCTION later")
        watched.wait_for_text(KNOWN, before + 1)


def test_a_call_that_nobody_announced_makes_it_look_again(
    watched: Proxy, log: AccessLog, postgres: Backend, database: str
) -> None:
    with psycopg.connect(watched.dsn(database=database), autocommit=True) as sql:
        before = watched.text().count(KNOWN)
        with psycopg.connect(postgres.dsn(database=database), autocommit=True) as direct:
            direct.execute("CREATE FUNCTION past_the_proxy() RETURNS text LANGUAGE sql AS $$ SELECT outer_fn('a') $$")
        sql.execute("SELECT past_the_proxy()")
        assert attempts(log) == []
        watched.wait_for_text(KNOWN, before + 1, seconds=60)
        log.mark()
        sql.execute("SELECT past_the_proxy()")
        assert [row["via"][0] for row in attempts(log)] == ["public.past_the_proxy()"]


def test_a_catalog_that_cannot_be_read_is_said_once_and_testimony_covers(
    postgres: Backend, log: AccessLog, database: str, tmp_path: Path
) -> None:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
        admin.execute(f"GRANT CONNECT ON DATABASE {database} TO app_user")
        proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file, catalog=0.2)
        proxy.start()
        try:
            proxy.wait_for_text("access log can be written")
            with psycopg.connect(proxy.dsn(database=database), autocommit=True) as sql:
                proxy.wait_for_text("catalog cannot be read")
                sql.execute("SELECT * FROM seen")
                rows = log.settled()
                assert [row["event"] for row in rows] == ["call", "call", "outcome"]
                time.sleep(1)  # several readings fail meanwhile
                assert proxy.text().count("catalog cannot be read") == 1
                admin.execute(f"GRANT CONNECT ON DATABASE {database} TO PUBLIC")
                proxy.wait_for_text(KNOWN)
                log.mark()
                sql.execute("SELECT * FROM seen")
                assert [row["event"] for row in log.settled()] == ["attempt", "call", "call", "outcome"]
        finally:
            proxy.stop()
            admin.execute(f"GRANT CONNECT ON DATABASE {database} TO PUBLIC")


# --- what disappears while it is read, and what is no database
# ---------------------------------------------------------


async def test_objects_that_disappear_while_they_are_read_cost_themselves_alone(
    postgres: Backend, database: str
) -> None:
    """One function is dropped between two questions, and the server cannot make the definition of another any more."""
    import asyncpg

    from secretproxy.connections import connect
    from secretproxy.detect.tree import Monitored
    from secretproxy.proxy.catalog import queries, reading

    dropped = [f"vanishing_{number}" for number in range(5)]
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as admin:
        for name in dropped:
            admin.execute(
                f"CREATE FUNCTION public.{name}() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN public.wrapped('x'); END$$"
            )

        class Between(asyncpg.Connection):
            async def fetch(self, query: str, *values: Any, **options: Any) -> Any:
                if query == queries.DEFINITIONS:
                    for name in dropped:
                        admin.execute(f"DROP FUNCTION IF EXISTS public.{name}()")
                return await super().fetch(query, *values, **options)

        connection = await connect(postgres.dsn(database=database), "test", timeout=10, connection_class=Between)
        monitored = Monitored(("encrypted_secrets",), (("secrets_schema", "secrets_table"),))
        leads, _ = await reading.read(connection, monitored, 1)
        await connection.close()
    assert len(leads)


async def test_a_question_that_fails_for_one_object_is_asked_again_without_it() -> None:
    import asyncpg

    from secretproxy.proxy.catalog.reading import PART, in_parts

    asked: list[int] = []

    async def fetch(part: Any) -> list[Any]:
        asked.append(len(part))
        if 7 in part or 900 in part:
            raise asyncpg.InternalServerError("cache lookup failed for type 7")
        return list(part)

    assert await in_parts(range(1000), fetch) == [number for number in range(1000) if number not in (7, 900)]
    assert max(asked) <= PART


def test_a_physical_replication_session_makes_nobody_log_in_to_a_database(
    postgres: Backend, database: str, tmp_path: Path
) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE ROLE streamer LOGIN REPLICATION")
    proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file, catalog=0.3)
    proxy.start()
    try:
        proxy.wait_for_text("access log can be written")
        from psycopg import pq

        session = pq.PGconn.connect(
            f"host=127.0.0.1 port={proxy.port} user=streamer dbname=replication replication=true".encode()
        )
        assert session.status == pq.ConnStatus.OK, session.error_message
        assert session.exec_(b"IDENTIFY_SYSTEM").status == pq.ExecStatus.TUPLES_OK
        with psycopg.connect(proxy.dsn(database=database)):
            proxy.wait_for_text(KNOWN)
        session.finish()
        assert "catalog cannot be read" not in proxy.text() and "not there any more" not in proxy.text()
    finally:
        proxy.stop()
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute("DROP ROLE streamer")


def test_a_database_that_is_dropped_is_nothing_to_warn_of(postgres: Backend, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE passing")
        proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file, catalog=0.3)
        proxy.start()
        try:
            proxy.wait_for_text("access log can be written")
            session = psycopg.connect(proxy.dsn("postgres", "passing"))
            session.execute("SELECT 1")
            admin.execute("DROP DATABASE passing WITH (FORCE)")
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
            admin.execute("CREATE DATABASE passing")
            with psycopg.connect(proxy.dsn("postgres", "passing"), autocommit=True) as session:
                session.execute("SELECT 1")
            assert proxy.text().count("not there any more") <= 1 and "catalog cannot be read" not in proxy.text()
        finally:
            proxy.stop()
            admin.execute("DROP DATABASE IF EXISTS passing WITH (FORCE)")
