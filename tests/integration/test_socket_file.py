"""Checks that the file of the Unix socket goes with the proxy that made it, on every Python that is promised, and
another's stays."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.oldest import ROOT, oldest_python
from tests.support.proxy import Proxy


@pytest.fixture(params=["this", "oldest"])
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Gives the Python that the tests run on, and the oldest one: what becomes of a socket's file was left to asyncio,
    which differs."""
    if request.param == "this":
        return sys.executable
    found = oldest_python()
    if found == sys.executable:
        pytest.skip("the tests run on the oldest Python")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    return found


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def own(postgres: Backend, tmp_path: Path, request: pytest.FixtureRequest, python: str) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file)
    proxy.python = python
    proxy.config.write_text(f"workers = {request.param}\n{proxy.config.read_text()}")
    yield whole(proxy.start())
    proxy.stop()


def whole(proxy: Proxy) -> Proxy:
    """Waits until all workers listen: each says so in a line with its process id."""
    proxy.wait_for_text("listening", 2 if "workers = 2" in proxy.config.read_text() else 1)
    return proxy


def file_of(proxy: Proxy) -> Path:
    return proxy.sockets / f".s.PGSQL.{proxy.port}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_goes(own: Proxy, number: signal.Signals) -> None:
    with psycopg.connect(f"host={own.sockets} port={own.port} user=app_user dbname=app") as sql:
        assert sql.execute("SELECT 1").fetchone() == (1,)
    assert own.halt(number) == 0
    assert not file_of(own).exists()


def test_one_that_was_left_behind_is_taken_over(own: Proxy) -> None:
    """A proxy that was killed left the file: nobody listens there any more."""
    assert own.halt(signal.SIGTERM) == 0
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(file_of(own)))
    assert file_of(own).exists()
    own.output.unlink()
    whole(own.start())
    assert own.halt(signal.SIGTERM) == 0
    assert not file_of(own).exists()


def test_another_servers_stays(own: Proxy) -> None:
    """Somebody has removed the file and listens there himself."""
    file_of(own).unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(file_of(own)))
        other.listen()
        assert own.halt(signal.SIGTERM) == 0
        assert file_of(own).exists()
