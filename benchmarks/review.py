"""Measures reviewing on a log of many rows in a month: every command of `secretproxy audit` and every view.

Rows, as a chain of one instance, are loaded with COPY into a private server; `--rows` is 5,000,000 by default.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import itertools
import json
import random
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg

from secretproxy.audit import chain, counting, review
from secretproxy.audit.columns import CHAINED
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.audit.unused import unused
from secretproxy.audit.verify import verify_database
from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import install
from secretproxy.session.events import Event, Identity

# Every owner has some secrets of its own, mostly used by one login, as the tenants of an application do.
OWNERS, SECRETS, USERS, OWN = 5_000, 200, 40, 8
# As a log of that size has them: PostgreSQL's memory settings are for machines of long ago.
SERVER = {
    "shared_buffers": "1GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "maintenance_work_mem": "512MB",
    "work_mem": "16MB",
}


PAST = """DO $$ DECLARE first timestamp := date_trunc('month', now() AT TIME ZONE 'UTC') - interval '{ago} months'; BEGIN
EXECUTE format('CREATE TABLE secretproxy.access_log_%s PARTITION OF secretproxy.access_log FOR VALUES FROM (%L) TO (%L)',
               to_char(first, 'YYYY_MM'), first AT TIME ZONE 'UTC', (first + interval '1 month') AT TIME ZONE 'UTC');
EXECUTE format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.access_log_%s
                FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only()', to_char(first, 'YYYY_MM')); END $$"""
FUNCTION, VERIFY = (
    "encrypted_secrets.secrets_getter(uuid,text,text)\tread",
    "encrypted_secrets.secrets_verify(uuid,text,text)\tverify",
)


def lines(count: int) -> Iterator[bytes]:
    """Yields COPY lines (columns of CHAINED, then the hashes) of a chain that began 30 days ago and ends now: attempts
    and their outcomes.
    """
    draw = random.Random(7)
    bits, choice = draw.getrandbits, draw.randrange

    def identifier() -> str:
        text = f"{bits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    owners = [identifier() for _ in range(OWNERS)]
    instance, previous = str(uuid.uuid4()), chain.GENESIS
    began = datetime.now(UTC) - timedelta(days=30)
    step = timedelta(days=30) / count
    for seq in range(1, count + 1):
        statement, end = divmod(seq - 1, 2)
        if statement % 20 == 0 and not end:
            session, home = identifier(), choice(USERS)
            user = f"user_{home}"
        moment = (began + seq * step).isoformat(sep=" ", timespec="microseconds")[:26].rstrip("0").removesuffix(".")
        if not end:
            owner = choice(OWNERS)
            if choice(20):
                owner += home - owner % USERS
            failed = choice(500) == 0
        what, how = (
            ("\\N\t\\N\t\\N\t\\N\t\\N\t\\N\textended\t\\N", ("error\t22023" if failed else "ok\t\\N") + "\t0.0004\t1")
            if end
            else (
                f"{FUNCTION if choice(10) else VERIFY}\t{owners[owner % OWNERS]}\t{{secret_{(owner * 7 + choice(OWN)) % SECRETS}}}\t\\N\t\\N\textended\t50fde20626009aba",
                "\\N\t\\N\t\\N\t\\N",
            )
        )
        event = "outcome" if end else "attempt"
        line = (
            f"{instance}\t{seq}\t{identifier()}\t{moment}+00\t{event}\t{session}\t{statement}\t{what}\t{user}\t\\N\t\\N\tapp\tservice\t\\N\t1\tf\t{how}"
        ).encode()
        made = chain.link(previous, line)
        yield b"%b\t\\\\x%b\t\\\\x%b\n" % (line, previous.hex().encode(), made.hex().encode())
        previous = made


def take(made: Iterator[bytes]) -> bytes:
    return b"".join(itertools.islice(made, 2000))


def load(dsn: str, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT secretproxy.access_log_partitions()")
        for ago in (1, 2):
            connection.execute(PAST.format(ago=ago))
        with connection.cursor().copy(
            f"COPY secretproxy.access_log ({', '.join(CHAINED)}, prev_hash, row_hash) FROM STDIN"
        ) as copy:
            for batch in iter(functools.partial(take, lines(count)), b""):
                copy.write(batch)
        connection.execute("VACUUM ANALYZE secretproxy.access_log")


async def ask(dsn: str, wanted: review.Filter, times: int = 5) -> tuple[float, int]:
    """Measures the median milliseconds of a page of 100, and its rows."""
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


async def blocks(dsn: str, wanted: review.Filter) -> int:
    """Blocks that a page of 100 touches: what its time at any size of the log depends on."""
    connection = await review.connect(dsn)
    read = 0
    try:
        for part in review.questions(wanted, 100):
            asked = dataclasses.replace(part, sql=f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {part.sql}")
            (plan,) = json.loads((await review.quick(connection, asked))[0][0])
            read += int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
    finally:
        await connection.close()
    return read


async def count(dsn: str, what: str, work: Callable[[Any], Awaitable[Any]], times: int = 3) -> None:
    """Measures the median seconds of a command's work."""
    taken = []
    for _ in range(times):
        connection = await review.connect(dsn)
        try:
            began = time.perf_counter()
            await work(connection)
            taken.append(time.perf_counter() - began)
        finally:
            await connection.close()
    print(f"{what:34} {statistics.median(taken):9.2f} s", flush=True)


VIEWS = (
    "secret_access", "secret_access_log", "accesses_by_day", "accesses_by_secret", "first_accesses", "failed_accesses", "direct_accesses",
    "many_verifies", "unusual_events",
)  # fmt: skip


async def measure_counts(dsn: str) -> None:
    """Counts, events, streams and views."""
    week = datetime.now(UTC) - timedelta(days=7)

    async def drained(rows: Any) -> None:
        async for _ in rows:
            pass

    for name, wanted in {
        "a month": review.Filter(), "7 days": review.Filter(since=week), "one user": review.Filter(user="user_7"),
        "errors": review.Filter(outcome=("error",)),
    }.items():  # fmt: skip
        await count(
            dsn, f"audit stats, {name}", functools.partial(counting.stats, wanted=wanted, limit=10, evening=22, morning=6)
        )
    await count(
        dsn,
        "audit bursts",
        functools.partial(counting.bursts, wanted=review.Filter(), window=timedelta(minutes=10), at_least=20, limit=10),
    )
    for by in counting.KEYS:
        await count(
            dsn,
            f"audit compare --by {by}",
            functools.partial(counting.compare, one=review.Filter(until=week), other=review.Filter(since=week), by=by, limit=10),
        )
    before = datetime.now(UTC) - timedelta(days=20)
    await count(dsn, "audit unused --days 20", lambda connection: unused(connection, connection, before))
    await count(dsn, "audit events", lambda connection: drained(review.events(connection, review.Filter(), limit=100)))
    day = review.Filter(since=datetime.now(UTC) - timedelta(days=1))
    await count(dsn, "audit list --json, a day", lambda connection: drained(review.accesses(connection, day)))
    await count(dsn, "audit export, a day", lambda connection: drained(review.rows(connection, day)))
    connection = await review.connect(dsn)
    session = await connection.fetchval("SELECT session_id FROM secretproxy.access_log ORDER BY at DESC LIMIT 1")
    await connection.close()
    await count(dsn, "audit show, a session", lambda connection: drained(review.story(connection, session)))
    await count(dsn, "how many more, anything", lambda connection: review.how_many_accesses(connection, review.Filter(), 101))
    for view in VIEWS:
        await count(
            dsn,
            f"view {view}, whole",
            lambda connection, view=view: connection.fetch(f"SELECT * FROM secretproxy.{view} OFFSET 100000000"),
        )
        if view == "secret_access":
            page = "SELECT * FROM secretproxy.secret_access ORDER BY at DESC LIMIT 100"
            await count(dsn, f"view {view}, newest 100", lambda connection, page=page: connection.fetch(page))


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
        "errors": review.Filter(outcome=("error",)),
        "errors or lost": review.Filter(outcome=("error", "lost")),
        "ended well": review.Filter(outcome=("ok",)),
        "not ended": review.Filter(outcome=("unknown",)),
        "one application": review.Filter(application="none such"),
        "one jwt user": review.Filter(jwt_user="6a8f3b1e"),
        "one client": review.Filter(client="10.0.0.7"),
        "one function": review.Filter(function="secrets_delete"),
        "anything": review.Filter(),
    }.items():
        taken, rows = await ask(dsn, wanted)
        print(f"audit list, {name:22} {taken:9.1f} ms  {rows} rows, {await blocks(dsn, wanted)} blocks read")
    began, used = time.perf_counter(), time.process_time()
    report = await verify_database(dsn, [], None, lambda done, total: None)
    taken, used = time.perf_counter() - began, time.process_time() - used
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"audit verify                       {report.rows / taken:9,.0f} rows a second, {report.rows / used:,.0f} a CPU second of its own"
    )
    for finding in report.findings[:3]:
        print(f"  {finding}")
    print(f"                                   sound: {report.sound}, {count:,} rows in the log, {most} MB of memory at most")


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
            ended = Event("outcome", who, number, outcome="ok")
            future = journal.append([Event("call", who, number, "f()", "read", uuid.uuid4(), (name,)), ended], wait=True)
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
    with PrivateServer(find_postgres(), settings=SERVER) as server, tempfile.TemporaryDirectory() as directory:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE app")
        asyncio.run(install(server.dsn("app"), Path(directory) / "secretproxy.key", direct_calls="log"))
        began = time.perf_counter()
        load(server.dsn("app"), arguments.rows)
        print(f"loaded {arguments.rows:,} rows in {time.perf_counter() - began:.0f} s")
        asyncio.run(measure(server.dsn("app"), arguments.rows))
        asyncio.run(measure_counts(server.dsn("app")))
        asyncio.run(follow(server.dsn("app")))


if __name__ == "__main__":
    main()
