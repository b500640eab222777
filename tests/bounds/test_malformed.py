"""Sends streams that no client should send to a live proxy, with fifty well-behaved sessions beside them: none of those
is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
import time

from tests.bounds.wire import startup
from tests.support import raw
from tests.support.process import descriptors
from tests.support.proxy import Proxy
from tests.support.raw import Address, Raw

BYSTANDERS = 50
STREAMS = 400 * int(os.environ.get("BOUNDS_SCALE", "1"))
# What the proxy opens once and keeps: with the first row of the log, the connection next to the journal's.
KEPT = 1
KINDS = b"QPBDECSHFdcfXpRZTKNAGWVnstIv123\0\xff!"
TEXTS = [
    "SELECT 1", "", "BEGIN", "ROLLBACK", "COPY (SELECT 1) TO STDOUT", "CREATE TEMP TABLE IF NOT EXISTS t (x text)",
    "COPY t FROM STDIN", "SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'malformed')", "broken", "SELECT 1/0",
    "RESET ALL", "DISCARD ALL", "SELECT encrypted_secrets.secrets_getter($1, $2)", "DECLARE c CURSOR FOR SELECT 1", "FETCH 1 FROM c",
]  # fmt: skip


def a_message(dice: random.Random) -> bytes:
    """Draws something like a message: well formed, cut, padded, with a length that lies, or mere bytes."""
    text, name = dice.choice(TEXTS), dice.choice(["", "a", "b" * 70, "\u00e9"])
    good = dice.choice(
        [
            raw.query(text), raw.parse(text, name), raw.bind([b"1", None, b"x" * dice.randrange(100)], portal=name, name=name),
            raw.describe(name, dice.choice([b"P", b"S", b"?"])), raw.execute(name, dice.randrange(3)), raw.close(name),
            raw.SYNC, raw.FLUSH, raw.COPY_DONE, raw.copy_data("1\n"), raw.copy_fail(), raw.function_call(2078, ["a", "b", "f"]),
        ]
    )  # fmt: skip
    way = dice.randrange(12)
    if way < 6:
        return good
    if way == 6:
        return good[: dice.randrange(len(good))]
    if way == 7:
        return good[:1] + struct.pack("!I", dice.choice([0, 3, 4, 5, 1000, 70_000, 0x7FFFFFFF, 0xFFFFFFFF])) + good[5:]
    if way == 8:
        spot = dice.randrange(len(good))
        return good[:spot] + bytes([dice.randrange(256)]) + good[spot + 1 :]
    if way == 9:
        return dice.randbytes(dice.randrange(40))
    if way == 10:
        return bytes([dice.choice(KINDS)]) + struct.pack("!I", 4 + 20) + dice.randbytes(20)
    return raw.TERMINATE + good


async def misbehave(port: int, dice: random.Random) -> None:
    """Plays one connection: perhaps a login, then a stream, read or not, and an end of one kind or another."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if dice.random() < 0.8:
                writer.write(startup())
                if dice.random() < 0.7:
                    async with asyncio.timeout(10):
                        await reader.readuntil(b"Z\0\0\0\5")
            else:
                writer.write(dice.choice([dice.randbytes(30), struct.pack("!ii", 8, 80877103) + dice.randbytes(9)]))
            stream = b"".join(a_message(dice) for _ in range(dice.randrange(1, 40)))
            while stream:
                size = dice.choice([1, 7, 100, 10_000])
                writer.write(stream[:size])
                stream = stream[size:]
                if dice.random() < 0.1:
                    await asyncio.sleep(0)
            if dice.random() < 0.5:
                async with asyncio.timeout(0.3):
                    while await reader.read(65536):
                        pass
        finally:
            if dice.random() < 0.5:
                writer.transport.abort()
            writer.close()


async def behave(session: Raw, over: asyncio.Event) -> tuple[int, float]:
    """Asks, checks every answer, and says how often and how long the longest took."""
    rounds, slowest = 0, 0.0
    while not over.is_set():
        began = time.monotonic()
        mark = f"{id(session)}-{rounds}"
        answer = await session.extended("SELECT $1::text", [mark])
        assert [m.kind for m in answer] == [b"1", b"2", b"T", b"D", b"C", b"Z"]
        assert answer[3].columns() == [mark.encode()]
        slowest = max(slowest, time.monotonic() - began)
        session.seen.clear()
        rounds += 1
        await asyncio.sleep(0.02)
    return rounds, slowest


async def test_nobody_else_notices(quiet: Proxy) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    used = descriptors(quiet.pid)
    address = Address("127.0.0.1", quiet.port, "app")
    sessions = [await Raw.connect(address) for _ in range(BYSTANDERS)]
    over = asyncio.Event()
    good = [asyncio.create_task(behave(session, over)) for session in sessions]
    for _ in range(STREAMS // 10):
        await asyncio.gather(*(misbehave(quiet.port, random.Random(dice.random())) for _ in range(10)))
        assert quiet.running
    over.set()
    done = await asyncio.gather(*good)
    assert min(rounds for rounds, _ in done) > 0
    assert max(slowest for _, slowest in done) < 5, f"seed {seed}"
    for session in sessions:
        await session.terminate()
    deadline = time.monotonic() + 60
    while descriptors(quiet.pid) > used + KEPT:
        assert time.monotonic() < deadline, f"seed {seed}: {descriptors(quiet.pid)} descriptors, {used} before"
        await asyncio.sleep(0.05)
    said = quiet.text()
    assert "internal error" not in said and "Traceback" not in said, f"seed {seed}: {said[-2000:]}"
