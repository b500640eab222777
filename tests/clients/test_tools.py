"""Checks that PostgreSQL's own tools through the proxy give what they give directly."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.proxy import Proxy

MIB = 1024 * 1024


def run(backend: Backend, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [backend.program(program), *arguments], capture_output=True, text=True, timeout=120, check=check
    )


def needs(backend: Backend, program: str) -> None:
    if backend.server is None or not backend.server.binaries.has(program):
        pytest.skip(f"the PostgreSQL in use has no {program}")


def psql(backend: Backend, dsn: str, *commands: str) -> str:
    arguments = [word for command in commands for word in ("-c", command)]
    return run(backend, "psql", "-X", "-A", "-t", "-d", dsn, *arguments).stdout


def memory(proxy: Proxy) -> int:
    """Counts bytes that the proxy has in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{proxy.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.fixture(scope="module")
def table(postgres: Backend) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE things (id int PRIMARY KEY, label text, CHECK (id > 0)); CREATE INDEX ON things (label);"
            "INSERT INTO things SELECT n, repeat(md5(n::text), 3) FROM generate_series(1, 1000) n;"
            "CREATE VIEW some_things AS SELECT * FROM things WHERE id < 10;"
            "GRANT ALL ON things, some_things TO PUBLIC"
        )


def test_describe(postgres: Backend, proxy: Proxy, table: None) -> None:
    needs(postgres, "psql")
    for command in (r"\d", r"\d things", r"\d+ some_things", r"\dn", r"\df encrypted_secrets.*", r"\l", r"\du"):
        assert psql(postgres, proxy.dsn(), command) == psql(postgres, postgres.dsn("app_user"), command)


def test_copy_of_100_mb_in_and_out(postgres: Backend, proxy: Proxy, tmp_path: Path) -> None:
    needs(postgres, "psql")
    source, result = tmp_path / "in", tmp_path / "out"
    line = b"\t".join([b"1", b"x" * 94]) + b"\n"
    with source.open("wb") as file:
        for _ in range(100):
            file.write(line * (MIB // len(line)))
    dsn = proxy.dsn("postgres")
    psql(postgres, dsn, "CREATE TABLE copied (n int, t text)")
    before = memory(proxy)
    psql(postgres, dsn, rf"\copy copied from {source}")
    psql(postgres, dsn, rf"\copy copied to {result}")
    assert memory(proxy) - before < 16 * MIB
    assert digest(source) == digest(result)
    psql(postgres, dsn, "DROP TABLE copied")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_client_that_does_not_read_costs_no_memory(postgres: Backend, proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        before = memory(proxy)
        connection.pgconn.send_query(b"SELECT repeat('x', 10000) FROM generate_series(1, 100000)")
        deadline = time.monotonic() + 2
        most = before
        while time.monotonic() < deadline:
            most = max(most, memory(proxy))
            time.sleep(0.05)
        assert most - before < 8 * MIB
        with psycopg.connect(proxy.dsn()) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
        connection.pgconn.finish()


def test_control_c(postgres: Backend, proxy: Proxy) -> None:
    needs(postgres, "psql")
    process = subprocess.Popen(
        [postgres.program("psql"), "-X", "-d", proxy.dsn(), "-c", "SELECT pg_sleep(60)"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        deadline = time.monotonic() + 60
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
        while connection.execute(asleep).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "canceling statement due to user request" in errors


def test_listen_and_notify(postgres: Backend, proxy: Proxy) -> None:
    with (
        psycopg.connect(proxy.dsn(), autocommit=True) as listener,
        psycopg.connect(proxy.dsn(), autocommit=True) as speaker,
    ):
        listener.execute("LISTEN news")
        speaker.execute("NOTIFY news, 'it works'")
        heard = [note.payload for note in listener.notifies(timeout=60, stop_after=1)]
        assert heard == ["it works"]


def test_dump(postgres: Backend, proxy: Proxy, table: None) -> None:
    needs(postgres, "pg_dump")

    def dump(dsn: str) -> str:
        text = run(postgres, "pg_dump", "-d", dsn, "-n", "public", "-n", "encrypted_secrets").stdout
        return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)

    assert dump(proxy.dsn("postgres")) == dump(postgres.dsn())


def test_pgbench(postgres: Backend, proxy: Proxy) -> None:
    needs(postgres, "pgbench")
    run(postgres, "pgbench", "-i", "-q", "-s", "1", proxy.dsn("postgres"))
    with psycopg.connect(postgres.dsn()) as connection:
        assert connection.execute("SELECT count(*) FROM pgbench_accounts").fetchone() == (100000,)
    for mode in ("simple", "extended", "prepared"):
        done = run(postgres, "pgbench", "-M", mode, "-c", "4", "-t", "50", "-n", proxy.dsn("postgres"))
        assert "number of transactions actually processed: 200/200" in done.stdout
        assert "number of failed transactions: 0" in done.stdout or "failed" not in done.stdout


def test_large_objects_and_fast_path(postgres: Backend, proxy: Proxy, tmp_path: Path) -> None:
    needs(postgres, "psql")
    source, result = tmp_path / "lo", tmp_path / "lo.out"
    source.write_bytes(bytes(range(256)) * 4096)
    found = re.search(r"lo_import (\d+)", psql(postgres, proxy.dsn(), rf"\lo_import {source}"))
    assert found is not None
    psql(postgres, proxy.dsn(), rf"\lo_export {found[1]} {result}", rf"\lo_unlink {found[1]}")
    assert source.read_bytes() == result.read_bytes()


def test_unix_socket(postgres: Backend, proxy: Proxy) -> None:
    with psycopg.connect(host=str(proxy.directory), port=proxy.port, user="app_user", dbname="app") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("auth", ["scram-sha-256", "md5", "password"])
def test_authentication_is_relayed(auth: str, postgres: Backend, tmp_path: Path) -> None:
    from secretproxy.demo.postgres import PrivateServer

    with PrivateServer(auth=auth) as server:
        proxy = Proxy(tmp_path, f"{server.host}:{server.port}", postgres.dsn("journal"), postgres.key_file).start()
        try:
            dsn = proxy.dsn("postgres", "postgres")
            with psycopg.connect(dsn, password=server.password) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(dsn, password="wrong")
            with pytest.raises(psycopg.OperationalError, match="no password supplied"):
                psycopg.connect(dsn, passfile=str(tmp_path / "none"))
        finally:
            proxy.stop()
