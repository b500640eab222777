"""Installed over the original modules: every row answers as before, grants and OIDs stay, and a revert gives it all back."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import psycopg
from tests.integration.sql.conftest import Database

from secretproxy.install import revert, verify

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
    """What getter and verify say of every secret."""
    given = []
    for owner, name in secrets:
        row = sql.execute(
            "SELECT encrypted_secrets.secrets_getter(%(o)s, %(n)s, 'default'), encrypted_secrets.secrets_verify(%(o)s, %(n)s, %(v)s), "
            "encrypted_secrets.secrets_verify(%(o)s, %(n)s, %(w)s)",
            {"o": owner, "n": name, "v": value_of(name), "w": "wrong"},
        ).fetchone()
        assert row is not None
        given.append(row)
    return given


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

        # Values first: a successful verify upgrades a password, and its hash is then another.
        read = [
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s, 'default')", secret).fetchone() for secret in secrets
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
        for owner, name in secrets[:100]:
            sql.execute("SELECT encrypted_secrets.secrets_verify(%s, %s, 'wrong')", (owner, name))
        assert sql.execute(FACTS["rows"]).fetchall() == before
