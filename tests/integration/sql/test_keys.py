"""Checks ring keys: a new one seals from now on, and sealing everything again survives kills and writers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid

from tests.integration.sql.conftest import Database
from tests.support.cli import secretproxy

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a21")
# Ten kills hit a run of any length; the full size is 100000.
ROWS = int(os.environ.get("SECRETPROXY_TEST_KEY_ROWS", "8000"))
KILLS = 10
WRITERS = 3
LOAD = """
INSERT INTO secrets_schema.secrets_table (secrets_owned_field, name, secrets_value_field, secrets_enc_field)
SELECT %s, 'n' || i, convert_to('value ' || i, 'UTF8'), 'pgp' FROM generate_series(1, %s) i
"""


def keys(database: Database, *words: str) -> subprocess.CompletedProcess[str]:
    return secretproxy(["keys", *words, "--dsn", database.dsn()])


def versions(database: Database) -> dict[int, int]:
    told = json.loads(keys(database, "status", "--json").stdout)
    return {item["version"]: item["values"] for item in told["keys"] if item["values"]}


def test_a_new_key_seals_and_the_old_one_still_opens(fresh: Database) -> None:
    with fresh.connect() as sql:
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'a', 'first')", (OWNER,))
        done = keys(fresh, "rotate")
        assert (done.returncode, "key version 2" in done.stdout) == (0, True), done.stderr
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'b', 'second')", (OWNER,))
        assert versions(fresh) == {1: 1, 2: 1}
        assert sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'a')", (OWNER,)).fetchone() == ("first",)
        assert keys(fresh, "reencrypt").returncode == 0
        assert versions(fresh) == {2: 2}
        assert sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'a')", (OWNER,)).fetchone() == ("first",)


def test_a_value_that_does_not_open_is_told_and_left(fresh: Database) -> None:
    with fresh.connect() as sql:
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'a', 'first')", (OWNER,))
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'b', 'second')", (OWNER,))
        sql.execute("UPDATE secrets_schema.secrets_table SET name = 'moved' WHERE name = 'a'")
        keys(fresh, "rotate")
        done = keys(fresh, "reencrypt", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (1, {"done": 1, "failed": 1})
        assert "first" not in done.stderr
        assert versions(fresh) == {1: 1, 2: 1}


def test_no_installation_is_told(empty: Database) -> None:
    done = keys(empty, "status")
    assert done.returncode == 2
    assert "secretproxy install" in done.stderr


def test_killed_again_and_again_with_writers(fresh: Database) -> None:
    """Checks that every name ends with the value that its writer wrote last, all under the new key."""
    chance = random.Random(7)
    stop = threading.Event()
    written: list[dict[str, str | None]] = [{} for _ in range(WRITERS)]
    failed: list[BaseException] = []

    def write(number: int) -> None:
        """Upserts, deletes and reads names of its own, so that what it wrote last is known."""
        own, mine = random.Random(number), written[number]
        try:
            with fresh.connect() as sql:
                for turn in range(10**9):
                    if stop.is_set():
                        return
                    name = f"n{own.randrange(number + 1, ROWS + 1, WRITERS)}"
                    if turn % 5 == 4:
                        sql.execute("SELECT encrypted_secrets.secrets_delete(%s, %s)", (OWNER, name))
                        mine[name] = None
                    elif turn % 5 == 3:
                        row = sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (OWNER, name)).fetchone()
                        assert row == (mine.get(name, f"value {name[1:]}"),)
                    else:
                        mine[name] = f"again {turn}"
                        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, %s, %s)", (OWNER, name, mine[name]))
        except BaseException as error:
            failed.append(error)

    with fresh.connect() as sql:

        def old() -> int:
            row = sql.execute(
                "SELECT coalesce(sum(stored), 0) FROM secretproxy.stored_formats() WHERE key_version = 1"
            ).fetchone()
            assert row is not None
            return int(row[0])

        sql.execute(LOAD, (OWNER, ROWS))
        sql.execute("ANALYZE secrets_schema.secrets_table")
        assert keys(fresh, "rotate").returncode == 0
        writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            left = []
            for _ in range(KILLS):
                before = old()
                process = subprocess.Popen(
                    [sys.executable, "-m", "secretproxy", "keys", "reencrypt", "--batch", "100", "--dsn", fresh.dsn()],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                while process.poll() is None and old() > before - 150:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, ROWS / 200_000))
                process.kill()
                process.wait()
                left.append(old())
            assert left[0] > 0, "a kill came before the end"
            assert sorted(left, reverse=True) == left, "what was sealed again stays so"
            done = keys(fresh, "reencrypt")
            assert done.returncode == 0, done.stderr
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        assert not failed
        assert set(versions(fresh)) == {2}
        stored = dict(
            sql.execute(
                "SELECT name, encrypted_secrets.secrets_getter(%s, name) FROM secrets_schema.secrets_table", (OWNER,)
            ).fetchall()
        )
    expected: dict[str, str | None] = {f"n{i}": f"value {i}" for i in range(1, ROWS + 1)}
    for mine in written:
        expected |= mine
    assert stored == {name: value for name, value in expected.items() if value is not None}
