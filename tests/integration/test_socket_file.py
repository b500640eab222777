"""The file of the Unix socket goes with the proxy that made it, on every Python that is promised, and another's stays."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.proxy import Proxy

ROOT = Path(__file__).parents[2]
_PROMISED = re.search(r'requires-python = ">=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text())
assert _PROMISED is not None
OLDEST = _PROMISED[1]
NEEDED = (
    "import asyncpg, cryptography, pglast, prometheus_client, pydantic_settings, starlette, structlog, typer, uvicorn, uvloop"
)


def oldest_python() -> str:
    """The oldest Python that is promised, with the packages that the proxy needs. Skips the test where there is none."""
    if sys.version_info[:2] == tuple(int(part) for part in OLDEST.split(".")):
        return sys.executable
    told = []
    for candidate in (
        os.environ.get("TEST_OLDEST_PYTHON"),
        str(ROOT / ".oldest" / "bin" / "python"),
        shutil.which(f"python{OLDEST}"),
    ):
        if candidate is None or not os.access(candidate, os.X_OK):
            continue
        says = f"import sys; assert sys.version_info[:2] == tuple(map(int, '{OLDEST}'.split('.'))); {NEEDED}"
        done = subprocess.run([candidate, "-c", says], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return candidate
        told.append(f"{candidate}: {done.stderr.strip().splitlines()[-1]}")
    pytest.skip(
        f"no Python {OLDEST} with the packages of requirements/run.lock ({'; '.join(told) or 'none is here'}): run `make test-oldest`"
    )


@pytest.fixture(params=["this", "oldest"])
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The Python that the tests run on, and the oldest one: what becomes of a socket's file was left to asyncio, which differs."""
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
    """All workers listen: each says so in a line with its process id."""
    proxy.wait_for_text("listening", 2 if "workers = 2" in proxy.config.read_text() else 1)
    return proxy


def file_of(proxy: Proxy) -> Path:
    return proxy.directory / f".s.PGSQL.{proxy.port}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_goes(own: Proxy, number: signal.Signals) -> None:
    with psycopg.connect(f"host={own.directory} port={own.port} user=app_user dbname=app") as sql:
        assert sql.execute("SELECT 1").fetchone() == (1,)
    assert own.halt(number) == 0
    assert not file_of(own).exists()


def test_one_that_was_left_behind_is_taken_over(own: Proxy) -> None:
    """By a proxy that was killed: nobody listens there any more."""
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
