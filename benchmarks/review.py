"""Measures reviewing on a log of many rows in a month: every command of `secretproxy audit` and every view.

Rows, as a chain of one instance, are loaded with COPY into a private server; `--rows` is 5,000,000 by default. A
command is run as a person runs it, in a process of its own; its CPU is that of this process and of all of the server's.
The commands are those that the command line registers, the views those that the database has: one that is not measured
here ends the run before it begins. Writes a section of benchmarks/RESULTS.md. `--only TEXT` measures some and writes
nothing, nor does a smaller log."""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import results

from secretproxy.audit import chain, counting
from secretproxy.audit.columns import CHAINED
from secretproxy.audit.journal import Journal
from secretproxy.audit.masking import NameMask
from secretproxy.cli.audit import app
from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import install
from secretproxy.session.events import Event, Identity

# Every owner has some secrets of its own, mostly used by one login, as the tenants of an application do.
OWNERS, SECRETS, USERS, OWN = 5_000, 200, 40, 8
ROWS = 5_000_000
# As a log of that size has them: PostgreSQL's memory settings are for machines of long ago.
CORES = len(os.sched_getaffinity(0))
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
# Of ten calls, eight read, one verifies and one writes. A read is one row, the others are an attempt and its outcome.
READER, *OTHERS = (
    f"encrypted_secrets.secrets_{name}\t{operation}"
    for name, operation in (
        ("getter(uuid,text,text)", "read"), ("verify(uuid,text,text)", "verify"), ("upsert(uuid,text,text)", "write"),
    )
)  # fmt: skip
NOTHING = "\\N\t\\N\t\\N\t\\N"


def lines(count: int) -> Iterator[bytes]:
    """Yields COPY lines (columns of CHAINED, then the hashes) of a chain that began 30 days ago and ends now: accesses,
    and attempts with their outcomes."""
    draw = random.Random(7)
    bits, choice = draw.getrandbits, draw.randrange

    def identifier() -> str:
        text = f"{bits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    owners = [identifier() for _ in range(OWNERS)]
    instance, previous = str(uuid.uuid4()), chain.GENESIS
    began = datetime.now(UTC) - timedelta(days=30)
    step = timedelta(days=30) / count

    def rows() -> Iterator[str]:
        """Yields each row from its event on."""
        for statement in itertools.count():
            if statement % 20 == 0:
                session, home = identifier(), choice(USERS)
            owner = choice(OWNERS)
            if choice(20):
                owner += home - owner % USERS
            ended = ("error\t22023" if choice(500) == 0 else "ok\t\\N") + "\t0.0004\t1"
            kind = choice(10)
            secret = f"{{secret_{(owner * 7 + choice(OWN)) % SECRETS}}}"
            call = f"{READER if kind > 1 else OTHERS[kind]}\t{owners[owner % OWNERS]}\t{secret}\t\\N\t\\N\textended\t50fde20626009aba"
            who = f"user_{home}\t\\N\t\\N\tapp\tservice\t\\N\t1\tf"
            here = f"{session}\t{statement}"
            if kind > 1:
                yield f"access\t{here}\t{call}\t{who}\t{ended}"
            else:
                yield f"attempt\t{here}\t{call}\t{who}\t{NOTHING}"
                yield f"outcome\t{here}\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\textended\t\\N\t{who}\t{ended}"

    for seq, row in enumerate(itertools.islice(rows(), count), 1):
        moment = (began + seq * step).isoformat(sep=" ", timespec="microseconds")[:26].rstrip("0").removesuffix(".")
        line = f"{instance}\t{seq}\t{identifier()}\t{moment}+00\t{row}".encode()
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
        # As the housekeeping of the proxies does while such a log grows.
        while connection.execute("SELECT secretproxy.keep_sums()").fetchone() == (True,):
            pass
        for table in ("sums", "sums_users", "sums_hours", "sums_secrets", "sums_open"):
            connection.execute(f"VACUUM ANALYZE secretproxy.{table}")  # type: ignore[call-overload]


@dataclass(frozen=True)
class Sample:
    """Holds what questions are asked about."""

    owner: str
    secret: str
    session: str
    day: str
    week: str
    hour: str
    directory: Path


@dataclass(frozen=True)
class Case:
    """Holds a command's arguments, and within how many seconds it is to end; None: as long as it takes, with progress
    shown."""

    what: str
    arguments: list[str]
    goal: float | None = 10
    # Whether it prints what is counted as so many rows a second.
    rows: bool = False


def cases(one: Sample) -> dict[str, list[Case]]:
    """Gives what is measured of each command."""
    pages = {
        "one owner": ["--owner", one.owner], "one secret": ["--secret", one.secret],
        "one owner and secret": ["--owner", one.owner, "--secret", one.secret], "one user": ["--user", "user_7"],
        "last hour": ["--since", one.hour], "errors": ["--outcome", "error"], "errors or lost": ["--outcome", "error,lost"],
        "ended well": ["--outcome", "ok"], "not ended": ["--outcome", "unknown"], "one application": ["--application", "none such"],
        "one jwt user": ["--jwt-user", "6a8f3b1e"], "one client": ["--client", "10.0.0.7"], "one function": ["--function", "secrets_delete"],
        "one session": ["--session", one.session], "one operation": ["--operation", "delete"], "anything": [],
    }  # fmt: skip
    export = str(one.directory / "day.jsonl")
    month = ["--month", (datetime.now(UTC) - timedelta(days=30)).strftime("%Y-%m")]
    return {
        "list": [
            *(Case(f"{name}, 100 rows", [*how, "--limit", "100"], 1.5) for name, how in pages.items()),
            Case("a day, --json", ["--since", one.day, "--json"]),
        ],
        "show": [Case("a session", [one.session], 1)],
        "events": [Case("100 rows", ["--limit", "100"], 1)],
        "stats": [
            Case("a month", ["--limit", "10"], 5), Case("a month, every row", ["--recount", "--limit", "10"], None), Case("7 days", ["--since", one.week, "--limit", "10"], 5),
            Case("one user", ["--user", "user_7", "--limit", "10"], 5), Case("errors", ["--outcome", "error", "--limit", "10"], 5),
        ],
        "bursts": [Case("a month", ["--limit", "10"])],
        "compare": [
            Case(f"by {by}", ["--by", by, "--until", one.week, "--with-since", one.week, "--limit", "10"]) for by in counting.KEYS
        ],
        "unused": [Case("--days 20", ["--days", "20", "--limit", "100"])],
        "secret": [Case("one secret", [one.secret])],
        "user": [Case("one user", ["user_7"]), Case("one user, 7 days", ["user_7", "--since", one.week])],
        "incident": [Case("7 days of a user", ["--user", "user_7", "--since", one.week])],
        "export": [Case("a day", [export, "--since", one.day])],
        "verify": [
            Case("an export of a day", ["--file", export, "--accept-unsigned"]), Case("everything", ["--accept-unsigned"], None, rows=True),
        ],
        "evidence": [Case("the month of the first rows, after everything was verified", [*month, "--to", str(one.directory / "evidence.zip")], None)],
        "retention": [Case("--dry-run", ["--keep", "20 days", "--dry-run"])],
        "review": [Case("what is not signed off", [])],
        "tail": [],
    }  # fmt: skip


# Few secrets, and they are read whole by people: what a person waits for, not what the server can do in a night.
VIEW_GOAL = 15.0


class Server:
    """Tells the CPU of a server's processes, those that have ended included."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.tick = os.sysconf("SC_CLK_TCK")

    def cpu(self) -> float:
        """Gives the seconds so far."""
        total = sum(self._times(self.pid)[1])
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent, times = self._times(int(entry.name))
                except (OSError, ValueError, IndexError):
                    continue
                if parent == self.pid:
                    total += times[0] + times[1]
        return total / self.tick

    def _times(self, pid: int) -> tuple[int, list[int]]:
        """Gives a process's parent; its ticks in user and system mode, and those of its children that have ended."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[1]), [int(field) for field in fields[11:15]]


@dataclass(frozen=True)
class Figure:
    seconds: float
    cpu: float
    megabytes: int


def run_once(server: Server, command: list[str], environment: dict[str, str], log: Path) -> Figure:
    """Runs a command. Raises SystemExit if it fails."""
    before, began = server.cpu(), time.perf_counter()
    with log.open("w+") as out:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        taken = time.perf_counter() - began
        if process.returncode:
            out.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}: {out.read()[-500:]}")
    return Figure(taken, server.cpu() - before + used.ru_utime + used.ru_stime, used.ru_maxrss // 1024)


def middle(figures: list[Figure]) -> Figure:
    return Figure(
        statistics.median(one.seconds for one in figures), statistics.median(one.cpu for one in figures),
        max(one.megabytes for one in figures),
    )  # fmt: skip


class Reviewing:
    """Measures, and holds the table of it."""

    def __init__(self, server: PrivateServer, directory: Path, rows: int, only: str | None, times: int) -> None:
        assert server.pid is not None
        self.server = server
        self.cpu = Server(server.pid)
        self.directory = directory
        self.rows = rows
        self.only = only
        self.times = times
        self.table = results.Table()

    def wanted(self, work: str) -> bool:
        return self.only is None or self.only in work

    def add(self, work: str, figure: Figure, goal: float | None, note: str = "") -> None:
        note = "; ".join(part for part in (f"CPU {figure.cpu:.2f} s", note) if part)
        if goal is None:
            self.table.add(work, f"{figure.seconds:.2f} s", note)
        else:
            self.table.goal(work, figure.seconds, goal, least=False, unit=" s", note=note)

    def command(self, name: str, case: Case, dsn: str, what: str = "") -> None:
        work = f"audit {name}, {what or case.what}"
        if not self.wanted(work):
            return
        # Retention is the owner's and wants a key for checkpoints.
        config = ["--config", str(self.directory / "secretproxy.toml")] if name == "retention" else []
        command = [sys.executable, "-m", "secretproxy", "audit", name, *case.arguments, "--dsn", dsn, *config]
        environment = os.environ | {"TZ": "UTC", "COLUMNS": "200"}
        figures = []
        for _ in range(1 if case.goal is None else self.times):
            figures.append(run_once(self.cpu, command, environment, self.directory / "stderr"))
            if figures[-1].seconds > 30:
                break
        figure = middle(figures)
        # A process begins with the most memory that its parent had.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        note = f"{figure.megabytes} MB of memory at most" if figure.megabytes > own + 5 else ""
        if case.rows:
            note = "; ".join(
                part for part in (f"{self.rows / figure.seconds:,.0f} rows a second", "progress is shown", note) if part
            )
        self.add(work, figure, case.goal, note)

    def view(self, name: str, select: str, what: str, goal: float) -> None:
        work = f"view {name}, {what}"
        if not self.wanted(work):
            return
        figures = []
        for _ in range(self.times):
            with psycopg.connect(self.server.dsn("app"), autocommit=True) as connection:
                before, began = self.cpu.cpu(), time.perf_counter()
                connection.execute(select)  # type: ignore[call-overload]
                figures.append(Figure(time.perf_counter() - began, self.cpu.cpu() - before, 0))
            if figures[-1].seconds > 30:
                break
        self.add(work, middle(figures), goal)

    def views(self) -> None:
        """Measures every view of the log that the database has."""
        with psycopg.connect(self.server.dsn("app"), autocommit=True) as connection:
            names = [row[0] for row in connection.execute(VIEWS)]
        assert "secret_access" in names
        for name in names:
            self.view(name, f"SELECT * FROM secretproxy.{name} OFFSET 1000000000", "whole", VIEW_GOAL)
        page = "SELECT * FROM secretproxy.secret_access ORDER BY at DESC LIMIT 100"
        self.view("secret_access", page, "newest 100", 1)

    def commands(self) -> None:
        """Measures every command that is registered."""
        dsn = self.server.dsn("app")
        found = cases(self.sample())
        for name in command_names():
            for case in found[name]:
                self.command(name, case, dsn)
        self.command("stats", Case("", ["--limit", "10"], 1), self.server.dsn("small"), "a log of 2,000 accesses")
        if self.wanted("audit tail"):
            median, most, times = asyncio.run(follow(dsn))
            self.table.add("audit tail, from commit to line", f"{median:.1f} ms", f"{most:.1f} ms at most, of {times}")

    def sample(self) -> Sample:
        """Finds something that the log has."""
        with psycopg.connect(self.server.dsn("app"), autocommit=True) as connection:
            row = connection.execute(
                "SELECT owner_id, secret_names[1], session_id FROM secretproxy.access_log WHERE event IN ('attempt', 'access') ORDER BY at LIMIT 1"
            ).fetchone()
        assert row is not None
        now = datetime.now(UTC)
        day, week, hour = (
            (now - timedelta(**ago)).isoformat(timespec="seconds") for ago in ({"days": 1}, {"days": 7}, {"hours": 1})
        )
        return Sample(str(row[0]), str(row[1]), str(row[2]), day, week, hour, self.directory)


def command_names() -> list[str]:
    """Gives the commands that are registered. Raises SystemExit if one of them has no case here."""
    names = [str(command.name) for command in app.registered_commands]
    nothing = Sample(str(uuid.UUID(int=0)), "", "", "", "", "", Path())
    if missing := set(names) ^ set(cases(nothing)):
        raise SystemExit(f"benchmarks/review.py: to be measured, and not: {', '.join(sorted(missing))}")
    return names


VIEWS = """SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'secretproxy'::regnamespace AND c.relkind = 'v' ORDER BY 1"""


async def follow(dsn: str, times: int = 50) -> tuple[float, float, int]:
    """Measures milliseconds from an event's commit to its line of `audit tail`: the median, the most, and of how
    many."""
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
            future = journal.append(
                [Event("call", who, number, "f()", "read", uuid.uuid4(), (name,)), ended], wait=True
            )
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
    return statistics.median(taken), max(taken), times


CONFIG = """[audit]
dsn = "{dsn}"
checkpoint_file = "{directory}/checkpoints"
checkpoint_key_file = "{directory}/checkpoint.key"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", metavar="TEXT", help="what has this in its name; nothing is written")
    parser.add_argument("--times", type=int, default=3, help="times that each is run, of which the median counts")
    arguments = parser.parse_args()
    command_names()
    load_average = os.getloadavg()[0]
    with PrivateServer(find_postgres(), settings=SERVER) as server, tempfile.TemporaryDirectory() as directory:
        for database, rows in (("small", 4_000), ("app", arguments.rows)):
            with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}")  # type: ignore[arg-type]
            asyncio.run(install(server.dsn(database), Path(directory) / f"{database}.key", direct_calls="log"))
            began = time.perf_counter()
            load(server.dsn(database), rows)
            print(f"loaded {rows:,} rows in {time.perf_counter() - began:.0f} s", flush=True)
        (Path(directory) / "secretproxy.toml").write_text(CONFIG.format(dsn=server.dsn("app"), directory=directory))
        reviewing = Reviewing(server, Path(directory), arguments.rows, arguments.only, arguments.times)
        reviewing.commands()
        reviewing.views()
    if arguments.only is None and arguments.rows >= ROWS:
        described = results.machine(CORES, find_postgres().version, load_average)
        explained = (Path(__file__).parent / "reviewing.md").read_text(encoding="utf-8")
        results.write(
            "## Reviewing",
            f"Written by `make bench-review`: a log of {arguments.rows:,} rows in a month, medians of {arguments.times}.\n{explained}\n"
            f"{described}\n\n| work | figure | |\n| --- | --- | --- |\n{reviewing.table.markdown()}",
        )


if __name__ == "__main__":
    main()
