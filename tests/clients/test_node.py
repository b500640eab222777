"""Checks node-postgres with its cursors, streams and COPY, and postgres.js, which pipelines: the scenarios of `node/`,
both ways."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.support.both import Both, Way
from tests.support.canary import Canary
from tests.support.log import AccessLog, accesses, executions
from tests.support.node import SCRIPTS, node_modules

SCENARIOS = [
    (script, name)
    for script in ("node-postgres", "postgres-js")
    for name in re.findall(r"^scenarios\.(\w+) =", (SCRIPTS / f"{script}.js").read_text(), re.MULTILINE)
    if name != "secrets"
]
OTHER = uuid.UUID("0d5d3f0c-54a0-4b1f-9c8e-7a1d7a3e1b2e")


@pytest.fixture(scope="session")
def modules() -> Path:
    return node_modules()


def run(way: Way, modules: Path, script: str, name: str, **environment: str) -> Any:
    done = subprocess.run(
        ["node", "--unhandled-rejections=strict", str(SCRIPTS / f"{script}.js"), name],
        capture_output=True, text=True, timeout=120, check=False, cwd=way.directory,
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
    """Whatever way the parameters take, the log names owner and secrets before the call, and the functions in a direct
    session say the same."""
    owner = uuid.uuid4()
    environment = {"SCENARIO_OWNER": str(owner), "SCENARIO_VALUE": canary.value()}
    both.same(lambda way: run(way, modules, script, "secrets", SCENARIO_NAME=f"{script} {way.name}", **environment))
    rows = log.settled(f"{script} proxied")
    assert accesses(rows) == [
        (what, owner if own else OTHER, names, calls, state) for what, own, names, calls, state in CALLS
    ]
    assert [row["protocol"] for row in rows if row["event"] == "attempt"].count("simple") == 1
    assert executions(log.rows(f"{script} direct")) == executions(rows)
