"""Checks what a direct session is told, and that a proxied one gains nothing by making its functions take it for
such."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

CALL = "DO $$ BEGIN PERFORM encrypted_secrets.secrets_getter('{owner}', 'spoiled ' || {number}); END $$"
# How a client makes the functions take its session for a direct one.
SPOIL = {
    "reset": "RESET secretproxy.session",
    "set to nothing": "SET secretproxy.session = ''",
    "set to another": "SET secretproxy.session = '1.1.00'",
    "set to the default": "SET secretproxy.session TO DEFAULT",
    "set by a function": "DO $$ BEGIN PERFORM set_config('secretproxy.session', '', false); END $$",
    "sequences discarded": "DISCARD SEQUENCES| RESET secretproxy.session",
    "all reset and more": "RESET ALL| RESET secretproxy.session",
}
MODES = ("SET default_transaction_read_only = off", "SET default_transaction_read_only = on")
# Long enough that the notice comes in several reads, short enough for limits.max_statement_memory.
LONG = "DO $do$ BEGIN EXECUTE 'DO $$ BEGIN PERFORM encrypted_secrets.secrets_getter(''{owner}'', lower(''SPOILED LONG'')); END $$ --' || repeat('x', {size}); END $do$"


@pytest.fixture
def logged(postgres: Backend) -> Iterator[None]:
    """Gives a proxy with direct calls let through: in these a refusal would hide what is said."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        (before,) = admin.execute("SELECT direct_calls FROM secretproxy.settings").fetchone() or ("log",)
        admin.execute("UPDATE secretproxy.settings SET direct_calls = 'log'")
        yield
        admin.execute("UPDATE secretproxy.settings SET direct_calls = %s", (before,))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spoil", SPOIL)
def test_a_session_that_spoils_its_token_is_heard(
    proxy: Proxy, log: AccessLog, logged: None, spoil: str, mode: str
) -> None:
    owner = uuid.uuid4()
    seen: list[str] = []
    with psycopg.connect(proxy.dsn("app_user"), autocommit=True) as sql:
        sql.add_notice_handler(lambda diagnostic: seen.append(str(diagnostic.message_primary)))
        sql.execute(mode)
        for statement in SPOIL[spoil].split("| "):
            sql.execute(statement)
        sql.execute(CALL.format(owner=owner, number=1))
        with sql.transaction(force_rollback=True):
            sql.execute(CALL.format(owner=owner, number=2))
        sql.execute(LONG.format(owner=owner, size=200_000))
    rows = [row for row in log.settled() if row["owner_id"] == owner and row["event"] == "call"]
    assert [(row["function"], row["secret_names"], row["db_user"]) for row in rows] == [
        ("encrypted_secrets.secrets_getter(uuid,text,text)", [f"spoiled {name}"], "app_user") for name in (1, 2, "long")
    ]
    assert seen == []
    assert not [row for row in log.rows() if row["event"] == "forgery"]


def test_a_testimony_that_a_client_hides_behind_its_own_text_ends_the_session(
    proxy: Proxy, log: AccessLog, logged: None
) -> None:
    """The testimony stands behind a CONTEXT that is longer than what is kept of a notice: the value goes nowhere, and
    that something was said is recorded."""
    owner = uuid.uuid4()
    with psycopg.connect(proxy.dsn("app_user"), autocommit=True) as sql:
        sql.execute(SPOIL["set by a function"])
        with pytest.raises(psycopg.errors.Error) as ended:
            sql.execute(LONG.format(owner=owner, size=6_000_000))
        assert ended.value.sqlstate in ("58030", None)
        assert sql.broken
    assert "forgery" in {row["event"] for row in log.rows()}


def test_a_direct_session_reads_a_sentence(postgres: Backend, logged: None) -> None:
    seen: list[str] = []
    said = "secretproxy: this call of encrypted_secrets.{} came by no proxy and is {}"
    with (
        psycopg.connect(postgres.dsn(), autocommit=True) as admin,
        psycopg.connect(postgres.dsn("app_user"), autocommit=True) as sql,
    ):
        sql.add_notice_handler(lambda diagnostic: seen.append(str(diagnostic.message_primary)))
        getter = "SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'name')"
        sql.execute(getter)
        sql.execute("SELECT encrypted_secrets.secrets_delete(gen_random_uuid(), ARRAY['a', 'b'])")
        sql.execute("BEGIN READ ONLY")
        sql.execute(getter)
        sql.execute("ROLLBACK")
        admin.execute("UPDATE secretproxy.settings SET direct_calls = 'refuse'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute(getter)
    assert seen == [
        said.format("secrets_getter", "logged as a direct one"),
        said.format("secrets_delete", "logged as a direct one"),
        said.format("secrets_getter", "not logged: this transaction cannot write"),
        said.format("secrets_getter", "refused"),
    ]


def test_psql_shows_no_machines_line(postgres: Backend, logged: None) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed here")
    words = [
        psql,
        "-X",
        "-A",
        "-t",
        postgres.dsn("app_user"),
        "-c",
        "SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'name', 'none')",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"
    assert done.stderr == (
        "INFO:  secretproxy: this call of encrypted_secrets.secrets_getter came by no proxy and is logged as a direct one\n"
    )
