"""Checks that what a command takes out of the log is an event of the log, with its filter alone; and that whoever
cannot have it written is told why."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from secretproxy.audit.checkpoints import Signer
from secretproxy.audit.verify import verify_database
from secretproxy.cli.audit import recording
from secretproxy.config import load_settings
from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

_A_TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}.*")
TOLD = "not recorded in the log that you read it: "
COMMANDS = {
    "export": (["export", "{new}", "--user", "app_user", "--since", "1h"], ["format", "jsonl", "since", "(a time)", "user", "app_user"]),
    "evidence": (["evidence", "--month", "2020-01", "--to", "{new}"], ["month", "2020-01"]),
    "incident download": (
        ["incident", "--user", "app_user", "--since", "1h", "--csv", "--to", "{new}"], ["format", "csv", "user", "app_user", "since", "1h"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(postgres: Backend, proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'recorded')")


@pytest.fixture
def configured(postgres: Backend, tmp_path: Path) -> Callable[..., Path]:
    def made(login: str = "journal", key: Path | None = None, database: str = "app") -> Path:
        if key is None:
            # That of all tests which sign in this log.
            key = postgres.key_file.with_name("console.pem")
            Signer(key)
        config = tmp_path / "secretproxy.toml"
        config.write_text(
            f'[audit]\ndsn = "{postgres.dsn(login, database)}"\nreview_dsn = "{postgres.dsn("auditor")}"\ntimeout = 2.0\n'
            f'checkpoint_key_file = "{key}"\n[testimony]\nkey_file = "{postgres.key_file}"\n'
        )
        return config

    return made


def recorded(postgres: Backend) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        rows = sql.execute(
            "SELECT function, via, db_user, application_name FROM secretproxy.access_log"
            " WHERE event = 'review' AND application_name = 'secretproxy audit' ORDER BY at, seq"
        ).fetchall()
    return [(asked, [_A_TIME.sub("(a time)", text) for text in via or ()], *who) for asked, via, *who in rows]


@pytest.fixture(autouse=True)
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves this process's log to other tests: commands have processes of their own."""
    monkeypatch.setattr(recording.logs, "configure", lambda *_: None)


def run(command: list[str], folder: Path, config: Path) -> str:
    new = folder / f"made-{len([*folder.iterdir()])}"
    done = secretproxy(["audit", *(part.format(new=new) for part in command), "--config", str(config)])
    assert done.returncode == 0, done.stderr
    assert new.exists() == ("{new}" in command)
    return done.stderr


@pytest.mark.usefixtures("written")
def test_what_leaves_the_log_as_a_file_is_recorded(
    postgres: Backend, configured: Callable[..., Path], tmp_path: Path
) -> None:
    """In the name of the login that reads, in a chain that is complete when the file is made."""
    config = configured()
    before = len(recorded(postgres))
    for command, _ in COMMANDS.values():
        assert TOLD not in run(command, tmp_path, config)
    assert recorded(postgres)[before:] == [
        (asked, given, "auditor", "secretproxy audit") for asked, (_, given) in COMMANDS.items()
    ]
    # What is only printed is not.
    for command in (["list"], ["secret", "recorded"], ["incident", "--user", "app_user", "--since", "1h"], ["review"]):
        run(command, tmp_path, config)
    assert len(recorded(postgres)) == before + len(COMMANDS)
    assert asyncio.run(verify_database(postgres.dsn("auditor"), [], None, lambda done, total: None)).sound


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("login", "database", "why"),
    [
        ("app_user", "app", "GRANT secretproxy_writer TO app_user"), ("auditor", "app", "GRANT secretproxy_writer TO auditor"),
        ("journal", "no_such_database", "cannot be written"),
    ],
)  # fmt: skip
def test_who_may_not_write_is_told(
    postgres: Backend, configured: Callable[..., Path], tmp_path: Path, login: str, database: str, why: str
) -> None:
    """The file is made all the same: psql would make it too. A sign-off is nothing else than its event."""
    config, before = configured(login, database=database), recorded(postgres)
    said = run(COMMANDS["export"][0], tmp_path, config)
    assert TOLD in said and why in said and "Traceback" not in said
    done = secretproxy(["audit", "review", "--up-to", "1h", "--note", "all well", "--config", str(config)])
    assert done.returncode == 2 and "the log is not signed off" in done.stderr and why in done.stderr
    assert recorded(postgres) == before


@pytest.mark.usefixtures("written")
def test_a_signed_log_gets_no_chain_that_nobody_signs(
    postgres: Backend, configured: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`audit verify` would take it for made up. A key that is missing is not made: it would sign for nobody."""
    run(COMMANDS["export"][0], tmp_path, configured())
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        ends = "SELECT kind FROM secretproxy.checkpoints ORDER BY at DESC LIMIT 1"
        assert sql.execute(ends).fetchone() == ("end",)
    missing, before = tmp_path / "missing.key", recorded(postgres)
    config = configured(key=missing)
    assert "audit.checkpoint_key_file" in run(COMMANDS["export"][0], tmp_path, config)
    monkeypatch.setattr(recording, "_SIGNED", "SELECT false")

    async def unsigned() -> None:
        async with recording.review.reading(postgres.dsn("auditor")) as connection:
            with pytest.raises(recording.NotRecordedError, match="another log"):
                async with recording.reading(connection, load_settings(config)):
                    """Nothing is recorded, so nothing is found."""

    asyncio.run(unsigned())
    assert recorded(postgres) == before and not missing.exists()


@pytest.mark.usefixtures("written")
def test_a_command_without_a_configuration_says_that_it_is_not_recorded(
    postgres: Backend, tmp_path: Path, configured: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = secretproxy(
        ["audit", "export", "-", "--since", "1h", "--dsn", postgres.dsn("auditor")], cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 0 and f"{TOLD}audit.dsn of the configuration (--config) names no login" in done.stderr
    assert all(json.loads(line) for line in done.stdout.splitlines())
    # What was written somewhere else was not recorded here.
    monkeypatch.setattr(recording, "_SEEN", "SELECT $1::pg_catalog.uuid IS NULL")
    config = configured()

    async def elsewhere() -> None:
        async with recording.review.reading(postgres.dsn("auditor")) as connection:
            with pytest.raises(recording.NotRecordedError, match="another log"):
                async with recording.reading(connection, load_settings(config)) as found:
                    await found.recorder.record(found.who, 1, "export", [])

    asyncio.run(elsewhere())
