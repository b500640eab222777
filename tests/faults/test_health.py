"""Checks that /healthz, /readyz, /logz and the metrics know of a fault before anybody makes a call: the log or the
backend is away or hangs."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend, prepare
from tests.faults.conftest import until
from tests.support.proxy import Proxy

from secretproxy.demo.postgres import PrivateServer


@dataclass
class Watched:
    """A proxy whose backend and whose log may each be stopped; it looks every half second."""

    backend: PrivateServer
    log: PrivateServer
    proxy: Proxy

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.proxy.health_port}{path}", timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.proxy.health_port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def well(self) -> bool:
        return (
            self.ask("/readyz")[1] == {"status": "ready", "reasons": [], "warnings": []} and self.ask("/logz")[0] == 200
        )


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with PrivateServer() as backend, PrivateServer() as log:
        made = prepare(backend.host, backend.port, tmp_path_factory.mktemp("backend"))
        logged = prepare(log.host, log.port, tmp_path_factory.mktemp("log"))
        directory = tmp_path_factory.mktemp("watched")
        proxy = Proxy(directory, made.address, logged.dsn("journal"), made.key_file)
        proxy.config.write_text(
            proxy.config.read_text()
            .replace("timeout = 2.0\n", "timeout = 1.0\n", 1)
            .replace("[health]", "[health]\nprobe_interval = 0.5")
        )
        proxy.start()
        yield Watched(backend, log, proxy)
        proxy.stop()


@pytest.fixture
def watched(servers: Watched) -> Watched:
    until(servers.well)
    return servers


def test_the_log_is_away(watched: Watched) -> None:
    """Whole applications stay up: only /logz fails."""
    watched.log.halt()
    try:
        until(lambda: watched.ask("/logz")[0] == 503)
        status, body = watched.ask("/logz")
        assert body["status"] == "unavailable" and "audit.dsn" in body["reasons"][0]
        status, body = watched.ask("/readyz")
        assert status == 200 and body["reasons"] == [] and "audit.dsn" in body["warnings"][0]
        assert watched.ask("/healthz") == (200, {"status": "ok"})
        assert watched.metric("secretproxy_log_available") == 0
    finally:
        watched.log.start()
    until(watched.well)
    assert watched.metric("secretproxy_log_available") == 1


@pytest.mark.parametrize("how", ["locked", "stopped"])
def test_the_log_hangs(watched: Watched, how: str) -> None:
    """It is known before a call waits for it: the first call is refused at once."""
    with psycopg.connect(watched.log.dsn("app")) as holder:
        if how == "locked":
            holder.execute("LOCK TABLE secretproxy.access_log IN ACCESS EXCLUSIVE MODE")
        else:
            journal = holder.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'secretproxy journal'"
            ).fetchall()
            for (pid,) in journal:
                os.kill(pid, signal.SIGSTOP)
            postmaster = watched.log.pid
            assert postmaster is not None
            os.kill(postmaster, signal.SIGSTOP)
        try:
            until(lambda: watched.ask("/logz")[0] == 503)
            assert "time" in watched.ask("/logz")[1]["reasons"][0]
            assert watched.ask("/readyz")[0] == 200
            with psycopg.connect(watched.proxy.dsn(), autocommit=True) as sql:
                with pytest.raises(psycopg.errors.IoError):
                    sql.execute("SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-000000000000', 'x')")
                assert sql.execute("SELECT 1").fetchone() == (1,)
        finally:
            if how == "stopped":
                for pid in (*(pid for (pid,) in journal), postmaster):
                    os.kill(pid, signal.SIGCONT)
    until(watched.well)


@pytest.mark.parametrize("how", ["away", "hangs"])
def test_the_backend_is_away_or_hangs(watched: Watched, how: str) -> None:
    postmaster = watched.backend.pid
    assert postmaster is not None
    if how == "away":
        watched.backend.halt()
    else:
        os.kill(postmaster, signal.SIGSTOP)
    try:
        until(lambda: watched.ask("/readyz")[0] == 503)
        body = watched.ask("/readyz")[1]
        assert body["status"] == "not ready" and "backend.hosts" in body["reasons"][0]
        assert watched.ask("/healthz")[0] == 200 and watched.ask("/logz")[0] == 200
        assert watched.metric("secretproxy_backend_available") == 0
        if how == "away":
            before = watched.metric("secretproxy_backend_failures_total")
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(watched.proxy.dsn())
            assert watched.metric("secretproxy_backend_failures_total") == before + 1
    finally:
        if how == "away":
            watched.backend.start()
        else:
            os.kill(postmaster, signal.SIGCONT)
    until(watched.well)


def test_a_look_leaves_no_line_in_the_backends_log(watched: Watched) -> None:
    """It looks twice a second, and by now has for a while."""
    assert "startup packet" not in watched.backend.log.read_text(errors="replace")
    assert "internal error" not in watched.proxy.text()


def test_without_looks_a_session_finds_out(postgres: Backend, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file)
    proxy.config.write_text(proxy.config.read_text().replace("[health]", "[health]\nprobe_interval = 0"))
    proxy.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.health_port}/readyz", timeout=30) as answer:
            assert json.load(answer)["status"] == "ready"
    finally:
        proxy.stop()
