"""Checks that code that is attached to the table of secrets leaves something behind for later, when it does not run as
the tables' owner any more.

A deferred trigger runs at the commit, a cursor WITH HOLD is read at the commit, a prepared statement runs when the
client next names it: all of them as whoever has the session, who may be a superuser."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime
from typing import Any

import asyncpg
import psycopg
import pytest
from tests.integration.sql.conftest import Database
from tests.integration.sql.test_roles_apart import TABLE

from secretproxy.audit.unused import unused
from secretproxy.config import Settings
from secretproxy.connections import connect
from secretproxy.install import InstallError, keys, revert, verify
from secretproxy.ops.doctor.checks import examine

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a72")
# Notes who runs it, in a table that everybody may write.
NOTE = """
CREATE TABLE public.ran (place text, role name);
CREATE TABLE public.queue (i int);
CREATE TABLE public.trial (file text);
GRANT ALL ON public.ran, public.queue, public.trial TO PUBLIC;
-- What a superuser runs is written into a file, which no rollback takes back.
CREATE FUNCTION public.note(place text) RETURNS int LANGUAGE plpgsql AS $f$
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('COPY (SELECT %L) TO %L', place, current_setting('data_directory') || '/' || (SELECT file FROM public.trial));
    END IF;
    INSERT INTO public.ran VALUES (place, current_user);
    RETURN 1;
EXCEPTION WHEN read_only_sql_transaction THEN
    RETURN 1;
END $f$;
CREATE FUNCTION public.later() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM public.note('deferred'); RETURN NULL; END $f$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON public.queue DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.later();
ALTER TABLE public.queue ENABLE ALWAYS TRIGGER later;
CREATE FUNCTION public.leave() RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN true; END $f$;
-- Says that it is immutable, as an index wants it.
CREATE FUNCTION public.pure(t text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN RETURN public.leave(); END $f$;
"""
LEAVE = """
CREATE OR REPLACE FUNCTION public.leave() RETURNS boolean LANGUAGE plpgsql AS $f$
DECLARE
    s record;
BEGIN
    PERFORM public.note('at once');
    {leave}
    RETURN true;
END $f$;
"""
LEFT = {
    "nothing": "",
    "a deferred trigger on another table": "BEGIN INSERT INTO public.queue VALUES (1); EXCEPTION WHEN OTHERS THEN NULL; END;",
    "one that defers again": "BEGIN INSERT INTO public.queue VALUES (1); SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED;"
    " INSERT INTO public.queue VALUES (1); EXCEPTION WHEN OTHERS THEN NULL; END;",
    "a cursor": "BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT public.note(''cursor'')'; EXCEPTION WHEN OTHERS THEN NULL; END;",
    # In the place of each that is kept under a name, another that takes and gives the same.
    "statements": """FOR s IN SELECT * FROM pg_prepared_statements LOOP
        BEGIN
            EXECUTE format('DEALLOCATE %I', s.name);
            EXECUTE format('PREPARE %I %s AS SELECT * FROM (SELECT public.note(''statement'')%s) AS t', s.name,
                           CASE WHEN s.parameter_types <> '{}' THEN format('(%s)', array_to_string(s.parameter_types, ',')) END,
                           (SELECT string_agg(format(', $%s IS NULL', i), '') FROM generate_subscripts(s.parameter_types, 1) i));
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;""",
    "settings": "PERFORM set_config('search_path', 'public, pg_catalog', false), set_config('check_function_bodies', 'off', false);",
}
PLACES = {
    "check": f"ALTER TABLE {TABLE} ADD CONSTRAINT c CHECK (public.leave())",
    # Runs already when a statement over the table is planned.
    "index": f"CREATE INDEX i ON {TABLE} ((public.pure('x')))",
}


@pytest.fixture(scope="module")
def armed(installed: Database) -> Database:
    with installed.connect() as admin:
        for name in ("a", "b", "c"):
            admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'value')", (OWNER, name))
        admin.execute(NOTE)
        for statement in PLACES.values():
            admin.execute(statement)
    return installed


def leave(admin: psycopg.Connection[Any], left: str) -> None:
    admin.execute(LEAVE.replace("{leave}", LEFT[left]))
    admin.execute("TRUNCATE public.ran, public.trial")
    admin.execute("INSERT INTO public.trial VALUES ('ran_' || gen_random_uuid())")


def ran(admin: psycopg.Connection[Any]) -> set[tuple[str, str]]:
    found = set(admin.execute("SELECT DISTINCT place, role FROM public.ran").fetchall())
    written = admin.execute("SELECT pg_read_file(file, 0, 100, true) FROM public.trial").fetchone()
    assert written == (None,)
    return found


def attempt(command: Any) -> None:
    with contextlib.suppress(InstallError, asyncpg.PostgresError):
        asyncio.run(command)


@pytest.mark.parametrize("left", LEFT)
def test_nothing_is_left_for_whoever_rotates_or_looks(armed: Database, left: str) -> None:
    settings = Settings.model_validate({"testimony": {"key_file": str(armed.backend.key_file)}})
    with armed.connect() as admin:
        leave(admin, left)
        attempt(keys.rotate(armed.dsn()))
        attempt(keys.reencrypt(armed.dsn(), lambda *_: None, 1))
        attempt(keys.status(armed.dsn()))
        attempt(verify(armed.dsn(), armed.backend.key_file))
        attempt(examine(armed.dsn(), settings, None))
        attempt(look_for_unused(armed.dsn()))
        found = ran(admin)
    assert ("at once", "secretproxy_tables") in found, "the code ran"
    assert {role for _, role in found} == {"secretproxy_tables"}


async def look_for_unused(dsn: str) -> None:
    connection = await connect(dsn, "secretproxy audit", timeout=15)
    try:
        await unused(connection, connection, datetime.now(UTC))
    finally:
        await connection.close()


def test_values_are_sealed_again_with_code_attached(armed: Database) -> None:
    with armed.connect() as admin:
        leave(admin, "nothing")
        asyncio.run(keys.rotate(armed.dsn()))
        assert asyncio.run(keys.reencrypt(armed.dsn(), lambda *_: None, 2)) == keys.Reencrypted(3, 0)
        assert admin.execute("SELECT count(*) FROM pg_class WHERE relkind = 'm'").fetchone() == (0,)


@pytest.mark.parametrize("left", [one for one in LEFT if one != "nothing"])
def test_nothing_is_left_for_whoever_reverts(armed: Database, left: str) -> None:
    with armed.connect() as admin:
        leave(admin, left)
        attempt(revert(armed.dsn()))
        found = ran(admin)
        armed.install(accepting=("all",))
    assert ("at once", "secretproxy_tables") in found
    assert {role for _, role in found} == {"secretproxy_tables"}
