"""Checks each documented usage, through each client: it works as it does directly, leaves exactly its rows, and its
value nowhere."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
from tests.conftest import Backend
from tests.support.canary import Canary
from tests.support.log import AccessLog, Row
from tests.support.proxy import Proxy

Execute = Callable[[str, str, Sequence[Any]], Any]

UPSERT = "encrypted_secrets.secrets_upsert(uuid,text,text,text)"
GETTER = "encrypted_secrets.secrets_getter(uuid,text,text)"
VERIFY = "encrypted_secrets.secrets_verify(uuid,text,text)"
DELETE = "encrypted_secrets.secrets_delete(uuid,text)"
DELETE_MANY = "encrypted_secrets.secrets_delete(uuid,text[])"

FUNCTIONS = """
CREATE OR REPLACE FUNCTION authenticate_user(p_user_id uuid, p_password text) RETURNS boolean AS $$
BEGIN
    RETURN encrypted_secrets.secrets_verify(p_user_id, 'password', p_password);
END;
$$ LANGUAGE plpgsql;
CREATE OR REPLACE FUNCTION get_stripe_config(org_id uuid) RETURNS jsonb AS $$
BEGIN
    RETURN jsonb_build_object(
        'secret_key', encrypted_secrets.secrets_getter(org_id, 'stripe_secret_key'),
        'publishable_key', encrypted_secrets.secrets_getter(org_id, 'stripe_publishable_key'));
END;
$$ LANGUAGE plpgsql;
"""


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "ARRAY[" + ",".join(_literal(item) for item in value) + "]"
    return "'" + str(value).replace("'", "''") + "'"


def _inlined(sql: str, values: Sequence[Any]) -> str:
    for number in range(len(values), 0, -1):
        sql = sql.replace(f"${number}", _literal(values[number - 1]))
    return sql


def psql(dsn: str, sql: str, values: Sequence[Any], *, program: str = "psql") -> Any:
    done = subprocess.run(
        [program, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", dsn], input=_inlined(sql, values),
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    text = done.stdout.rstrip("\n")
    return {"t": True, "f": False, "": None}.get(text, text)


def asyncpg_client(dsn: str, sql: str, values: Sequence[Any]) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(sql, *values)
        finally:
            await connection.close()

    return asyncio.run(run())


def _psycopg(dsn: str, sql: str, values: Sequence[Any], *, simple: bool = False, binary: bool = False) -> Any:
    for number in range(len(values), 0, -1):
        mark = "%b" if binary else "%s"
        if isinstance(values[number - 1], list):
            mark += "::text[]"
        sql = sql.replace(f"${number}", mark)
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection) if simple else connection.cursor(binary=binary)
        cursor.execute(sql, tuple(values))
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def psycopg_simple(dsn: str, sql: str, values: Sequence[Any]) -> Any:
    return _psycopg(dsn, sql, values, simple=True)


def psycopg_extended(dsn: str, sql: str, values: Sequence[Any]) -> Any:
    return _psycopg(dsn, sql, values)


def psycopg_binary(dsn: str, sql: str, values: Sequence[Any]) -> Any:
    return _psycopg(dsn, sql, values, binary=True)


def psycopg2_client(dsn: str, sql: str, values: Sequence[Any]) -> Any:
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for number in range(len(values), 0, -1):
                sql = sql.replace(f"${number}", "%s")
            cursor.execute(sql, tuple(str(value) if isinstance(value, uuid.UUID) else value for value in values))
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


CLIENTS: dict[str, Execute] = {
    "psql": psql,
    "asyncpg": asyncpg_client,
    "psycopg simple": psycopg_simple,
    "psycopg extended": psycopg_extended,
    "psycopg binary": psycopg_binary,
    "psycopg2": psycopg2_client,
}


@pytest.fixture(scope="module", autouse=True)
def _functions(postgres: Backend) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(FUNCTIONS)


@pytest.fixture(params=list(CLIENTS))
def execute(request: pytest.FixtureRequest) -> Execute:
    return CLIENTS[request.param]


@pytest.fixture
def owner() -> uuid.UUID:
    return uuid.uuid4()


def about(rows: list[Row]) -> list[tuple[Any, ...]]:
    """Gives what each row says, without where and when."""
    return [
        (row["event"], row["function"], row["owner_id"], row["secret_names"], row["outcome"], row["calls"])
        for row in rows
    ]  # fmt: skip


def attempt(function: str, owner: uuid.UUID, *names: str) -> tuple[Any, ...]:
    return ("attempt", function, owner, list(names), None, None)


def call(function: str, owner: uuid.UUID, *names: str) -> tuple[Any, ...]:
    return ("call", function, owner, list(names), None, None)


def outcome(calls: int, how: str = "ok") -> tuple[Any, ...]:
    return ("outcome", None, None, None, how, calls)


def test_upsert_getter_and_default(
    execute: Execute, postgres: Backend, proxy: Proxy, log: AccessLog, canary: Canary, owner: uuid.UUID
) -> None:
    value, default = canary.value(), canary.value()
    dsn = proxy.dsn()
    log.mark()
    assert (
        execute(dsn, "SELECT encrypted_secrets.secrets_upsert($1, $2, $3, $4)", [owner, "github_token", value, "pgp"])
        is True
    )
    assert execute(dsn, "SELECT encrypted_secrets.secrets_getter($1, $2)", [owner, "github_token"]) == value
    assert execute(dsn, "SELECT encrypted_secrets.secrets_getter($1, $2, $3)", [owner, "api_key", default]) == default
    assert about(log.settled()) == [
        attempt(UPSERT, owner, "github_token"), outcome(1),
        attempt(GETTER, owner, "github_token"), outcome(1),
        attempt(GETTER, owner, "api_key"), outcome(1),
    ]  # fmt: skip
    direct = postgres.dsn("app_user")
    assert (
        execute(direct, "SELECT encrypted_secrets.secrets_getter($1, $2)", [owner, "github_token"]) == value
        if execute is not psql
        else True
    )


def test_crypt_and_verify(execute: Execute, proxy: Proxy, log: AccessLog, canary: Canary, owner: uuid.UUID) -> None:
    value, wrong = canary.value(), canary.value()
    dsn = proxy.dsn()
    log.mark()
    assert (
        execute(dsn, "SELECT encrypted_secrets.secrets_upsert($1, $2, $3, $4)", [owner, "password", value, "crypt"])
        is True
    )
    assert execute(dsn, "SELECT encrypted_secrets.secrets_verify($1, $2, $3)", [owner, "password", value]) is True
    assert execute(dsn, "SELECT encrypted_secrets.secrets_verify($1, $2, $3)", [owner, "password", wrong]) is False
    assert about(log.settled()) == [
        attempt(UPSERT, owner, "password"), outcome(1),
        attempt(VERIFY, owner, "password"), outcome(1),
        attempt(VERIFY, owner, "password"), outcome(1),
    ]  # fmt: skip


def test_delete_one_and_many(execute: Execute, proxy: Proxy, log: AccessLog, owner: uuid.UUID) -> None:
    dsn = proxy.dsn()
    for name in ("a", "b", "c"):
        execute(dsn, "SELECT encrypted_secrets.secrets_upsert($1, $2, $3)", [owner, name, "x"])
    log.settled()
    log.mark()
    execute(dsn, "SELECT encrypted_secrets.secrets_delete($1, $2)", [owner, "a"])
    many = "SELECT encrypted_secrets.secrets_delete($1, $2)"
    if execute is asyncpg_client:
        many = "SELECT encrypted_secrets.secrets_delete($1, $2::text[])"
    execute(dsn, many, [owner, ["b", "c"]])
    assert execute(dsn, "SELECT encrypted_secrets.secrets_getter($1, $2)", [owner, "c"]) is None
    assert about(log.settled()) == [
        attempt(DELETE, owner, "a"), outcome(1),
        attempt(DELETE_MANY, owner, "b", "c"), outcome(1),
        attempt(GETTER, owner, "c"), outcome(1),
    ]  # fmt: skip


def test_a_function_that_verifies(
    execute: Execute, proxy: Proxy, log: AccessLog, canary: Canary, owner: uuid.UUID
) -> None:
    value = canary.value()
    dsn = proxy.dsn()
    execute(dsn, "SELECT encrypted_secrets.secrets_upsert($1, $2, $3, $4)", [owner, "password", value, "crypt"])
    log.settled()
    log.mark()
    assert execute(dsn, "SELECT authenticate_user($1, $2)", [owner, value]) is True
    assert execute(dsn, "SELECT authenticate_user($1, $2)", [owner, canary.value()]) is False
    assert about(log.settled()) == [
        call(VERIFY, owner, "password"), outcome(1),
        call(VERIFY, owner, "password"), outcome(1),
    ]  # fmt: skip


def test_a_function_of_two_getters(
    execute: Execute, proxy: Proxy, log: AccessLog, canary: Canary, owner: uuid.UUID
) -> None:
    secret, publishable = canary.value(), canary.value()
    dsn = proxy.dsn()
    execute(dsn, "SELECT encrypted_secrets.secrets_upsert($1, $2, $3)", [owner, "stripe_secret_key", secret])
    execute(dsn, "SELECT encrypted_secrets.secrets_upsert($1, $2, $3)", [owner, "stripe_publishable_key", publishable])
    log.settled()
    log.mark()
    config = execute(dsn, "SELECT get_stripe_config($1)::text", [owner])
    assert json.loads(config) == {"secret_key": secret, "publishable_key": publishable}
    assert about(log.settled()) == [
        call(GETTER, owner, "stripe_secret_key"),
        call(GETTER, owner, "stripe_publishable_key"),
        outcome(2),
    ]


def test_rotation_in_a_do_block(
    execute: Execute, proxy: Proxy, log: AccessLog, canary: Canary, owner: uuid.UUID
) -> None:
    old, new = canary.value(), canary.value()
    dsn = proxy.dsn()
    execute(dsn, "SELECT encrypted_secrets.secrets_upsert($1, $2, $3)", [owner, "api_key", old])
    log.settled()
    log.mark()
    block = f"""DO $$
DECLARE old_key text;
BEGIN
    old_key := encrypted_secrets.secrets_getter('{owner}', 'api_key');
    PERFORM encrypted_secrets.secrets_upsert('{owner}', 'api_key', {_literal(new)}, 'pgp');
    PERFORM encrypted_secrets.secrets_upsert('{owner}', 'api_key_old', old_key, 'pgp');
END $$"""
    execute(dsn, block, [])
    assert about(log.settled()) == [
        attempt(GETTER, owner, "api_key"), attempt(UPSERT, owner, "api_key"), attempt(UPSERT, owner, "api_key_old"), outcome(1),
    ]  # fmt: skip
    assert execute(dsn, "SELECT encrypted_secrets.secrets_getter($1, $2)", [owner, "api_key"]) == new
    assert execute(dsn, "SELECT encrypted_secrets.secrets_getter($1, $2)", [owner, "api_key_old"]) == old


def test_owner_from_the_jwt(execute: Execute, proxy: Proxy, log: AccessLog, canary: Canary, owner: uuid.UUID) -> None:
    value = canary.value()
    dsn = f"{proxy.dsn()}?options=-c%20jwt.claims.user_id%3D{owner}" if execute is not asyncpg_client else proxy.dsn()
    log.mark()
    if execute is asyncpg_client:

        async def run() -> Any:
            connection = await asyncpg.connect(dsn, server_settings={"jwt.claims.user_id": str(owner)})
            try:
                sql = "SELECT encrypted_secrets.secrets_upsert(jwt_public.current_user_id(), $1, $2)"
                return await connection.fetchval(sql, "personal_api_key", value)
            finally:
                await connection.close()

        assert asyncio.run(run()) is True
    else:
        sql = "SELECT encrypted_secrets.secrets_upsert(jwt_public.current_user_id(), $1, $2)"
        assert execute(dsn, sql, ["personal_api_key", value]) is True
    rows = log.settled()
    assert about(rows) == [
        ("attempt", UPSERT, None, ["personal_api_key"], None, None),
        call(UPSERT, owner, "personal_api_key"),
        # Whether this call was that attempt's, nothing says.
        outcome(None),
    ]
    assert rows[1]["accessed_by"] == owner
    review = log.query("SELECT * FROM secretproxy.secret_access WHERE session_id = %s", rows[0]["session_id"])
    assert [(row["how"], row["owner_id"], row["accessed_by"], row["outcome"]) for row in review] == [
        ("call", owner, owner, "ok")
    ]


def test_inside_a_transaction_that_is_rolled_back(
    proxy: Proxy, log: AccessLog, canary: Canary, owner: uuid.UUID
) -> None:
    value = canary.value()
    for simple in (True, False):
        log.mark()
        with psycopg.connect(proxy.dsn()) as connection:
            cursor = psycopg.ClientCursor(connection) if simple else connection.cursor()
            cursor.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, %s)", (owner, "temporary", value))
            cursor.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, "temporary"))
            assert cursor.fetchone() == (value,)
            connection.rollback()
            cursor.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, "temporary"))
            assert cursor.fetchone() == (None,)
        assert about(log.settled()) == [
            attempt(UPSERT, owner, "temporary"), outcome(1),
            attempt(GETTER, owner, "temporary"), outcome(1),
            attempt(GETTER, owner, "temporary"), outcome(1),
        ]  # fmt: skip


def test_the_log_reads_like_an_answer(proxy: Proxy, log: AccessLog, owner: uuid.UUID, postgres: Backend) -> None:
    log.mark()
    with psycopg.connect(proxy.dsn(), autocommit=True, application_name="billing") as connection:
        connection.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, "stripe"))
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute(
                "SELECT encrypted_secrets.secrets_getter(%s, %s), 1 / (random() * 0)::int", (owner, "stripe")
            )
    log.settled("billing")
    with psycopg.connect(postgres.dsn("auditor"), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT db_user, operation, owner_id, secret_names, outcome, sqlstate, application_name, host(client_addr), database"
            " FROM secretproxy.secret_access WHERE owner_id = %s ORDER BY at", (owner,)
        ).fetchall()  # fmt: skip
        assert rows == [
            ("app_user", "read", owner, ["stripe"], "ok", None, "billing", "127.0.0.1", "app"),
            ("app_user", "read", owner, ["stripe"], "error", "22012", "billing", "127.0.0.1", "app"),
        ]
        short = connection.execute("SELECT * FROM secretproxy.secret_access_log WHERE owner_id = %s", (owner,))
        assert [column.name for column in short.description or ()] == [
            "id",
            "owner_id",
            "secret_name",
            "accessed_at",
            "accessed_by",
        ]
        assert [row[2] for row in short.fetchall()] == ["stripe", "stripe"]
