"""Measures the console on a log of many rows in a month: each page's first content and the whole of it, and the memory
of its process under open live pages.

Rows are those of `review.py`. The console is a process of its own, and an auditor signs in to it as a person does.
First content is the page's heading; what the page waits for says so meanwhile, and the first of its parts has a figure
beside it. The pages are those that the console has: one that is not measured here ends the run before it begins. Writes
a section of benchmarks/RESULTS.md. `--only TEXT` measures some and writes nothing, nor does a smaller log. `--log`
takes one that is there already. The whole run is meant to take less than a quarter of an hour."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import psycopg
import results
from review import CORES, ROWS, SERVER, load

from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.connections import read
from secretproxy.console.pages import PAGES
from secretproxy.demo.postgres import PrivateServer, find_postgres, free_port
from secretproxy.install import install
from secretproxy.session.events import Event, Identity

# Seconds to a page's first content, and to the end of one that goes on where another ended.
FIRST, NEXT = 0.5, 0.5
AUDITORS, TAILS_OF_ONE = 17, 3
PASSWORD = "benchmark"
HEADING = b"</h1>"
# The first part of a page that is there: something other than what it waits for.
PART = re.compile(rb'class="part" id="[a-z-]+">(?:\s*<p class="waiting".*?</p>)?\s*(?!<p class="waiting")\S', re.DOTALL)
# What takes longer than this in seconds is waited for to its end a few times, and a file is asked for a few times.
SLOW, FEW = 1.0, 3
NAME = re.compile(rb">live-(\d+)-live<")


@dataclass(frozen=True)
class Case:
    """Holds a request, and what its first content has."""

    what: str
    path: str
    first: bytes = HEADING
    # Within how many seconds the whole of it is to be there; None: as long as it takes.
    whole: float | None = None


@dataclass(frozen=True)
class Sample:
    """Holds what pages are asked about."""

    owner: str
    secret: str
    session: str
    middle: str
    last: datetime


def cases(one: Sample) -> dict[str, list[Case]]:
    """Gives what is measured of each page, by its path."""
    secret = urlencode({"owner": one.owner, "name": one.secret})
    hour, day, week = ((one.last - timedelta(**ago)).isoformat() for ago in ({"hours": 1}, {"days": 1}, {"days": 7}))
    sides = urlencode({"by": "secret", "a_since": week, "a_until": day, "b_since": day})
    return {
        "/": [Case("a month", "/?span=30d"), Case("a week", "/"), Case("an hour", "/?span=1h")],
        "/accesses": [
            Case("newest", "/accesses", whole=NEXT),
            Case("in the middle of the month", f"/accesses?before={one.middle}", whole=NEXT),
            Case("one user", "/accesses?user=user_7", whole=NEXT),
            Case("one secret", f"/accesses?owner={one.owner}&secret={one.secret}", whole=NEXT),
            Case("errors", "/accesses?outcome=error"),
            Case("not ended", "/accesses?outcome=unknown"),
            Case("an application that is not there", "/accesses?application=none"),
        ],
        "/live": [Case("begins", f"/live?{urlencode({'known': one.last.isoformat()})}", b"event: there")],
        "/download": [
            Case("a day, CSV, first line", f"/download?{urlencode({'format': 'csv', 'since': day})}", b"\n"),
            Case("an hour, JSON lines, first line", f"/download?{urlencode({'format': 'jsonl', 'since': hour})}", b"\n"),
        ],
        "/export": [Case("an hour, first bytes", f"/export?{urlencode({'since': hour})}", b"PK")],
        "/secret": [Case("one secret", f"/secret?{secret}"), Case("of any owner", f"/secret?name={one.secret}")],
        "/who/{kind}": [
            Case("a user, a month", "/who/user?name=user_7"), Case("an application, a month", "/who/application?name=service"),
            Case("a client, a month", "/who/client?name=10.0.0.7"),
        ],
        "/session/{session}": [Case("one session", f"/session/{one.session}", whole=NEXT)],
        "/incident": [Case("a week of a user", f"/incident?{urlencode({'user': 'user_7', 'since': week})}")],
        "/incident/download": [
            Case("a week of a user", f"/incident/download?{urlencode({'user': 'user_7', 'since': week})}", b"PK")
        ],
        "/findings": [Case("a week", "/findings"), Case("a month", "/findings?span=30d")],
        "/compare": [Case("a week and a day", f"/compare?{sides}")],
        "/reviews": [Case("what is not signed off", "/reviews")],
        "/integrity": [Case("before a verification", "/integrity")],
        "/doctor": [Case("the login's view", "/doctor")],
    }  # fmt: skip


FILES = ("/download", "/export", "/incident/download")
# What is not waited for to its end: it goes on, or is as long as what it holds.
ENDLESS = ("/live", *FILES)
# Both rest on a verification of the whole log, which `audit verify` is the figure of.
NOT_PAGES = {"/integrity/report", "/integrity/evidence"}


def check_pages() -> None:
    """Raises SystemExit if a page has no case here."""
    nothing = Sample("", "", "", "", datetime.now(UTC))
    paths = {entry.path for entry in PAGES if entry.method == "GET"} - NOT_PAGES
    if missing := paths ^ set(cases(nothing)):
        raise SystemExit(f"benchmarks/console.py: to be measured, and not: {', '.join(sorted(missing))}")


def auditor(number: int) -> str:
    return f"bench_auditor_{number}"


class Reader:
    """Somebody who is signed in."""

    def __init__(self, port: int, user: str) -> None:
        self.port = port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/sign-in", urlencode({"user": user, "password": PASSWORD}), headers)
        answer = connection.getresponse()
        said = answer.read().decode()
        if answer.status != 303:
            raise SystemExit(f"{user} cannot sign in: {re.sub('<[^>]*>', ' ', said)[-300:]}")
        self.cookie = (answer.headers["set-cookie"] or "").partition(";")[0]

    @contextlib.contextmanager
    def ask(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """Asks for a path. Raises SystemExit for another answer than a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie})
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status}: {re.sub('<[^>]*>', ' ', answer.read().decode())[-300:]}")
            yield answer
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        """Returns when the console can record what is read, which on a busy machine takes a while."""
        for left in range(60, -1, -1):
            try:
                with self.ask("/accesses?since=1m"):
                    return
            except SystemExit:
                if not left:
                    raise
                time.sleep(1)

    def measure(self, case: Case, *, whole: bool) -> tuple[float, float, float]:
        """Gives the seconds until the first content is there, the first part, and the end; 0.0 for what was not waited
        for or is not there."""
        began, first, figures, kept = time.perf_counter(), 0.0, 0.0, b""
        with self.ask(case.path) as answer:
            while part := answer.read1(65536):
                now = time.perf_counter() - began
                if not figures:
                    kept += part
                    if not first and case.first in kept:
                        first = now
                        if not whole:
                            return first, 0.0, 0.0
                    if PART.search(kept):
                        figures = now
                if first and b'role="alert"' in part and case.first == HEADING:
                    raise SystemExit(f"{case.path}: a part failed: {re.sub('<[^>]*>', ' ', part.decode())[:300]}")
        if not first:
            raise SystemExit(f"{case.path}: no content: {kept[:200]!r}")
        return first, figures, time.perf_counter() - began


class Measuring:
    """Measures pages, and holds the table of them."""

    def __init__(self, log: str, port: int, only: str | None, times: int) -> None:
        self.log = log
        # When each access was committed, and after how many seconds each page had it.
        self.written: dict[int, float] = {}
        self.taken: list[float] = []
        self.reader = Reader(port, auditor(0))
        self.reader.wait_until_ready()
        self.only = only
        self.times = times
        self.table = results.Table()

    def page(self, path: str, case: Case) -> None:
        work = f"{path}, {case.what}"
        if self.only is not None and self.only not in work:
            return
        endless, slow = path in ENDLESS, False
        firsts, parts, wholes = [], [], []
        for number in range(min(self.times, FEW) if path in FILES else self.times):
            first, part, whole = self.reader.measure(case, whole=not endless and not (slow and number >= FEW))
            firsts.append(first * 1000)
            if part:
                parts.append(part)
            if whole:
                wholes.append(whole)
                slow = whole > SLOW
        note = f"first part after {statistics.median(parts):.2f} s, " if parts else ""
        note += f"all of it after {statistics.median(wholes):.2f} s, {max(wholes):.2f} s at most" if wholes else ""
        if len(wholes) > 1 and slow:
            note += f", of {len(wholes)}"
        if path in FILES:
            self.table.add(work, f"{statistics.median(firsts):.0f} ms", f"a file, not a page; of {len(firsts)}")
        else:
            self.table.goal(work, statistics.median(firsts), FIRST * 1000, least=False, digits=0, unit=" ms", note=note)
        if case.whole is not None:
            self.table.goal(f"{work}: all of it", statistics.median(wholes), case.whole, least=False, unit=" s")

    def tails(self, pid: int, port: int, seconds: float) -> None:
        """Measures the console's memory under open live pages."""
        count = AUDITORS * TAILS_OF_ONE
        work = f"memory under {count} live pages"
        if self.only is not None and self.only not in work:
            return
        path = f"/live?{urlencode({'known': datetime.now(UTC).isoformat()})}"
        ended = threading.Event()

        def follow(reader: Reader) -> None:
            with contextlib.suppress(OSError, http.client.HTTPException), reader.ask(path) as answer:
                there.release()
                while not ended.is_set() and (line := answer.readline()):
                    found = NAME.search(line)
                    if found is not None:
                        self.taken.append(time.perf_counter() - self.written[int(found[1])])

        there = threading.Semaphore(0)
        threads = []
        for number in range(AUDITORS):
            reader = Reader(port, auditor(number))
            threads += [threading.Thread(target=follow, args=(reader,), daemon=True) for _ in range(TAILS_OF_ONE)]
        for thread in threads:
            thread.start()
        for _ in threads:
            if not there.acquire(timeout=60):
                raise SystemExit("a live page did not begin")
        writing = threading.Thread(target=asyncio.run, args=(write(self.log, ended, self.written),), daemon=True)
        writing.start()
        time.sleep(min(60.0, seconds / 3))
        sizes = [memory(pid)]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(1)
            sizes.append(memory(pid))
        open_now = sum(thread.is_alive() for thread in threads)
        ended.set()
        writing.join(30)
        if open_now != count:
            raise SystemExit(f"{count - open_now} live pages ended")
        grown = sizes[-1] - sizes[0]
        note = f"{sizes[0]:.1f} MB, after {seconds:.0f} s {sizes[-1]:.1f} MB, {max(sizes):.1f} MB at most"
        self.table.goal(work, grown, 2.0, least=False, digits=1, unit=" MB more", note=note)
        note = f"{max(self.taken) * 1000:.0f} ms at most, {len(self.written)} accesses on {count} pages"
        median = statistics.median(self.taken) * 1000
        self.table.goal(
            "a live row, from its writing to the browser", median, 1000, least=False, digits=0, unit=" ms", note=note
        )


async def write(dsn: str, ended: threading.Event, written: dict[int, float]) -> None:
    """Writes two accesses a second."""

    async def connect() -> Any:
        return await asyncpg.connect(dsn)

    journal = Journal(connect, NameMask(200, (), b"k" * 32))
    await journal.start()
    who = Identity(uuid.uuid4(), "user", "app")
    try:
        for number in itertools.count():
            if ended.is_set():
                return
            call = Event("call", who, number, "f()", "read", uuid.uuid4(), (f"live-{number}-live",))
            future = journal.append([call, Event("outcome", who, number, outcome="ok")], wait=True)
            assert future is not None
            # From before it is committed: a page may have it before this process knows that it is.
            written[number] = time.perf_counter()
            await future
            await asyncio.sleep(0.5)
    finally:
        await journal.close()


def memory(pid: int) -> float:
    """Gives the megabytes that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) / 1024


def prepare(dsn: str) -> None:
    """Makes the logins: auditors with a password, and one that records what they read."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for number in range(AUDITORS):
            name = auditor(number)
            if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
                admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' IN ROLE secretproxy_auditor")
        if admin.execute("SELECT FROM pg_roles WHERE rolname = 'bench_writer'").fetchone() is None:
            admin.execute("CREATE ROLE bench_writer LOGIN IN ROLE secretproxy_writer")
        admin.execute("SELECT pg_reload_conf()")


def sample(dsn: str) -> Sample:
    """Finds something that the log has."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT owner_id, secret_names[1], session_id FROM secretproxy.access_log WHERE event IN ('attempt', 'access') ORDER BY at LIMIT 1"
        ).fetchone()
        ends = connection.execute(
            "SELECT min(at), max(at) FROM secretproxy.access_log WHERE event IN ('attempt', 'access')"
        ).fetchone()
    assert row is not None
    assert ends is not None
    middle = (ends[0] + (ends[1] - ends[0]) / 2).astimezone(UTC).replace(tzinfo=None)
    cursor = f"{middle.isoformat(timespec='microseconds')}_1_00000000-0000-0000-0000-000000000000"
    return Sample(str(row[0]), str(row[1]), str(row[2]), cursor, ends[1].astimezone(UTC))


@contextlib.contextmanager
def console(dsn: str, directory: Path) -> Iterator[tuple[int, int]]:
    """Runs a console over a log; gives its process and its port."""
    port, config = free_port(), directory / "secretproxy.toml"
    found = read(dsn)
    at = " ".join(
        f"{name}={value}"
        for name, value in (("host", "127.0.0.1"), ("port", found.get("port") or "5432"), ("dbname", found.database))
    )
    config.write_text(f'[audit]\ndsn = "{at} user=bench_writer"\n')
    command = [
        sys.executable,
        "-m",
        "secretproxy",
        "console",
        "--config",
        str(config),
        "--dsn",
        at,
        "--port",
        str(port),
    ]
    with (directory / "console.log").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit((directory / "console.log").read_text()[-500:])
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", metavar="TEXT", help="what has this in its name; nothing is written")
    parser.add_argument(
        "--times", type=int, default=20, help="times that each is asked for, of which the median counts"
    )
    parser.add_argument("--tails", type=float, default=150, metavar="SECONDS", help="time under open live pages")
    parser.add_argument(
        "--log", metavar="DSN", help="a log that is there, on a server that asks bench_auditor_* for passwords"
    )
    arguments = parser.parse_args()
    check_pages()
    load_average, began = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        dsn = arguments.log
        if dsn is None:
            server = stack.enter_context(PrivateServer(find_postgres(), settings=SERVER))
            dsn = server.dsn("app")
            with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
                connection.execute("CREATE DATABASE app")
            asyncio.run(install(dsn, Path(name) / "app.key", direct_calls="log"))
            loading = time.perf_counter()
            load(dsn, arguments.rows)
            print(f"loaded {arguments.rows:,} rows in {time.perf_counter() - loading:.0f} s", flush=True)
            rules = server.data / "pg_hba.conf"
            asked = "".join(f"host all {auditor(number)} 127.0.0.1/32 scram-sha-256\n" for number in range(AUDITORS))
            rules.write_text(asked + rules.read_text())
        prepare(dsn)
        found = sample(dsn)
        with console(dsn, Path(name)) as (pid, port):
            measuring = Measuring(dsn, port, arguments.only, arguments.times)
            for path, some in cases(found).items():
                for case in some:
                    measuring.page(path, case)
            measuring.tails(pid, port, arguments.tails)
        with psycopg.connect(dsn) as connection:
            version = str(connection.execute("SHOW server_version").fetchone()[0]).partition(" ")[0]  # type: ignore[index]
            rows = int(connection.execute("SELECT count(*) FROM secretproxy.access_log").fetchone()[0])  # type: ignore[index]
    print(f"took {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.only is None and rows >= ROWS:
        results.write("## The console", text(measuring.table, version, load_average, arguments.times))


def text(table: results.Table, version: str, load_average: float, times: int) -> str:
    """Gives the section of benchmarks/RESULTS.md."""
    return f"""Written by `make bench-console`: a month of {ROWS:,} rows, each page asked for {times} times, of which the median counts.
First content is the page's heading. What the page waits for says so meanwhile, and comes in order: its first part and all
of it have figures beside it, of 20 times, or of {FEW} where all of it takes longer than {SLOW:g} s.

{results.machine(CORES, version, load_average)}

| page | first content | |
| --- | --- | --- |
{table.markdown()}
"""


if __name__ == "__main__":
    main()
