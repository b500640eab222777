"""Checks pgjdbc, the driver in Debian's libpostgresql-jdbc-java: the scenarios of `jdbc/Scenarios.java`, all in one
Java process each way."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest
from tests.support.both import Both, Way, needs_command
from tests.support.canary import Canary
from tests.support.log import AccessLog, accesses, executions

SOURCE = Path(__file__).with_name("jdbc") / "Scenarios.java"
JAR = Path("/usr/share/java/postgresql.jar")


@pytest.fixture(scope="module")
def java() -> list[str]:
    """Gives the command that compiles and runs the source."""
    needs_command("java")
    if not JAR.exists():
        pytest.skip(f"this machine has no {JAR} (Debian: apt-get install libpostgresql-jdbc-java)")
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, text=True, check=False).stdout
    versions = dict(line.partition("@")[::2] for line in modules.splitlines())
    if "jdk.compiler" not in versions or int(versions["jdk.compiler"].partition(".")[0]) < 17:
        pytest.skip("java runs no source file of Java 17 (Debian: apt-get install default-jdk-headless)")
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", str(JAR), str(SOURCE)]


def run(way: Way, java: list[str], name: str, owner: uuid.UUID, value: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [*java, f"jdbc:postgresql://{way.host}:{way.port}/app", name, str(owner)],
        capture_output=True, text=True, timeout=90, check=False, cwd=way.directory,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "SCENARIO_VALUE": value},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {
        scenario: found.split("\x1f")
        for scenario, _, found in (line.partition("\t") for line in done.stdout.splitlines())
    }


# Operation, names, executions, how it ended.
CALLS: list[tuple[str, list[str], int, str | None]] = [
    ("write", ["api"], 1, None), ("write", ["password"], 1, None),
    ("read", ["api"], 1, None), ("read", ["absent"], 1, None), ("verify", ["password"], 1, None),
    ("read", ["api"], 5, None), ("read", ["api"], 0, "22012"),
    ("delete", ["password", "b"], 1, None), ("delete", ["api"], 1, None), ("delete", ["c"], 1, None),
]  # fmt: skip


def test_jdbc(both: Both, java: list[str], log: AccessLog, canary: Canary) -> None:
    """Secrets are read by statements, calls, fetched portals and batches: the log names them, and the functions in a
    direct session say the same."""
    owner, value = uuid.uuid4(), canary.value()
    both.same(lambda way: list(run(way, java, f"jdbc {way.name}", owner, value).items()))
    for mode, protocol in (("1", "extended"), ("simple", "simple")):
        rows = log.settled(f"jdbc proxied {mode}")
        assert accesses(rows) == [(what, owner, names, calls, state) for what, names, calls, state in CALLS]
        assert {row["protocol"] for row in rows} == {protocol}
        assert executions(log.rows(f"jdbc direct {mode}")) == executions(rows)
