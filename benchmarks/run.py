"""Prints the table of numbers to reach, each with its peer measured in the same run, and writes benchmarks/RESULTS.md.

Everything runs on this machine on servers of its own. Rounds of all that is compared take turns; medians and ratios are
what counts, and the CPU a transaction, which other work on the machine disturbs less. `--quick` for a short look that
writes nothing; `--only PART` for some of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import getter
import growth
import idle
import peers
import psycopg
import results
from peers import Target

from secretproxy.demo.postgres import PrivateServer, find_postgres, free_port
from secretproxy.install import install

OWNER = getter.OWNER
CORES = len(os.sched_getaffinity(0))
PARTS = ("pgbench", "latency", "getter", "pgaudit", "bulk", "idle")
# What is measured beside them where it is asked for, and has a section of its own.
GROWTH = "growth"
# What somebody writes who logs without a proxy: format 2's getter, and a row of their own table for each call.
WRAPPER = """
CREATE TABLE public.wrapper_log (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), owner uuid, name text, db_user text, client inet);
CREATE INDEX ON public.wrapper_log (owner, at);
CREATE FUNCTION public.logged_getter(o uuid, n text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO public.wrapper_log (owner, name, db_user, client) VALUES (o, n, session_user, inet_client_addr());
    RETURN public.silent_getter(o, n);
END $$;
"""


@dataclass
class Round:
    tps: float
    latency: float
    cpu: float


class Rounds:
    """The rounds of one target: the median of each figure, and ratios to another's within each turn."""

    def __init__(self, rounds: list[Round]) -> None:
        self.rounds = rounds

    def _median(self, figure: str) -> float:
        return statistics.median(getattr(each, figure) for each in self.rounds)

    @property
    def tps(self) -> float:
        return self._median("tps")

    @property
    def latency(self) -> float:
        return self._median("latency")

    @property
    def cpu(self) -> float:
        return self._median("cpu")

    def ratio(self, peer: Rounds, figure: str) -> tuple[float, str]:
        """Gives the median of the ratios of each turn, and their spread in words."""
        ratios = [
            getattr(one, figure) / getattr(other, figure) for one, other in zip(self.rounds, peer.rounds, strict=True)
        ]
        return statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"

    def added(self, peer: Rounds) -> tuple[float, str]:
        """Gives the median of what each turn's latency is above another's, in us, and the middle half in words."""
        more = [one.latency - other.latency for one, other in zip(self.rounds, peer.rounds, strict=True)]
        if len(more) < 2:
            return more[0], ""
        low, middle, high = statistics.quantiles(more, n=4)
        return middle, f"half of the turns: {low:.0f} to {high:.0f} us"


class Bench:
    def __init__(self, server: PrivateServer, directory: Path, *, quick: bool) -> None:
        self.server = server
        self.directory = directory
        self.quick = quick
        self.seconds = 2 if quick else 5
        self.rounds = 1 if quick else 5
        # Microseconds of pgbouncer's CPU a transaction of `pgbench -S`, which an audited call is compared with.
        self.bouncer: float | None = None
        self.table = results.Table()

    def script(self, text: str) -> list[str]:
        path = self.directory / f"{abs(hash(text))}.sql"
        path.write_text(text + "\n")
        return ["-M", "prepared", "-f", str(path)]

    def pgbench(self, target: Target, clients: int, arguments: list[str], seconds: int = 0) -> Round:
        """Measures one run: transactions per second, mean latency in us, microseconds of the proxy's CPU per
        transaction. `seconds`: in place of those of a round.
        """
        # pgbench's time begins before its clients are connected, and a session's first call takes longest.
        seconds = (seconds or self.seconds) + clients // 100
        before = target.cpu()
        out = subprocess.run(
            [self.server.binaries.program("pgbench"), "-n", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds),
             *arguments, target.dsn],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        used = target.cpu() - before
        count = int(re.search(r"actually processed: (\d+)", out)[1])  # type: ignore[index]
        tps = float(re.search(r"tps = ([\d.]+)", out)[1])  # type: ignore[index]
        latency = float(re.search(r"latency average = ([\d.]+)", out)[1])  # type: ignore[index]
        return Round(tps, latency * 1000, used / count * 1e6)

    def turns(
        self, runs: dict[str, tuple[Target, list[str]]], clients: int, *, short: bool = False
    ) -> dict[str, Rounds]:
        """Measures rounds of all in turn; `short`: more of them, each of a second, for small differences."""
        rounds, seconds = (5 * self.rounds, 1) if short else (self.rounds, self.seconds)
        found: dict[str, list[Round]] = {name: [] for name in runs}
        for number in range(rounds):
            for name, (target, arguments) in runs.items():
                print(f"  round {number + 1}/{rounds}: {name}", flush=True)
                found[name].append(self.pgbench(target, clients, arguments, seconds))
        return {name: Rounds(rounds) for name, rounds in found.items()}

    # --- the parts ---------------------------------------------------------------------------------------------

    def unmonitored(self, direct: Target, others: list[Target], own: list[Target]) -> None:
        work = ["-S", "-M", "prepared"]
        got = self.turns({target.name: (target, work) for target in (direct, *others, *own)}, 16)
        for name, each in got.items():
            cpu = "" if name == direct.name else f"{each.cpu:.1f} us CPU a transaction"
            self.table.add(f"`pgbench -S` prepared, 16 clients: {name}", f"{each.tps:,.0f}/s", cpu)
        for peer in others:
            if not peer.name.startswith("pgbouncer"):
                continue
            self.bouncer = got[peer.name].cpu
            for target in own:
                ratio, spread = got[target.name].ratio(got[peer.name], "tps")
                if target is own[-1]:
                    self.table.goal(
                        f"throughput / pgbouncer's: {target.name}", ratio, 1.0, then=1.2, least=True, note=spread
                    )
                else:
                    self.table.add(
                        f"throughput / pgbouncer's: {target.name}",
                        f"{ratio:.2f}",
                        f"the goal is for as many workers as cores; {spread}",
                    )
                ratio, spread = got[target.name].ratio(got[peer.name], "cpu")
                self.table.goal(
                    f"CPU a transaction / pgbouncer's: {target.name}", ratio, 1.25, then=1.1, least=False, note=spread
                )

    def latency(self, direct: Target, others: list[Target], one: Target) -> None:
        work = ["-S", "-M", "prepared"]
        got = self.turns({target.name: (target, work) for target in (direct, *others, one)}, 1, short=True)
        added = {name: each.added(got[direct.name]) for name, each in got.items() if name != direct.name}
        for name, (value, spread) in added.items():
            self.table.add(f"one client, added latency: {name}", f"{value:.0f} us", spread)
        for peer in others:
            if peer.name.startswith("pgbouncer"):
                ratio = added[one.name][0] / added[peer.name][0]
                self.table.goal("added latency / pgbouncer's", ratio, 1.2, least=False)

    def getters(self, direct: Target, own: list[Target]) -> None:
        pick = f"\\set k random(1, {getter.ROWS})\n"
        call = f"('{OWNER}', :k);"
        runs = {
            "format-1 getter, direct and unaudited": (
                direct,
                self.script(f"{pick}SELECT public.format_1_getter{call}"),
            ),
            "format-2 getter with a logging wrapper, direct": (
                direct,
                self.script(f"{pick}SELECT public.logged_getter{call}"),
            ),
        }
        audited = self.script(f"{pick}SELECT encrypted_secrets.secrets_getter{call}")
        runs |= {f"audited getter: {target.name}": (target, audited) for target in own}
        for fsync in ("off", "on"):
            with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
                connection.execute(f"ALTER SYSTEM SET fsync = {fsync}")  # type: ignore[arg-type]
                connection.execute("SELECT pg_reload_conf()")
            got = self.turns(runs, 16)
            plain, wrapped = list(got.values())[:2]
            for name, each in got.items():
                cpu = f"{each.cpu:.0f} us of the proxy's CPU a call" if each.cpu else ""
                self.table.add(f"{name}, fsync {fsync}, 16 clients", f"{each.tps:,.0f}/s", cpu)
            goals = (
                (plain, "format 1 unaudited", 1.2, 1.5),
                (wrapped, "logging wrapper", *((0.5, 0.6) if fsync == "off" else (0.7, 1.0))),
            )
            for target in own:
                for peer, what, wanted, then in goals:
                    ratio, spread = got[f"audited getter: {target.name}"].ratio(peer, "tps")
                    self.table.goal(
                        f"audited / {what}, fsync {fsync}: {target.name}",
                        ratio,
                        wanted,
                        then=then,
                        least=True,
                        note=spread,
                    )
                if self.bouncer is not None and fsync == "off":
                    self.table.goal(
                        f"CPU an audited call / pgbouncer's a `-S` transaction: {target.name}",
                        got[f"audited getter: {target.name}"].cpu / self.bouncer, 4.3, then=3, least=False,
                    )  # fmt: skip
            if fsync == "off":
                self.one_client(runs, own[0])

    def one_client(self, runs: dict[str, tuple[Target, list[str]]], one: Target) -> None:
        """Compares how long one client alone waits for a call."""
        plain, audited = "format-1 getter, direct and unaudited", f"audited getter: {one.name}"
        got = self.turns({name: runs[name] for name in (plain, audited)}, 1)
        for name, each in got.items():
            cpu = f"{each.cpu:.0f} us of the proxy's CPU a call" if each.cpu else ""
            self.table.add(f"{name}, fsync off, one client", f"{each.latency:.0f} us", cpu)
        ratio, spread = got[audited].ratio(got[plain], "latency")
        self.table.goal(
            "one client: audited call's latency / format 1 unaudited", ratio, 1.7, then=1.4, least=False, note=spread
        )

    def pgaudit(self) -> None:
        settings = peers.pgaudit_settings(self.server)
        if not settings:
            return
        with PrivateServer(settings={"shared_buffers": "256MB", **settings}) as server:
            asyncio.run(install(server.dsn(), self.directory / "pgaudit-key", direct_calls="log"))
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION pgaudit; CREATE ROLE pgaudit_role")
                connection.execute(getter.FORMAT_1)  # type: ignore[arg-type]
                connection.execute("GRANT SELECT ON public.format_1 TO pgaudit_role")
            target = Target("direct", server.port)
            work = f"\\set k random(1, {getter.ROWS})\nSELECT public.format_1_getter('{OWNER}', :k);"
            runs = {
                "format-1 getter, pgaudit loaded but silent": (target, self.script("SET pgaudit.role = '';\n" + work)),
                "format-1 getter, pgaudit object logging": (
                    target,
                    self.script("SET pgaudit.role = 'pgaudit_role';\n" + work),
                ),
            }
            got = self.turns(runs, 16)
        for name, each in got.items():
            self.table.add(f"{name}, 16 clients", f"{each.tps:,.0f}/s")
        silent, logging = got.values()
        self.table.add(
            "pgaudit object logging / silent",
            f"{logging.tps / silent.tps:.2f}",
            "a peer: its lines are not synced, nor tied to the call",
        )

    def bulk(self, direct: Target, one: Target) -> None:
        count = 1_200_000 if self.quick else 12_000_000
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            # Made as it is read: so many rows of 80 bytes are a gigabyte, and the disk is not what is measured.
            connection.execute(
                f"CREATE VIEW bulk AS SELECT n, repeat('x', 72) AS t FROM generate_series(1, {count}) n"  # type: ignore[arg-type]
            )
        for name, query in (("SELECT", "SELECT * FROM bulk"), ("COPY", "COPY (SELECT * FROM bulk) TO STDOUT")):
            rates: dict[str, list[float]] = {target.name: [] for target in (direct, one)}
            grown, size = 0, 0
            for number in range(self.rounds):
                for target in (direct, one):
                    print(f"  round {number + 1}/{self.rounds}: {name}, {target.name}", flush=True)
                    for pid in target.all_pids():
                        Path(f"/proc/{pid}/clear_refs").write_text("5")
                    before = target.memory() if target.pids else 0
                    size, seconds = drain(target.port, query)
                    rates[target.name].append(size / 1e6 / seconds)
                    if target.pids:
                        grown = max(grown, target.memory("VmHWM") - before)
            ratio = statistics.median(rates[one.name]) / statistics.median(rates[direct.name])
            rate = statistics.median(rates[one.name])
            self.table.goal(
                f"bulk {name} of {size / 1e9:.1f} GB of small rows, throughput / direct", ratio, 0.9, least=True,
                note=f"{rate:,.0f} MB/s; memory grew by {grown / 1024:.1f} MiB",
            )  # fmt: skip

    def idle(self) -> None:
        sessions = 500 if self.quick else 5000
        idle.raise_descriptor_limit()
        port = free_port()
        backend = subprocess.Popen([sys.executable, str(Path(__file__).with_name("idle.py")), str(port)])
        try:
            with peers.secretproxy(port, self.server.dsn(user="journal"), self.directory, 1) as target:
                each = asyncio.run(idle_memory(target, sessions))
        finally:
            backend.terminate()
            backend.wait(10)
        self.table.goal(
            f"memory a session, {sessions:,} idle", each, 40, least=False, digits=0, unit=" KiB",
            note="before a backend that only logs in, in Python",
        )  # fmt: skip


def drain(port: int, query: str) -> tuple[int, float]:
    """Reads a query's answer without looking at it; gives its bytes and seconds."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(struct.pack("!i", len(idle.STARTUP) + 4) + idle.STARTUP)
        buffer = bytearray(1 << 18)
        while not bytes(buffer[: sock.recv_into(buffer)]).endswith(idle.READY):
            pass
        began = time.monotonic()
        sock.sendall(idle.message(b"Q", query.encode() + b"\0"))
        total, tail = 0, b""
        while not tail.endswith(idle.READY):
            got = sock.recv_into(buffer)
            if not got:
                raise SystemExit("the connection ended while it was read from")
            total += got
            tail = (tail + bytes(buffer[max(0, got - 6) : got]))[-6:]
        return total, time.monotonic() - began


async def idle_memory(target: Target, sessions: int) -> float:
    """Gives the KiB of the proxy's memory for each idle session."""
    warm = [await idle.connect(target.port) for _ in range(20)]
    before = target.memory()
    held = []
    for _ in range(sessions // 50):
        held += await asyncio.gather(*(idle.connect(target.port) for _ in range(50)))
    after = target.memory()
    for writer in (*warm, *held):
        writer.close()
    return (after - before) / sessions


def grow(bench: Bench, own: Target, chosen: argparse.Namespace, described: str) -> None:
    """Measures how cost grows; writes its section where all of it is measured at full length."""
    rows = (0, 50_000) if bench.quick else tuple(sorted({0, 5_000_000, chosen.rows}))
    dimensions = tuple(chosen.dimension or growth.DIMENSIONS)
    # Many points, of which the course counts.
    bench.rounds = min(bench.rounds, 3)
    found = growth.Growth(bench, own, CORES, rows=rows).measure(dimensions)
    if not bench.quick and dimensions == growth.DIMENSIONS:
        growth.write(found, described)


def set_up(server: PrivateServer, directory: Path) -> None:
    asyncio.run(install(server.dsn(), directory / "key", direct_calls="log"))
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE journal LOGIN; GRANT secretproxy_writer TO journal")
        connection.execute(getter.FORMAT_1)  # type: ignore[arg-type]
        connection.execute(
            f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', n::text, 'a secret value') FROM generate_series(1, {getter.ROWS}) n"  # type: ignore[arg-type]
        )
        connection.execute(getter.silent(connection.execute(getter.READER).fetchone()[0]))  # type: ignore[index]
        connection.execute(WRAPPER)
        connection.execute("ALTER FUNCTION public.logged_getter OWNER TO secretproxy_owner")
        connection.execute("GRANT ALL ON public.wrapper_log, public.wrapper_log_id_seq TO secretproxy_owner")
        connection.execute("TRUNCATE public.wrapper_log; ANALYZE")
    subprocess.run(
        [server.binaries.program("pgbench"), "-i", "-q", "-s", "10", server.dsn()], capture_output=True, check=True
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one short round of each")
    options.add_argument("--only", action="append", choices=(*PARTS, GROWTH), help="this part; may be given again")
    options.add_argument("--rows", type=int, default=5_000_000, help="rows that growth brings the log to (%(default)s)")
    options.add_argument("--dimension", action="append", choices=growth.DIMENSIONS, help="this dimension of growth")
    chosen = options.parse_args()
    parts = tuple(chosen.only or PARTS)
    described = results.machine(CORES, find_postgres().version, os.getloadavg()[0])
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secretproxy-bench-")))
        directory.chmod(0o755)
        server = stack.enter_context(PrivateServer(settings={"shared_buffers": "512MB", "max_connections": "1200"}))
        set_up(server, directory)
        bench = Bench(server, directory, quick=chosen.quick)
        direct = Target("direct", server.port)
        journal = server.dsn(user="journal")
        own = [
            stack.enter_context(peers.secretproxy(server.port, journal, directory, workers))
            for workers in sorted({1, CORES})
        ]
        others = []
        if {"pgbench", "latency"} & set(parts):
            found = [stack.enter_context(peer(server.port, directory)) for peer in (peers.haproxy, peers.pgbouncer)]
            others = [target for target in found if target is not None]
        work = {
            "pgbench": lambda: bench.unmonitored(direct, others, own),
            "latency": lambda: bench.latency(direct, others, own[0]),
            "getter": lambda: bench.getters(direct, own),
            "pgaudit": bench.pgaudit,
            "bulk": lambda: bench.bulk(direct, own[0]),
            "idle": bench.idle,
            GROWTH: lambda: grow(bench, own[-1], chosen, described),
        }
        for part in parts:
            print(part, flush=True)
            work[part]()
    table = bench.table
    table.add("events lost or doubled over kills of backend, log and proxy", "`make soak`", "to reach: 0")
    table.add(
        "evasions that leave a call out of the log; canary values found", "`make evasions`, `make test`", "to reach: 0"
    )
    table.add("client suites' failures that a direct connection does not have", "`make test`", "to reach: 0")
    if not chosen.quick and parts == PARTS:
        results.write(
            "# Results",
            "Written by `make bench`: medians of rounds that took turns on one machine. Ratios travel, absolute figures do not.\n"
            f"What stands behind them is said below the table.\n\n{described}\n\n| work | figure | |\n| --- | --- | --- |\n{table.markdown()}",
        )
        title, _, reasons = (Path(__file__).parent / "reasons.md").read_text(encoding="utf-8").partition("\n")
        results.write(title, reasons)
    return 0


if __name__ == "__main__":
    sys.exit(main())
