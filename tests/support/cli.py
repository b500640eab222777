"""Runs `secretproxy ...` as a process of its own, forked from one that has imported everything already.

A command spends half a second of CPU on its imports, a proxy a whole one, and the tests run thousands of them. What a
command sees is its own: arguments, environment, directory, files 0 to 2, exit status. What is decided when an
interpreter starts is not (PYTHON* variables, the locale, a terminal): tests of that start `python -m secretproxy`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import secretproxy as package
from secretproxy.demo.postgres import die_with_parent
from tests.support.reading import exactly

COMMAND = [sys.executable, "-m", "secretproxy"]
_NUMBER = struct.Struct("!i")
_server: tuple[int, subprocess.Popen[bytes], socket.socket] | None = None
_turn = threading.Lock()


class Forked:
    """A process that the server forked, with the methods of subprocess.Popen that tests use.

    It is the server's child: it stays a zombie, and its number its own, until its status is asked for here."""

    def __init__(
        self, arguments: Sequence[str | bytes], files: Sequence[int], env: Mapping[str, str], cwd: Path
    ) -> None:
        self.args = [*COMMAND, *map(os.fsdecode, arguments)]
        self.returncode: int | None = None
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        job = {"argv": self.args[3:], "env": dict(env), "cwd": str(cwd), "descriptors": limit}
        with _turn:
            self._server = _connected()
            self.pid = _asked(self._server, job, files)
        self._ended = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            with _turn:
                if self.returncode is None:
                    self.returncode = _asked(self._server, {"ended": self.pid})
                    os.close(self._ended)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([self._ended], [], [], left)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def secretproxy(
    arguments: Sequence[str | bytes],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: str = "",  # noqa: A002 - as subprocess.run has it
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Gives what `subprocess.run([sys.executable, "-m", "secretproxy", ...], capture_output=True, text=True)` gives."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        files = [given.fileno(), out.fileno(), err.fileno()]
        process = Forked(arguments, files, os.environ if env is None else env, cwd or Path.cwd())
        try:
            process.wait(timeout)
        except BaseException:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.args, process.wait(), _text(out.read()), _text(err.read()))


def _text(data: bytes) -> str:
    """Decodes as subprocess does: UTF-8, universal newlines."""
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


def _asked(sock: socket.socket, job: Mapping[str, Any], files: Sequence[int] = ()) -> int:
    data = json.dumps(job).encode()
    socket.send_fds(sock, [_NUMBER.pack(len(data))], files)
    sock.sendall(data)
    return int(_NUMBER.unpack(exactly(sock, _NUMBER.size))[0])


def _connected() -> socket.socket:
    global _server
    if _server is None or _server[0] != os.getpid() or _server[1].poll() is not None:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.cli import _serve; _serve(0)"],
            stdin=theirs,
            cwd=Path(__file__).parents[2],
        )
        theirs.close()
        atexit.register(ours.close)
        _server = os.getpid(), process, ours
    return _server[2]


def _serve(descriptor: int) -> None:
    """Forks a command for each job until the other side closes; it stays single-threaded and never runs a command
    itself."""
    # Ends with the tests alone, whatever a terminal says to them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A command imports what it needs when it begins: all of it is here already.
    for module in pkgutil.walk_packages(package.__path__, "secretproxy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("rich.console")
    importlib.import_module("rich.progress")
    importlib.import_module("rich.table")
    # Made of the functions' signatures at each start, which takes as long as many a command.
    typer = importlib.import_module("typer.main")
    typer.get_command = functools.cache(typer.get_command)
    typer.get_command(importlib.import_module("secretproxy.cli.app").app)
    # As are the package's own scripts, which are parsed once a process.
    project = importlib.import_module("secretproxy.install.project")
    project.function_bodies()
    project.testifying_bodies()
    # What is here already is no garbage: a command's collector need not look at it.
    gc.collect()
    gc.freeze()
    sock = socket.socket(fileno=os.dup(descriptor))
    with contextlib.suppress(ConnectionError):
        while True:
            size, files, _, _ = socket.recv_fds(sock, _NUMBER.size, 3)
            if not size:
                return
            job = json.loads(exactly(sock, _NUMBER.unpack(size)[0]))
            if "ended" in job:
                answer = os.waitstatus_to_exitcode(os.waitpid(job["ended"], 0)[1])
            else:
                answer = os.fork()
                if answer == 0:
                    sock.close()
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    die_with_parent()
                    _become(job, files)
            for each in files:
                os.close(each)
            sock.sendall(_NUMBER.pack(answer))


def _become(job: dict[str, Any], descriptors: list[int]) -> None:
    """Runs the command in the forked process, and ends as an interpreter ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, job["descriptors"])
    for wanted, given in enumerate(descriptors):
        os.dup2(given, wanted)
    os.closerange(3, 256)
    os.chdir(str(job["cwd"]))
    os.environ.clear()
    os.environ.update(dict(job["env"]))
    sys.argv = ["secretproxy", *job["argv"]]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    status: object = 0
    try:
        from secretproxy.cli.app import main

        main()
    except SystemExit as ended:
        status = ended.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0) if isinstance(status, int) or status is None else 1)
