"""Checks that `audit tail` shows how an access ended, takes the filters of `audit list`, and shows what takes long
twice: running, and ended."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from secretproxy.audit import review
from secretproxy.audit.filters import Filter
from secretproxy.audit.follower import Endings, Follower
from tests.conftest import Backend
from tests.support.proxy import Proxy


@contextmanager
def following(postgres: Backend, *arguments: str) -> Iterator[queue.Queue[str]]:
    command = [sys.executable, "-u", "-m", "secretproxy", "audit", "tail", *arguments, "--dsn", postgres.dsn("auditor")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        try:
            assert tail.stderr is not None and tail.stdout is not None
            first = tail.stderr.readline()
            assert "following the log in database app at" in first and "times are of" in first
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(
                target=lambda out: [lines.put(line) for line in out], args=(tail.stdout,), daemon=True
            ).start()
            yield lines
        finally:
            tail.terminate()


def test_outcomes_and_filters(postgres: Backend, proxy: Proxy) -> None:
    owner = str(uuid.uuid4())
    with following(postgres, "--json", "--owner", owner, "--outcome", "error,cancelled") as lines:
        with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
            for _ in range(3):
                sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'fine')", (owner,))
            with pytest.raises(psycopg.Error):
                sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'bad', 'value', 'rot13')", (owner,))
        row = json.loads(lines.get(timeout=60))
        assert (row["outcome"], row["sqlstate"], row["secret_names"], row["owner_id"]) == (
            "error",
            "22023",
            ["bad"],
            owner,
        )
        assert lines.empty()


def test_what_takes_long_is_shown_running_and_when_it_has_ended(postgres: Backend, proxy: Proxy) -> None:
    owner = str(uuid.uuid4())
    with following(postgres, "--owner", owner, "--wait", "0.2") as lines:
        with psycopg.connect(proxy.dsn(), autocommit=True, application_name="slow one") as sql:
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'slow'), pg_sleep(3)", (owner,))
        running, ended = lines.get(timeout=60), lines.get(timeout=60)
    for line in (running, ended):
        assert "slow one" in line and f"slow of {owner}" in line and "session " in line and "127.0.0.1" in line
    assert "  running  " in running and "  ok  " in ended


async def test_an_access_waits_for_its_outcome_and_no_longer_than_it_is_told(postgres: Backend, proxy: Proxy) -> None:
    owner = str(uuid.uuid4())
    connection = await review.connect(postgres.dsn("auditor"))
    follower, endings = Follower(), Endings(Filter(owner=owner), 3600.0)
    impatient = Endings(Filter(owner=owner), 0.0)
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'before')", (str(uuid.uuid4()),))
    await follower.begin(connection)

    def slow() -> None:
        with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'held'), pg_advisory_xact_lock(4711)", (owner,))

    try:
        with psycopg.connect(postgres.dsn()) as lock:
            lock.execute("SELECT pg_advisory_lock(4711)")
            call = asyncio.create_task(asyncio.to_thread(slow))
            news = []
            async with asyncio.timeout(30):
                while not any(str(row["owner_id"]) == owner for row in news):
                    news += await follower.new_accesses(connection, follower._seen)
            assert await endings.of(connection, news) == []
            assert endings.due() is not None
            assert [row["outcome"] for row in await impatient.of(connection, news)] == ["unknown"]
            lock.execute("SELECT pg_advisory_unlock(4711)")
        await call
        shown: list[dict[str, object]] = []
        again: list[dict[str, object]] = []
        async with asyncio.timeout(30):
            while not shown or not again:
                await follower.new_accesses(connection)
                shown += await endings.of(connection, [])
                again += await impatient.of(connection, [])
        assert [row["outcome"] for row in shown] == [row["outcome"] for row in again] == ["ok"]
        assert await endings.of(connection, []) == [] and endings.due() is None
    finally:
        await connection.close()
