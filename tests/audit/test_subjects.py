"""Checks that `audit secret`, `audit user` and `audit incident` say what the console's pages say: they ask the same
questions."""

from __future__ import annotations

import asyncio
import json
import subprocess
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from secretproxy.audit import subjects
from secretproxy.audit.filters import Filter
from secretproxy.audit.reading import reading
from secretproxy.config import ConfigError
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
            wanted = Filter(user="app_user", since=datetime.now(UTC) - timedelta(hours=1))
            return await subjects.incident(connection, wanted, most)

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
    assert run(postgres, "incident", "--user", "app_user", *past).stdout.startswith("it touched no secret")


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


COMPROMISED = "6c2e9f7d-8f0b-4c3d-9e4f-5a6b7c8d9e0f"
CLAIM, OTHER_CLAIM = "aaaaaaaa-1111-4222-8333-444455556666", "bbbbbbbb-1111-4222-8333-444455556666"
QUOTED = 'inc "quoted" \u00e4'


@pytest.fixture(scope="module")
def forms(postgres: Backend, proxy: Proxy) -> Iterator[str]:
    """Reads secrets as logins, roles, claims and applications; gives the session that took a role and claims."""
    get = "SELECT encrypted_secrets.secrets_getter(%s, %s)"
    put = "SELECT encrypted_secrets.secrets_upsert(%s, %s, 'value')"
    logins = ["inc_pool", "inc_web", "Inc_Web", QUOTED]
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        for name in logins:
            admin.execute(SQL("CREATE ROLE {} LOGIN IN ROLE authenticated").format(Identifier(name)))
        admin.execute("GRANT inc_web TO inc_pool")
    try:
        with psycopg.connect(proxy.dsn("inc_web"), autocommit=True) as sql:
            sql.execute(put, (COMPROMISED, "own"))
            sql.execute("SET ROLE authenticated")
            sql.execute(get, (COMPROMISED, "as another role"))
        with psycopg.connect(proxy.dsn("inc_pool"), autocommit=True, application_name="inc app") as sql:
            sql.execute(get, (COMPROMISED, "before any role"))
            sql.execute("SET ROLE inc_web")
            sql.execute(put, (COMPROMISED, "own"))
            # Its attempt does not know the name, and no attempt knows the role.
            sql.execute(
                "SELECT encrypted_secrets.secrets_getter(o, n) FROM (VALUES (%s::uuid, 'by role')) v (o, n)",
                (COMPROMISED,),
            )
            sql.execute("RESET ROLE")
            for claim, name in ((CLAIM, "claimed"), (OTHER_CLAIM, "claimed"), (CLAIM, "claimed alone")):
                sql.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (claim,))
                sql.execute(get, (COMPROMISED, name))
        for name in ("Inc_Web", QUOTED):
            with psycopg.connect(proxy.dsn(), user=name, autocommit=True) as sql:
                sql.execute(get, (COMPROMISED, f"of {name}"))
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            found = admin.execute(
                "SELECT session_id FROM secretproxy.access_log WHERE application_name = 'inc app' LIMIT 1"
            )
            yield str(found.fetchone()[0])  # type: ignore[index]
    finally:
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            for name in logins:
                admin.execute(SQL("DROP ROLE {}").format(Identifier(name)))


def incident_of(postgres: Backend, **given: Any) -> subjects.Incident:
    async def found() -> subjects.Incident:
        async with reading(postgres.dsn("auditor")) as connection:
            return await subjects.incident(connection, Filter(**given))

    if "session" not in given:
        given["since"] = datetime.now(UTC) - timedelta(hours=1)
    return asyncio.run(found())


def of_test(found: subjects.Incident) -> dict[str, subjects.Touched]:
    return {one.name: one for one in found.touched if str(one.owner_id) == COMPROMISED}


def test_a_compromised_login_is_found_in_each_form(postgres: Backend, forms: str) -> None:
    """A login stays one whatever role it takes, and it may be the role of a pooler's login. Case and quotes matter to
    PostgreSQL: a name in another form is another login, and the incident says that it is there."""
    found = incident_of(postgres, user="inc_web")
    assert of_test(found).keys() == {"own", "as another role", "by role"}
    # Both wrote it as the compromised one, so it is not rotated.
    own = of_test(found)["own"]
    assert own.counts == {"write": 2} and (own.written, own.last_writer) == (None, "inc_pool")
    assert found.as_role == 2 and any("SET ROLE" in word for word in found.words())
    assert of_test(incident_of(postgres, user="Inc_Web")).keys() == {"of Inc_Web"}
    assert of_test(incident_of(postgres, user=QUOTED)).keys() == {f"of {QUOTED}"}
    for given, alike in (("INC_WEB", ["Inc_Web", "inc_web"]), ('"Inc_Web"', ["Inc_Web", "inc_web"]), ("inc_we", [])):
        found = incident_of(postgres, user=given)
        assert (found.touched, sorted(found.alike)) == ([], alike), given
    done = run(postgres, "incident", "--user", "INC_WEB", "--since", "1h")
    assert "no access by a login INC_WEB" in done.stdout and "did you mean the login inc_web" in done.stdout


def test_an_incident_is_of_a_claim_an_application_a_client_or_a_session(postgres: Backend, forms: str) -> None:
    """Who else uses a secret is told in the same words: other claims, other applications."""
    of_claim = of_test(incident_of(postgres, jwt_user=CLAIM))
    assert {name: one.others for name, one in of_claim.items()} == {"claimed": [OTHER_CLAIM], "claimed alone": []}
    assert of_test(incident_of(postgres, jwt_user=CLAIM[:8], user="inc_pool")).keys() == of_claim.keys()
    assert of_test(incident_of(postgres, jwt_user=CLAIM, user="inc_web")) == {}
    pooled = {"before any role", "own", "by role", "claimed", "claimed alone"}
    of_app = of_test(incident_of(postgres, application="inc app"))
    assert of_app.keys() == pooled and of_app["own"].others == ["inc_web"]
    # The session is over in any case, so it needs no time.
    assert of_test(incident_of(postgres, session=forms)).keys() == pooled
    assert of_test(incident_of(postgres, session=forms, user="inc_web")).keys() == {"own", "by role"}
    of_client = of_test(incident_of(postgres, client="127.0.0.0/8"))
    assert of_client.keys() == {*pooled, "as another role", "of Inc_Web", f"of {QUOTED}"}
    assert of_test(incident_of(postgres, client="10.0.0.0/8")) == {}
    for wrong in ({}, {"secret": "own"}):
        with pytest.raises(ConfigError, match="is of one of these"):
            incident_of(postgres, **wrong)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--jwt-user", CLAIM], {"claimed", "claimed alone"}), (["--user", "inc_web"], {"own", "as another role", "by role"}),
        (["--application", "inc app", "--client", "127.0.0.1"], {"before any role", "own", "by role", "claimed", "claimed alone"}),
    ],
    ids=["claim", "login and role", "application"],
)  # fmt: skip
def test_each_incident_is_exported_with_the_rows_that_say_so(
    postgres: Backend, forms: str, tmp_path: Path, options: list[str], names: set[str]
) -> None:
    """Rows of an attempt know no role and no claim: the whole statement is proof, and no other statement."""
    to = tmp_path / "incident.zip"
    run(postgres, "incident", *options, "--since", "1h", "--to", str(to))
    with zipfile.ZipFile(to) as archive:
        archive.extractall(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "incident" / "log.jsonl").read_text().splitlines()]
    assert {name for row in rows for name in row["secret_names"] or () if row["owner_id"] == COMPROMISED} == names
    listed = [json.loads(line) for line in (tmp_path / "incident" / "rotate.jsonl").read_text().splitlines()]
    assert {one["secret"] for one in listed if one["owner_id"] == COMPROMISED} == names
    done = secretproxy(["audit", "verify", "--file", str(tmp_path / "incident" / "log.jsonl")])
    assert done.returncode == 0, done.stdout + done.stderr
