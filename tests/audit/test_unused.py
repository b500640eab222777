"""Checks that secrets that nobody uses are named, in the log's own form, to auditors alone; a log that was altered is
told from one that may not be read."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from secretproxy.audit import unused as unused_module
from tests.audit.test_review import run
from tests.audit.test_whole import dropped, made
from tests.conftest import Backend

OWNER = "00000000-0000-4000-8000-0000000000aa"
LIKE_A_VALUE = "x" * 300
ROW = """INSERT INTO secretproxy.access_log (at, event, function, operation, owner_id, secret_names, db_user, database)
VALUES (now() - %s * interval '1 day', 'call', 'f()', %s, %s, %s, 'x', current_database())"""


@pytest.fixture
def database(postgres: Backend) -> Iterator[str]:
    name = f"unused_{uuid.uuid4().hex[:8]}"
    made(postgres, name)
    try:
        with psycopg.connect(postgres.dsn(database=name), autocommit=True) as sql:
            sql.execute("UPDATE secretproxy.settings SET direct_calls = 'log'")
            for secret in ("fresh", "old", "never", "written", LIKE_A_VALUE):
                sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'the-value-itself')", (OWNER, secret))
        yield name
    finally:
        dropped(postgres, name)


def emptied(sql: psycopg.Connection[tuple[object, ...]]) -> None:
    """Takes away what the upserts logged: this test writes its own rows."""
    sql.execute("ALTER TABLE secretproxy.access_log DISABLE TRIGGER USER")
    for (part,) in sql.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'secretproxy.access_log'::regclass"
    ).fetchall():
        sql.execute(
            f"ALTER TABLE {part} DISABLE TRIGGER USER; DELETE FROM {part}; ALTER TABLE {part} ENABLE TRIGGER USER"
        )  # type: ignore[arg-type]
    sql.execute("ALTER TABLE secretproxy.access_log ENABLE TRIGGER USER")


def test_unused_secrets_are_listed_without_values(postgres: Backend, database: str) -> None:
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as sql:
        masked = sql.execute(
            "SELECT secret_names[1] FROM secretproxy.access_log WHERE secret_names[1] LIKE 'masked:%'"
        ).fetchone()
        assert masked is not None
        emptied(sql)
        for age, operation, name in (
            (200, "read", "old"), (1, "read", "fresh"), (3, "write", "written"), (100, "verify", masked[0]), (400, "read", "gone"),
        ):  # fmt: skip
            sql.execute(ROW, (age, operation, OWNER, [name]))
        # The same name of another owner is another secret.
        sql.execute(ROW, (1, "read", str(uuid.uuid4()), ["never"]))

    def listed(*arguments: str) -> list[str]:
        done = run(postgres, "unused", "--json", *arguments, database=database)
        assert done.returncode == 0 and "the log begins at" in done.stderr, done.stderr
        assert "the-value-itself" not in done.stdout and LIKE_A_VALUE not in done.stdout
        return [json.loads(line)["secret_name"] for line in done.stdout.splitlines()]

    assert listed() == ["never", "old", masked[0]]
    assert listed("--days", "150") == ["never", "old"]
    assert listed("--reads") == ["never", "written", "old", masked[0]]
    assert listed("--limit", "1") == ["never"]
    far = run(postgres, "unused", "--days", "1000", database=database)
    assert "what was used before it is not known" in far.stderr and "not in the log" in far.stdout
    elsewhere = run(postgres, "unused", "--json", "--secrets-dsn", postgres.dsn("auditor", database), database="app")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert len(elsewhere.stdout.splitlines()) == 3 and f"secrets in database {database}" in elsewhere.stderr


def test_nobody_else_may_ask_and_no_name_can_be_handed_in(postgres: Backend, database: str) -> None:
    with psycopg.connect(postgres.dsn(database=database)) as sql:
        for role, allowed in (
            ("secretproxy_auditor", True),
            ("authenticated", False),
            ("secretproxy_tables", False),
            ("secretproxy_writer", False),
        ):
            assert sql.execute(
                "SELECT has_function_privilege(%s, 'secretproxy.stored_names()', 'EXECUTE')", (role,)
            ).fetchone() == (allowed,)
            inner = "has_function_privilege(%s, 'secretproxy.names_to_mask()', 'EXECUTE')"
            assert sql.execute("SELECT " + inner, (role,)).fetchone() == (role == "secretproxy_tables",)


@pytest.mark.parametrize(
    "command", [("list",), ("list", "--json"), ("events",), ("stats",), ("export", "FILE"), ("unused",)]
)
def test_a_row_policy_on_the_log_is_named(
    postgres: Backend, database: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with psycopg.connect(postgres.dsn(database=database), autocommit=True) as sql:
        sql.execute("ALTER TABLE secretproxy.access_log ENABLE ROW LEVEL SECURITY")
        sql.execute("CREATE POLICY hides ON secretproxy.access_log USING (db_user <> 'mallory')")
    done = run(postgres, *(str(tmp_path / "out.jsonl") if one == "FILE" else one for one in command), database=database)
    assert done.returncode == 2 and "has the policy hides" in done.stderr, done.stderr
    assert "make it a member" not in done.stderr


@dataclasses.dataclass
class LogOf:
    """A connection to a log of that encoding."""

    server_encoding: str

    @property
    def raw(self) -> bool:
        return self.server_encoding == "SQL_ASCII"

    def get_settings(self) -> LogOf:
        return self


@pytest.mark.parametrize(
    ("stored", "in_bytes", "encoding", "logged"),
    [
        ("plain", False, "UTF8", "plain"), ("caf\u20ac", False, "LATIN1", r"escaped:caf\u20ac"),
        (r"caf\xe9", True, "UTF8", r"escaped:caf\xe9"), (r"caf\xe9", True, "SQL_ASCII", r"escaped:caf\\xe9"),
        (r"a\\b", True, "UTF8", r"a\b"), (r"a\b", False, "SQL_ASCII", r"a\\b"), ("masked:x", False, "UTF8", "name:masked:x"),
    ],
)  # fmt: skip
def test_a_stored_name_is_known_in_a_log_of_another_encoding(
    stored: str, in_bytes: bool, encoding: str, logged: str
) -> None:
    """Else a secret that is used every day is listed as unused."""
    assert logged in unused_module._forms(stored, in_bytes, LogOf(encoding))
