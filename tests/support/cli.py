"""Runs `secretproxy ...` as a process of its own, forked from one that has imported everything already.

A command spends half a second of CPU on its imports, and the tests run a thousand of them. What a command sees is its
own: arguments, environment, directory, files 0 to 2, exit status. What is decided when an interpreter starts is not
(PYTHON* variables, the locale, a terminal): tests of that start `python -m secretproxy`."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import secretproxy as package
from tests.support.reading import exactly

COMMAND = [sys.executable, "-m", "secretproxy"]
_STATUS = struct.Struct("!i")
_server: tuple[int, subprocess.Popen[bytes], socket.socket] | None = None


def secretproxy(
    arguments: Sequence[str | bytes],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: str = "",  # noqa: A002 - as subprocess.run has it
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Gives what `subprocess.run([sys.executable, "-m", "secretproxy", ...], capture_output=True, text=True)` gives."""
    sock = _connected()
    job = {
        "argv": [os.fsdecode(each) for each in arguments],
        "env": dict(os.environ if env is None else env),
        "cwd": str(cwd or Path.cwd()),
    }
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        data = json.dumps(job).encode()
        socket.send_fds(sock, [_STATUS.pack(len(data))], [given.fileno(), out.fileno(), err.fileno()])
        sock.sendall(data)
        pid = _STATUS.unpack(exactly(sock, _STATUS.size))[0]
        sock.settimeout(timeout)
        try:
            status = _STATUS.unpack(exactly(sock, _STATUS.size))[0]
        except TimeoutError:
            sock.settimeout(None)
            os.kill(pid, signal.SIGKILL)
            exactly(sock, _STATUS.size)
            raise subprocess.TimeoutExpired([*COMMAND, *job["argv"]], timeout) from None
        sock.settimeout(None)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([*COMMAND, *job["argv"]], status, _text(out.read()), _text(err.read()))


def _text(data: bytes) -> str:
    """Decodes as subprocess does: UTF-8, universal newlines."""
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


def _connected() -> socket.socket:
    global _server
    if _server is None or _server[0] != os.getpid() or _server[1].poll() is not None:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.cli import _serve; _serve(0)"], stdin=theirs
        )
        theirs.close()
        atexit.register(ours.close)
        _server = os.getpid(), process, ours
    return _server[2]


def _serve(descriptor: int) -> None:
    """Forks a command for each job until the other side closes; it stays single-threaded and never runs a command
    itself."""
    # A command imports what it needs when it begins: all of it is here already.
    for module in pkgutil.walk_packages(package.__path__, "secretproxy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("rich.console")
    importlib.import_module("rich.progress")
    importlib.import_module("rich.table")
    sock = socket.socket(fileno=os.dup(descriptor))
    with contextlib.suppress(ConnectionError):
        while True:
            size, descriptors, _, _ = socket.recv_fds(sock, _STATUS.size, 3)
            if not size:
                return
            job = json.loads(exactly(sock, _STATUS.unpack(size)[0]))
            pid = os.fork()
            if pid == 0:
                sock.close()
                _become(job, descriptors)
            for each in descriptors:
                os.close(each)
            sock.sendall(_STATUS.pack(pid))
            sock.sendall(_STATUS.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _become(job: dict[str, list[str] | dict[str, str] | str], descriptors: list[int]) -> None:
    """Runs the command in the forked process, and ends as an interpreter ends."""
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
