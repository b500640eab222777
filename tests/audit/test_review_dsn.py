"""Checks that commands that review find their database in the configuration; --dsn comes before it, and PG* variables
after it."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from secretproxy.cli.audit import app as audit
from tests.conftest import Backend
from tests.support.cli import secretproxy

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
COMMANDS = [
    ("audit", "list"), ("audit", "events"), ("audit", "stats"), ("audit", "bursts"), ("audit", "compare", "--since", "1d", "--with-since", "2d"), ("audit", "unused"),
    ("audit", "export", "-"), ("audit", "incident", "--user", "app_user", "--since", "1d"), ("audit", "verify"), ("audit", "show", "0"), ("doctor",), ("verify",),
    ("audit", "secret", "stripe"), ("audit", "user", "app_user"), ("audit", "review"), ("audit", "evidence", "--month", "2020-01", "--to", "{new}"),
]  # fmt: skip


def run(arguments: Sequence[str], directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
    arguments = [str(directory / f"{uuid.uuid4()}.zip") if argument == "{new}" else argument for argument in arguments]
    done = secretproxy(arguments, cwd=directory, env=environment | variables)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def written(postgres: Backend, directory: Path, dsn: str | None, name: str = "secretproxy.toml") -> str:
    review = "" if dsn is None else f'review_dsn = "{dsn}"\n'
    path = directory / name
    path.write_text(f'[audit]\n{review}[testimony]\nkey_file = "{postgres.key_file}"\n')
    return str(path)


def login(command: Sequence[str]) -> str:
    # The installation is read by who may act as its owners.
    return "postgres" if command == ("verify",) else "auditor"


def reached(done: subprocess.CompletedProcess[str]) -> bool:
    """Tells whether a database with the log answered, whatever was found in it."""
    return done.returncode != 2 and "cannot connect" not in done.stderr


def test_every_command_of_a_reviewer_is_tried() -> None:
    """Lists the commands that review, but those that follow or that are the owner's, which have tests of their own."""
    tried = {command[1] for command in COMMANDS if command[0] == "audit"}
    assert tried == {str(one.name) for one in audit.registered_commands} - {"tail", "retention"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_configuration_alone_is_enough(postgres: Backend, tmp_path: Path, command: tuple[str, ...]) -> None:
    named = written(postgres, tmp_path, postgres.dsn(login(command)), "named.toml")
    assert reached(run([*command, "--config", named], tmp_path))
    assert reached(run(command, tmp_path, SECRETPROXY_CONFIG=named))
    assert not reached(run(command, tmp_path))
    written(postgres, tmp_path, postgres.dsn(login(command)))
    assert reached(run(command, tmp_path))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_dsn_comes_before_the_setting_and_the_setting_before_the_variables(
    postgres: Backend, tmp_path: Path, command: tuple[str, ...]
) -> None:
    good = postgres.dsn(login(command))
    elsewhere = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "nobody"}
    here = {"PGHOST": postgres.host, "PGPORT": str(postgres.port), "PGUSER": login(command), "PGDATABASE": "app"}
    assert reached(run([*command, "--config", written(postgres, tmp_path, NOWHERE), "--dsn", good], tmp_path))
    assert not reached(run([*command, "--dsn", NOWHERE], tmp_path, SECRETPROXY_AUDIT_REVIEW_DSN=good))
    assert not reached(run(command, tmp_path, **here)), "the setting is believed, not the variables"
    assert reached(run([*command, "--config", written(postgres, tmp_path, good)], tmp_path, **elsewhere))
    assert reached(run([*command, "--config", written(postgres, tmp_path, None)], tmp_path, **here))


def test_init_writes_it_and_its_password_is_not_shown(postgres: Backend, tmp_path: Path) -> None:
    dsn = postgres.dsn("auditor").replace("auditor@", "auditor:hunter2@")
    assert run(["init", "--review-dsn", dsn], tmp_path).returncode == 0
    listed = run(["audit", "list"], tmp_path)
    assert listed.returncode == 0 and "as auditor" in listed.stderr
    assert "hunter2" not in listed.stdout + listed.stderr
    broken = run(
        ["audit", "list"], tmp_path, SECRETPROXY_AUDIT_REVIEW_DSN="postgresql://auditor:hunter2@127.0.0.1:1/app"
    )
    assert broken.returncode == 2 and len(broken.stderr.splitlines()) == 1 and "audit.review_dsn" in broken.stderr
    assert "hunter2" not in broken.stdout + broken.stderr


def test_retention_is_not_run_with_the_login_of_reviews(postgres: Backend, tmp_path: Path) -> None:
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[audit]\nreview_dsn = "{postgres.dsn("postgres")}"\nretention = "400 days"\ncheckpoint_key_file = "{tmp_path / "key"}"\n'
    )
    done = run(["audit", "retention", "--dry-run"], tmp_path, PGHOST="127.0.0.1", PGPORT="1", PGUSER="nobody")
    assert done.returncode == 2 and "cannot connect as user nobody" in done.stderr


def test_a_spool_is_listed_whatever_the_setting_says(postgres: Backend, tmp_path: Path) -> None:
    written(postgres, tmp_path, NOWHERE)
    (tmp_path / "spool").mkdir()
    assert "cannot connect" not in run(["audit", "list", "--spool", str(tmp_path / "spool")], tmp_path).stderr


def test_tail_follows_with_the_configuration_alone(postgres: Backend, tmp_path: Path) -> None:
    written(postgres, tmp_path, postgres.dsn("auditor"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
    with subprocess.Popen(
        [sys.executable, "-m", "secretproxy", "audit", "tail"],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            assert "following" in process.stderr.readline()
        finally:
            process.terminate()


def test_a_setting_that_cannot_be_used_is_named_with_its_source(postgres: Backend, tmp_path: Path) -> None:
    config = written(postgres, tmp_path, "host=127.0.0.1 prot=1")
    for variables, source in (
        ({}, config),
        (
            {"SECRETPROXY_AUDIT_REVIEW_DSN": "host=127.0.0.1 prot=2"},
            "environment variable SECRETPROXY_AUDIT_REVIEW_DSN",
        ),
    ):
        done = run(("audit", "list", "--config", config), tmp_path, **variables)
        assert done.returncode == 2
        assert done.stderr.startswith(f"secretproxy: {source}: audit.review_dsn cannot be used: parameter 2"), (
            done.stderr
        )


def test_a_password_file_that_others_may_read_is_told_once_and_not_by_the_driver(
    postgres: Backend, tmp_path: Path
) -> None:
    path = tmp_path / "pass"
    path.write_text("*:*:*:*:x\n")
    path.chmod(0o644)
    done = run(("audit", "list", "--dsn", NOWHERE), tmp_path, PGPASSFILE=str(path))
    assert done.stderr.count(str(path)) == 2 and "warn" not in done.stderr, done.stderr
    assert f"chmod 600 {path}" in done.stderr and len(done.stderr.splitlines()) == 1
