"""Kills a journal at random points while it writes log, spool and checkpoints: the log verifies, and what was durable
is there, once.

Eight kills; `make crashes` does two hundred (TEST_CRASHES).
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import select
import time
from pathlib import Path

import psycopg
import pytest

from secretproxy.audit.checkpoints import load_public, public_file, read_file
from secretproxy.audit.spool import read
from secretproxy.audit.verify import verify_database
from secretproxy.install import install
from tests.audit.crash_worker import work
from tests.conftest import Backend

KILLS = int(os.environ.get("TEST_CRASHES", "8"))
SHUT = "ALTER ROLE crash_journal NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'crash_journal'"


def test_kills_while_writing(postgres: Backend, tmp_path: Path) -> None:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE crash")
        admin.execute("CREATE ROLE crash_journal LOGIN IN ROLE secretproxy_writer")
    asyncio.run(install(postgres.dsn(database="crash"), postgres.key_file, direct_calls="log"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.audit.crash_worker"])
    draw = random.Random(os.urandom(8))
    durable: set[str] = set()
    spooled = 0
    with psycopg.connect(postgres.dsn(database="crash"), autocommit=True) as admin:
        for kill in range(KILLS):
            outage = draw.random() < 0.4
            reader, writer = os.pipe()
            child = context.Process(
                target=work,
                args=(postgres.dsn("crash_journal", "crash"), str(tmp_path), f"k{kill}", _Inherited(writer)),
            )
            child.start()
            os.close(writer)
            try:
                answer = b""
                ready, _, _ = select.select([reader], [], [], 30)
                assert ready, "nothing became durable within 30 s"
                shut_at = time.monotonic() + draw.random() * 0.03 if outage else None
                ends = time.monotonic() + draw.random() * 0.12
                while time.monotonic() < ends:
                    if shut_at is not None and time.monotonic() >= shut_at:
                        for statement in SHUT.split(";"):
                            admin.execute(statement)
                        shut_at = None
                        ends += 0.05
                    if select.select([reader], [], [], 0.002)[0]:
                        answer += os.read(reader, 65536)
                child.kill()
                child.join(60)
                while part := os.read(reader, 65536):
                    answer += part
            finally:
                os.close(reader)
                with contextlib.suppress(Exception):
                    child.kill()
            durable |= set(answer.decode().split())
            spooled += sum(1 for path in (tmp_path / "spool").glob("*") for _ in read(path.open("rb")))
            if outage:
                admin.execute("ALTER ROLE crash_journal LOGIN")

        # One more takes over what was left in spools.
        reader, writer = os.pipe()
        child = context.Process(
            target=work, args=(postgres.dsn("crash_journal", "crash"), str(tmp_path), "last", _Inherited(writer))
        )
        child.start()
        os.close(writer)
        ends = time.monotonic() + 60
        # What was killed before its file had its name left an empty one.
        while any((tmp_path / "spool").glob("*.spool")) and time.monotonic() < ends:
            select.select([reader], [], [], 0.01)
            os.read(reader, 65536)
        child.kill()
        child.join(60)
        os.close(reader)
        rows = admin.execute("SELECT secret_names[1], count(*) FROM secretproxy.access_log GROUP BY 1").fetchall()
    counted = dict(rows)
    assert len(durable) > KILLS and spooled > 0
    assert durable <= set(counted), f"{len(durable - set(counted))} durable events are missing"
    assert {name: count for name, count in counted.items() if count > 1} == {}
    outside = [checkpoint for _, checkpoint in read_file(tmp_path / "checkpoints.jsonl") if checkpoint is not None]
    assert len(outside) > KILLS // 4
    key = load_public(public_file(tmp_path / "sign.key"))
    report = asyncio.run(verify_database(postgres.dsn("auditor", "crash"), outside, key, lambda done, total: None))
    assert report.findings == []


class _Inherited(int):
    """A descriptor that the child gets its own copy of."""

    def __reduce__(self) -> tuple[object, ...]:
        from multiprocessing.reduction import DupFd

        return _detach, (DupFd(int(self)),)


def _detach(given: object) -> int:
    return given.detach()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(autouse=True)
def _no_children_left() -> object:
    yield
    for child in multiprocessing.active_children():
        child.kill()
