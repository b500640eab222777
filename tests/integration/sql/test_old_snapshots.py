"""Checks a transaction that sees the database as it was: it neither calls without testimony, nor signs with a key that
nobody knows, nor changes a secret that it has not named."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
import uuid
from pathlib import Path

import psycopg
import pytest
from tests.integration.sql.conftest import Database

from secretproxy.install import InstallError, keys

SNAPSHOTS = {
    "repeatable read": ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"),
    "serializable": ("BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1"),
    "a cursor": ("BEGIN", "DECLARE c CURSOR FOR SELECT 1"),
}
CALLS = {
    "getter": "SELECT encrypted_secrets.secrets_getter(%(o)s, 'plain')",
    "verify": "SELECT encrypted_secrets.secrets_verify(%(o)s, 'plain', 'x')",
    "upsert": "SELECT encrypted_secrets.secrets_upsert(%(o)s, 'plain', 'x', 'none')",
    "delete": "SELECT encrypted_secrets.secrets_delete(%(o)s, 'plain')",
    "table": 'SELECT encrypted_secrets.secrets_table_upsert(%(o)s, \'{"name": "other"}\')',
    "insert": "INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field)"
    " VALUES (%(o)s, 'direct', 'x', 'pgp')",
}


@pytest.mark.parametrize("call", CALLS)
def test_without_keys_there_is_no_call(installed: Database, call: str) -> None:
    """A table that is made again is empty for who began before: rows of it are newer than the snapshot."""
    owner = uuid.uuid4()
    with installed.connect() as admin, installed.connect() as old:
        admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'plain', 'value', 'none')", (owner,))
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1")
        admin.execute("BEGIN; TRUNCATE secretproxy.context; UPDATE secretproxy.settings SET only_row = true; COMMIT")
        with pytest.raises((psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.NoDataFound)):
            old.execute(CALLS[call], {"o": owner})
        old.execute("ROLLBACK")
        rows = admin.execute(
            "SELECT name, secrets_value_field FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s",
            (owner,),
        )
        assert rows.fetchall() == [("plain", b"value")]
        assert old.execute(CALLS["getter"], {"o": owner}).fetchone() == ("value",)


@pytest.fixture(scope="module")
def key_file(installed: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(installed.backend.key_file, tmp_path_factory.mktemp("keys")))


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_no_key_is_retired_that_somebody_still_signs_with(
    installed: Database, key_file: Path, monkeypatch: pytest.MonkeyPatch, snapshot: str
) -> None:
    monkeypatch.setattr(keys, "_LOOKS", 1)
    with installed.connect() as old:
        for statement in SNAPSHOTS[snapshot]:
            old.execute(statement)
        asyncio.run(keys.stage_testimony(installed.dsn(), key_file))
        asyncio.run(keys.activate_testimony(installed.dsn(), key_file))
        with pytest.raises(InstallError, match=str(old.info.backend_pid)):
            asyncio.run(keys.retire_testimony(installed.dsn(), key_file))
        old.execute("COMMIT")
        assert asyncio.run(keys.retire_testimony(installed.dsn(), key_file))


MEANWHILE = {
    "renamed": ("SELECT encrypted_secrets.secrets_table_upsert(%(o)s, '{\"name\": \"theirs\"}')", {"theirs": b"before"}, "40001"),
    "renamed past the functions": (
        "UPDATE secrets_schema.secrets_table SET name = 'theirs' WHERE secrets_owned_field = %(o)s", {"theirs": b"before"}, "40001",
    ),
    "added": ("SELECT encrypted_secrets.secrets_upsert(%(o)s, 'theirs', 'before', 'none')", {"theirs": b"before", "mine": b"after"}, None),
    "deleted": ("SELECT encrypted_secrets.secrets_delete(%(o)s, 'mine')", {}, None),
}  # fmt: skip


@pytest.mark.parametrize("change", MEANWHILE)
def test_what_is_changed_is_what_was_named(installed: Database, change: str) -> None:
    """The testimony names the secrets that an owner has; one that got there or got its name while the call waited for a
    lock is none of them."""
    owner = uuid.uuid4()
    statement, left, sqlstate = MEANWHILE[change]
    failed: list[str | None] = []

    def set_all(late: psycopg.Connection[object]) -> None:
        try:
            late.execute(
                'SELECT encrypted_secrets.secrets_table_upsert(%s, \'{"secrets_value_field": "after"}\')', (owner,)
            )
        except psycopg.Error as error:
            failed.append(error.sqlstate)

    with installed.connect() as first, installed.connect() as late, installed.connect() as watch:
        first.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'mine', 'before', 'none')", (owner,))
        first.execute("BEGIN")
        first.execute("SELECT FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s FOR UPDATE", (owner,))
        waiting = threading.Thread(target=set_all, args=(late,))
        waiting.start()
        asked = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        while watch.execute(asked, (late.info.backend_pid,)).fetchone() != (True,) and waiting.is_alive():
            time.sleep(0.01)
        first.execute(statement, {"o": owner})
        first.execute("COMMIT")
        waiting.join()
        rows = watch.execute(
            "SELECT name, secrets_value_field FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s",
            (owner,),
        )
        assert dict(rows.fetchall()) == left
    assert failed == ([sqlstate] if sqlstate else [])
