"""Installs over the first version of this project: nothing is lost, nothing stale is left, the log is still sound."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from tests.integration.sql.conftest import Database

from secretproxy.audit.journal import KNOWS_ACCESS, Journal
from secretproxy.audit.masking import NameMask
from secretproxy.audit.verify import verify_database
from secretproxy.install import create_key_file, install, revert, verify
from secretproxy.session.events import Event, Identity

OLDER = (Path(__file__).parent / "older.sql").read_text()
OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a41")
VALUES = {"plain": "value", "empty": "", "odd": "it's \\ \U0001f511 caf\u00e9", "long": "x" * 20_000}
GRANTS = """
SELECT p.oid::regprocedure::text, r.rolname FROM pg_proc p, pg_roles r
 WHERE p.pronamespace::regnamespace::text IN ('encrypted_secrets', 'jwt_public') AND r.rolname IN ('authenticated', 'anonymous', 'app_user', 'outsider')
   AND has_function_privilege(r.oid, p.oid, 'EXECUTE') ORDER BY 1, 2
"""
HELPER = re.compile(r"encrypted_secrets\.(encrypt_field_|secrets_table_upsert)")
OVERLOADS = (
    "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace::regnamespace::text = ANY (%s) ORDER BY 1"
)
OURS = ["secretproxy", "encrypted_secrets", "secrets_schema", "jwt_public"]


async def log_something(dsn: str) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(dsn)

    journal = Journal(connect, NameMask(200, (), b"k" * 32), instance=uuid.uuid4())
    await journal.start()
    who = Identity(uuid.uuid4(), "app_user", "app", "psql", ipaddress.ip_address("192.0.2.7"), 5, False)
    for number in range(30):
        event = Event("attempt", who, number, "encrypted_secrets.secrets_getter(uuid,text,text)", "read", OWNER)
        event.secret_names = ("plain",)
        future = journal.append([event], wait=True)
        assert future is not None
        await future
    assert await journal.close() == 0


@pytest.fixture
def older(empty: Database) -> Database:
    """Gives a database with values in every encoding, a log with a chain, a proxy's key and a second ring key."""
    with empty.connect() as sql:
        sql.execute(OLDER)
        key = create_key_file(empty.backend.key_file)
        for version, secret in key.items():
            sql.execute("INSERT INTO secretproxy.testimony_key (version, key) VALUES (%s, %s)", (version, secret))
        sql.execute("UPDATE secretproxy.testimony_key SET retired_at = now() WHERE version = 0")
        for round_ in range(2):
            for name, value in VALUES.items():
                for encoding in ("pgp", "crypt", "none"):
                    sql.execute(
                        "SELECT encrypted_secrets.secrets_upsert(%s, %s, %s, %s)",
                        (OWNER, f"{encoding} {name} {round_}", value, encoding),
                    )
            sql.execute(
                "INSERT INTO secretproxy.keyring (version, key) SELECT max(version) + 1, secretproxy.random_key() FROM secretproxy.keyring"
            )
        sql.execute("GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) TO app_user")
        sql.execute("UPDATE secretproxy.settings SET crypt_cost = 5")
    asyncio.run(log_something(empty.dsn()))
    return empty


def everything(sql: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Gives what getter and verify say of every secret, right and wrong."""
    told = []
    for round_ in range(2):
        for name, value in VALUES.items():
            for encoding in ("pgp", "crypt", "none"):
                secret = {"o": OWNER, "n": f"{encoding} {name} {round_}", "v": value}
                row = sql.execute(
                    "SELECT encrypted_secrets.secrets_getter(%(o)s, %(n)s), encrypted_secrets.secrets_verify(%(o)s, %(n)s, %(v)s), "
                    "encrypted_secrets.secrets_verify(%(o)s, %(n)s, 'wrong')",
                    secret,
                ).fetchone()
                assert row is not None
                assert row[1:] == (True, False)
                assert encoding == "crypt" or row[0] == value
                told.append(row)
    return told


def test_an_older_version_is_brought_up(older: Database, empty: Database) -> None:
    with older.connect() as sql:
        before, grants = everything(sql), sql.execute(GRANTS).fetchall()
        table = "SELECT 'secrets_schema.secrets_table'::regclass::oid, count(*) FROM secrets_schema.secrets_table"
        rows = sql.execute(table).fetchall()
        logged = "SELECT id, seq, row_hash FROM secretproxy.access_log WHERE instance IS NOT NULL ORDER BY seq"
        log = sql.execute(logged).fetchall()
        ring = sql.execute("SELECT version, key FROM secretproxy.keyring ORDER BY 1").fetchall()
        assert len(log) == 30

        assert older.install() != []
        assert asyncio.run(verify(older.dsn(), older.backend.key_file)) == []
        assert everything(sql) == before
        assert sql.execute(KNOWS_ACCESS).fetchone() == (True,)
        checks = (
            "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid::regclass::text LIKE '%access_log%'"
        )
        assert sql.execute(checks).fetchone() == (0,)
        rare = sql.execute("SELECT pg_get_indexdef('secretproxy.access_log_rare_idx'::regclass)").fetchone()
        assert rare is not None and "'access'" in rare[0]
        assert (sql.execute(table).fetchall(), sql.execute(logged).fetchall()) == (rows, log)
        assert sql.execute("SELECT version, key FROM secretproxy.keyring ORDER BY 1").fetchall() == ring
        assert sql.execute("SELECT crypt_cost FROM secretproxy.settings").fetchone() == (5,)
        # The helper functions came later; nothing else may be executed by anybody new.
        assert [row for row in sql.execute(GRANTS).fetchall() if not HELPER.search(row[0])] == grants
        overloads = sql.execute(OVERLOADS, (OURS,)).fetchall()
    report = asyncio.run(verify_database(older.dsn(), [], None, lambda done, total: None))
    assert not report.findings
    assert older.install() == []
    with older.connect() as sql:
        # No function of an older version is left: a new installation has the same.
        asyncio.run(revert(older.dsn()))
        sql.execute("DROP SCHEMA secretproxy CASCADE")
        older.install()
        assert sql.execute(OVERLOADS, (OURS,)).fetchall() == overloads


class BrokenOffError(Exception):
    """Whoever installs has gone: Ctrl-C, a terminal or a reader of the output that is closed."""


@pytest.mark.parametrize("at", ["access_log", "checkpoints", "direct_calls"])
def test_what_a_broken_off_upgrade_made_is_recorded_by_the_next(fresh: Database, at: str) -> None:
    """The older version had a constraint that the newer one takes away; it is broken off after each of two changes, and
    while the record is made."""
    key_file = fresh.backend.key_file
    with fresh.connect() as sql:
        sql.execute(
            "ALTER TABLE secretproxy.access_log ADD CONSTRAINT access_log_event_check CHECK (event IS NOT NULL)"
        )
        sql.execute("SELECT secretproxy.record_facts()")
        sql.execute("UPDATE secretproxy.changes SET digest = 'older' WHERE change IN ('access_log', 'checkpoints')")

    def progress(what: str, state: str) -> None:
        if what == at and state != "is there":
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        asyncio.run(install(fresh.dsn(), key_file, progress))
    assert any("run `secretproxy install`" in line for line in asyncio.run(verify(fresh.dsn(), key_file)))
    assert "installed" in fresh.install()
    assert asyncio.run(verify(fresh.dsn(), key_file)) == []
    assert fresh.install() == []
