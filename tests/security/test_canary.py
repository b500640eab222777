"""Checks that the values' search can fail: it finds a value in each of the places where it looks, in whatever
spelling."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Backend
from tests.support import canary
from tests.support.canary import MARKER
from tests.support.proxy import Proxy


@pytest.mark.parametrize(
    "spelled",
    [
        MARKER.encode(), b"x" + MARKER.upper().encode(), MARKER.encode().hex().encode(), base64.b64encode(b"ab" + MARKER.encode() + b"c"),
        base64.b64encode(b"a" + MARKER.encode()), base64.b64encode(MARKER.encode() + b"\0"),
    ],
    ids=["plain", "upper case", "hexadecimal", "base64 at 2", "base64 at 1", "base64"],
)  # fmt: skip
def test_a_value_is_found_in_a_file(tmp_path: Path, spelled: bytes) -> None:
    place = tmp_path / "deep" / "file"
    place.parent.mkdir()
    place.write_bytes(b"\0" * 100_000 + spelled + b"\n")
    before = len(canary.leaks)
    canary.search_files(tmp_path)
    found = canary.leaks[before:]
    del canary.leaks[before:]
    place.unlink()
    assert found == [str(place)]


@pytest.mark.parametrize("column", ["application_name", "secret_names", "via", "fingerprint"])
def test_a_value_is_found_in_the_log(postgres: Backend, column: str) -> None:
    with psycopg.connect(postgres.dsn()) as sql:
        value = f"x{MARKER}x" if column in ("application_name", "fingerprint") else [f"x{MARKER}x"]
        sql.execute(f"INSERT INTO secretproxy.access_log (event, {column}) VALUES ('direct', %s)", (value,))
        sql.execute("COMMIT")
    try:
        assert any("access_log" in table for table in canary.search_database(postgres.dsn()))
    finally:
        with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
            sql.execute("SET session_replication_role = replica")
            sql.execute(f"DELETE FROM secretproxy.access_log WHERE {column}::text ~ %s", (MARKER,))
    assert canary.search_database(postgres.dsn()) == []


def test_a_session_leaves_values_and_none_is_found(proxy: Proxy, postgres: Backend) -> None:
    before = canary.sessions
    assert canary.leave_values(proxy) and canary.sessions == before + 1
    with psycopg.connect(postgres.dsn()) as sql:
        stored = sql.execute(
            "SELECT count(*) FROM secretproxy.access_log WHERE secret_names::text ~ 'masked:'"
        ).fetchone()
    assert stored is not None and stored[0] >= 4, "the values in names' places are there as digests"


def test_no_core_of_the_proxy_is_ever_written(proxy: Proxy, tmp_path: Path) -> None:
    for pid in (proxy.pid, *canary.children(proxy.pid)):
        limit = next(
            line
            for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
            if line.startswith("Max core file size")
        )
        assert limit.split()[4:6] == ["0", "0"]
    # Workers are forked: what was set before counts for them too.
    program = """
import ctypes, os, resource, signal, sys
from secretproxy.proxy.listeners.supervisor import _keep_memory_private
_keep_memory_private()
child = os.fork()
if child == 0:
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    if dumpable == 0 and resource.getrlimit(resource.RLIMIT_CORE) == (0, 0):
        os.abort()
    os._exit(1)
status = os.waitpid(child, 0)[1]
sys.exit(0 if os.WIFSIGNALED(status) and not os.WCOREDUMP(status) else 1)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=60, check=False)
    assert ran.returncode == 0 and list(tmp_path.iterdir()) == []
