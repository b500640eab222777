"""The programs that the benchmarks measure: PostgreSQL direct, pgbouncer and haproxy from Debian's packages,
secretproxy."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from secretproxy.demo.postgres import PrivateServer, free_port

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Target:
    """Somewhere to point a client at; `pids` are the processes whose CPU and memory are the proxy's."""

    name: str
    port: int
    pids: list[int] = field(default_factory=list)
    # Of the connection URI, from "?" on.
    parameters: str = ""

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres{self.parameters}"

    def all_pids(self) -> list[int]:
        return [pid for root in self.pids for pid in (root, *_children(root))]

    def cpu(self) -> float:
        """Gives the CPU seconds so far, including children."""
        return sum(_cpu(pid) for pid in self.all_pids())

    def memory(self, kind: str = "VmRSS") -> int:
        """Gives the memory in KiB; VmHWM is the peak."""
        total = 0
        for pid in self.all_pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(kind + ":"):
                    total += int(line.split()[1])
        return total


def _cpu(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    return 0.0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def find(program: str) -> str | None:
    """Finds a program, installing it with apt-get if allowed; prints what to install and gives None if it is
    missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which(program, path=path)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL=1 keeps the package from starting a service of its own.
        environment = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "install", "-y", "-q", program], env=environment, capture_output=True, check=False)
        found = shutil.which(program, path=path)
    if found is None:
        print(f"{program} is not installed (Debian: apt-get install {program}): its figures are left out")
    return found


def _as_postgres(home: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    for path in (home, *home.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def _running(target: Target, command: list[str], **how: Any) -> Iterator[Target]:
    process = subprocess.Popen(command, **how)
    try:
        target.pids.append(process.pid)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.Error):
                psycopg.connect(target.dsn).close()
                break
            time.sleep(0.1)
        else:
            raise SystemExit(f"{target.name}: nothing answers on port {target.port}")
        yield target
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def pgbouncer(backend_port: int, directory: Path) -> Iterator[Target | None]:
    """pgbouncer in session mode."""
    program = find("pgbouncer")
    if program is None:
        yield None
        return
    target = Target("pgbouncer (session)", free_port())
    home = directory / "pgbouncer"
    home.mkdir()
    (home / "users").write_text('"postgres" ""\n')
    (home / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={backend_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {target.port}\n"
        f"auth_type = trust\nauth_file = {home}/users\npool_mode = session\nmax_client_conn = 2000\ndefault_pool_size = 200\n"
        f"unix_socket_dir =\nlogfile = {home}/log\nlog_connections = 0\nlog_disconnections = 0\n"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with _running(target, [program, str(home / "pgbouncer.ini")], **quiet, **_as_postgres(home)):
        yield target


@contextlib.contextmanager
def haproxy(backend_port: int, directory: Path) -> Iterator[Target | None]:
    """haproxy in TCP mode, one thread: it does not look at what it relays."""
    program = find("haproxy")
    if program is None:
        yield None
        return
    target = Target("haproxy (TCP)", free_port())
    config = directory / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        f"frontend f\n  bind 127.0.0.1:{target.port}\n  default_backend b\nbackend b\n  server s 127.0.0.1:{backend_port}\n"
    )
    with _running(target, [program, "-db", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield target


@contextlib.contextmanager
def secretproxy(
    backend_port: int, audit_dsn: str, directory: Path, workers: int, extra: dict[str, str] | None = None
) -> Iterator[Target]:
    """secretproxy with so many workers; `extra`: more lines for a section of its configuration."""
    more = extra or {}
    target = Target(f"secretproxy ({workers} worker{'s' if workers > 1 else ''})", free_port())
    config = directory / f"proxy-{workers}-{target.port}.toml"
    config.write_text(
        f"workers = {workers}\n[listen]\nport = {target.port}\nmax_sessions = 8000\nmax_connections = 9000\n{more.get('listen', '')}"
        f'[backend]\nhosts = ["127.0.0.1:{backend_port}"]\n{more.get("backend", "")}'
        f'[audit]\ndsn = "{audit_dsn}"\n[testimony]\nkey_file = "{directory}/key"\n[log]\nlevel = "error"\n'
    )
    with _running(target, [sys.executable, "-m", "secretproxy", "run", "--config", str(config)]):
        yield target


def pgaudit_settings(server: PrivateServer) -> dict[str, str]:
    """Gives the settings for pgaudit to log by object; empty if its package is not installed."""
    library = subprocess.run(
        [server.binaries.program("pg_config"), "--pkglibdir"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not library or not (Path(library) / "pgaudit.so").exists():
        print("pgaudit is not installed (Debian: apt-get install postgresql-15-pgaudit): its figures are left out")
        return {}
    return {
        "shared_preload_libraries": "pgaudit",
        "pgaudit.role": "pgaudit_role",
        "log_destination": "csvlog",
        "logging_collector": "on",
    }
