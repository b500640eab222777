"""Checks code that somebody attaches to the table of secrets, or brings along in a type: whatever it runs as, it opens,
seals, reads and writes nothing.

One function tries everything and writes down what it ran as and what came of it. It is hung up in every place that
PostgreSQL runs code from, and then every function of the API is called, by a login, and every command of the owner."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.integration.sql.conftest import Database

from secretproxy.install import InstallError, revert, verify

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a71")
TABLE = "secrets_schema.secrets_table"
# What is tried. `getter` is what a login may do, under testimony; no role of ours may.
TRIES = {
    "open": "SELECT secretproxy.open_secret('{o}', 'a', '\\x00')",
    "read": "SELECT secretproxy.read_secret('{o}', 'a', NULL, '\\x00')",
    "check": "SELECT secretproxy.check_secret('{o}', 'a', 'x', NULL)",
    "verify": "SELECT secretproxy.verify_secret('{o}', 'a', 'x', NULL)",
    "open inside": "SELECT secretproxy.open_value(NULL, '{o}', 'a', '\\x00')",
    "getter": "SELECT encrypted_secrets.secrets_getter('{o}', 'a')",
    "ring": "SELECT key FROM secretproxy.keyring LIMIT 1",
    "testimony key": "SELECT key FROM secretproxy.testimony_key LIMIT 1",
    "context": "SELECT ring_inner FROM secretproxy.context",
    "pads": "SELECT secretproxy.hmac_pad('\\x00', 1)",
    "log": "INSERT INTO secretproxy.access_log (event, function) VALUES ('direct', 'forged')",
    "log by function": "SELECT secretproxy.log_direct('forged', 'read', NULL, NULL, NULL, NULL, NULL, NULL)",
    "checkpoint": "INSERT INTO secretproxy.checkpoints VALUES (gen_random_uuid(), 1, '\\x00', now(), '\\x00')",
    "settings": "UPDATE secretproxy.settings SET direct_calls = 'log'",
    "testify": "SELECT secretproxy.begin_call('encrypted_secrets.secrets_getter(uuid,text,text)', 'read', '{o}', '{{a}}', NULL)",
    "testify inside": "SELECT secretproxy.testify(NULL, 'f', 'read', '{o}', '{{a}}', NULL)",
    "seal": "SELECT secretproxy.seal_secret('{o}', 'a', '\\x00', 'pgp')",
    "start": "SELECT setval('secretproxy.session_start', 1)",
    "rotate": "SELECT secretproxy.rotate_keyring()",
    "function": "CREATE OR REPLACE FUNCTION secretproxy.stored_secret(owner uuid, name text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'",
    "become api": "SET ROLE secretproxy_api",
    "become keys": "SET ROLE secretproxy_keys",
    "member": "GRANT secretproxy_keys TO PUBLIC",
}
THIEF = """
CREATE TABLE public.loot (place text, role name, attempt text, outcome text);
CREATE TABLE public.begun ();
GRANT ALL ON public.loot, public.begun TO PUBLIC;
CREATE FUNCTION public.try(place text) RETURNS boolean LANGUAGE plpgsql AS $f$
DECLARE
    t record;
    v_is name := current_user;
BEGIN
    IF NOT EXISTS (SELECT FROM public.begun) THEN
        RETURN true; -- whoever attaches it is a superuser
    END IF;
    FOR t IN SELECT * FROM json_each_text($j${tries}$j$) LOOP
        BEGIN
            EXECUTE t.value;
            INSERT INTO public.loot VALUES (place, v_is, t.key, 'succeeded');
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO public.loot VALUES (place, v_is, t.key, SQLSTATE);
        END;
    END LOOP;
    RETURN true;
END $f$;
CREATE FUNCTION public.try_text(place text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN PERFORM public.try(place); RETURN 'x'; END $f$;
-- Says that it is immutable, as an index or a generated column wants it.
CREATE FUNCTION public.pure(place text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN RETURN public.try(place); END $f$;
CREATE FUNCTION public.pure_text(place text, t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN PERFORM public.try(place); RETURN t; END $f$;
CREATE FUNCTION public.on_row() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM public.try(TG_NAME); RETURN coalesce(NEW, OLD); END $f$;
"""
# Each is something that a row of the table meets; made by a superuser, as an application that is adopted has it.
PLACES = {
    "check": f"ALTER TABLE {TABLE} ADD CONSTRAINT c CHECK (public.try('check'))",
    "default": f"ALTER TABLE {TABLE} ADD COLUMN d text DEFAULT public.try_text('default')",
    "generated": f"ALTER TABLE {TABLE} ADD COLUMN g text GENERATED ALWAYS AS (public.pure_text('generated', name)) STORED",
    "index": f"CREATE INDEX i ON {TABLE} (public.pure_text('index', name))",
    "predicate": f"CREATE INDEX p ON {TABLE} (name) WHERE public.pure('predicate')",
    "before": f"CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION public.on_row()",
    "after": f"CREATE TRIGGER after AFTER INSERT OR UPDATE OR DELETE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION public.on_row()",
    "deferred": f"CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE OR DELETE ON {TABLE} DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION public.on_row()",
    "rule": f"CREATE RULE r AS ON DELETE TO {TABLE} DO ALSO SELECT public.try('rule')",
    "policy": f"CREATE POLICY p ON {TABLE} USING (public.try('policy')) WITH CHECK (public.try('policy')); "
    f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    "child": f"CREATE TABLE public.child (id uuid REFERENCES {TABLE} (id) ON DELETE CASCADE); ALTER TABLE public.child OWNER TO app_user; "
    "CREATE TRIGGER child AFTER DELETE ON public.child FOR EACH ROW EXECUTE FUNCTION public.on_row()",
    "domain": f"CREATE DOMAIN public.hostile AS text CHECK (public.try('domain')); ALTER TABLE {TABLE} ADD COLUMN h public.hostile",
    "statistics": f"CREATE STATISTICS public.s ON (public.pure_text('statistics', name)), (id) FROM {TABLE}",
}  # fmt: skip
# What names each, for --accept.
NAMED = {
    "check": "check c", "default": "default d", "generated": "generated column g", "index": "index i", "predicate": "index p",
    "before": "trigger before", "after": "trigger after", "deferred": "trigger deferred", "rule": "rule r", "policy": "policy p",
    "child": "foreign key public.child.child_id_fkey", "domain": "column h", "statistics": "statistics s",
}  # fmt: skip
CALLS = (
    "SELECT encrypted_secrets.secrets_upsert(%(o)s, 'b', 'value')",
    "SELECT encrypted_secrets.secrets_upsert(%(o)s, 'a', 'value again')",
    "SELECT encrypted_secrets.secrets_upsert(%(o)s, 'p', 'password', 'crypt')",
    "SELECT encrypted_secrets.secrets_getter(%(o)s, 'a')",
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'p', 'password')",
    "SELECT encrypted_secrets.secrets_verify(%(o)s, 'older', 'password')",
    "SELECT encrypted_secrets.encrypt_field_pgp_getter(%(o)s, 'name', 'secrets_owned_field')",
    'SELECT encrypted_secrets.secrets_table_upsert(%(o)s, \'{"secrets_value_field": "x"}\')',
    'SELECT encrypted_secrets.secrets_table_upsert(gen_random_uuid(), \'{"name": "new", "secrets_value_field": "x"}\')',
    "INSERT INTO public.child SELECT NULL WHERE to_regclass('public.child') IS NOT NULL",
    "SELECT encrypted_secrets.secrets_delete(%(o)s, 'b')",
    "SELECT encrypted_secrets.secrets_delete(%(o)s, ARRAY['a', 'p'])",
)
OURS = {"secretproxy_owner", "secretproxy_api", "secretproxy_keys", "secretproxy_tables", "postgres"}


def arm(admin: psycopg.Connection[Any]) -> None:
    import json

    admin.execute(THIEF.replace("{tries}", json.dumps({name: text.format(o=OWNER) for name, text in TRIES.items()})))
    admin.execute("UPDATE secretproxy.settings SET crypt_cost = 4")
    admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'a', 'value')", (OWNER,))
    admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'older', 'x', 'none')", (OWNER,))
    admin.execute(f"ALTER TABLE {TABLE} DISABLE TRIGGER USER")
    admin.execute(
        f"UPDATE {TABLE} SET secrets_enc_field = 'crypt', secrets_value_field = "
        "crypt(convert_to('password', 'UTF8')::text, gen_salt('bf', 4))::bytea WHERE name = 'older'"
    )
    admin.execute(f"ALTER TABLE {TABLE} ENABLE TRIGGER USER")


def attach(database: Database, *places: str) -> None:
    """Runs statements as a superuser."""
    for place in places:
        with database.connect() as admin:
            admin.execute(PLACES[place])
            if place == "child":
                admin.execute(f"INSERT INTO public.child SELECT id FROM {TABLE}")


def call(sql: psycopg.Connection[Any]) -> None:
    for statement in CALLS:
        try:
            sql.execute(statement, {"o": OWNER} if "%(o)s" in statement else None)
        except psycopg.Error as error:
            # A rule over DELETE answers with rows where none are expected; a secret that is no pgp value does not open.
            if error.sqlstate not in ("39000", "42P01", "0A000", "22023", "42601", "22P02", "42883"):
                raise


def loot(admin: psycopg.Connection[Any]) -> dict[tuple[str, str], set[str]]:
    """Gives by place and role what succeeded."""
    found: dict[tuple[str, str], set[str]] = {}
    for place, role, attempt, outcome in admin.execute(
        "SELECT DISTINCT place, role, attempt, outcome FROM public.loot"
    ).fetchall():
        found.setdefault((place, role), set()).update({attempt} if outcome == "succeeded" else ())
    return found


@pytest.fixture
def armed(fresh: Database) -> Iterator[Database]:
    with fresh.connect() as admin:
        arm(admin)
    yield fresh
    with fresh.connect() as admin:
        admin.execute("DROP OWNED BY app_user CASCADE; GRANT authenticated TO app_user")


@pytest.mark.parametrize("place", PLACES)
def test_attached_code_gets_nothing_whatever_it_runs_as(armed: Database, place: str) -> None:
    attach(armed, place)
    with armed.connect() as admin, armed.connect("app_user") as app:
        admin.execute("INSERT INTO public.begun DEFAULT VALUES")
        call(app)
        admin.execute("SELECT secretproxy.rotate_keyring()")
        admin.execute("SELECT secretproxy.reencrypt(%s, 100, true)", (uuid.UUID(int=0),))
        admin.execute("SELECT secretproxy.values_to_seal(); SELECT * FROM secretproxy.stored_formats()")
        found = loot(admin)
    ran = {role for (_, role) in found}
    if place != "statistics":
        assert ran, "the code ran"
    assert ran <= {"secretproxy_tables", "app_user"}
    for (_, role), succeeded in found.items():
        # The login itself may read by the API, under testimony; nothing else.
        assert succeeded <= ({"getter"} if role == "app_user" else set()), role


@pytest.mark.parametrize("place", PLACES)
def test_attached_code_is_named_and_never_runs_as_whoever_installs(armed: Database, place: str) -> None:
    attach(armed, place)
    with armed.connect() as admin:
        admin.execute("INSERT INTO public.begun DEFAULT VALUES")
        told = asyncio.run(verify(armed.dsn(), armed.backend.key_file))
        assert f"code of others on {TABLE} that was not accepted: {NAMED[place]}" in told
        with pytest.raises(InstallError, match=NAMED[place]):
            armed.install()
        armed.install(accepting=(NAMED[place],))
        assert "not accepted" not in str(asyncio.run(verify(armed.dsn(), armed.backend.key_file)))
        asyncio.run(revert(armed.dsn()))
        assert not {role for _, role in loot(admin)} & (OURS - {"secretproxy_tables"})


def test_a_default_of_id_in_a_schema_of_the_application_is_named(armed: Database) -> None:
    """It has the name of the original module's own, and is not that."""
    with armed.connect() as admin:
        for schema, name in (
            ("app", "uuidv7"), ("app", "uuid_generate_v4"), ("app", "gen_random_uuid"), ('"public."', "uuidv7"),
        ):  # fmt: skip
            admin.execute(
                f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE FUNCTION {schema}.{name}() RETURNS uuid LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM public.try('default'); RETURN pg_catalog.gen_random_uuid(); END $$;"
                f"ALTER TABLE {TABLE} ALTER COLUMN id SET DEFAULT {schema}.{name}()"
            )
            with pytest.raises(InstallError, match=r"attached to .*default id"):
                armed.install()
    told = asyncio.run(verify(armed.dsn(), armed.backend.key_file))
    assert f"code of others on {TABLE} that was not accepted: default id" in told


# The types of a client's own table with a trigger function of ours, each with code of the client's in it.
TYPES = {
    "composite with casts": (
        "CREATE TYPE pg_temp.t AS (v text); "
        "CREATE FUNCTION pg_temp.b(pg_temp.t) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM public.try('cast'); RETURN '\\x00'; END $$; "
        "CREATE FUNCTION pg_temp.s(pg_temp.t) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.try('cast'); RETURN 'x'; END $$; "
        "CREATE CAST (pg_temp.t AS bytea) WITH FUNCTION pg_temp.b(pg_temp.t); CREATE CAST (pg_temp.t AS text) WITH FUNCTION pg_temp.s(pg_temp.t) AS ASSIGNMENT",
        "ROW('x')::pg_temp.t",
    ),
    "composite with implicit casts from bytea and text": (
        "CREATE TYPE pg_temp.t AS (v text); "
        "CREATE FUNCTION pg_temp.b(pg_temp.t) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM public.try('cast'); RETURN '\\x00'; END $$; "
        "CREATE FUNCTION pg_temp.f(bytea) RETURNS pg_temp.t LANGUAGE plpgsql AS $$ BEGIN PERFORM public.try('cast'); RETURN ROW('x'); END $$; "
        "CREATE FUNCTION pg_temp.s(pg_temp.t) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.try('cast'); RETURN 'x'; END $$; "
        "CREATE CAST (pg_temp.t AS bytea) WITH FUNCTION pg_temp.b(pg_temp.t) AS IMPLICIT; CREATE CAST (pg_temp.t AS text) WITH FUNCTION pg_temp.s(pg_temp.t) AS IMPLICIT; "
        "CREATE CAST (bytea AS pg_temp.t) WITH FUNCTION pg_temp.f(bytea) AS IMPLICIT",
        "ROW('x')::pg_temp.t",
    ),
    "domain over bytea": ("CREATE DOMAIN pg_temp.t AS bytea CHECK (public.try('domain'))", "'\\x00'"),
    "domain over text": ("CREATE DOMAIN pg_temp.t AS text CHECK (public.try('domain'))", "'x'"),
    "composite with a domain in it": (
        "CREATE DOMAIN pg_temp.d AS text CHECK (public.try('domain')); CREATE TYPE pg_temp.t AS (v pg_temp.d)", "ROW('x')::pg_temp.t",
    ),
}  # fmt: skip


@pytest.mark.parametrize("function", ["encrypt_field_pgp", "encrypt_field_crypt"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_type_of_a_column_brings_no_code_to_a_role_of_ours(armed: Database, kind: str, function: str) -> None:
    made, value = TYPES[kind]
    with armed.connect() as admin, armed.connect("app_user") as app:
        admin.execute("INSERT INTO public.begun DEFAULT VALUES")
        app.execute(made)
        app.execute("CREATE TEMP TABLE held (field_name pg_temp.t, encode_field pg_temp.t)")
        app.execute(
            f"DO $$ BEGIN EXECUTE 'CREATE TRIGGER g BEFORE INSERT ON pg_temp.held FOR EACH ROW EXECUTE FUNCTION encrypted_secrets.{function}()'; END $$"
        )
        try:
            app.execute(f"INSERT INTO pg_temp.held VALUES ({value}, {value})")
        except psycopg.Error as error:
            assert error.sqlstate in ("42846", "22P02", "42804", "39000"), error  # noqa: PT017 - what a type without a cast gives
        found = loot(admin)
    assert {role for _, role in found} <= {"app_user"}
    assert all(succeeded <= {"getter"} for succeeded in found.values())


def test_a_trigger_function_that_seals_is_nobodys(armed: Database) -> None:
    """Our trigger function is not a client's, not even where a superuser put it on another table; and it looks at no
    column whose type was changed."""
    on_own = "CREATE TEMP TABLE t (LIKE secrets_schema.secrets_table); CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION secrets_schema.tg_hash_secrets()"
    with armed.connect() as admin, armed.connect("app_user") as app:
        for role in ("", "SET ROLE secretproxy_tables"):
            app.execute("SELECT 1")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                (admin if role else app).execute(
                    f"{role}; {on_own.replace('LIKE secrets_schema.secrets_table', 'id uuid')}"
                )
            admin.execute("RESET ROLE")
        admin.execute(on_own)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            admin.execute("INSERT INTO t (id) VALUES (gen_random_uuid())")
        admin.execute("DROP TABLE t")
        admin.execute(
            "CREATE TYPE public.evil AS (v text);"
            "CREATE FUNCTION public.evil_text(public.evil) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.try('evil'); RETURN 'pgp'; END $$;"
            "CREATE CAST (public.evil AS text) WITH FUNCTION public.evil_text(public.evil) AS IMPLICIT;"
            f"ALTER TABLE {TABLE} ALTER COLUMN secrets_enc_field TYPE public.evil USING ROW('pgp')::public.evil"
        )
        admin.execute("INSERT INTO public.begun DEFAULT VALUES")
        for statement in (
            f"INSERT INTO {TABLE} (secrets_owned_field, name, secrets_value_field, secrets_enc_field) VALUES ('{OWNER}', 'z', 'z', ROW('pgp')::public.evil)",
            f"UPDATE {TABLE} SET secrets_value_field = 'z', secrets_enc_field = ROW('pgp')::public.evil",
        ):
            with pytest.raises(psycopg.errors.DatatypeMismatch):
                admin.execute(statement)
        with pytest.raises(psycopg.Error):
            app.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'z', 'z')", (OWNER,))
        app.execute("SELECT encrypted_secrets.secrets_getter(%s, 'a')", (OWNER,))
        found = loot(admin)
    assert {role for _, role in found} <= {"secretproxy_tables", "postgres"}
    assert not any(succeeded for (_, role), succeeded in found.items() if role == "secretproxy_tables")


def test_the_tables_role_cannot_lend_its_code_another_role(armed: Database) -> None:
    """It owns its functions, and may alter them: made SECURITY INVOKER, with every grant on the table, they do not run
    at all."""
    attach(armed, "check", "policy", "before")
    with armed.connect() as admin, armed.connect("app_user") as app:
        admin.execute("GRANT USAGE ON SCHEMA secrets_schema TO PUBLIC")
        functions = admin.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.prosecdef AND p.proowner = 'secretproxy_tables'::regrole"
        ).fetchall()
        assert len(functions) >= 15
        admin.execute("SET ROLE secretproxy_tables")
        admin.execute(f"GRANT ALL ON {TABLE}, secretproxy.replaced_password TO PUBLIC")
        for (function,) in functions:
            admin.execute(f"ALTER FUNCTION {function} SECURITY INVOKER SET search_path = public, pg_catalog")
        admin.execute("RESET ROLE; INSERT INTO public.begun DEFAULT VALUES")
        refused = {}
        for statement in CALLS:
            if "encrypted_secrets" in statement:
                try:
                    app.execute(statement, {"o": OWNER} if "%(o)s" in statement else None)
                except psycopg.Error as error:
                    refused[statement] = (error.sqlstate, "secretproxy_tables or not at all" in str(error))
        assert refused == dict.fromkeys((one for one in CALLS if "encrypted_secrets" in one), ("42501", True))
        assert not {role for _, role in loot(admin)} & OURS


def test_references_and_trigger_are_taken_from_who_had_them(empty: Database) -> None:
    """Either lets code of its holder run as the table's owner: on the table, or on one whose foreign key cascades."""
    from tests.integration.sql.test_adoption import ORIGINAL

    with empty.connect() as admin, empty.connect("app_user") as app:
        admin.execute(ORIGINAL)
        admin.execute(
            f"GRANT ALL ON {TABLE} TO app_user; GRANT REFERENCES (id) ON {TABLE} TO app_user; GRANT USAGE ON SCHEMA secrets_schema TO app_user"
        )
        empty.install()
        app.execute("CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
        for statement in (
            f"CREATE TABLE public.child (id uuid REFERENCES {TABLE} (id) ON DELETE CASCADE)",
            f"CREATE TABLE public.child (o uuid, n text, FOREIGN KEY (o, n) REFERENCES {TABLE} (secrets_owned_field, name))",
            f"CREATE TRIGGER t AFTER DELETE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION pg_temp.f()",
            f"CREATE RULE r AS ON DELETE TO {TABLE} DO INSTEAD NOTHING",
            f"ALTER TABLE {TABLE} ADD COLUMN x int",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
        admin.execute("DROP OWNED BY app_user CASCADE; GRANT authenticated TO app_user")


def test_a_table_of_other_types_is_refused_before_anything_is_done(empty: Database) -> None:
    from tests.integration.sql.test_adoption import ORIGINAL

    for column, other in (
        ("name", "varchar(200)"),
        ("secrets_value_field", "public.bytes"),
        ("secrets_enc_field", "public.short"),
    ):
        with empty.connect() as admin:
            admin.execute(
                "DROP SCHEMA IF EXISTS secrets_schema, encrypted_secrets, secretproxy, jwt_public CASCADE; DROP VIEW IF EXISTS public.secret_names"
            )
            admin.execute(
                "DROP DOMAIN IF EXISTS public.bytes, public.short; CREATE DOMAIN public.bytes AS bytea; CREATE DOMAIN public.short AS text"
            )
            admin.execute(ORIGINAL.replace("CREATE VIEW public.secret_names", "CREATE VIEW public.other_names"))
            admin.execute(
                "DROP VIEW public.other_names; DROP TRIGGER hash_secrets_update ON secrets_schema.secrets_table"
            )
            admin.execute(f"ALTER TABLE {TABLE} ALTER COLUMN {column} TYPE {other}")
        with pytest.raises(InstallError, match=column):
            empty.install(accepting=("all",))
