"""Checks that a command of the owner runs nothing that an application put where something of ours is, or was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from tests.conftest import Backend
from tests.integration.sql.conftest import Database, database
from tests.integration.sql.test_adoption import ORIGINAL

from secretproxy.config import Settings
from secretproxy.install import InstallError, install, keys, revert, verify
from secretproxy.install.project import changes
from secretproxy.ops.doctor.checks import examine

# Notes who runs it in a file of the server's, for everything else may be rolled back.
NOTE = """
CREATE SCHEMA app AUTHORIZATION app_user;
CREATE TABLE app.ran (role name);
GRANT ALL ON app.ran TO PUBLIC;
GRANT USAGE ON SCHEMA app TO PUBLIC;
CREATE FUNCTION app.note() RETURNS boolean LANGUAGE plpgsql AS $f$
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('COPY (SELECT 1) TO %L', current_setting('data_directory') || '/ran_in_' || current_database());
    END IF;
    INSERT INTO app.ran VALUES (current_user);
    RETURN true;
EXCEPTION WHEN read_only_sql_transaction THEN
    RETURN true;
END $f$;
"""
TAKEN = "SELECT pg_read_file('ran_in_' || current_database(), 0, 10, true)"

# Whoever owns a schema may drop what others have in it, and so put another in its place.
IN_ITS_PLACE = {
    "plpgsql": "CREATE FUNCTION jwt_public.current_user_id() RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN PERFORM app.note(); RETURN NULL; END $$",
    "sql": "CREATE FUNCTION jwt_public.current_user_id() RETURNS uuid LANGUAGE sql AS $$ SELECT CASE WHEN app.note() THEN NULL::uuid END $$",
    "a default": "CREATE FUNCTION jwt_public.current_user_id(b boolean DEFAULT app.note()) RETURNS uuid LANGUAGE sql AS $$ SELECT NULL::uuid $$",
}


@pytest.fixture(scope="module")
def shared(installed: Database) -> Database:
    with installed.connect() as admin:
        admin.execute(NOTE)
        admin.execute("ALTER SCHEMA jwt_public OWNER TO app_user")
    return installed


@pytest.mark.parametrize("form", IN_ITS_PLACE)
def test_no_command_runs_what_stands_in_the_place_of_ours(shared: Database, form: str) -> None:
    settings = Settings.model_validate({"testimony": {"key_file": str(shared.backend.key_file)}})
    with shared.connect() as admin, shared.connect("app_user") as app:
        app.execute("DROP FUNCTION jwt_public.current_user_id()")
        app.execute(IN_ITS_PLACE[form])
        told = asyncio.run(verify(shared.dsn(), shared.backend.key_file))
        asyncio.run(examine(shared.dsn(), settings, None))
        asyncio.run(install(shared.dsn(), shared.backend.key_file))
        if form == "a default":
            admin.execute("DROP FUNCTION jwt_public.current_user_id(boolean)")
        assert admin.execute(TAKEN).fetchone() == (None,)
        assert admin.execute("SELECT jwt_public.current_user_id()").fetchone() == (None,)
        assert admin.execute("SELECT count(*) FROM app.ran").fetchone() == (0,)
    assert "current_user_id" in str(told)


# Constants whose values are checked by the application's code when the definition is read.
CONSTANTS = """
CREATE DOMAIN app.d AS text CHECK (app.note());
CREATE TYPE app.c AS (v app.d);
GRANT USAGE ON TYPE app.d, app.c TO PUBLIC;
CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_getter(secrets_owned_field uuid, secret_name text, default_value text DEFAULT ('{x}'::app.d[])[1])
RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN default_value; END $$;
CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_upsert(
    v_secrets_owned_field uuid, secret_name text, secret_value text, field_encoding text DEFAULT ('(x)'::app.c).v)
RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN false; END $$;
CREATE SCHEMA IF NOT EXISTS jwt_public;
CREATE FUNCTION jwt_public.current_user_id() RETURNS uuid LANGUAGE sql
BEGIN ATOMIC
    SELECT CASE WHEN ('{x}'::app.d[])[1] = 'y' THEN gen_random_uuid() END;
END;
"""


def test_a_revert_reads_no_definition_as_whoever_reverts(empty: Database) -> None:
    owned = (
        "encrypted_secrets.secrets_getter(uuid,text,text)",
        "encrypted_secrets.secrets_upsert(uuid,text,text,text)",
        "jwt_public.current_user_id()",
    )
    with empty.connect() as admin:
        admin.execute(ORIGINAL)
        admin.execute(NOTE)
        admin.execute("ALTER FUNCTION app.note() OWNER TO app_user")
        admin.execute(CONSTANTS)
        for name in owned:
            # LEAKPROOF is a superuser's to set: a function of the owner that reads the definition cannot.
            admin.execute(f"ALTER FUNCTION {name} LEAKPROOF; ALTER FUNCTION {name} OWNER TO app_user")
        defined = [admin.execute("SELECT pg_get_functiondef(%s::regprocedure)", (name,)).fetchone() for name in owned]
        empty.install()
        admin.execute("TRUNCATE app.ran")
        # What the administrator ran above wrote the file; what is written from here on, another.
        admin.execute(
            NOTE[NOTE.index("CREATE FUNCTION") :]
            .replace("CREATE", "CREATE OR REPLACE")
            .replace("/ran_in_", "/reverted_in_")
        )
        asyncio.run(revert(empty.dsn()))
        assert admin.execute(TAKEN.replace("ran_in_", "reverted_in_")).fetchone() == (None,)
        assert admin.execute("SELECT DISTINCT role FROM app.ran").fetchall() == [("app_user",)], (
            "it was read, by whose it was"
        )
        assert [
            admin.execute("SELECT pg_get_functiondef(%s::regprocedure)", (name,)).fetchone() for name in owned
        ] == defined
        owners = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE oid = ANY (%s::regprocedure[])"
        assert admin.execute(owners, (list(owned),)).fetchall() == [("app_user",)]
        assert admin.execute("SELECT has_schema_privilege('app_user', 'encrypted_secrets', 'CREATE')").fetchone() == (
            False,
        )


# What the owner of the database makes before anything is installed.
PREPARED = {
    "a view": "CREATE VIEW secretproxy.changes AS SELECT 'changes'::text AS change, app.note()::text AS digest;"
    "CREATE VIEW secretproxy.settings AS SELECT CASE WHEN app.note() THEN 'log' END AS direct_calls",
    "a trigger": "CREATE TABLE secretproxy.changes (change text PRIMARY KEY, digest text, deployed_at timestamptz DEFAULT now(), deployed_by name DEFAULT session_user);"
    "CREATE FUNCTION secretproxy.t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM app.note(); RETURN NEW; END $$;"
    "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON secretproxy.changes FOR EACH ROW EXECUTE FUNCTION secretproxy.t()",
    "functions": "CREATE FUNCTION secretproxy.drop_default_grants() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM app.note(); END $$;"
    "CREATE FUNCTION secretproxy.stored_formats(OUT encoding text, OUT format int, OUT key_version int, OUT stored bigint) RETURNS SETOF record"
    " LANGUAGE plpgsql AS $$ BEGIN PERFORM app.note(); END $$",
    "nothing yet": "SELECT 1",
}


@pytest.fixture(scope="module")
def owned(postgres: Backend) -> Iterator[Database]:
    with database(postgres) as made:
        with made.connect() as admin:
            admin.execute(NOTE)
            admin.execute(f"ALTER DATABASE {made.name} OWNER TO app_user")
        yield made


@pytest.mark.parametrize("form", PREPARED)
def test_a_schema_that_another_made_under_our_name_is_not_used(owned: Database, form: str) -> None:
    settings = Settings.model_validate({"testimony": {"key_file": str(owned.backend.key_file)}})
    dsn, key_file = owned.dsn(), owned.backend.key_file
    with owned.connect() as admin, owned.connect("app_user") as app:
        app.execute("CREATE SCHEMA secretproxy; GRANT ALL ON SCHEMA secretproxy TO PUBLIC")
        app.execute(PREPARED[form])
        app.execute("GRANT ALL ON ALL TABLES IN SCHEMA secretproxy TO PUBLIC")
        for command in (
            lambda: install(dsn, key_file), lambda: verify(dsn, key_file), lambda: examine(dsn, settings, None), lambda: revert(dsn),
            lambda: keys.status(dsn),
        ):  # fmt: skip
            with pytest.raises(InstallError, match="belongs to app_user"):
                asyncio.run(command())
        # As the stock sqitch would run it.
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="belongs to another role"):
            admin.execute(next(one for one in changes() if one.name == "changes").script("deploy"))
        admin.execute("ROLLBACK")
        assert admin.execute(TAKEN).fetchone() == (None,)
        assert admin.execute("SELECT count(*) FROM app.ran").fetchone() == (0,)
        app.execute("DROP SCHEMA secretproxy CASCADE")
