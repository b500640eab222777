"""Measures reviewing on a log of many rows: `audit verify` and `audit list` by owner, secret, user and last hour.

Rows are made by the journal's own encoder and loaded with COPY into a private server; `--rows` is 5,000,000 by default.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg

from secretproxy.audit import chain, review
from secretproxy.audit.journal import Journal
from secretproxy.audit.rows import CHAINED_AT, COLUMNS, PREV_HASH, ROW_HASH, NameMask, row
from secretproxy.audit.verify import verify_database
from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import install
from secretproxy.session.events import Event, Identity

OWNERS, SECRETS, USERS = 5_000, 200, 40


def events(count: int, rows_of_a_session: int = 40) -> Iterator[tuple[Event, float]]:
    draw = random.Random(7)
    owners = [uuid.UUID(int=draw.getrandbits(128)) for _ in range(OWNERS)]
    made = 0
    while made < count:
        who = Identity(uuid.UUID(int=draw.getrandbits(128)), f"user_{draw.randrange(USERS)}", "app", "service", None, 1, False)
        for number in range(rows_of_a_session // 2):
            attempt = Event("attempt", who, number, "encrypted_secrets.secrets_getter(uuid,text,text)", "read")
            attempt.owner_id, attempt.secret_names = draw.choice(owners), (f"secret_{draw.randrange(SECRETS)}",)
            attempt.protocol, attempt.fingerprint, attempt.encoding = "extended", "50fde20626009aba", None
            yield attempt, 0.0
            yield Event("outcome", who, number, outcome="ok", calls=1, protocol="extended"), 0.0004
            made += 2


def lines(count: int) -> Iterator[bytes]:
    """COPY lines of a chain that ends now and began 30 days ago."""
    mask, instance = NameMask(200, (), b"k" * 32), uuid.uuid4()
    began = datetime.now(UTC) - timedelta(days=30)
    step = timedelta(days=30) / count
    previous = chain.GENESIS
    for seq, (event, duration) in enumerate(events(count), 1):
        columns = row(
            event, mask, instance=instance, seq=seq, at=began + seq * step, duration=duration or None, row_id=uuid.uuid4()
        )
        columns[PREV_HASH] = previous
        previous = columns[ROW_HASH] = chain.link(previous, chain.encode([columns[place] for place in CHAINED_AT]))
        yield chain.encode([f"\\x{value.hex()}" if isinstance(value, bytes) else value for value in columns]) + b"\n"


def load(dsn: str, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT secretproxy.access_log_partitions()")
        with connection.cursor().copy(f"COPY secretproxy.access_log ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for line in lines(count):
                copy.write(line)
        connection.execute("VACUUM ANALYZE secretproxy.access_log")


async def ask(dsn: str, wanted: review.Filter, times: int = 5) -> tuple[float, int]:
    """Median milliseconds of a page of 100, and its rows."""
    connection = await review.connect(dsn)
    taken = []
    found: list[Any] = []
    try:
        for _ in range(times):
            began = time.perf_counter()
            found = [access async for access in review.accesses(connection, wanted, 100)]
            taken.append(time.perf_counter() - began)
    finally:
        await connection.close()
    return statistics.median(taken) * 1000, len(found)


async def measure(dsn: str, count: int) -> None:
    connection = await asyncpg.connect(dsn)
    sample = await connection.fetchrow(
        "SELECT owner_id, secret_names[1] AS secret FROM secretproxy.access_log WHERE event = 'attempt' LIMIT 1"
    )
    await connection.close()
    hour = datetime.now(UTC) - timedelta(hours=1)
    for name, wanted in {
        "one owner": review.Filter(owner=str(sample["owner_id"])),
        "one secret": review.Filter(secret=sample["secret"]),
        "one owner and secret": review.Filter(owner=str(sample["owner_id"]), secret=sample["secret"]),
        "one user": review.Filter(user="user_7"),
        "last hour": review.Filter(since=hour),
        "anything": review.Filter(),
    }.items():
        taken, rows = await ask(dsn, wanted)
        print(f"audit list, {name:22} {taken:9.1f} ms  {rows} rows")
    began = time.perf_counter()
    report = await verify_database(dsn, [], None, lambda done, total: None)
    taken = time.perf_counter() - began
    print(
        f"audit verify                       {report.rows / taken:9,.0f} rows a second, sound: {report.sound}, {count:,} rows in the log"
    )


async def follow(dsn: str, times: int = 50) -> None:
    """Milliseconds from an event's commit to its line of `audit tail`."""
    tail = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "secretproxy",
        "audit",
        "tail",
        "--json",
        "--dsn",
        dsn,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert tail.stdout is not None
    assert tail.stderr is not None
    await tail.stderr.readline()

    async def connect() -> Any:
        return await asyncpg.connect(dsn)

    journal = Journal(connect, NameMask(200, (), b"k" * 32))
    await journal.start()
    who = Identity(uuid.uuid4(), "user", "app")
    taken = []
    try:
        for number in range(times):
            name = f"tail {number}"
            future = journal.append([Event("call", who, number, "f()", "read", uuid.uuid4(), (name,))], wait=True)
            assert future is not None
            await future
            began = time.perf_counter()
            while name not in (await tail.stdout.readline()).decode():
                pass
            taken.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(random.random() * 0.1)
    finally:
        tail.terminate()
        await tail.wait()
        await journal.close()
    print(
        f"audit tail, commit to line         {statistics.median(taken):9.1f} ms median, {max(taken):.1f} ms at most, of {times}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    arguments = parser.parse_args()
    with PrivateServer(find_postgres()) as server, tempfile.TemporaryDirectory() as directory:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE app")
        asyncio.run(install(server.dsn("app"), Path(directory) / "secretproxy.key"))
        began = time.perf_counter()
        load(server.dsn("app"), arguments.rows)
        print(f"loaded {arguments.rows:,} rows in {time.perf_counter() - began:.0f} s")
        asyncio.run(measure(server.dsn("app"), arguments.rows))
        asyncio.run(follow(server.dsn("app")))


if __name__ == "__main__":
    main()
