"""Checks that `audit secret`, `audit user` and `audit incident` say what the console's pages say: they ask the same
questions."""

from __future__ import annotations

import asyncio
import json
import subprocess
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from secretproxy.audit import subjects
from secretproxy.audit.reading import reading
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


@pytest.mark.usefixtures("accessed")
def test_an_incident_is_whole_for_the_command_line(
    postgres: Backend, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets that one question does not cover are asked about by the next; accesses without a name are a line."""
    with psycopg.connect(proxy.dsn("postgres"), autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, 'untouched since')", (OWNER,))
    monkeypatch.setattr(subjects, "MOST_TOUCHED", 1)

    async def found(most: int | None) -> subjects.Incident:
        async with reading(postgres.dsn("auditor")) as connection:
            return await subjects.incident(
                connection, "app_user", datetime.now(UTC) - timedelta(hours=1), most=most
            )  # fmt: skip

    whole, cut = asyncio.run(found(None)), asyncio.run(found(2))
    assert len(whole.touched) > 2 and whole.left_out == 0
    assert len(cut.touched) == 2 and cut.left_out == len(whole.touched) - 2
    mine = {one.name: one.others for one in whole.touched if str(one.owner_id) == OWNER}
    assert "postgres" in mine["untouched since"] and mine["subject"] == []


@pytest.mark.usefixtures("accessed")
def test_a_login_or_secret_that_the_log_does_not_know_is_said(postgres: Backend) -> None:
    """A heading over nothing reads as: this login touched nothing. Its name may be misspelt."""
    for arguments in (["user", "ap_user"], ["incident", "--user", "ap_user", "--since", "1h"]):
        assert run(postgres, *arguments).stdout == "the log has no access by a login ap_user\n"
        assert run(postgres, *arguments, "--json").stdout == ""
    assert run(postgres, "secret", "no such secret").stdout == "no access matches\n"
    past = ["--since", "2001-01-01", "--until", "2001-01-02"]
    assert run(postgres, "user", "app_user", *past).stdout == "no access matches\n"
    assert run(postgres, "incident", "--user", "app_user", *past).stdout.startswith("this login touched no secret")


@pytest.mark.usefixtures("accessed")
def test_times_say_their_zone_and_json_has_what_the_lines_below_say(postgres: Backend, proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute(
            "SELECT encrypted_secrets.secrets_getter(u, 'subject') FROM (SELECT %s::uuid AS u) AS o WHERE now() IS NULL",
            (OWNER,),
        )
    for arguments in (["secret", "subject"], ["user", "app_user"], ["incident", "--user", "app_user", "--since", "1h"]):
        assert "times are of " in run(postgres, *arguments).stderr
    lines = [json.loads(line) for line in run(postgres, "secret", "subject", "--json").stdout.splitlines()]
    written = [[(one["owner_id"], one["secret"]) for one in line["written"]] for line in lines]
    assert written and all((OWNER, "subject") in some for some in written)
    incident = run(postgres, "incident", "--user", "app_user", "--since", "1h", "--json")
    last = json.loads(incident.stdout.splitlines()[-1])
    assert "do not name their secret" in incident.stderr
    assert (last["owner_id"], last["name"]) == (None, None) and last["counts"]["read"] >= 1
