"""Checks the ways round the log that remain, walked to their end, and what shows that somebody did."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from secretproxy.install.runner import verify
from tests.conftest import Backend
from tests.support.canary import Canary
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

# What secretproxy.open_value() does, by somebody who can read the table and the key ring.
BY_HAND = """
SELECT convert_from(secretproxy.pgp_decrypt(substr(t.secrets_value_field, 9), secretproxy.hmac(
           k.inner_pad, k.outer_pad, uuid_send(t.secrets_owned_field) || convert_to(t.name, 'UTF8'))), 'UTF8')
  FROM secrets_schema.secrets_table t, secretproxy.keyring k
 WHERE t.secrets_owned_field = %s AND k.retired_at IS NULL AND substr(t.secrets_value_field, 1, 8) = k.prefix
"""


@pytest.fixture
def stored(postgres: Backend, canary: Canary) -> tuple[uuid.UUID, str]:
    owner, value = uuid.uuid4(), canary.value()
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'key', %s)", (owner, value))
    return owner, value


@pytest.fixture
def reader(postgres: Backend) -> Iterator[str]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        sql.execute("CREATE ROLE reads_all LOGIN; GRANT pg_read_all_data TO reads_all")
        yield "reads_all"
        sql.execute("DROP ROLE reads_all")


def test_a_superuser_who_decrypts_by_hand_leaves_a_table_event(
    proxy: Proxy, log: AccessLog, stored: tuple[uuid.UUID, str]
) -> None:
    owner, value = stored
    log.mark()
    with psycopg.connect(proxy.dsn("postgres"), autocommit=True) as sql:
        assert sql.execute(BY_HAND, (owner,)).fetchone() == (value,)
    rows = [
        (row["event"], row["via"])
        for row in log.settled()
        if row["db_user"] == "postgres" and row["event"] != "outcome"
    ]
    assert rows == [("table", ["secrets_schema.secrets_table"])]


def test_a_reader_of_all_data_leaves_a_table_event(
    proxy: Proxy, log: AccessLog, reader: str, stored: tuple[uuid.UUID, str]
) -> None:
    log.mark()
    with psycopg.connect(proxy.dsn(reader), autocommit=True) as sql:
        for statement in (
            "SELECT count(*) FROM secrets_schema.secrets_table",
            "TABLE secrets_schema.secrets_table LIMIT 1",
        ):
            sql.execute(statement)
    rows = [
        (row["event"], row["via"]) for row in log.settled() if row["db_user"] == reader and row["event"] != "outcome"
    ]
    assert rows == [("table", ["secrets_schema.secrets_table"])] * 2


@pytest.mark.parametrize(
    "name",
    [
        "secretproxy.read_secret(uuid,text,text,bytea)",
        "secretproxy.testify(secretproxy.context,text,text,uuid,text[],text)",
        "encrypted_secrets.secrets_delete(uuid,text)",
    ],
)
def test_a_changed_function_is_found_by_verify(postgres: Backend, name: str) -> None:
    """A function that no longer testifies was put in place by somebody who may."""
    bare = name.partition("(")[0].partition(".")[2]
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        before = sql.execute("SELECT pg_get_functiondef(%s::regprocedure)", (name,)).fetchone()
        assert before is not None
        silent = before[0].replace("RAISE INFO SQLSTATE 'SPX01'", "RAISE DEBUG SQLSTATE 'SPX01'")
        silent = (
            silent.replace("PERFORM secretproxy.begin_call(", "PERFORM pg_catalog.concat(")
            if "delete" in name
            else silent
        )
        assert silent != before[0]
        try:
            sql.execute(silent)
            assert any(bare in str(problem) for problem in asyncio.run(verify(postgres.dsn())))
        finally:
            sql.execute(before[0])
        assert not any(bare in str(problem) for problem in asyncio.run(verify(postgres.dsn())))


@pytest.fixture
def maker(postgres: Backend) -> Iterator[str]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        sql.execute("CREATE ROLE maker LOGIN; GRANT CREATE, USAGE ON SCHEMA encrypted_secrets TO maker")
        yield "maker"
        sql.execute("DROP OWNED BY maker CASCADE; DROP ROLE maker")


@pytest.mark.parametrize(
    ("name", "arguments", "returns", "call"),
    [
        ("secrets_upsert", "text, text, text", "boolean", "secrets_upsert(%s, %s, %s)"),
        ("secrets_verify", "text, text, text", "boolean", "secrets_verify(%s, %s, %s)"),
        ("secrets_verify", "uuid, varchar, varchar", "boolean",
         "secrets_verify(%s::uuid, %s::varchar, %s::varchar)"),
    ],
)  # fmt: skip
def test_a_function_of_the_same_name_that_literals_go_to_is_an_attempt_and_found_by_verify(
    postgres: Backend, proxy: Proxy, log: AccessLog, maker: str, canary: Canary,
    name: str, arguments: str, returns: str, call: str,
) -> None:  # fmt: skip
    """It is handed what a call passes. The log has the attempt, whose `calls` is not 1."""
    owner, value = uuid.uuid4(), canary.value()
    log.mark()
    with psycopg.connect(postgres.dsn(maker), autocommit=True) as sql:
        sql.execute(
            f"CREATE FUNCTION encrypted_secrets.{name}({arguments}) RETURNS {returns} LANGUAGE sql AS 'SELECT true'"
        )
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        found = psycopg.ClientCursor(sql).execute(f"SELECT encrypted_secrets.{call}", (str(owner), "key", value))
        assert found.fetchone() == (True,)
    rows = [row for row in log.settled() if row["owner_id"] == owner]
    assert [(row["event"], row["secret_names"]) for row in rows] == [("attempt", ["key"])]
    assert rows[0]["calls"] != 1
    told = asyncio.run(verify(postgres.dsn(), postgres.key_file))
    signature = f"encrypted_secrets.{name}({arguments.split(',')[0]}"
    assert any(signature in line and "was not there" in line for line in told)
