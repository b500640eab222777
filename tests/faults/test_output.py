"""Gives commands an output that cannot be written, or whose reader is gone: one line and status 2, or the status of
SIGPIPE; a file is whole or what it was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.cli import Forked
from tests.support.command import run
from tests.support.cutting import Cutting

from secretproxy.cli import app

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


NAME, TWIN = "schlüssel→💥", r"schl\xfcssel\u2192\U0001f4a5"
PLAIN = {name: text for name, text in os.environ.items() if name not in ("LANG", "LC_ALL", "LC_CTYPE")}


def spoken(words: Sequence[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "secretproxy", *words]
    return subprocess.run(command, env={**PLAIN, **environment}, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "first", "environment"),
    [
        (("stats", "--secret", NAME), "\\xfc", {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        (("list", "--columns", "secret", "--limit", "2"), "ü", {"PYTHONIOENCODING": "latin-1"}),
        (("list", "--csv", "--secret", NAME), None, {"PYTHONIOENCODING": "ascii"}),
    ],
    ids=("posix", "latin-1", "csv"),
)
def test_characters_that_the_terminal_does_not_know(
    postgres: Backend, words: tuple[str, ...], first: str | None, environment: dict[str, str]
) -> None:
    """They are shown as escapes, no two names look alike, and what programs read stays UTF-8."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as caller:
        for name in (NAME, TWIN):
            caller.execute("SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), %s)", [name])
    done = spoken(["audit", *words, "--dsn", postgres.dsn("auditor")], **environment)
    assert done.returncode == 0, done.stderr
    if first is None:
        assert len(done.stdout.decode().splitlines()) > 1
        return
    shown = rf'"schl{first}ssel\u2192\U0001f4a5"'.encode("latin-1")
    if words[0] == "list":
        assert done.stdout.splitlines()[1:3] == [shown, TWIN.encode()]
    else:
        assert shown in done.stdout and b"####" in done.stdout


def test_unbuffered_output_is_whole_and_named(config: Path) -> None:
    """PYTHONUNBUFFERED is set in many an image."""
    words = [sys.executable, "-m", "secretproxy", "env", "--config", str(config)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            words, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "secretproxy: standard output: No space left on device\n")


@pytest.mark.parametrize(
    "dsn", ["postgresql://auditor:\udcfc@127.0.0.1/app", "postgresql://a\udcfc@127.0.0.1/app", "host=127.0.0.1 user=\udcfc", "postgresql://%fc@h"]
)  # fmt: skip
def test_a_connection_string_that_is_no_utf8_is_said(dsn: str) -> None:
    said = run("audit", "list", "--dsn", dsn)
    assert said.status == 2 and re.search("(user|password) is not UTF-8", said.line), said


def test_an_error_that_nobody_expects_is_one_line_without_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 would say that something was found; an exception's text can hold a value."""

    def broken(*_: object) -> None:
        raise RuntimeError("a-value")

    monkeypatch.setattr("secretproxy.cli.env.load_settings", broken)
    monkeypatch.setattr(sys, "argv", ["secretproxy", "env"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.err.startswith("secretproxy: unexpected RuntimeError in ")
    assert "cli/env.py:" in said.err and said.err.count("\n") == 1 and "a-value" not in said.err
