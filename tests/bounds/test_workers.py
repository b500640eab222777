"""Checks that several workers on one port share the sessions and the limit of them, one that dies is replaced, all of
them drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Backend
from tests.support.log import AccessLog
from tests.support.process import accepted, workers
from tests.support.proxy import Proxy
from tests.support.raw import Address, Raw

WORKERS = 4
GETTER = "SELECT encrypted_secrets.secrets_getter('5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44', 'worker', 'none')"


@pytest.fixture
def several(postgres: Backend, tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file)
    text = proxy.config.read_text().replace("[listen]\n", "[listen]\nmax_sessions = 40\n")
    proxy.config.write_text(f"workers = {WORKERS}\n{text}")
    proxy.start()
    proxy.wait_for_text("access log can be written", WORKERS)
    yield proxy
    proxy.stop()


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def spread(proxy: Proxy) -> list[int]:
    """Gives the clients of each worker."""
    return [accepted(pid, proxy.port) for pid in workers(proxy.pid)]


def sessions_of_each(proxy: Proxy, each: int) -> list[psycopg.Connection[Any]]:
    """Opens as many sessions in each worker while the others stand still: which one accepts is else the kernel's."""
    sessions = []
    pids = workers(proxy.pid)
    assert len(pids) == WORKERS
    for awake in pids:
        for pid in pids:
            os.kill(pid, signal.SIGCONT if pid == awake else signal.SIGSTOP)
        sessions += [psycopg.connect(proxy.dsn(), autocommit=True) for _ in range(each)]
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert spread(proxy) == [each] * WORKERS
    return sessions


def test_the_limit_is_that_of_all_workers_together(several: Proxy) -> None:
    sessions = sessions_of_each(several, 10)
    with pytest.raises(psycopg.OperationalError, match=r"listen\.max_sessions"):
        psycopg.connect(several.dsn())
    for session in sessions:
        assert session.execute("SELECT 1").fetchone() == (1,)
    for session in sessions:
        session.close()
    until(lambda: _connects(several))


def _connects(proxy: Proxy) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(proxy.dsn()).close()
        return True
    return False


def test_a_worker_that_dies_takes_its_own_sessions_and_is_replaced(several: Proxy) -> None:
    sessions = sessions_of_each(several, 5)
    old = workers(several.pid)
    os.kill(old[0], signal.SIGKILL)
    until(lambda: len(workers(several.pid)) == WORKERS and old[0] not in workers(several.pid))
    alive = 0
    for session in sessions:
        with contextlib.suppress(psycopg.OperationalError):
            session.execute("SELECT 1")
            alive += 1
    assert alive == 15
    several.wait_for_text("access log can be written", WORKERS + 1)
    # The places of the dead worker's sessions are free again: forty fit in all.
    more = [psycopg.connect(several.dsn()) for _ in range(40 - alive)]
    with pytest.raises(psycopg.OperationalError, match=r"listen\.max_sessions"):
        psycopg.connect(several.dsn())
    for session in (*sessions, *more):
        session.close()


async def test_four_workers_under_load_reload_and_shut_down(several: Proxy, postgres: Backend, log: AccessLog) -> None:
    address = Address("127.0.0.1", several.port, "app")
    ended: Counter[str] = Counter()
    answered = 0

    async def load() -> None:
        nonlocal answered
        session = await Raw.connect(address)
        with contextlib.suppress(ConnectionError):
            while True:
                answer = await session.query(GETTER)
                if not answer[-1].kind:
                    ended[next((m.sqlstate for m in answer if m.kind == b"E"), "nothing said")] += 1
                    answered += any(m.kind == b"C" for m in answer)
                    return
                assert [m.kind for m in answer] == [b"T", b"D", b"C", b"Z"], answer
                answered += 1
                session.seen.clear()
        ended["reset"] += 1

    tasks = [asyncio.create_task(load()) for _ in range(20)]
    await asyncio.to_thread(until, lambda: answered > 20)
    several.send_signal("HUP")
    await asyncio.to_thread(several.wait_for_text, "reloaded", WORKERS)
    before = answered
    await asyncio.to_thread(until, lambda: answered > before + 20)
    assert not ended
    several.send_signal("TERM")
    await asyncio.gather(*tasks)
    assert await asyncio.to_thread(several.halt) == 0
    assert set(ended) == {"57P01"}, ended
    assert several.text().count("stopped") >= WORKERS
    assert "internal error" not in several.text() and "Traceback" not in several.text()
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        found = admin.execute(
            "SELECT count(*) FILTER (WHERE event IN ('attempt', 'access')),"
            " count(*) FILTER (WHERE event IN ('outcome', 'access') AND outcome = 'ok')"
            " FROM secretproxy.access_log WHERE session_id IN"
            " (SELECT session_id FROM secretproxy.access_log WHERE secret_names = ARRAY['worker'])"
        ).fetchone()
    assert found is not None
    print(f"{answered} answered, {found[0]} attempts, {found[1]} with the outcome ok")
    assert found[0] >= found[1] >= answered


def test_every_scrape_tells_the_sum_of_all_workers(several: Proxy, postgres: Backend) -> None:
    """Whichever worker answers, it shows the same sessions, calls and events, and no counter goes back when a worker is
    replaced."""
    sessions = [psycopg.connect(several.dsn(), autocommit=True) for _ in range(8)]
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        (began,) = admin.execute("SELECT clock_timestamp()").fetchone() or (None,)
    for session in sessions:
        session.execute(GETTER)

    def logged() -> int:
        """Rows of these sessions: two of a read that came before the proxy knew the functions, one of another."""
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            found = admin.execute(
                "SELECT count(*), count(*) FILTER (WHERE event IN ('outcome', 'access')) FROM secretproxy.access_log"
                " WHERE at >= %s AND session_id IN"
                " (SELECT session_id FROM secretproxy.access_log WHERE secret_names = ARRAY['worker'] AND at >= %s)",
                (began, began),
            ).fetchone()
        assert found is not None
        # Outcomes come after the answers.
        return int(found[0]) if found[1] == 8 else -1

    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{several.health_port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {
            line.split()[0]: float(line.split()[1])
            for line in lines
            if line.startswith("secretproxy_") and "{" not in line
        }

    names = (
        "secretproxy_workers",
        "secretproxy_sessions_open",
        "secretproxy_sessions_total",
        "secretproxy_attempts_total",
    )
    assert [[found[name] for name in names] for found in [scrape() for _ in range(8)]] == [[WORKERS, 8, 8, 8]] * 8
    # Each worker says how many it has written once a second.
    until(lambda: scrape()["secretproxy_events_written_total"] == logged())
    written = logged()
    assert 8 <= written <= 16
    os.kill(workers(several.pid)[0], signal.SIGKILL)
    several.wait_for_text("access log can be written", WORKERS + 1)
    found = scrape()
    assert found["secretproxy_attempts_total"] == 8 and found["secretproxy_events_written_total"] == written
    assert found["secretproxy_workers"] == WORKERS


def test_refused_sessions_are_counted_and_said_once_a_second(several: Proxy) -> None:
    sessions = [psycopg.connect(several.dsn(), autocommit=True) for _ in range(40)]
    for _ in range(30):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(several.dsn())
    with urllib.request.urlopen(f"http://127.0.0.1:{several.health_port}/metrics", timeout=30) as answer:
        assert 'secretproxy_sessions_refused_total{setting="listen.max_sessions"} 30.0' in answer.read().decode()

    def said() -> list[int]:
        lines = [line for line in several.text().splitlines() if "sessions refused" in line]
        return [int(line.partition("count=")[2].split()[0]) for line in lines]

    until(lambda: sum(said()) == 30)
    assert len(said()) < 30 and "setting=listen.max_sessions" in several.text()
    for session in sessions:
        session.close()
