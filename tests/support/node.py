"""Installs packages of npm's that tests need, pinned by a lock file and installed once outside the source tree."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.both import needs_command

SCRIPTS = Path(__file__).parent.parent / "clients" / "node"
# What npm says of a lock file that does not fit; anything else is the network's.
OURS = ("EUSAGE", "EINTEGRITY", "EJSONPARSE")


def node_modules() -> Path:
    """Gives the locked packages, installed once outside the source tree, whichever worker comes first."""
    needs_command("node", "npm")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < 16:
        pytest.skip(f"node {version} is too old")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = (cache if os.access(cache, os.W_OK) else _of_this_user()) / "secretproxy-tests"
    directory.mkdir(exist_ok=True)
    lock = (SCRIPTS / "package-lock.json").read_bytes()
    installed = directory / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    with (directory / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not installed.exists():
            with tempfile.TemporaryDirectory(dir=directory) as made:
                _install(Path(made))
                (Path(made) / "node_modules").rename(installed)
    return installed


def _of_this_user() -> Path:
    directory = Path(tempfile.gettempdir()) / f"secretproxy-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    assert directory.stat().st_uid == os.getuid()
    return directory


def _install(directory: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SCRIPTS / name, directory)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer within 90 s")
    if done.returncode:
        code = (re.findall(r"(?:code|ERR! code) (E\w+)", done.stderr) or ["no code"])[0]
        assert code not in OURS, done.stderr
        pytest.skip(f"npm's registry does not give the packages ({code})")
