"""Measures how the cost of a call grows: with clients, with the audited share, with the log's rows, with a statement's
length, with TLS, and with a log that is slow to commit. Each figure has its peer measured in the same turn.

Used by run.py. Writes the section "## How cost grows" of RESULTS.md and its chart, benchmarks/growth.svg."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Protocol

import getter
import peers
import psycopg
import results
from peers import Target

from secretproxy.demo.postgres import PrivateServer
from secretproxy.install import install

CHART = Path(__file__).parent / "growth.svg"
DIMENSIONS = ("clients", "share", "rows", "length", "tls", "commit")
PICK = f"\\set k random(1, {getter.ROWS})\n"
AUDITED = f"SELECT encrypted_secrets.secrets_getter('{getter.OWNER}', :k)"
# The same work without a log: what a call costs where nobody looks.
SILENT = f"SELECT public.silent_getter('{getter.OWNER}', :k)"
# Rows of a log as a proxy writes them, but with hashes that link nothing: only their number matters here.
FILL = """
INSERT INTO secretproxy.access_log (id, at, event, instance, seq, prev_hash, row_hash, session_id, statement_no, function,
       operation, owner_id, secret_names, protocol, fingerprint, db_user, database, application_name, client_port, tls,
       outcome, duration, calls)
SELECT gen_random_uuid(), now() - n * interval '50 us', 'access', '{instance}', n, sha256(n::text::bytea),
       sha256((n + 1)::text::bytea), gen_random_uuid(), n % 50, 'encrypted_secrets.secrets_getter(uuid,text,text)', 'read',
       md5((n % 40000)::text)::uuid, ARRAY['secret_' || n % 200], 'extended', '50fde20626009aba', 'user_' || n % 40, 'app',
       'service', 1, false, 'ok', 0.0004, 1
  FROM generate_series({first}, {last}) n
"""
# Each index of the log: how it is dropped and made again, those of constraints among them.
INDEXES = """
SELECT CASE WHEN c.oid IS NULL THEN format('DROP INDEX secretproxy.%I', d.relname)
            ELSE format('ALTER TABLE secretproxy.access_log DROP CONSTRAINT %I', c.conname) END,
       CASE WHEN c.oid IS NULL THEN replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ')
            ELSE format('ALTER TABLE secretproxy.access_log ADD CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid)) END
  FROM pg_index i JOIN pg_class d ON d.oid = i.indexrelid LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
 WHERE i.indrelid = 'secretproxy.access_log'::regclass
"""


class Round(Protocol):
    """The figures of one run of pgbench."""

    tps: float
    cpu: float


class Bench(Protocol):
    """The figures that run.py offers."""

    server: PrivateServer
    directory: Path
    quick: bool
    rounds: int

    def script(self, text: str) -> list[str]: ...
    def pgbench(self, target: Target, clients: int, arguments: list[str]) -> Round: ...


@dataclass
class Point:
    """One place of a dimension: calls a second and CPU a call through the proxy, and the peer's calls a second."""

    label: str
    tps: float
    cpu: float
    peer: float


@dataclass
class Dimension:
    title: str
    peer: str
    points: list[Point] = field(default_factory=list)
    note: str = ""


class Growth:
    def __init__(self, bench: Bench, own: Target, workers: int, *, rows: tuple[int, ...]) -> None:
        self.bench = bench
        self.own = own
        self.workers = workers
        self.rows = rows
        self.direct = Target("direct", bench.server.port)
        self.audited = bench.script(f"{PICK}{AUDITED};")
        self.silent = bench.script(f"{PICK}{SILENT};")

    def measure(self, only: tuple[str, ...] = DIMENSIONS) -> list[Dimension]:
        """Measures each dimension in turn. Raises SystemExit where something does not start."""
        parts: dict[str, Callable[[], Dimension]] = {
            "clients": self.clients, "share": self.share, "rows": self.log_rows, "length": self.length, "tls": self.tls,
            "commit": self.commit,
        }  # fmt: skip
        return [parts[name]() for name in only]

    def turns(self, label: str, clients: int, own: tuple[Target, list[str]], peer: tuple[Target, list[str]]) -> Point:
        print(f"  {label}", flush=True)
        ours: list[Round] = []
        theirs: list[Round] = []
        for _ in range(self.bench.rounds):
            ours.append(self.bench.pgbench(own[0], clients, own[1]))
            theirs.append(self.bench.pgbench(peer[0], clients, peer[1]))
        point = Point(
            label,
            statistics.median(one.tps for one in ours),
            statistics.median(one.cpu for one in ours),
            statistics.median(one.tps for one in theirs),
        )
        print(f"    {point.tps:,.0f}/s, {point.cpu:.0f} us CPU a transaction; peer {point.peer:,.0f}/s", flush=True)
        return point

    def clients(self) -> Dimension:
        found = Dimension("Clients", "the same getter, unlogged, direct")
        for count in (1, 16, 100) if self.bench.quick else (1, 16, 100, 1000):
            found.points.append(self.turns(f"{count:,}", count, (self.own, self.audited), (self.direct, self.silent)))
        return found

    def share(self) -> Dimension:
        found = Dimension("Audited share of 16 clients' statements", "the same mix, unlogged, direct")
        for percent in (0, 1, 10, 100):
            mixes = []
            for script in (self.audited, self.silent):
                mix = ["-M", "prepared"]
                if percent < 100:
                    mix += ["-b", f"select-only@{100 - percent}"]
                if percent:
                    mix += ["-f", f"{script[-1]}@{percent}"]
                mixes.append(mix)
            found.points.append(self.turns(f"{percent} %", 16, (self.own, mixes[0]), (self.direct, mixes[1])))
        return found

    def log_rows(self) -> Dimension:
        found = Dimension("Rows in the log", "the same getter, unlogged, direct")
        for wanted in self.rows:
            with psycopg.connect(self.bench.server.dsn(), autocommit=True) as admin:
                self.fill(admin, wanted)
            found.points.append(self.turns(short(wanted), 16, (self.own, self.audited), (self.direct, self.silent)))
        return found

    def fill(self, admin: psycopg.Connection[tuple[object, ...]], wanted: int) -> None:
        """Brings the log to so many rows, without its indexes meanwhile."""
        (there,) = admin.execute("SELECT count(*) FROM secretproxy.access_log").fetchone() or (0,)
        assert isinstance(there, int)
        missing = wanted - there
        if missing <= 0:
            return
        print(f"  fills the log with {missing:,} rows", flush=True)
        instance = admin.execute("SELECT gen_random_uuid()").fetchone()
        assert instance is not None
        admin.execute("SET maintenance_work_mem = '1GB'")
        indexes = admin.execute(INDEXES).fetchall()
        for drop, _ in indexes:
            admin.execute(drop)  # type: ignore[call-overload]
        step = 500_000
        for first in range(1, missing + 1, step):
            last = min(missing, first + step - 1)
            admin.execute(FILL.format(instance=instance[0], first=first, last=last))  # type: ignore[arg-type]
        for _, make in indexes:
            admin.execute(make)  # type: ignore[call-overload]
        admin.execute("VACUUM ANALYZE secretproxy.access_log")
        admin.execute("CHECKPOINT")

    def length(self) -> Dimension:
        found = Dimension("Length of a statement's text, simple protocol", "the same text, unlogged, direct")
        for size in (100, 10_000, 100_000):
            scripts = []
            for prepared in (AUDITED, SILENT):
                # In a text of its own the name is a number, which needs a cast.
                call = prepared.replace(":k", ":k::text")
                numbers = ",".join(str(100_000 + number) for number in range(max(0, size - 130) // 7))
                text = f"{call} WHERE :k NOT IN ({numbers})" if numbers else call
                scripts.append(["-M", "simple", *self.bench.script(f"{PICK}{text};")[2:]])
            found.points.append(self.turns(f"{size:,} B", 16, (self.own, scripts[0]), (self.direct, scripts[1])))
        return found

    def tls(self) -> Dimension:
        found = Dimension("TLS on both sides", "the same getter, unlogged, direct, in TLS as well")
        found.points.append(self.turns("none", 16, (self.own, self.audited), (self.direct, self.silent)))
        with encrypted(self.bench, self.workers) as (own, direct):
            found.points.append(self.turns("both", 16, (own, self.audited), (direct, self.silent)))
        return found

    def commit(self) -> Dimension:
        found = Dimension(
            "Time that the log takes to commit", "one session of the same proxy and log",
            note="to reach: 200 sessions have 100 times the throughput of one, as far as two cores can",
        )  # fmt: skip
        for milliseconds in (5, 50):
            with slow_log(self.bench, self.workers, milliseconds) as own:
                found.points.append(self.slowly(f"{milliseconds} ms", own))
        return found

    def slowly(self, label: str, own: Target) -> Point:
        print(f"  {label}", flush=True)
        many = [self.bench.pgbench(own, 200, self.audited) for _ in range(self.bench.rounds)]
        one = [self.bench.pgbench(own, 1, self.audited) for _ in range(self.bench.rounds)]
        tps, alone = (statistics.median(each.tps for each in found) for found in (many, one))
        print(f"    {tps:,.0f}/s with 200 sessions, {alone:,.1f}/s with one: {tps / alone:.0f} times", flush=True)
        return Point(label, tps, statistics.median(each.cpu for each in many), alone)


@contextlib.contextmanager
def encrypted(bench: Bench, workers: int) -> Iterator[tuple[Target, Target]]:
    """Gives the proxy with TLS on both sides, and the server with TLS."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.support.certificates import Authority

    home = bench.directory / "tls"
    home.mkdir()
    certificate, key = Authority(home).pair("server")
    shutil.copy(key, home / "server-key")
    (home / "server-key").chmod(0o600)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(home / "server-key", owner.pw_uid, owner.pw_gid)
    settings = {"ssl_cert_file": str(certificate), "ssl_key_file": str(home / "server-key"), "ssl": "on"}
    with psycopg.connect(bench.server.dsn(), autocommit=True) as admin:
        for name, value in settings.items():
            admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")  # type: ignore[arg-type]
        admin.execute("SELECT pg_reload_conf()")
    try:
        extra = {
            "listen": f'tls = "require"\ntls_cert = "{certificate}"\ntls_key = "{key}"\n',
            "backend": 'tls = "require"\n',
        }
        journal = bench.server.dsn(user="journal")
        with peers.secretproxy(bench.server.port, journal, bench.directory, workers, extra) as own:
            yield (
                replace(own, parameters="?sslmode=require"),
                Target("direct", bench.server.port, parameters="?sslmode=require"),
            )
    finally:
        with psycopg.connect(bench.server.dsn(), autocommit=True) as admin:
            for name in settings:
                admin.execute(f"ALTER SYSTEM RESET {name}")  # type: ignore[arg-type]
            admin.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def slow_log(bench: Bench, workers: int, milliseconds: int) -> Iterator[Target]:
    """Gives the proxy with a log on a server of its own, each commit of which takes so long."""
    settings = {
        "fsync": "on",
        "synchronous_commit": "on",
        "commit_delay": str(milliseconds * 1000),
        "commit_siblings": "0",
    }
    with PrivateServer(settings=settings) as server:
        asyncio.run(install(server.dsn(), bench.directory / "key", direct_calls="log"))
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE journal LOGIN; GRANT secretproxy_writer TO journal")
        with peers.secretproxy(bench.server.port, server.dsn(user="journal"), bench.directory, workers) as own:
            yield own


def short(number: int) -> str:
    return f"{number // 1_000_000} million" if number >= 1_000_000 else f"{number:,}"


def chart(dimensions: list[Dimension]) -> str:
    """Draws each dimension as a row of bars: calls a second through the proxy, and the peer's beside it."""
    width, panel, left, bar = 760, 150, 12, 26
    height = panel * len(dimensions)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, dimension in enumerate(dimensions):
        top = number * panel
        out.append(
            f'<text x="{left}" y="{top + 16}" font-weight="bold">{escape(dimension.title)}: audited calls a second (dark); '
            f"{escape(dimension.peer)} (light)</text>"
        )
        most = max((max(point.tps, point.peer) for point in dimension.points), default=1.0)
        step = (width - 2 * left) / max(len(dimension.points), 1)
        for place, point in enumerate(dimension.points):
            x, base = left + place * step + step / 2, top + panel - 22
            for offset, value, colour in ((-bar, point.tps, "#1f5f8b"), (2, point.peer, "#b5c9d6")):
                tall = 88 * value / most
                out.append(
                    f'<rect x="{x + offset:.1f}" y="{base - tall:.1f}" width="{bar}" height="{tall:.1f}" fill="{colour}">'
                    f"<title>{escape(point.label)}: {value:,.0f}/s</title></rect>"
                )
                anchor = "end" if offset < 0 else "start"
                out.append(
                    f'<text x="{x + (offset + bar if offset < 0 else offset):.1f}" y="{base - tall - 3:.1f}" text-anchor="{anchor}">{value:,.0f}</text>'
                )
            out.append(f'<text x="{x:.1f}" y="{base + 14}" text-anchor="middle">{escape(point.label)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def write(dimensions: list[Dimension], described: str) -> None:
    """Writes the chart and the section of RESULTS.md."""
    CHART.write_text(chart(dimensions), encoding="utf-8")
    lines = [
        "Written by `make bench ARGS=\"--only growth\"`: medians of three rounds in which the proxy and its peer took turns.",
        "", described, "", "![How cost grows](growth.svg)", "",
        "| what grows | to | audited calls a second | peer | ratio | CPU of the proxy a transaction |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for dimension in dimensions:
        lines += [
            f"| {dimension.title} | {point.label} | {point.tps:,.0f} | {point.peer:,.0f} | {point.tps / point.peer:.2f} | "
            f"{point.cpu:.0f} us |"
            for point in dimension.points
        ]
    lines += [
        "",
        *(f"- {each.title}: the peer is {each.peer}{'; ' + each.note if each.note else ''}." for each in dimensions),
    ]
    results.write("## How cost grows", "\n".join(lines))
