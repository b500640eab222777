"""Measures the latency of one session's `select 1` while other sessions send anything: the victim is a process of its
own.

Run as a program it is the victim: `python -m tests.support.stall PORT DATABASE USER SECONDS select|proxy` writes its
latencies in milliseconds, a line each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.raw import Address, Raw, query, startup


@dataclass(frozen=True)
class Latencies:
    """Milliseconds."""

    median: float
    p95: float
    worst: float

    @classmethod
    def of(cls, measured: Sequence[float]) -> Latencies:
        ordered = sorted(measured)
        return cls(ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)], ordered[-1])


async def _victim(address: Address, seconds: float, asking: str) -> Latencies:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.stall", str(address.port), address.database, address.user, str(seconds), asking,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begins\n"
    told, _ = await process.communicate()
    return Latencies.of([float(line) for line in told.split()])


async def idle(address: Address, seconds: float, asking: str = "select") -> Latencies:
    """Measures the victim's latencies on an idle proxy. `asking`: "select" asks the backend, "proxy" the proxy
    alone."""
    return await _victim(address, seconds, asking)


async def attacked(
    address: Address,
    texts: Sequence[str],
    seconds: float,
    attackers: int = 4,
    pipelined: int = 1,
    before: str = "",
    asking: str = "select",
) -> tuple[Latencies, int]:
    """Measures them while each attacker sends the texts again and again, several at a time; also counts the texts."""
    sent = 0

    async def attack(number: int) -> None:
        nonlocal sent
        # Each begins elsewhere, so that together they soon come to all of them.
        first = number * len(texts) // attackers
        raw = await Raw.connect(address)
        if before:
            await raw.query(before)
        # Each text is another one: nothing is to be had from a cache, as a comment with a backslash is not left out.
        for turn in itertools.count():
            chosen = [texts[(first + turn * pipelined + place) % len(texts)] for place in range(pipelined)]
            sent += pipelined
            await raw.send(*(query(rf"{text} --\{number} {turn} {place}") for place, text in enumerate(chosen)))
            got = await raw.ready(pipelined)
            if not got[-1].kind:
                return
            raw.seen.clear()

    tasks = [asyncio.create_task(attack(number)) for number in range(attackers)]
    try:
        await asyncio.sleep(0.5)
        found = await _victim(address, seconds, asking)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return found, sent


def main() -> None:
    port, database, user, seconds = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(startup({"user": user, "database": database}))
    _until_ready(sock)
    if sys.argv[5] == "proxy":
        _ask_the_proxy(port, seconds)
        return
    asked = query("SELECT 1")
    print("begins", flush=True)
    latencies: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        sock.sendall(asked)
        _until_ready(sock)
        latencies.append((time.monotonic() - began) * 1000)
        time.sleep(0.002)
    print("\n".join(map(str, latencies)))


def _ask_the_proxy(port: int, seconds: float) -> None:
    """Sends an SSLRequest, which the proxy answers itself in its event loop, without a backend."""
    print("begins", flush=True)
    latencies: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            began = time.monotonic()
            sock.sendall(struct.pack("!ii", 8, 80877103))
            if sock.recv(1) not in (b"N", b"S"):
                raise SystemExit("the proxy did not answer")
            latencies.append((time.monotonic() - began) * 1000)
        time.sleep(0.002)
    print("\n".join(map(str, latencies)))


def _until_ready(sock: socket.socket) -> None:
    """Reads up to a ReadyForQuery, which is six bytes and the last that the backend says."""
    data = b""
    while data[-6:-1] != b"Z\0\0\0\5":
        more = sock.recv(65536)
        if not more:
            raise SystemExit("the session ended")
        data += more


if __name__ == "__main__":
    main()
