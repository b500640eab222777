"""Lets servers of the tests begin as a copy of one data directory: initdb takes half a second of CPU, and is run once a
process for each way of logging in."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from pathlib import Path

from secretproxy.demo.postgres import PrivateServer

_made: dict[tuple[str, ...], Path] = {}
_run = PrivateServer._run


def _copied(server: PrivateServer, program: str, *arguments: object) -> None:
    """Runs a program of PostgreSQL; what initdb would make is copied from what it made before."""
    words = list(map(str, arguments))
    if program != "initdb":
        _run(server, program, *words)
        return
    # All that the result depends on; the password's file and the directory are each server's own.
    key = (str(server.binaries.directory), server.password, *words[2:-1])
    if key not in _made:
        parent = Path(tempfile.mkdtemp(prefix="secretproxy-pg-"))
        atexit.register(shutil.rmtree, parent, ignore_errors=True)
        if server._user is not None:
            shutil.chown(parent, server._user.pw_uid, server._user.pw_gid)
        _run(server, program, words[0], str(parent / "data"), *words[2:])
        _made[key] = parent / "data"
    subprocess.run(["cp", "-a", _made[key], words[1]], check=True)


def copy_data_directories() -> None:
    """Makes PrivateServer copy from now on."""
    PrivateServer._run = _copied  # type: ignore[method-assign]
