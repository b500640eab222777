"""`audit secret`, `audit user` and `audit incident` say what the console's pages say: they ask the same questions."""

from __future__ import annotations

import json
import subprocess

import psycopg
import pytest

from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

OWNER = "5b1f8d6c-7e9a-4b2c-8d3e-4f5a6b7c8d9e"


def run(postgres: Backend, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = secretproxy(["audit", *arguments, "--dsn", postgres.dsn("auditor")])
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def accessed(postgres: Backend, proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn(), autocommit=True, application_name="subjects test") as sql:
        sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'subject', 'value')", (OWNER,))
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'untouched since')", (OWNER,))
        for name in ("subject", "subject", "\x1b[2J\u202e"):
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (OWNER, name))


@pytest.mark.usefixtures("accessed")
def test_who_used_a_secret(postgres: Backend) -> None:
    done = run(postgres, "secret", "subject", "--owner", OWNER)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["user", "application", "from", "accesses", "first", "last"]
    assert lines[1].split()[:5] == ["app_user", "subjects", "test", "127.0.0.1", "3"]
    assert f"{OWNER}: written last at" in done.stderr and "nobody has used" not in done.stderr
    rows = [
        json.loads(line)
        for line in run(postgres, "secret", "subject", "--owner", OWNER[:8], "--json").stdout.splitlines()
    ]
    assert [(row["db_user"], row["n"]) for row in rows if row["application_name"] == "subjects test"] == [
        ("app_user", 3)
    ]


@pytest.mark.usefixtures("accessed")
def test_what_a_login_used(postgres: Backend) -> None:
    rows = [
        json.loads(line) for line in run(postgres, "user", "app_user", "--since", "1h", "--json").stdout.splitlines()
    ]
    mine = {row["secret_names"][0]: row for row in rows if row["owner_id"] == OWNER}
    assert {name: row["n"] for name, row in mine.items()} == {"subject": 3, "untouched since": 1, "\x1b[2J\u202e": 1}
    assert all(row["new"] for row in mine.values())
    text = run(postgres, "user", "app_user", "--application", "subjects test").stdout
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2J\\u202e" in text


@pytest.mark.usefixtures("accessed")
def test_what_a_compromised_login_touched(postgres: Backend) -> None:
    done = run(postgres, "incident", "--user", "app_user", "--since", "1h", "--json")
    mine = [one for one in map(json.loads, done.stdout.splitlines()) if one["owner_id"] == OWNER]
    assert {one["name"]: one["counts"] for one in mine}["subject"] == {"read": 2, "write": 1}
    assert all(one["written"] is None for one in mine)
    assert "written by another since" in run(postgres, "incident", "--user", "app_user", "--since", "1h").stdout
