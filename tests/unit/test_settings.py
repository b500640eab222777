"""Checks what the settings say of themselves: where a wrong one comes from, what `init` writes, and which version this
is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secretproxy import __version__
from secretproxy.cli.app import app
from secretproxy.config import ConfigError, Host, Settings, example, load_settings
from secretproxy.ops.metrics import compiled

SETTINGS = [
    (name if key is None else f"{name}.{key}")
    for name, field in Settings.model_fields.items()
    for key in (getattr(field.annotation, "model_fields", None) or {None: None})
]
WRONG = ("nonsense", "-1", "", "[1", "{")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.upper().startswith("SECRETPROXY_"):
            monkeypatch.delenv(name)
    written = tmp_path / "secretproxy.toml"
    written.write_text('[audit]\ndsn = "postgresql://journal@db.example/app"\n')
    return written


def refused(file: Path | None) -> str:
    with pytest.raises(ConfigError) as error:
        load_settings(file)
    return str(error.value)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_wrong_value_in_the_environment_names_its_variable(
    setting: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "SECRETPROXY_" + setting.replace(".", "_").upper()
    for name in (variable, variable.lower()):
        for value in WRONG:
            with monkeypatch.context() as patched:
                patched.setenv(name, value)
                said = error_of(file)
            assert said is None or (
                said.startswith(f"environment variable {name}: {setting}") and str(file) not in said
            ), value


def error_of(file: Path) -> str | None:
    try:
        load_settings(file)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        # Each is wrong beside what another setting says or does not say.
        ("SECRETPROXY_AUDIT_ON_OUTAGE", "spool", "audit.spool_dir"),
        ("SECRETPROXY_AUTH_MODE", "scram", "auth.users_file"),
        ("SECRETPROXY_LISTEN_HOST", "", "listen.unix_socket_dir"),
    ],
)
def test_so_does_one_that_is_wrong_beside_others(
    name: str, value: str, setting: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    said = refused(file)
    assert said.startswith(f"environment variable {name}: ") and setting in said and str(file) not in said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SECRETPROXY_LISTEN_PROT", "listen.port"), ("SECRETPROXY_AUDIT_DSM", "audit.dsn"), ("secretproxy_backend_host", "backend.hosts"),
        ("SECRETPROXY_LISTEN", None), ("SECRETPROXY_WORKERS_COUNT", "workers"), ("secretproxy_foo", None), ("SECRETPROXY_", None),
    ],
)  # fmt: skip
def test_a_typo_in_a_variables_name_is_told(
    name: str, meant: str | None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    said = refused(file)
    assert said.startswith(f"environment variable {name}: ") and "no such setting" in said
    assert meant is None or f"did you mean {meant}?" in said


def test_an_error_of_the_file_names_the_file_though_the_environment_has_settings(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRETPROXY_LISTEN_HOST", "127.0.0.1")
    for text, setting in (
        ("[listen]\nport = 'x'\n", "listen.port"), ("[listen]\nprot = 1\n", "listen.prot"), ("[audit]\non_outage = 'spool'\n", "audit.spool_dir"),
    ):  # fmt: skip
        file.write_text(text)
        said = refused(file)
        assert said.startswith(f"{file}: ") and setting in said and "environment" not in said


def test_a_file_that_a_variable_names_is_told_with_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for named, words in (
        (file.parent, "cannot be read ($SECRETPROXY_CONFIG): Is a directory"),
        (file.parent / "none", "no such file ($SECRETPROXY_CONFIG)"),
    ):
        monkeypatch.setenv("SECRETPROXY_CONFIG", str(named))
        assert refused(None).startswith(f"{named}: {words}")
        assert "$SECRETPROXY_CONFIG" not in refused(named)


def test_both_are_named_where_both_are_wrong(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[listen]\nport = 'x'\n")
    monkeypatch.setenv("SECRETPROXY_HEALTH_PORT", "y")
    lines = refused(file).splitlines()
    assert any(line.startswith(f"{file}: listen.port: ") for line in lines)
    assert any(line.startswith("environment variable SECRETPROXY_HEALTH_PORT: health.port: ") for line in lines)


def initialised(directory: Path, *arguments: str) -> Path:
    made = directory / "made.toml"
    done = CliRunner().invoke(app, ["init", "--config", str(made), *arguments])
    assert done.exit_code == 0, done.output
    return made


def test_init_writes_every_setting_with_its_meaning(file: Path) -> None:
    made = initialised(file.parent, "--backend", "[::1]:5433", "--audit-dsn", 'postgresql://journal:a"b\\@db/app')
    assert made.stat().st_mode & 0o777 == 0o600
    settings = load_settings(made)
    assert settings.backend.hosts == ["[::1]:5433"]
    assert (
        settings.audit.dsn is not None and settings.audit.dsn.get_secret_value() == 'postgresql://journal:a"b\\@db/app'
    )
    # All else is at its default, stands there as a comment, and can be switched on by taking the # away.
    assert settings.listen == load_settings(None).listen
    text = made.read_text()
    known = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    whole = tomllib.loads(example())
    assert all(value == whole[name] for name, value in known.items() if not isinstance(value, dict))
    for section, values in whole.items():
        if isinstance(values, dict):
            assert set(values) <= set(known[section]), section
    assert all(line.startswith(("#", "[")) or "=" in line or not line for line in text.splitlines())


def test_init_overwrites_nothing_and_says_what_is_wrong(file: Path) -> None:
    before = file.read_text()
    command = [sys.executable, "-m", "secretproxy", "init"]
    for arguments, words in (
        (["--config", str(file)], "the file exists and is not overwritten"),
        (["--config", str(file.parent / "none" / "x.toml")], "cannot be written: No such file or directory"),
        (["--config", str(file.parent / "new.toml"), "--backend", "db:port"], "--backend"),
        (
            ["--config", str(file.parent / "new.toml"), "--audit-dsn", "postgresql://journal@db:54x2/app"],
            "--audit-dsn: port is not",
        ),
        (["--config", str(file.parent / "new.toml"), "--review-dsn", "db.example"], "--review-dsn: not a URI"),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert file.read_text() == before and not (file.parent / "new.toml").exists()


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_says_how_the_hot_path_runs(option: str) -> None:
    done = CliRunner().invoke(app, [option])
    assert done.exit_code == 0
    assert done.output == f"secretproxy {__version__} ({compiled()}, Python {platform.python_version()})\n"
    assert compiled() in ("compiled", "pure")


def test_what_it_says_is_what_runs() -> None:
    # In a process of its own: the fuzzers put the pure modules into this one.
    asked = "import secretproxy.session.session as hot; from secretproxy.ops.metrics import compiled; print(compiled(), hot.__file__)"
    said, file = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    ).stdout.split()
    assert (said == "compiled") == (not file.endswith(".py"))


@pytest.mark.parametrize(
    "text", ["postgresql://app:pw@h:5432/x", "app:pw@h:5432", "pw@h", "postgres://h", "[app:pw@h]"]
)
def test_a_server_that_may_have_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="no URI, and without a login") as refused:
        Host.parse(text)
    assert "pw" not in str(refused.value)
    assert Host.parse("/tmp/a@b").is_unix
