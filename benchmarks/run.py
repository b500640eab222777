"""Prints the table of numbers to reach, each with its peer measured in the same run, and writes benchmarks/RESULTS.md.

Everything runs on this machine on servers of its own: PostgreSQL direct, pgbouncer in session mode (Debian's package), secretproxy with one
worker and with one a core. Rounds of all of them take turns; medians and ratios are what counts. `--quick` for a short look.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import pwd
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psycopg

from secretproxy.demo.postgres import PrivateServer, find_postgres, free_port
from secretproxy.install import install

TICK = os.sysconf("SC_CLK_TCK")
OWNER = "5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44"
CORES = len(os.sched_getaffinity(0))

SETUP = f"""
CREATE ROLE journal LOGIN;
GRANT secretproxy_writer TO journal;
CREATE TABLE format_1 (owner uuid, name text, value bytea, PRIMARY KEY (owner, name));
INSERT INTO format_1 VALUES ('{OWNER}', 'key', pgp_sym_encrypt(encode('a secret value', 'hex'), '{OWNER}', 'compress-algo=1, cipher-algo=aes256')::bytea);
CREATE FUNCTION format_1_getter(o uuid, n text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v bytea;
BEGIN
    SELECT value INTO v FROM format_1 WHERE owner = o AND name = n;
    RETURN convert_from(decode(pgp_sym_decrypt(v, o::text), 'hex'), 'UTF8');
END $$;
CREATE TABLE bulk AS SELECT n, repeat('x', 80) AS t FROM generate_series(1, 3000000) n;
"""


@dataclass
class Target:
    """Somewhere to point pgbench at; `pids` are the processes whose CPU is the proxy's."""

    name: str
    port: int
    pids: list[int] = field(default_factory=list)

    def cpu(self) -> float:
        """Seconds of CPU so far, children included."""
        return sum(_cpu(pid) for root in self.pids for pid in (root, *_children(root)))


def _cpu(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    return 0.0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextlib.contextmanager
def pgbouncer(server: PrivateServer, directory: Path) -> Iterator[Target | None]:
    """pgbouncer in session mode, or None with a line that says what to install."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL=1 keeps the package from starting a service of its own.
        subprocess.run(["apt-get", "install", "-y", "-q", "pgbouncer"], env=os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, check=False)  # fmt: skip
        program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        print("pgbouncer is not installed (Debian: apt-get install pgbouncer): its ratios are left out")
        yield None
        return
    port = free_port()
    home = directory / "pgbouncer"
    home.mkdir()
    (home / "users").write_text('"postgres" ""\n')
    (home / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = trust\nauth_file = {home}/users\npool_mode = session\nmax_client_conn = 2000\ndefault_pool_size = 200\n"
        f"unix_socket_dir =\nlogfile = {home}/log\nlog_connections = 0\nlog_disconnections = 0\n"
    )
    identity = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        for path in (home, *home.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    process = subprocess.Popen([program, str(home / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **identity)  # fmt: skip
    try:
        _wait(port)
        yield Target("pgbouncer (session)", port, [process.pid])
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def secretproxy(server: PrivateServer, directory: Path, workers: int) -> Iterator[Target]:
    port = free_port()
    config = directory / f"proxy-{workers}.toml"
    config.write_text(
        f'workers = {workers}\n[listen]\nport = {port}\nmax_sessions = 4000\n[backend]\nhosts = ["127.0.0.1:{server.port}"]\n'
        f'[audit]\ndsn = "{server.dsn(user="journal")}"\n[testimony]\nkey_file = "{directory}/key"\n[log]\nlevel = "warning"\n'
    )
    process = subprocess.Popen([sys.executable, "-m", "secretproxy", "run", "--config", str(config)])
    try:
        _wait(port)
        yield Target(f"secretproxy ({workers} worker{'s' if workers > 1 else ''})", port, [process.pid])
    finally:
        process.terminate()
        process.wait(20)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres").close()
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on port {port}")


@dataclass
class Round:
    tps: float
    latency: float
    cpu: float


class Bench:
    def __init__(self, server: PrivateServer, seconds: int, rounds: int) -> None:
        self.server = server
        self.seconds = seconds
        self.rounds = rounds

    def pgbench(self, target: Target, clients: int, *arguments: str) -> Round:
        """One run: transactions a second, mean latency in ms, microseconds of the proxy's CPU a transaction."""
        before = target.cpu()
        out = subprocess.run(
            [self.server.binaries.program("pgbench"), "-n", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(self.seconds),
             *arguments, f"postgresql://postgres@127.0.0.1:{target.port}/postgres"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        used = target.cpu() - before
        count = int(re.search(r"actually processed: (\d+)", out)[1])  # type: ignore[index]
        tps = float(re.search(r"tps = ([\d.]+)", out)[1])  # type: ignore[index]
        latency = float(re.search(r"latency average = ([\d.]+)", out)[1])  # type: ignore[index]
        return Round(tps, latency, used / count * 1e6)

    def turns(self, targets: list[Target], clients: int, *arguments: str) -> dict[str, Round]:
        """Rounds of all targets in turn, the median of each figure."""
        results: dict[str, list[Round]] = {target.name: [] for target in targets}
        for number in range(self.rounds):
            for target in targets:
                print(f"  round {number + 1}/{self.rounds}: {target.name}", flush=True)
                results[target.name].append(self.pgbench(target, clients, *arguments))
        return {
            name: Round(*(statistics.median(getattr(each, key) for each in rounds) for key in ("tps", "latency", "cpu")))
            for name, rounds in results.items()
        }

    def bulk(self, targets: list[Target]) -> dict[str, float]:
        """MB/s of a SELECT of small rows, medians."""
        results: dict[str, list[float]] = {target.name: [] for target in targets}
        for _ in range(self.rounds):
            for target in targets:
                began = time.monotonic()
                with psycopg.connect(f"postgresql://postgres@127.0.0.1:{target.port}/postgres") as connection:
                    total = 0
                    with connection.cursor().copy("COPY (SELECT * FROM bulk) TO STDOUT") as copy:
                        for block in copy:
                            total += len(block)
                results[target.name].append(total / 1e6 / (time.monotonic() - began))
        return {name: statistics.median(values) for name, values in results.items()}


async def idle_memory(target: Target, sessions: int) -> float:
    """KiB of the proxy's memory for each idle session."""
    dsn = f"postgresql://postgres@127.0.0.1:{target.port}/postgres"
    warm = [await asyncpg.connect(dsn) for _ in range(10)]
    before = _memory(target)
    connections = [await asyncpg.connect(dsn) for _ in range(sessions)]
    after = _memory(target)
    for connection in (*warm, *connections):
        await connection.close()
    return (after - before) / sessions


def _memory(target: Target) -> int:
    total = 0
    for root in target.pids:
        for pid in (root, *_children(root)):
            total += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
    return total


def machine() -> str:
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{CORES} cores ({model[1] if model else platform.machine()}), {int(memory[1]) // 1024 // 1024 if memory else '?'} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, PostgreSQL {find_postgres().version} with fsync off"
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one short round of each")
    quick = options.parse_args().quick
    rows: list[tuple[str, str, str]] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secretproxy-bench-")))
        directory.chmod(0o755)
        server = stack.enter_context(PrivateServer(settings={"shared_buffers": "512MB", "max_connections": "800"}))
        asyncio.run(install(server.dsn(), directory / "key"))
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(SETUP)
            connection.execute(f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'key', 'a secret value')")
        subprocess.run(
            [server.binaries.program("pgbench"), "-i", "-q", "-s", "10", server.dsn()], capture_output=True, check=True
        )
        bench = Bench(server, 2 if quick else 6, 1 if quick else 3)
        direct = Target("direct", server.port)
        bouncer = stack.enter_context(pgbouncer(server, directory))
        one = stack.enter_context(secretproxy(server, directory, 1))
        many = stack.enter_context(secretproxy(server, directory, CORES))
        targets = [target for target in (direct, bouncer, one, many) if target is not None]

        print("pgbench -S, prepared, 16 clients")
        busy = bench.turns(targets, 16, "-S", "-M", "prepared")
        for name, got in busy.items():
            rows.append(
                (
                    f"`pgbench -S` prepared, 16 clients: {name}",
                    f"{got.tps:,.0f}/s",
                    f"{got.cpu:.1f} us CPU a transaction" if name != "direct" else "",
                )
            )
        if bouncer is not None:
            peer = busy[bouncer.name]
            for target in (one, many):
                got = busy[target.name]
                rows.append(
                    (
                        f"throughput / pgbouncer's: {target.name}",
                        f"{got.tps / peer.tps:.2f}",
                        "to reach: >= 1.0 with as many workers as cores",
                    )
                )
                rows.append(
                    (
                        f"CPU a transaction / pgbouncer's: {target.name}",
                        f"{got.cpu / peer.cpu:.2f}",
                        "to reach: <= 1.3, then <= 1.0",
                    )
                )

        print("pgbench -S, prepared, one client")
        single = bench.turns([target for target in (direct, bouncer, one) if target is not None], 1, "-S", "-M", "prepared")
        added = {name: (got.latency - single["direct"].latency) * 1000 for name, got in single.items()}
        for name, value in added.items():
            if name != "direct":
                rows.append((f"one client, added latency: {name}", f"{value:.0f} us", ""))
        if bouncer is not None:
            rows.append(("added latency / pgbouncer's", f"{added[one.name] / added[bouncer.name]:.2f}", "to reach: <= 1.2"))

        print("secrets_getter")
        new, old = directory / "new.sql", directory / "old.sql"
        new.write_text(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key');\n")
        old.write_text(f"SELECT format_1_getter('{OWNER}', 'key');\n")
        audited = bench.turns([one, many], 16, "-M", "prepared", "-f", str(new))
        baseline = bench.turns([direct], 16, "-M", "prepared", "-f", str(old))["direct"]
        rows.append(("format-1 getter, direct and unaudited, 16 clients", f"{baseline.tps:,.0f}/s", ""))
        for name, got in audited.items():
            rows.append(
                (
                    f"audited `secrets_getter`: {name}",
                    f"{got.tps:,.0f}/s",
                    f"ratio {got.tps / baseline.tps:.2f}; to reach: >= 2.0",
                )
            )

        print("bulk")
        bulk = bench.bulk([direct, one])
        rows.append(
            (
                "bulk COPY of small rows, throughput / direct",
                f"{bulk[one.name] / bulk['direct']:.2f}",
                f"{bulk[one.name]:,.0f} MB/s; to reach: >= 0.9",
            )
        )

        print("idle sessions")
        rows.append(("memory a session, 400 idle", f"{asyncio.run(idle_memory(one, 400)):.0f} KiB", "to reach: <= 40"))

    width = max(len(row[0]) for row in rows)
    for name, figure, note in rows:
        print(f"{name:<{width}}  {figure:>12}  {note}")
    if not quick:
        table = "\n".join(f"| {name} | {figure} | {note} |" for name, figure, note in rows)
        text = (
            "# Results\n\nWritten by `make bench`: medians of rounds that took turns on one machine. Ratios travel, absolute figures do not.\n\n"
            f"{machine()}\n\n| work | figure | |\n| --- | --- | --- |\n{table}\n"
        )
        (Path(__file__).parent / "RESULTS.md").write_text(text, encoding="utf-8")
    return 0


sys.exit(main())
