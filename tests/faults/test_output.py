"""Gives commands an output that cannot be written, or whose reader is gone: one line and status 2, or the status of
SIGPIPE; a file is whole or what it was."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.cli import Forked
from tests.support.command import run
from tests.support.cutting import Cutting

COMMANDS = [
    ("--version",), ("audit", "--help"), ("env",), ("check",), ("audit", "events"), ("audit", "list", "--csv"),
    ("audit", "verify"), ("audit", "export", "-"), ("verify",), ("verify", "--json"), ("keys", "status"), ("install",),
]  # fmt: skip


@pytest.fixture
def config(postgres: Backend, tmp_path: Path) -> Path:
    with psycopg.connect(postgres.dsn(), autocommit=True) as caller:
        # A row of the log, past the proxy.
        caller.execute("SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'output')")
    path = tmp_path / "secretproxy.toml"
    path.write_text(
        f'[backend]\nhosts = ["{postgres.address}"]\n[listen]\nport = 0\n[testimony]\nkey_file = "{postgres.key_file}"\n'
        f'[audit]\ndsn = "{postgres.dsn("journal")}"\n'
    )
    return path


def ended(arguments: list[str], out: int, err: int) -> int:
    with open(os.devnull) as nothing:
        return Forked(arguments, [nothing.fileno(), out, err], os.environ, Path.cwd()).wait(60)


def given(command: tuple[str, ...], postgres: Backend, config: Path) -> list[str]:
    words = list(command)
    if command[0] in ("audit", "verify", "keys", "install") and "--help" not in command:
        words += ["--dsn", postgres.dsn()]
    if command[0] in ("env", "check", "verify", "install"):
        words += ["--config", str(config)]
    return words


def test_a_full_disk_is_one_line_and_two(postgres: Backend, config: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for command in COMMANDS:
            with tempfile.TemporaryFile() as err:
                status = ended(given(command, postgres, config), full, err.fileno())
                err.seek(0)
                said = err.read().decode()
            assert status == 2, (command, status, said)
            assert "secretproxy: standard output: No space left on device" in said, (command, said)
            assert "Exception" not in said and "internal error" not in said, (command, said)
    finally:
        os.close(full)


def test_a_reader_that_is_gone_is_what_sigpipe_is(postgres: Backend, config: Path) -> None:
    for command in COMMANDS:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            with tempfile.TemporaryFile() as err:
                status = ended(given(command, postgres, config), writer, err.fileno())
                err.seek(0)
                said = err.read().decode()
        finally:
            os.close(writer)
        assert status == 141, (command, status, said)
        assert "Exception" not in said and "internal error" not in said and "secretproxy: " not in said, (command, said)


def test_errors_that_cannot_be_said_leave_the_status(postgres: Backend, config: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with tempfile.TemporaryFile() as out:
            assert ended(["check", "--config", "missing.toml"], out.fileno(), full) == 2
            assert ended(["verify", "--dsn", "postgresql://127.0.0.1:1/app"], out.fileno(), full) == 2
    finally:
        os.close(full)


def test_an_export_that_is_cut_leaves_what_was_there(postgres: Backend, tmp_path: Path) -> None:
    target, link = tmp_path / "rows.jsonl", tmp_path / "link.jsonl"
    target.write_text("older\n")
    target.chmod(0o640)
    link.symlink_to(target)
    with Cutting(postgres.host, postgres.port) as relay:
        dsn = f"postgresql://auditor@127.0.0.1:{relay.port}/app"
        relay.set(0)
        assert run("audit", "export", "-", "--dsn", dsn).status == 0
        total = relay.seen
        for number in (total - 6, total - 9, total - 12):
            relay.set(number)
            for place in (target, link, tmp_path / "new.jsonl"):
                said = run("audit", "export", str(place), "--dsn", dsn)
                assert said.status == 2 and "database app" in said.line, said
        assert target.read_text() == "older\n" and link.is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "rows.jsonl"]
    assert run("audit", "export", str(link), "--dsn", postgres.dsn("auditor")).status == 0
    assert link.is_symlink() and target.read_text() != "older\n" and target.stat().st_mode & 0o777 == 0o640
    said = run("audit", "export", "/dev/full", "--dsn", postgres.dsn("auditor"))
    assert said.status == 2 and said.line == "secretproxy: /dev/full: cannot be written: No space left on device"
