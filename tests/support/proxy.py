"""Runs a secretproxy of the tests' own: a child process with a temporary configuration, its output kept in a file."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from secretproxy.demo.postgres import die_with_parent, free_port
from tests.support import canary
from tests.support.cli import Forked

# Bytes of a socket's path (sun_path), less those of `/.s.PGSQL.65535.lock`.
_LONGEST = 107 - 20


def short(directory: Path) -> Path:
    """Gives a directory for sockets: this one, or one of a shorter path, wherever the tests' own directories are."""
    if len(os.fsencode(directory)) <= _LONGEST:
        return directory
    made = Path(tempfile.mkdtemp(prefix="secretproxy-", dir="/tmp"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


class Proxy:
    """`secretproxy run` before a backend. Extra TOML goes behind the sections that every test needs, the last of which
    is [listen].

    The catalog is read where a test asks for it: what others call through a function or a view is testimony's to tell.
    """

    # An interpreter that is started for it; None: it is forked from one that has imported everything.
    python: str | None = None

    def __init__(
        self, directory: Path, backend: str, log_dsn: str, key_file: Path, extra: str = "", catalog: float = 0
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.health_port = free_port()
        self.sockets = short(directory)
        self.config = directory / "secretproxy.toml"
        self.output = directory / "output.log"
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self.config.write_text(
            f'[backend]\nhosts = ["{backend}"]\n[audit]\ndsn = "{log_dsn}"\ntimeout = 2.0\n[testimony]\nkey_file = "{key_file}"\n'
            f"[monitor]\ncatalog_refresh = {catalog}\n[health]\nport = {self.health_port}\n[log]\nlevel = 'debug'\n[listen]\nport = {self.port}\n"
            f'unix_socket_dir = "{self.sockets}"\ndrain_timeout = 5.0\n{extra}'
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def dsn(self, user: str = "app_user", database: str = "app") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def start(self) -> Proxy:
        """Starts it and waits for its own word that it listens."""
        before = self.text().count("listening") if self.output.exists() else 0
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SECRETPROXY_", "PG"))}
        arguments = ["run", "--config", str(self.config)]
        with self.output.open("ab") as out, open(os.devnull, "rb") as nothing:
            if self.python is None:
                files = [nothing.fileno(), out.fileno(), out.fileno()]
                self._process = Forked(arguments, files, environment, self.directory)
            else:
                self._process = subprocess.Popen(
                    [self.python, "-m", "secretproxy", *arguments],
                    stdin=nothing, stdout=out, stderr=out, env=environment, cwd=self.directory, preexec_fn=die_with_parent,
                )  # fmt: skip
        self.wait_for_text("listening", before + 1)
        return self

    def wait_for_text(self, text: str, count: int = 1, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.text().count(text) < count:
            assert self.running, f"the proxy ended: {self.text()[-1000:]}"
            assert time.monotonic() < deadline, f"no {text!r} within {seconds} s: {self.text()[-1000:]}"
            time.sleep(0.02)

    def send_signal(self, name: str) -> None:
        os.kill(self.pid, signal.Signals[f"SIG{name}"])

    def halt(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """Sends a signal and gives the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(seconds)

    def stop(self) -> None:
        """Ends it for good; before that a session leaves values in it, which nobody may find afterwards."""
        if self.running:
            canary.leave_values(self)
            canary.search_process(self)
            try:
                self.halt()
            except subprocess.TimeoutExpired:
                self.halt(signal.SIGKILL)

    def kill(self) -> None:
        self.halt(signal.SIGKILL)
