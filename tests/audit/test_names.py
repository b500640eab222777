"""Checks that a name is found by what people know it as, and by what stands in the log for it, by every command and in
every encoding of the log."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from secretproxy.audit import review
from secretproxy.audit.filters import UUIDS, Filter, spellings
from secretproxy.audit.masking import NameMask
from secretproxy.cli.audit.options import filtered
from secretproxy.install import install
from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

# What reads like something that stands for a name, and a name that the log's database has no form of.
NAMES = ["masked:x", "escaped:\\xff", "name:masked:x", "masked:" + "0" * 32, "plain", "schlüssel"]
STORED = ["name:masked:x", "name:escaped:\\xff", "name:name:masked:x", "name:masked:" + "0" * 32, "plain", "schlüssel"]
LATIN = "names_latin1"


def run(postgres: Backend, *arguments: str | bytes, database: str = "app") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
    done = secretproxy(["audit", *arguments, "--dsn", postgres.dsn("auditor", database)], env=environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def found(postgres: Backend, database: str = "app", **given: str) -> list[str]:
    """Gives the first names of the accesses, by the way that the commands take."""

    async def work() -> list[str]:
        connection = await review.connect(postgres.dsn("auditor", database))
        try:
            wanted = await review.resolved(connection, filtered(**given))
            return [row["secret_names"][0] async for row in review.accesses(connection, wanted, 100)]
        finally:
            await connection.close()

    return asyncio.run(work())


@pytest.fixture(scope="module")
def owner(postgres: Backend, proxy: Proxy) -> Iterator[str]:
    """Makes accesses: each name read by a session whose application has that name too, and two of them deleted in one
    call."""
    made = str(uuid.uuid4())
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute('CREATE ROLE "masked:login" LOGIN; GRANT authenticated TO "masked:login"')
    for name in NAMES:
        with psycopg.connect(proxy.dsn(), autocommit=True, application_name=name if name.isascii() else "") as sql:
            sql.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (made, name))
    with psycopg.connect(proxy.dsn(), user="masked:login", autocommit=True) as sql:
        sql.execute("SELECT encrypted_secrets.secrets_delete(%s, ARRAY['plain', 'masked:x'])", (made,))
    yield made
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute('DROP ROLE "masked:login"')


def test_a_secret_is_found_by_its_name_and_by_what_the_log_has(postgres: Backend, owner: str) -> None:
    for name, stored in zip(NAMES, STORED, strict=True):
        expected = [row for row in STORED if row in (name, stored)]
        assert sorted({*found(postgres, owner=owner, secret=name)} - {"plain"}) == sorted({*expected} - {"plain"}), name
        assert stored in found(postgres, owner=owner, secret=stored)
    # Later in a call of several names too, and no access twice where both forms are in one.
    assert found(postgres, owner=owner, secret="masked:x", operation="delete") == ["plain"]
    assert found(postgres, owner=owner, secret="name:masked:x", operation="delete") == ["plain"]


def test_a_login_and_an_application_are_found_by_their_names(postgres: Backend, owner: str) -> None:
    for name, stored in zip(NAMES[:4], STORED[:4], strict=True):
        assert stored in found(postgres, owner=owner, application=name)
    for login in ("masked:login", "name:masked:login"):
        assert found(postgres, owner=owner, user=login) == ["plain"]
    assert found(postgres, owner=owner, user="login") == []


def test_every_command_that_takes_a_name_finds_it(postgres: Backend, owner: str, tmp_path: Path) -> None:
    only = ("--owner", owner, "--secret", "masked:x", "--user", "app_user")
    counted = json.loads(run(postgres, "stats", "--json", *only).stdout)
    assert [row["secret"] for row in counted["secrets"]] == ["name:masked:x"]
    since = json.loads(run(postgres, "stats", "--json", "--since", "1h", *only).stdout)
    assert [row["secret"] for row in since["secrets"]] == ["name:masked:x"]
    side = run(
        postgres,
        "compare",
        "--owner",
        owner,
        "--by",
        "secret",
        "--user",
        "masked:login",
        "--with-user",
        "app_user",
        "--json",
    )
    assert side.returncode == 0 and '"plain' in side.stdout and "name:masked:x" in side.stdout
    file = tmp_path / "export.jsonl"
    done = run(postgres, "export", str(file), "--owner", owner, "--secret", "masked:x")
    assert done.returncode == 0 and "name:masked:x" in file.read_text(), done.stderr


def test_following_and_the_spool_find_the_same() -> None:
    for name, stored in zip(NAMES, STORED, strict=True):
        for column, wanted in (
            ("secret_names", Filter(secret=name)),
            ("db_user", Filter(user=name)),
            ("application_name", Filter(application=name)),
        ):
            row = dict.fromkeys(
                (
                    "function",
                    "db_user",
                    "application_name",
                    "operation",
                    "outcome",
                    "client_addr",
                    "secret_names",
                    *UUIDS.values(),
                )
            )
            assert wanted.fits(row | {column: ["other", stored] if column == "secret_names" else stored})
            assert not wanted.fits(row | {column: ["other"] if column == "secret_names" else "other"})


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "LATIN9", "WIN1252", "EUC_JP", "SQL_ASCII"])
@pytest.mark.parametrize("name", ["masked:€", "€", "café", "日本", "caf\udce9", "back\\slash", "masked:", "ordinary"])
def test_what_is_looked_for_is_what_the_journal_writes(encoding: str, name: str) -> None:
    mask = NameMask(200, (), b"key")
    mask.stored_in(encoding)
    stored = mask(name) or ""
    forms = spellings(name, encoding)
    # In SQL_ASCII texts are looked for as they are shown: a backslash doubled.
    assert (stored.replace("\\", "\\\\") if encoding == "SQL_ASCII" and stored != name else stored) in forms
    assert len(forms) == len({*forms}) <= 2
    for form in forms:
        form.encode("utf-8")


def test_a_log_of_another_encoding_is_asked_in_its_own(postgres: Backend) -> None:
    """The log takes a name that it has no character for, bytes that are no UTF-8 and a name that it can hold; nothing
    is an error."""
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {LATIN} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        try:
            asyncio.run(install(postgres.dsn(database=LATIN), postgres.key_file))
            mask = NameMask(200, (), b"key")
            mask.stored_in("LATIN1")
            names = ["€", "café", "caf\udce9", "masked:€"]
            with psycopg.connect(postgres.dsn(database=LATIN), autocommit=True) as sql:
                for number, name in enumerate(names):
                    sql.execute(
                        "INSERT INTO secretproxy.access_log (event, function, operation, owner_id, secret_names, db_user, application_name,"
                        " session_id, statement_no) VALUES ('attempt', 'f()', 'read', %s, %s, %s, %s, %s, %s)",
                        (uuid.uuid4(), [mask(name)], mask(name), mask(name), uuid.uuid4(), number),
                    )
            for name in names:
                for option in ("secret", "user", "application"):
                    assert found(postgres, LATIN, **{option: name}) == [mask(name)], (option, mask(name))
            assert found(postgres, LATIN, secret="日本") == []
            assert found(postgres, LATIN, function="caf\udce9") == []
            done = run(postgres, "list", "--json", "--secret", b"caf\xe9", database=LATIN)
            assert json.loads(done.stdout)["secret_names"] == [mask("caf\udce9")], done.stderr
        finally:
            admin.execute(f"DROP DATABASE {LATIN} WITH (FORCE)")
