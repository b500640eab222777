"""Installs over the original modules: every row answers as before, grants and OIDs stay, and a revert gives it all
back."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.integration.sql.conftest import Database

from secretproxy.install import InstallError, install, revert, verify

ORIGINAL = (Path(__file__).parent / "original.sql").read_text()
FILL = """
SELECT encrypted_secrets.secrets_upsert(
    uuid_in(md5((i % 50)::text)::cstring), 'name ' || i, CASE i % 7 WHEN 0 THEN '' WHEN 1 THEN 'caf\u00e9 \U0001f511 ' || i ELSE 'value ' || i END,
    (ARRAY['pgp', 'crypt', 'none', 'odd'])[i % 4 + 1]) FROM generate_series(1, 700) i;
INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
SELECT uuid_in(md5((i % 50)::text)::cstring), 'name ' || i, convert_to('value ' || i, 'UTF8'),
       (ARRAY['pgp', 'crypt', 'none', NULL])[i % 4 + 1] FROM generate_series(701, 1000) i;
"""
FACTS = {
    "rows": "SELECT id, secrets_owned_field, name, secrets_value_field, secrets_enc_field FROM secrets_schema.secrets_table ORDER BY id",
    "oid": "SELECT 'secrets_schema.secrets_table'::regclass::oid, 'encrypted_secrets.secrets_getter(uuid,text,text)'::regprocedure::oid",
    "table grants": "SELECT relowner, relacl FROM pg_class WHERE oid = 'secrets_schema.secrets_table'::regclass",
    "functions": "SELECT p.oid, p.oid::regprocedure::text, proowner, prosrc, prosecdef, provolatile, proconfig FROM pg_proc p "
    "WHERE pronamespace::regnamespace::text IN ('encrypted_secrets', 'secrets_schema') ORDER BY 1",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'secrets_schema.secrets_table'::regclass "
    "AND NOT tgisinternal ORDER BY 1",
}
EXECUTABLE = (
    "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace::regnamespace::text = 'encrypted_secrets' "
    "AND has_function_privilege('authenticated', p.oid, 'EXECUTE') ORDER BY 1"
)


def value_of(name: str) -> str:
    number = int(name.split()[1])
    if number <= 700 and number % 7 == 0:
        return ""
    return f"café \U0001f511 {number}" if number <= 700 and number % 7 == 1 else f"value {number}"


def facts(sql: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    return {name: sql.execute(statement).fetchall() for name, statement in FACTS.items()}


def answers(sql: psycopg.Connection[Any], secrets: list[tuple[uuid.UUID, str]]) -> list[tuple[Any, ...]]:
    """Gives what getter and verify say of every secret."""
    return sql.execute(
        "SELECT encrypted_secrets.secrets_getter(o, n, 'default'), encrypted_secrets.secrets_verify(o, n, v), encrypted_secrets.secrets_verify(o, n, 'wrong') "
        "FROM unnest(%s::uuid[], %s::text[], %s::text[]) WITH ORDINALITY AS s (o, n, v, i) ORDER BY i",
        ([owner for owner, _ in secrets], [name for _, name in secrets], [value_of(name) for _, name in secrets]),
    ).fetchall()


def original(sql: psycopg.Connection[Any]) -> list[tuple[uuid.UUID, str]]:
    sql.execute(ORIGINAL)
    sql.execute(FILL)
    return sql.execute("SELECT secrets_owned_field, name FROM secrets_schema.secrets_table ORDER BY name").fetchall()


def test_nothing_changes_for_the_application_and_a_revert_gives_it_back(empty: Database) -> None:
    with empty.connect() as sql:
        secrets = original(sql)
        assert len(secrets) == 1000
        before, given = facts(sql), answers(sql, secrets)
        assert {row[1] for row in given} == {True}, "the fixture's own values verify"

        empty.install()
        assert sql.execute(FACTS["oid"]).fetchall() == before["oid"]
        assert sql.execute(FACTS["rows"]).fetchall() == before["rows"], "an installation alone rewrites no value"
        assert sql.execute("SELECT count(*) FROM public.secret_names").fetchone() == (1000,)

        sql.execute("UPDATE secretproxy.settings SET crypt_cost = 4")
        # Values first: a successful verify upgrades a password, and its hash is then another.
        read = [
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s, 'default')", secret).fetchone()
            for secret in secrets
        ]
        assert read == [(row[0],) for row in given]
        assert [row[1:] for row in answers(sql, secrets)] == [row[1:] for row in given]
        upgraded = sql.execute("SELECT count(*) FROM secretproxy.replaced_password").fetchone()
        assert upgraded == (250,)
        assert sql.execute("SELECT DISTINCT secrets_enc_field FROM secrets_schema.secrets_table ORDER BY 1").fetchall() == [
            ("crypt",), ("none",), ("pgp",),
        ]  # fmt: skip
        assert asyncio.run(verify(empty.dsn(), empty.backend.key_file)) == []

        asyncio.run(revert(empty.dsn()))
        after = facts(sql)
        assert {name: after[name] for name in after} == before
        assert answers(sql, secrets) == given


def test_grants_of_the_functions_stay(empty: Database) -> None:
    with empty.connect() as sql:
        original(sql)
        sql.execute("GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) TO app_user")
        executable = sql.execute(EXECUTABLE).fetchall()
        empty.install()
        assert set(executable) <= set(sql.execute(EXECUTABLE).fetchall())
        assert sql.execute(
            "SELECT has_function_privilege('app_user', 'encrypted_secrets.secrets_getter(uuid,text,text)', 'EXECUTE')"
        ).fetchone() == (True,)


def test_values_written_since_are_readable_after_a_revert(empty: Database) -> None:
    owner = uuid.uuid4()
    with empty.connect() as sql:
        original(sql)
        empty.install()
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'new', 'a \\ b')", (owner,))
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'plain', 'as it is', 'none')", (owner,))
        asyncio.run(revert(empty.dsn()))
        assert sql.execute(
            "SELECT name, CASE secrets_enc_field WHEN 'pgp' THEN convert_from(decode(pgp_sym_decrypt(secrets_value_field, "
            "secrets_owned_field::text), 'hex'), 'UTF8') ELSE convert_from(secrets_value_field, 'UTF8') END "
            "FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s ORDER BY 1", (owner,)
        ).fetchall() == [("new", "a \\ b"), ("plain", "as it is")]  # fmt: skip
        assert sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'new')", (owner,)).fetchone() == ("a \\ b",)


def test_a_failed_verify_upgrades_nothing(empty: Database) -> None:
    with empty.connect() as sql:
        secrets = original(sql)
        before = sql.execute(FACTS["rows"]).fetchall()
        empty.install()
        sql.execute("UPDATE secretproxy.settings SET crypt_cost = 4")
        for owner, name in secrets[:100]:
            sql.execute("SELECT encrypted_secrets.secrets_verify(%s, %s, 'wrong')", (owner, name))
        assert sql.execute(FACTS["rows"]).fetchall() == before


# What an application may have built on the original modules.
APPLICATION = """
CREATE VIEW public.api_keys AS
    SELECT secrets_owned_field AS owner, name, encrypted_secrets.secrets_getter(secrets_owned_field, name) AS value
      FROM secrets_schema.secrets_table WHERE secrets_enc_field <> 'crypt';
CREATE FUNCTION public.api_key(owner uuid, name text) RETURNS text LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT encrypted_secrets.secrets_getter(api_key.owner, api_key.name, 'none'); END;
CREATE FUNCTION public.log_in(owner uuid, password text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN encrypted_secrets.secrets_verify(secrets_owned_field => owner, secret_name => 'login', secret_value => password);
END $$;
CREATE TABLE public.accounts (id uuid PRIMARY KEY, password text, secret uuid REFERENCES secrets_schema.secrets_table (id) ON DELETE SET NULL);
CREATE FUNCTION public.keep_password() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM encrypted_secrets.secrets_upsert(NEW.id, 'login', NEW.password, 'crypt');
    NEW.secret := (SELECT t.id FROM secrets_schema.secrets_table t WHERE t.secrets_owned_field = NEW.id AND t.name = 'login');
    NEW.password := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_password BEFORE INSERT ON public.accounts FOR EACH ROW EXECUTE FUNCTION public.keep_password();
CREATE TABLE public.touched (name text);
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO public.touched VALUES (NEW.name); RETURN NEW; END $$;
CREATE TRIGGER touch AFTER INSERT OR UPDATE ON secrets_schema.secrets_table FOR EACH ROW EXECUTE FUNCTION public.touch();
CREATE INDEX by_name ON secrets_schema.secrets_table (lower(name));
COMMENT ON COLUMN secrets_schema.secrets_table.name IS 'of the application';
GRANT SELECT (id, name) ON secrets_schema.secrets_table TO auditor;
"""
BUILT = """
SELECT c.oid, c.relname, regexp_replace(c.relacl::text, '/[a-z_]+', '', 'g') FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'secret_access%' AND c.relkind IN ('r', 'v', 'i')
UNION ALL SELECT p.oid, p.proname, p.proacl::text FROM pg_proc p WHERE p.proname IN ('api_key', 'log_in', 'keep_password', 'touch')
UNION ALL SELECT t.oid, t.tgname, NULL FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid IN ('public.accounts'::regclass, 'secrets_schema.secrets_table'::regclass)
UNION ALL SELECT c.oid, c.conname, NULL FROM pg_constraint c WHERE c.conrelid IN ('public.accounts'::regclass, 'secrets_schema.secrets_table'::regclass) AND c.contype <> 'n'
UNION ALL SELECT a.attnum, a.attname, regexp_replace(a.attacl::text, '/[a-z_]+', '', 'g') FROM pg_attribute a WHERE a.attrelid = 'secrets_schema.secrets_table'::regclass AND a.attnum > 0
UNION ALL SELECT 0, col_description('secrets_schema.secrets_table'::regclass, 3)::name, NULL ORDER BY 1, 2
"""


def test_what_an_application_built_on_it_goes_on(empty: Database) -> None:
    """Gives views, functions, triggers, keys, indexes and grants of its own: the same objects before, under and after
    an installation."""

    def use(sql: psycopg.Connection[Any], round_: int) -> list[Any]:
        account = uuid.UUID(int=1000 + round_)
        sql.execute("INSERT INTO public.accounts (id, password) VALUES (%s, %s)", (account, f"password {round_}"))
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'token', %s)", (account, f"token {round_}"))
        given: list[Any] = []
        for known in range(round_ + 1):
            owner = uuid.UUID(int=1000 + known)
            given += sql.execute(
                "SELECT public.log_in(%(o)s, %(p)s), public.log_in(%(o)s, 'wrong'), public.api_key(%(o)s, 'token'), "
                "(SELECT secret IS NOT NULL AND password IS NULL FROM public.accounts WHERE id = %(o)s)",
                {"o": owner, "p": f"password {known}"},
            ).fetchall()
        given.append(
            sql.execute("SELECT name, value FROM public.api_keys WHERE name = 'token' ORDER BY value").fetchall()
        )
        return given

    def wanted(round_: int) -> list[Any]:
        return [
            *((True, False, f"token {known}", True) for known in range(round_ + 1)),
            [("token", f"token {known}") for known in range(round_ + 1)],
        ]

    with empty.connect() as sql:
        sql.execute(ORIGINAL)
        sql.execute(APPLICATION)
        built = sql.execute(BUILT).fetchall()
        assert use(sql, 0) == wanted(0)
        with pytest.raises(InstallError, match=r"foreign key public[.]accounts[.]accounts_secret_fkey; trigger touch"):
            empty.install()
        assert sql.execute("SELECT to_regnamespace('secretproxy')").fetchone() == (None,), "nothing was done"
        with pytest.raises(InstallError, match=r"trigger touch[.]"):
            empty.install(accepting=("foreign key public.accounts.accounts_secret_fkey",))
        empty.install(accepting=("foreign key public.accounts.accounts_secret_fkey", "trigger touch"))
        assert sql.execute(BUILT).fetchall() == built
        assert use(sql, 1) == wanted(1)
        assert asyncio.run(verify(empty.dsn(), empty.backend.key_file)) == []
        # Through the triggers: a row that is inserted directly, and one whose value is updated.
        owner = uuid.UUID(int=2000)
        sql.execute(
            "INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field) "
            "VALUES (%(o)s, 'a', 'first', 'pgp'), (%(o)s, 'b', 'first', 'crypt'), (%(o)s, 'c', 'first', NULL)", {"o": owner}
        )  # fmt: skip
        sql.execute(
            "UPDATE secrets_schema.secrets_table SET secrets_value_field = 'second' WHERE secrets_owned_field = %s",
            (owner,),
        )
        assert sql.execute(
            "SELECT encrypted_secrets.secrets_getter(%(o)s, 'a'), encrypted_secrets.secrets_verify(%(o)s, 'b', 'second'), "
            "encrypted_secrets.secrets_getter(%(o)s, 'c')", {"o": owner}
        ).fetchone() == ("second", True, "second")  # fmt: skip
        before = sql.execute("SELECT count(*) FROM public.touched").fetchone()
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'a', 'third')", (owner,))
        after = sql.execute("SELECT count(*) FROM public.touched").fetchone()
        assert before is not None
        assert after == (before[0] + 1,)
        asyncio.run(revert(empty.dsn()))
        assert sql.execute(BUILT).fetchall() == built
        # Passwords that were stored in format 2 cannot be turned back: the ones of the first round can.
        assert sql.execute("SELECT public.log_in(%s, 'password 0')", (uuid.UUID(int=1000),)).fetchone() == (True,)
        assert (
            sql.execute("SELECT name, value FROM public.api_keys WHERE name = 'token' ORDER BY value").fetchall()
            == wanted(1)[-1]
        )


def test_a_trigger_of_the_application_gets_no_rights_of_the_owner(empty: Database) -> None:
    """It runs as whoever writes, which is secretproxy_tables from now on: nobody else may make one, and one that is
    there is named."""
    told: dict[str, str] = {}
    with empty.connect() as sql, empty.connect("app_user") as app:
        sql.execute(ORIGINAL)
        sql.execute(
            "GRANT ALL ON secrets_schema.secrets_table TO app_user; GRANT USAGE ON SCHEMA secrets_schema TO app_user"
        )
        sql.execute("GRANT CREATE ON SCHEMA public TO app_user")
        app.execute("CREATE FUNCTION public.steal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$")
        make = "CREATE TRIGGER {} AFTER INSERT ON secrets_schema.secrets_table FOR EACH ROW EXECUTE FUNCTION public.steal()"
        app.execute(make.format("earlier"))
        with pytest.raises(InstallError, match="trigger earlier"):
            empty.install()
        asyncio.run(
            install(
                empty.dsn(),
                empty.backend.key_file,
                lambda what, state: told.__setitem__(what, state),
                accepting=["all"],
            )
        )
        assert told["direct_calls"].startswith("log"), "applications over the original modules call directly"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(make.format("later"))
        assert app.execute("SELECT count(*) FROM secrets_schema.secrets_table").fetchone() == (0,), "other grants stay"
        asyncio.run(revert(empty.dsn()))
        app.execute(make.format("later"))
        sql.execute("DROP OWNED BY app_user CASCADE; GRANT authenticated TO app_user")
