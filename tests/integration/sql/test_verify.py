"""Checks secrets_verify: how long an answer takes, and what becomes of a password of format 1."""

from __future__ import annotations

import statistics
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.integration.sql.conftest import Database
from tests.support.standby import Standby

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a61")
COST = 7
OLDER = """
INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
SELECT %(o)s, %(n)s, crypt(convert_to('right', 'UTF8')::text, gen_salt('bf', %(c)s))::bytea, 'none'
"""
STORED = "SELECT secrets_value_field FROM secrets_schema.secrets_table WHERE secrets_owned_field = %s AND name = %s"
VERIFY = "SELECT encrypted_secrets.secrets_verify(%s, %s, %s)"


def older(sql: psycopg.Connection[Any], name: str, cost: int = COST) -> bytes:
    """Stores a password as the original module wrote it; the trigger would seal it again."""
    sql.execute(OLDER, {"o": OWNER, "n": name, "c": cost})
    sql.execute("ALTER TABLE secrets_schema.secrets_table DISABLE TRIGGER USER")
    sql.execute("UPDATE secrets_schema.secrets_table SET secrets_enc_field = 'crypt' WHERE name = %s", (name,))
    sql.execute("ALTER TABLE secrets_schema.secrets_table ENABLE TRIGGER USER")
    return stored(sql, name)


def stored(sql: psycopg.Connection[Any], name: str) -> bytes:
    row = sql.execute(STORED, (OWNER, name)).fetchone()
    assert row is not None
    return bytes(row[0])


def verify(sql: psycopg.Connection[Any], name: str, value: str | None) -> Any:
    row = sql.execute(VERIFY, (OWNER, name, value)).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def database(fresh: Database) -> Database:
    with fresh.connect() as sql:
        sql.execute("UPDATE secretproxy.settings SET crypt_cost = %s", (COST,))
    return fresh


def test_no_answer_of_false_tells_by_its_time_whether_a_secret_is_there(database: Database) -> None:
    """Gives of each kind the processor time that the backend spends, in turns; the medians differ by little and a
    bcrypt more would double them."""
    cases: dict[str, tuple[str, str | None]] = {
        "missing": ("nothing of the kind", "x"),
        "wrong password": ("password", "x"),
        "wrong password, long": ("password", "x" * 5000),
        "wrong password of format 1": ("older", "x"),
        "wrong password of a lower cost": ("cheap", "x"),
        "wrong value": ("value", "x"),
        "wrong plain value": ("plain", "x"),
        "no value": ("password", None),
    }
    with database.connect() as sql:
        for name, kind in (("password", "crypt"), ("value", "pgp"), ("plain", "none")):
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'right', %s)", (OWNER, name, kind))
        older(sql, "older")
        older(sql, "cheap", 4)
        spent: dict[str, list[int]] = {case: [] for case in cases}
        clock = Path(f"/proc/{sql.info.backend_pid}/schedstat")
        counted = (lambda: int(clock.read_text().split()[0])) if clock.exists() else time.perf_counter_ns
        for turn in range(41):
            for case, (name, value) in cases.items():
                before = counted()
                assert verify(sql, name, value) is False
                if turn:
                    spent[case].append(counted() - before)
    medians = {case: statistics.median(times) for case, times in spent.items()}
    ratios = {case: round(median / medians["missing"], 2) for case, median in medians.items()}
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values()), ratios


def test_only_a_right_password_is_stored_anew(database: Database) -> None:
    with database.connect() as sql:
        before = older(sql, "p")
        for wrong in ("wrong", "", "right ", None, "Right"):
            assert verify(sql, "p", wrong) is False
            assert stored(sql, "p") == before
        assert verify(sql, "p", "right") is True
        after = stored(sql, "p")
        assert after.startswith(b"\xffSP2\0\0\0\0$2a$07$")
        assert (verify(sql, "p", "right"), verify(sql, "p", "wrong")) == (True, False)
        assert stored(sql, "p") == after, "once"
        kept = sql.execute("SELECT value FROM secretproxy.replaced_password").fetchall()
        assert [bytes(row[0]) for row in kept] == [before]


def test_a_password_that_becomes_another_secret_is_not_put_back(database: Database) -> None:
    to_none = "UPDATE secrets_schema.secrets_table SET secrets_enc_field = 'none'"
    ways = {
        "by the function": "SELECT encrypted_secrets.secrets_upsert(%(o)s, %(n)s, 'a value')",
        "past it": f"{to_none}, secrets_value_field = 'a value' WHERE name = %(n)s",
        # This runs no trigger; what is written next does.
        "the column alone": f"{to_none} WHERE name = %(n)s",
    }
    with database.connect() as sql:
        for name, way in ways.items():
            older(sql, name)
            assert verify(sql, name, "right") is True
            sql.execute(way, {"o": OWNER, "n": name})  # type: ignore[arg-type]
            sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, 'new', 'crypt')", (OWNER, name))
            assert sql.execute("SELECT count(*) FROM secretproxy.replaced_password").fetchone() == (0,), name
            assert verify(sql, name, "new") is True


def test_a_transaction_that_cannot_write_answers_all_the_same(database: Database) -> None:
    with database.connect() as sql:
        before = older(sql, "p")
        with sql.transaction():
            sql.execute("SET TRANSACTION READ ONLY")
            assert (verify(sql, "p", "right"), verify(sql, "p", "wrong")) == (True, False)
        assert stored(sql, "p") == before
        with sql.transaction(force_rollback=True):
            assert verify(sql, "p", "right") is True
            assert stored(sql, "p") != before
        assert stored(sql, "p") == before, "a rolled back verify upgrades nothing"
        assert verify(sql, "p", "right") is True


def test_two_right_answers_at_once(database: Database) -> None:
    """The second waits for the first one's row, finds it changed, and is right as well."""
    with database.connect() as one, database.connect() as two:
        older(one, "p")
        one.execute("BEGIN")
        assert verify(one, "p", "right") is True
        two.execute("SET statement_timeout = '20s'")
        with ThreadPoolExecutor(1) as thread:
            second = thread.submit(verify, two, "p", "right")
            waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
            while database.connect().execute(waits, (two.info.backend_pid,)).fetchone() == (0,) and not second.done():
                time.sleep(0.02)
            assert not second.done()
            one.execute("COMMIT")
            assert second.result(30) is True
        assert one.execute("SELECT count(*) FROM secretproxy.replaced_password").fetchone() == (1,)


def test_a_standby_answers_and_upgrades_nothing(database: Database) -> None:
    server = database.backend.server
    if server is None or not server.binaries.has("pg_basebackup"):
        pytest.skip("a standby needs pg_basebackup, which this server's installation has not")
    with database.connect() as sql:
        before = older(sql, "p")
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'v', 'a value')", (OWNER,))
        written = sql.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        with Standby(server) as other, psycopg.connect(other.dsn(database.name), autocommit=True) as reader:
            deadline = time.monotonic() + 60
            while reader.execute("SELECT pg_last_wal_replay_lsn() < %s::pg_lsn", written).fetchone() == (True,):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert reader.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            for _ in range(2):
                assert (verify(reader, "p", "right"), verify(reader, "p", "wrong"), verify(reader, "missing", "x")) == (
                    True,
                    False,
                    False,
                )
                assert reader.execute("SELECT encrypted_secrets.secrets_getter(%s, 'v')", (OWNER,)).fetchone() == (
                    "a value",
                )
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                reader.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'v', 'another')", (OWNER,))
            assert stored(reader, "p") == before
        assert stored(sql, "p") == before
