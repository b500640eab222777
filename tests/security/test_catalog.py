"""Checks that what leads to a secret function without its name being said is an attempt, committed before the statement
runs.

One database holds an object of every kind that can lead to a secret function; the proxy reads its catalog by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from secretproxy.connections import connect
from secretproxy.detect.dependencies import Dependencies
from secretproxy.detect.tree import Monitored
from secretproxy.install import install
from secretproxy.proxy.catalog import queries, reading
from secretproxy.proxy.catalog.reading import MOST_FAILURES, PART, Parts
from tests.conftest import Backend
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

DATABASE = "catalogued"
OWNER = "00000000-0000-4000-8000-00000000000c"
GETTER = "encrypted_secrets.secrets_getter(uuid,text,text)"
OBJECTS = (Path(__file__).parent / "catalog.sql").read_text()
KNOWN = "catalog says what leads to secret functions"
MONITORED = Monitored(("encrypted_secrets",), (("secrets_schema", "secrets_table"),))


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
        proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file, catalog=0.05)
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
        leads = (await reading.read(connection, MONITORED, 1)).leads
        await connection.close()
    assert len(leads)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalServerError("cache lookup failed for type 7"),
        asyncpg.UndefinedObjectError("type with OID 7 does not exist"),
        asyncpg.UndefinedTableError("relation with OID 7 does not exist"),
        asyncpg.LockNotAvailableError("canceling statement due to lock timeout"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_question_that_fails_for_one_object_is_asked_again_without_it(error: Exception) -> None:
    asked: list[int] = []

    async def fetch(part: Any) -> list[Any]:
        asked.append(len(part))
        if 7 in part or 900 in part:
            raise error
        return list(part)

    parts = Parts()
    found, more = await parts.fetch(range(1000), fetch)
    assert found == [number for number in range(1000) if number not in (7, 900)]
    assert (parts.left_out, more) == ([7, 900], False)
    assert max(asked) <= PART


async def test_a_reading_is_bounded_whatever_fails_and_however_much_there_is() -> None:
    asked = 0

    async def fails(part: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")

    async def works(part: Any) -> list[Any]:
        return list(part)

    parts = Parts()
    assert await parts.fetch(range(10_000), fails) == ([], False)
    assert len(parts.left_out) == 10_000 and asked < MOST_FAILURES + 10_000 / PART + 20
    assert await Parts().fetch(range(10_000), works, 300) == (list(range(400)), True)


async def test_what_a_migration_has_locked_costs_itself_alone(postgres: Backend, database: str) -> None:
    """The text of a parsed body is made under a lock on what it names."""
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as admin:
        admin.execute("CREATE TABLE public.migrated (id int)")
        admin.execute(
            "CREATE FUNCTION public.over_migrated() RETURNS text LANGUAGE sql "
            "BEGIN ATOMIC SELECT public.wrapped('a') FROM public.migrated; END"
        )
        connection = await connect(
            postgres.dsn(database=database), "test", timeout=10, settings={"lock_timeout": "100ms"}
        )
        with psycopg.connect(postgres.dsn(database=database)) as migration:
            migration.execute("ALTER TABLE public.migrated ADD COLUMN more int")
            meanwhile = await reading.read(connection, MONITORED, 1)
            migration.rollback()
        after = await reading.read(connection, MONITORED, 2)
        await connection.close()
        admin.execute("DROP FUNCTION public.over_migrated")
        admin.execute("DROP TABLE public.migrated")
    assert meanwhile.left_out == 1 and after.left_out == 0
    # By its dependency on public.wrapped it is known all the same; what its body shows of others comes later.
    assert {"seen", "wrapped", "over_migrated"} <= names(after.leads)
    assert names(after.leads) - names(meanwhile.leads) <= {"over_migrated"}


# A statement that makes an object that leads to a secret function, and those that replace, rename and drop it.
PASSING = [
    ("CREATE FUNCTION passing_text() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN wrapped('a'); END$$",
     "CREATE OR REPLACE FUNCTION passing_text() RETURNS text LANGUAGE sql AS $$SELECT 'a'$$", "DROP FUNCTION passing_text"),
    ("CREATE FUNCTION passing_parsed() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT wrapped('a'); END",
     "ALTER FUNCTION passing_parsed() RENAME TO passed_parsed", "DROP FUNCTION passed_parsed"),
    ("CREATE VIEW passing_view AS SELECT wrapped('a') AS v",
     "CREATE OR REPLACE VIEW passing_view AS SELECT 'a'::text AS v", "DROP VIEW passing_view"),
    ("CREATE RULE passing_rule AS ON UPDATE TO items DO ALSO SELECT wrapped('a')",
     "ALTER RULE passing_rule ON items RENAME TO passed_rule", "DROP RULE passed_rule ON items"),
    ("CREATE TRIGGER passing_trigger AFTER UPDATE ON items EXECUTE FUNCTION tell()",
     "ALTER TRIGGER passing_trigger ON items RENAME TO passed_trigger", "DROP TRIGGER passed_trigger ON items"),
    ("CREATE POLICY passing_policy ON policed USING (wrapped('a') IS NULL)",
     "ALTER POLICY passing_policy ON policed USING (true)", "DROP POLICY passing_policy ON policed"),
    ("CREATE TYPE passing_type AS (v strict_text)", "ALTER TYPE passing_type RENAME TO passed_type", "DROP TYPE passed_type"),
    ("CREATE DOMAIN passing_domain AS text CHECK (wrapped(VALUE) IS NULL)",
     "ALTER DOMAIN passing_domain DROP CONSTRAINT passing_domain_check", "DROP DOMAIN passing_domain"),
    ("CREATE CAST (text_of_item AS items) WITH FUNCTION back(text_of_item)",
     "CREATE OR REPLACE FUNCTION back(text_of_item) RETURNS items LANGUAGE sql AS 'SELECT NULL::items'",
     "DROP CAST (text_of_item AS items)"),
    ("CREATE OPERATOR ==>> (FUNCTION = reads, LEFTARG = uuid, RIGHTARG = text)",
     "ALTER OPERATOR ==>> (uuid, text) SET SCHEMA other", "DROP OPERATOR other.==>> (uuid, text)"),
    ("CREATE EVENT TRIGGER passing_event ON ddl_command_start WHEN TAG IN ('CREATE SERVER') EXECUTE FUNCTION announce()",
     "ALTER EVENT TRIGGER passing_event DISABLE", "DROP EVENT TRIGGER passing_event"),
    ("ALTER TABLE items ADD COLUMN passing_column text DEFAULT wrapped('a')",
     "ALTER TABLE items ALTER passing_column SET DEFAULT 'a'", "ALTER TABLE items DROP COLUMN passing_column"),
    ("CREATE INDEX passing_index ON indexed (steady(v))", "ALTER INDEX passing_index RENAME TO passed_index", "DROP INDEX passed_index"),
    ("CREATE STATISTICS passing_statistics ON steady(name), id FROM items", "ALTER STATISTICS passing_statistics RENAME TO passed_statistics",
     "DROP STATISTICS passed_statistics"),
]  # fmt: skip


def test_each_change_of_what_may_lead_there_has_the_catalog_read_again(postgres: Backend, database: str) -> None:
    comparing = (
        "CREATE OPERATOR CLASS passing FOR TYPE text USING btree AS FUNCTION 1 bttextcmp(text, text)",
        "ALTER OPERATOR FAMILY passing USING btree ADD OPERATOR 1 = (text, text)",
        "DROP OPERATOR FAMILY passing USING btree",
    )
    unnoticed = []
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as admin:
        admin.execute("CREATE FUNCTION back(text_of_item) RETURNS items LANGUAGE sql AS 'SELECT NULL::items'")
        admin.execute("CREATE FUNCTION announce() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
        before = admin.execute(queries.FINGERPRINT).fetchone()
        for statement in (statement for statements in (*PASSING, comparing) for statement in statements):
            admin.execute(statement)
            after = admin.execute(queries.FINGERPRINT).fetchone()
            if after == before:
                unnoticed.append(statement)
            before = after
        admin.execute("DROP FUNCTION back, announce")
    assert unnoticed == []


async def test_whatever_changes_between_two_questions_costs_itself_alone(postgres: Backend, database: str) -> None:
    """An object of each kind is there at the first question, is another after it and is gone after the next."""
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as admin:
        before = names((await whole(postgres.dsn(database=database))).leads)
        admin.execute(
            "CREATE FUNCTION back(text_of_item) RETURNS items LANGUAGE plpgsql AS 'BEGIN PERFORM wrapped(''a''); END'"
        )
        admin.execute(
            "CREATE FUNCTION announce() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM wrapped(''a''); END'"
        )
        for at in range(8):
            for made, *_ in PASSING:
                admin.execute(made)
            left = [[changed for _, changed, _ in PASSING], [dropped for *_, dropped in PASSING]]

            def step(number: int, at: int = at, left: list[list[str]] = left) -> None:
                if number >= at and left:
                    for statement in left.pop(0):
                        admin.execute(statement)

            found = await whole(postgres.dsn(database=database), step)
            assert before <= names(found.leads), at
            for statements in left:
                for statement in statements:
                    admin.execute(statement)
        admin.execute("DROP FUNCTION back, announce")
        assert names((await whole(postgres.dsn(database=database))).leads) == before


async def whole(dsn: str, between: Callable[[int], None] = lambda number: None) -> reading.Reading:
    """Reads a catalog; calls `between` with the number of each question before it is asked."""
    asked = itertools.count()

    class Between(asyncpg.Connection):  # type: ignore[misc]
        async def fetch(self, query: str, *values: Any, **options: Any) -> Any:
            between(next(asked))
            return await super().fetch(query, *values, **options)

    connection = await connect(dsn, "test", timeout=10, connection_class=Between)
    try:
        return await reading.read(connection, MONITORED, 1)
    finally:
        await connection.close()


def names(leads: Dependencies) -> set[str]:
    return {*leads.functions, *leads.relations, *leads.operators, *leads.types}


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


def test_a_database_that_is_dropped_renamed_or_closed_is_nothing_to_warn_of(postgres: Backend, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE passing")
        proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file, catalog=0.1)
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
            admin.execute("ALTER DATABASE passing RENAME TO passed")
            with psycopg.connect(proxy.dsn("postgres", "passed"), autocommit=True) as session:
                # Nobody is let in any more, and who is there stays.
                admin.execute("ALTER DATABASE passed ALLOW_CONNECTIONS false")
                proxy.wait_for_text("the database takes no connections")
                session.execute("CREATE TABLE changed (id int)")
                admin.execute("ALTER DATABASE passed ALLOW_CONNECTIONS true")
            text = proxy.text()
            assert text.count("not there any more") <= 2 and text.count("takes no connections") == 1
            assert "catalog cannot be read" not in text
            assert not [line for line in text.splitlines() if "warning" in line]
        finally:
            proxy.stop()
            admin.execute("DROP DATABASE IF EXISTS passing WITH (FORCE)")
            admin.execute("DROP DATABASE IF EXISTS passed WITH (FORCE)")


def test_a_login_that_is_refused_is_tried_more_and_more_seldom(
    postgres: Backend, database: str, tmp_path: Path
) -> None:
    """The server writes a FATAL for each; what a session defines meanwhile makes no more of them."""
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 1")
        proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file, catalog=0.1)
        proxy.start()
        try:
            proxy.wait_for_text("access log can be written")
            with psycopg.connect(proxy.dsn(database=database), autocommit=True) as sql:
                proxy.wait_for_text("CONNECTION LIMIT of the database")
                before = refusals(postgres)
                until = time.monotonic() + 2
                while time.monotonic() < until:
                    sql.execute("CREATE TEMPORARY TABLE defined (id int)")
                    sql.execute("DROP TABLE defined")
                assert refusals(postgres) - before <= 6
                assert proxy.text().count("catalog cannot be read") == 1
        finally:
            proxy.stop()
            admin.execute(f"ALTER DATABASE {database} CONNECTION LIMIT -1")


def refusals(postgres: Backend) -> int:
    if postgres.server is None:
        pytest.skip("the server's log is not here")
    return postgres.server.log.read_text(errors="replace").count("too many connections for database")
