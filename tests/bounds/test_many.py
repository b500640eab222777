"""Opens many sessions at once, many one after the other, and for a long time: descriptors and memory stay where they
were.

`make bounds` runs the full size: 2,000 idle sessions beside 100 busy ones, 10,000 connects, ten minutes.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from secretproxy.demo.postgres import PrivateServer, find_postgres
from tests.bounds.wire import Client, startup
from tests.conftest import Backend, prepare
from tests.support.process import KIB, MIB, descriptors, memory
from tests.support.proxy import Proxy
from tests.support.raw import Address, Raw

FULL = bool(os.environ.get("BOUNDS_FULL"))
IDLE, BUSY, ROUNDS = (2000, 100, 20) if FULL else (150, 20, 10)
CONNECTS = 10_000 if FULL else 600
SOAK_SECONDS = float(os.environ.get("BOUNDS_SOAK_SECONDS", "600" if FULL else "4"))
GETTER = "SELECT encrypted_secrets.secrets_getter('{}', 'soak', 'none')"
OWNER = "5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44"


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Gives a proxy before a server that takes so many connections."""
    directory = tmp_path_factory.mktemp("roomy")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (IDLE + BUSY) + 200
    if most < wanted:
        pytest.skip(f"the limit of descriptors is {most}, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    settings = {"max_connections": str(IDLE + BUSY + 100), "shared_buffers": "64MB", "fsync": "off"}
    with PrivateServer(find_postgres(), settings=settings) as server:
        backend: Backend = prepare(server.host, server.port, directory)
        proxy = Proxy(directory, backend.address, backend.dsn("journal"), backend.key_file)
        text = proxy.config.read_text().replace("level = 'debug'", "level = 'info'")
        proxy.config.write_text(text.replace("[listen]\n", "[listen]\nmax_sessions = 5000\n"))
        proxy.start()
        proxy.wait_for_text("access log can be written")
        yield proxy
        proxy.stop()
    assert "internal error" not in proxy.text() and "Traceback" not in proxy.text()


async def connected(proxy: Proxy, count: int) -> list[Raw]:
    """Opens so many sessions, fifty at a time."""
    address = Address("127.0.0.1", proxy.port, "app")
    sessions: list[Raw] = []
    for start in range(0, count, 50):
        sessions += await asyncio.gather(*(Raw.connect(address) for _ in range(min(50, count - start))))
    for session in sessions:
        session.seen.clear()
    return sessions


async def work(session: Raw, rounds: int) -> None:
    for number in range(rounds):
        found = await session.extended("SELECT $1::int + 1", [str(number)])
        assert any(m.kind == b"D" and m.columns() == [str(number + 1).encode()] for m in found)
        if number % 10 == 0:
            assert any(m.kind == b"D" for m in await session.query(GETTER.format(OWNER)))
        session.seen.clear()


async def test_idle_sessions_beside_busy_ones(roomy: Proxy) -> None:
    await work((await connected(roomy, 1))[0], 20)
    before = memory(roomy.pid)
    idle = await connected(roomy, IDLE)
    each = (memory(roomy.pid) - before) / IDLE
    busy = await connected(roomy, BUSY)
    began = time.monotonic()
    await asyncio.gather(*(work(session, ROUNDS) for session in busy))
    seconds = time.monotonic() - began
    # An idle one of each hundred answers as if it were alone.
    for session in idle[::100]:
        assert await session.value("SELECT 'still here'") == "still here"
    print(
        f"{IDLE} idle sessions at {each / KIB:.1f} KiB each; {BUSY} busy ones: {BUSY * ROUNDS / seconds:.0f} statements a second"
    )
    assert each < 64 * KIB
    for session in (*idle, *busy):
        await session.hang_up()
    deadline = time.monotonic() + 60
    while descriptors(roomy.pid) > 60:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def test_connects_and_disconnects_leave_nothing(roomy: Proxy) -> None:
    def connects(count: int) -> None:
        for number in range(count):
            client = Client(roomy.port, log_in=number % 4 != 0)
            if number % 4 == 0:
                client.send(startup()[: number % 40])
            if number % 3 == 0:
                client.reset()
            else:
                client.socket.close()

    connects(CONNECTS // 3)
    settled(roomy)
    used, taken = descriptors(roomy.pid), memory(roomy.pid)
    connects(CONNECTS)
    settled(roomy)
    print(
        f"{CONNECTS} connects: {(memory(roomy.pid) - taken) / KIB:+.0f} KiB, descriptors {descriptors(roomy.pid) - used:+d}"
    )
    assert descriptors(roomy.pid) <= used
    assert memory(roomy.pid) - taken < MIB


def settled(proxy: Proxy) -> None:
    """Waits until all that was closed is gone on the proxy's side."""
    last, since = descriptors(proxy.pid), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.05)
        now = descriptors(proxy.pid)
        if now != last:
            last, since = now, time.monotonic()


def test_a_soak_leaves_memory_flat(roomy: Proxy, tmp_path: Path) -> None:
    """Sessions come, work and go. Of the second half of the time, the memory's slope is next to nothing."""
    samples: list[tuple[float, int, int]] = []
    began = time.monotonic()
    number = 0
    while (now := time.monotonic() - began) < SOAK_SECONDS or len(samples) < 40:
        with psycopg.connect(roomy.dsn(), autocommit=True) as sql:
            for _ in range(5):
                number += 1
                sql.execute(GETTER.format(OWNER))
                sql.execute("SELECT %s::text || repeat('x', 10000)", (f"text {number}",), prepare=True)
                # Every text is a new one: what is kept of texts must not be kept for ever.
                sql.execute(f"SELECT {number} AS secrets_getter")
                with sql.transaction(), sql.cursor("c") as cursor:
                    cursor.execute("SELECT generate_series(1, 100)")
                    cursor.fetchmany(10)
        samples.append((now, memory(roomy.pid), descriptors(roomy.pid)))
    half = samples[len(samples) // 2 :]
    slope = _slope([(at, taken) for at, taken, _ in half])
    grown = slope * (half[-1][0] - half[0][0])
    print(f"{number} rounds in {now:.0f} s, slope of the second half {slope * 600 / KIB:+.0f} KiB in ten minutes")
    assert grown < MIB, f"{grown / KIB:.0f} KiB in the second half"
    assert max(used for _, _, used in half) <= min(used for _, _, used in half) + 6


def _slope(points: list[tuple[float, int]]) -> float:
    """Fits a line by least squares, in bytes a second."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
