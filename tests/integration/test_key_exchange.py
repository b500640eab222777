"""Checks that testimony keys are exchanged under running sessions: no call is taken for a direct one or a forgery, and
none is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.proxy import Proxy

from secretproxy.install import install, keys
from secretproxy.install.keyfile import load_key_file

OWNER = "7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2a"
GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'exchanged', 'nothing')"


@pytest.fixture
def own_proxy(postgres: Backend, tmp_path: Path) -> Iterator[Proxy]:
    """Gives a proxy before a database with keys of its own."""
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE exchange")
    key_file = tmp_path / "own.key"
    asyncio.run(install(postgres.dsn(database="exchange"), key_file, direct_calls="log"))
    made = Proxy(tmp_path, postgres.address, postgres.dsn("journal", "exchange"), key_file).start()
    made.wait_for_text("access log can be written")
    yield made
    made.stop()
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute("DROP DATABASE exchange WITH (FORCE)")


def test_keys_are_exchanged_without_a_gap(postgres: Backend, own_proxy: Proxy, tmp_path: Path) -> None:
    owner, key_file = postgres.dsn(database="exchange"), tmp_path / "own.key"
    before = max(load_key_file(key_file))

    def key_of_a_call(session: psycopg.Connection[tuple[str]]) -> None:
        assert session.execute(GETTER).fetchone() == ("nothing",)

    with (
        psycopg.connect(own_proxy.dsn(database="exchange"), autocommit=True) as old,
        psycopg.connect(owner, autocommit=True) as admin,
    ):
        key_of_a_call(old)
        staged = asyncio.run(keys.stage_testimony(owner, key_file))
        assert staged == before + 1 and set(load_key_file(key_file)) >= {before, staged}
        assert asyncio.run(keys.stage_testimony(owner, key_file)) == staged  # once more, as after a kill
        states = {key.version: key.state for key in asyncio.run(keys.testimony_status(owner))}
        assert states[before] == "active" and states[staged] == "staged"
        key_of_a_call(old)

        assert asyncio.run(keys.activate_testimony(owner, key_file)) == staged
        key_of_a_call(old)  # signed with a key that the proxy has not read yet
        old.execute("SELECT 1")
        with psycopg.connect(own_proxy.dsn(database="exchange"), autocommit=True) as new:
            key_of_a_call(new)

            assert before in asyncio.run(keys.retire_testimony(owner, key_file))
            assert set(load_key_file(key_file)) == {staged}
            for session in (old, new):
                session.execute("DISCARD SEQUENCES")  # what the backend remembers of the session is gone
                key_of_a_call(session)
        found = admin.execute(
            "SELECT CASE event WHEN 'access' THEN 'attempt' ELSE event END, count(*) FROM secretproxy.access_log WHERE %s = ANY (secret_names) OR event = 'forgery' GROUP BY 1",
            ("exchanged",),
        ).fetchall()
    assert dict(found) == {"attempt": 6}


def test_reload_says_what_it_read(own_proxy: Proxy) -> None:
    own_proxy.send_signal("HUP")
    own_proxy.wait_for_text("reloaded")
