"""Checks names that are no UTF-8, in a database that takes any bytes: one call is one access, by the name that it
really had."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.log import AccessLog
from tests.support.proxy import Proxy
from tests.support.raw import SYNC, Address, Raw, bind, execute, parse, query

from secretproxy.install import install

DATABASE, LOG = "bytes", "bytes_log"
OWNER = "00000000-0000-4000-8000-0000000000b1"
NAMES = [b"\xff", b"\xfe", b"caf\xe9", b"caf\xc3\xa9", b"\xef\xbf\xbd", b"\x83\x5c"]
WRITTEN = ["escaped:\\xff", "escaped:\\xfe", "escaped:caf\\xe9", "café", "\ufffd", "escaped:\\x83\\\\"]


@pytest.fixture(scope="module")
def bytes_proxy(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Gives a proxy with a log of its own, so that no other test reads of a database that is gone."""
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        admin.execute(f"CREATE DATABASE {LOG}")
        for database in (DATABASE, LOG):
            asyncio.run(install(postgres.dsn(database=database), postgres.key_file))
        proxy = Proxy(
            tmp_path_factory.mktemp("bytes"), postgres.address, postgres.dsn("journal", LOG), postgres.key_file
        )
        proxy.start()
        yield proxy
        proxy.stop()
        for database in (DATABASE, LOG):
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture(scope="module")
def reviewed(postgres: Backend, bytes_proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Accesses in a log that is in SQL_ASCII itself, written by a proxy, of secrets that are stored there."""
    del bytes_proxy
    dsn = postgres.dsn("journal", DATABASE)
    proxy = Proxy(tmp_path_factory.mktemp("log"), postgres.address, dsn, postgres.key_file)
    proxy.start()
    try:
        with psycopg.connect(proxy.dsn(database=DATABASE), client_encoding="SQL_ASCII", autocommit=True) as sql:
            for name in [*NAMES, b"a\\xff"]:
                for function, value in ((b"upsert", b", 'v'"), (b"getter", b"")):
                    text = b"SELECT encrypted_secrets.secrets_%s('%s', '%s'%s)"
                    sql.execute(text % (function, OWNER.encode(), name, value))  # type: ignore[arg-type]
    finally:
        proxy.stop()
    return postgres.dsn("auditor", DATABASE)


def audit(dsn: str, *arguments: str) -> str:
    done = secretproxy(["audit", *arguments, "--dsn", dsn])
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    return done.stdout


# As the commands show them.
SHOWN = [r"\xff", r"\xfe", r"caf\xe9", "café", "\ufffd", r"\x83\\", r"a\\xff"]


def test_a_name_in_a_log_of_bytes_is_found_as_it_is_shown(reviewed: str) -> None:
    for name in SHOWN:
        found = [json.loads(line) for line in audit(reviewed, "list", "--secret", name, "--json").splitlines()]
        assert [row["operation"] for row in found] == ["write", "read"], name
        # As the log has it is right as well, in what the commands show of that and in what psql shows.
        as_logged = found[0]["secret_names"][0]
        for form in {as_logged, as_logged.replace("\\\\", "\\") if as_logged.startswith("escaped:") else as_logged}:
            assert len(audit(reviewed, "list", "--secret", form, "--json").splitlines()) == 2, form
        assert json.loads(audit(reviewed, "secret", name, "--json").splitlines()[0])["n"] == 2
    assert audit(reviewed, "unused") == "each stored secret was used in the last 90 days\n"


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_export_of_a_log_of_bytes_is_proven(reviewed: str, tmp_path: Path, form: str) -> None:
    """The hashes are of the bytes, the file has them in their visible form; with a manifest and without."""
    export = tmp_path / f"log.{form}"
    audit(reviewed, "export", str(export), "--format", form)
    verify = ["audit", "verify", "--file", str(export)]
    done = secretproxy(verify)
    assert done.returncode == 0 and "nothing was altered" in done.stdout, done
    manifest = export.with_name(f"{export.name}.manifest.json")
    whole, told = export.read_text(), manifest.read_text()
    for text, other in (("caf", "kaf"), ("xe9", "xe8"), ("xff", "xfe")):
        assert text in whole
        export.write_text(whole.replace(text, other, 1))
        assert secretproxy(verify).returncode == 1
        manifest.unlink()
        assert secretproxy(verify).returncode == 1
        manifest.write_text(told)
    export.write_text(whole)
    manifest.unlink()
    assert secretproxy(verify).returncode == 0


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("bound", [False, True])
async def test_each_name_is_one_access_by_its_own_name(
    postgres: Backend, bytes_proxy: Proxy, encoding: str, bound: bool
) -> None:
    log = AccessLog(postgres.dsn(database=LOG))
    application = f"bytes-{encoding}-{bound}"
    raw = await Raw.connect(
        Address("127.0.0.1", bytes_proxy.port, DATABASE), client_encoding=encoding, application_name=application
    )
    for name in NAMES:
        if bound:
            await raw.send(
                parse(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', $1)"), bind([name]), execute(), SYNC
            )
        else:
            await raw.send(query(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '".encode() + name + b"')"))
        refused = any(message.kind == b"E" for message in await raw.ready())
        # The server checks what a client of UTF8 says, also where it converts nothing.
        assert refused == (encoding == "UTF8" and name not in (b"caf\xc3\xa9", b"\xef\xbf\xbd"))
    await raw.terminate()
    rows = [row for row in log.settled(application) if row["event"] != "outcome"]
    assert [(row["event"], row["secret_names"]) for row in rows] == [
        ("attempt", [written]) for written in WRITTEN
    ]  # fmt: skip
