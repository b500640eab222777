"""node-postgres with its cursors, streams and COPY, and postgres.js, which pipelines: the scenarios of `node/`, both ways."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.support.both import Both, Way, needs_command
from tests.support.canary import Canary
from tests.support.log import AccessLog, accesses, executions

SCRIPTS = Path(__file__).with_name("node")
SCENARIOS = [
    (script, name)
    for script in ("node-postgres", "postgres-js")
    for name in re.findall(r"^scenarios\.(\w+) =", (SCRIPTS / f"{script}.js").read_text(), re.MULTILINE)
    if name != "secrets"
]
# What npm says of a lock file that does not fit; anything else is the network's.
OURS = ("EUSAGE", "EINTEGRITY", "EJSONPARSE")
OTHER = uuid.UUID("0d5d3f0c-54a0-4b1f-9c8e-7a1d7a3e1b2e")


@pytest.fixture(scope="session")
def modules() -> Path:
    """The locked packages, installed once outside the source tree, whichever worker comes first."""
    needs_command("node", "npm")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < 16:
        pytest.skip(f"node {version} is too old for node-postgres")
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


def run(way: Way, modules: Path, script: str, name: str, **environment: str) -> Any:
    done = subprocess.run(
        ["node", "--unhandled-rejections=strict", str(SCRIPTS / f"{script}.js"), name],
        capture_output=True, text=True, timeout=30, check=False, cwd=way.directory,
        env={
            "PATH": os.environ["PATH"], "NODE_PATH": str(modules), "TZ": "UTC",
            "SCENARIO_URL": way.dsn(), "SCENARIO_SUPERUSER_URL": way.dsn("postgres"),
        } | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("script", "name"), SCENARIOS)
def test_scenario(both: Both, modules: Path, script: str, name: str) -> None:
    assert both.same(lambda way: run(way, modules, script, name))


# Operation, whether the owner is the test's own, names, executions, how it ended.
CALLS: list[tuple[str, bool, list[str], int, str | None]] = [
    ("write", True, ["api"], 1, None), ("write", True, ["password"], 1, None),
    ("read", True, ["api"], 1, None), ("read", True, ["absent"], 1, None),
    ("verify", True, ["password"], 1, None),
    ("read", False, ["absent"], 1, None), ("read", False, ["api"], 1, None), ("read", False, ["b"], 1, None),
    ("read", True, ["api"], 1, None), ("read", True, ["api"], 3, None), ("read", True, ["api"], 0, "22012"),
    ("delete", True, ["password", "b"], 1, None), ("delete", True, ["api"], 1, None),
]  # fmt: skip


@pytest.mark.parametrize("script", ["node-postgres", "postgres-js"])
def test_secrets(both: Both, modules: Path, log: AccessLog, canary: Canary, script: str) -> None:
    """Whatever way the parameters take, the log names owner and secrets before the call, and the functions in a direct session say the same."""
    owner = uuid.uuid4()
    environment = {"SCENARIO_OWNER": str(owner), "SCENARIO_VALUE": canary.value()}
    both.same(lambda way: run(way, modules, script, "secrets", SCENARIO_NAME=f"{script} {way.name}", **environment))
    rows = log.settled(f"{script} proxied")
    assert accesses(rows) == [(what, owner if own else OTHER, names, calls, state) for what, own, names, calls, state in CALLS]
    assert [row["protocol"] for row in rows if row["event"] == "attempt"].count("simple") == 1
    assert executions(log.rows(f"{script} direct")) == executions(rows)
