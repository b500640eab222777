"""Checks that the key is proven to be the database's, and functions that do not testify are found: by check, at the
start, in readiness and in the log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend
from tests.faults.conftest import until
from tests.support.cli import secretproxy
from tests.support.log import AccessLog
from tests.support.original import GETTER
from tests.support.proxy import Proxy

from secretproxy.config import load_settings
from secretproxy.install import install
from secretproxy.install.keyfile import load_key_file, write_key_file
from secretproxy.proxy.catalog.proof import checked

DATABASE = "proven"
KEY = bytes(range(32))
OTHER = bytes(32)


@dataclass
class Site:
    """A database with a key of its own, version 1, which nothing but these tests uses."""

    backend: Backend
    key_file: Path
    directory: Path

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.backend.dsn(database=DATABASE), autocommit=True)

    def proxy(self, name: str, key_file: Path, catalog: float) -> Proxy:
        directory = self.directory / name
        directory.mkdir()
        return Proxy(directory, self.backend.address, self.backend.dsn("journal", DATABASE), key_file, catalog=catalog)

    def keys(self, name: str, keys: dict[int, bytes]) -> Path:
        path = self.directory / name
        write_key_file(path, keys)
        return path

    def config(self, key_file: Path) -> Path:
        path = self.directory / "check.toml"
        path.write_text(
            f'[backend]\nhosts = ["{self.backend.address}"]\n[audit]\ndsn = "{self.backend.dsn("journal", DATABASE)}"\n'
            f'[testimony]\nkey_file = "{key_file}"\n'
        )
        return path

    def checked(self, key_file: Path | None = None) -> dict[str, str | None]:
        path = key_file or self.key_file
        return dict(asyncio.run(checked(load_settings(self.config(path)), load_key_file(path))))


@pytest.fixture(scope="module")
def site(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    directory = tmp_path_factory.mktemp("proven")
    made = Site(postgres, directory / "keys", directory)
    write_key_file(made.key_file, {1: KEY})
    asyncio.run(install(postgres.dsn(database=DATABASE), made.key_file, direct_calls="log"))
    yield made
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(scope="module")
def proxy(site: Site) -> Iterator[Proxy]:
    running = site.proxy("right", site.key_file, 0.3)
    running.start()
    yield running
    running.stop()


def ask(proxy: Proxy, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.health_port}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_right_key_is_proven(site: Site) -> None:
    assert site.checked() == {"testimony.key_file": None, "encrypted_secrets": None}
    assert site.checked(site.keys("newer", {1: KEY, 2: OTHER}))["testimony.key_file"] is not None


@pytest.mark.parametrize(
    ("keys", "stored", "words"),
    [
        ({1: OTHER}, "", "version 1 is another key"),
        ({2: KEY}, "", "version 1, which the functions of database proven sign with, is not in the file"),
        ({1: KEY}, "INSERT INTO secretproxy.testimony_key (version, key) VALUES (2, sha256('2'))", "version 2, which the functions"),
        ({1: KEY, 2: OTHER}, "", "version 2, which the proxy signs its tokens with, is not known"),
        ({1: KEY, 2: OTHER}, "INSERT INTO secretproxy.testimony_key (version, key, active) VALUES (2, sha256('2'), false)", "version 2 is another key"),
        ({1: KEY, 2: OTHER}, f"INSERT INTO secretproxy.testimony_key (version, key, active, retired_at) VALUES (2, '\\x{OTHER.hex()}', false, now())",
         "is not known or is retired"),
        ({1: KEY}, "INSERT INTO secretproxy.testimony_key (version, key) VALUES (0, sha256('0')); DELETE FROM secretproxy.testimony_key WHERE version = 1", "no proxy's key"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_with_its_version_and_what_to_do(
    site: Site, keys: dict[int, bytes], stored: str, words: str
) -> None:
    with site.admin() as admin:
        try:
            if stored:
                admin.execute(stored)
            fault = site.checked(site.keys("tried", keys))["testimony.key_file"]
        finally:
            admin.execute(
                f"INSERT INTO secretproxy.testimony_key (version, key) VALUES (1, '\\x{KEY.hex()}') ON CONFLICT DO NOTHING;"
                " DELETE FROM secretproxy.testimony_key WHERE version <> 1"
            )
    assert fault is not None and words in fault and "`secretproxy " in fault and "database database" not in fault
    assert not any(key.hex() in fault for key in keys.values())


def test_keys_of_an_exchange_that_is_under_way_are_right(site: Site) -> None:
    """One key is known and does not sign yet; one signs, and older sessions do not know it."""
    both = site.keys("both", {1: KEY, 2: OTHER})
    with site.admin() as admin:
        try:
            for active in (False, True):
                admin.execute("DELETE FROM secretproxy.testimony_key WHERE version = 2")
                admin.execute(
                    "INSERT INTO secretproxy.testimony_key (version, key, active) VALUES (2, %s, %s)", (OTHER, active)
                )
                assert site.checked(both)["testimony.key_file"] is None
        finally:
            admin.execute("DELETE FROM secretproxy.testimony_key WHERE version = 2")


def test_check_fails_and_names_the_setting(site: Site) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
    done = secretproxy(["check", "--config", str(site.config(site.keys("wrong", {1: OTHER})))], env=environment)
    assert done.returncode == 1
    assert re.search(r"^FAIL  testimony\.key_file: version 1 is another key", done.stdout, re.M), done.stdout


def test_where_nothing_can_be_proven_the_file_is_not_to_blame(site: Site) -> None:
    config = site.config(site.key_file)
    config.write_text(config.read_text().replace("//journal", "//nobody_at_all"))
    settings = load_settings(config)
    ((name, fault),) = asyncio.run(checked(settings, {1: KEY}))
    assert fault is None and "not proven" in name and "28000" in name


@pytest.mark.parametrize("key", [KEY, bytes(reversed(range(32)))], ids=("right", "of nobody"))
def test_with_the_log_on_another_server_the_backends_databases_are_asked(site: Site, key: bytes) -> None:
    """The database of audit.dsn is not there; the key has to be that of some database which has the functions."""
    config = site.config(site.key_file)
    config.write_text(config.read_text().replace(f"/{DATABASE}", "/nowhere"))
    told = asyncio.run(checked(load_settings(config), {1: key}))
    if key == KEY:
        assert told == [(f"testimony.key_file (the key of database {DATABASE})", None), ("encrypted_secrets", None)]
    else:
        ((name, fault),) = told
        assert name == "testimony.key_file" and fault is not None and "of database" in fault


def test_a_proxy_with_a_wrong_key_says_so_at_its_start_in_readiness_and_once_a_session(site: Site) -> None:
    file = site.keys("changing", {1: OTHER})
    proxy = site.proxy("wrong-key", file, 0)
    proxy.start()
    try:
        said = "the testimony key is not the database's"
        begun = proxy.text()
        assert said in begun.partition("listening")[0], "before any session"
        until(lambda: ask(proxy, "/readyz")[0] == 200)
        _, body = ask(proxy, "/readyz")
        assert any("testimony.key_file: version 1 is another key" in one for one in body["warnings"])
        status, body = ask(proxy, "/logz")
        assert (status, body["status"]) == (503, "wrong key") and "testimony.key_file" in body["reasons"][0]
        with psycopg.connect(proxy.dsn(database=DATABASE), autocommit=True) as sql:
            for _ in range(3):
                sql.execute("SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'x')")
        proxy.wait_for_text("a testimony is forged")
        (line,) = [line for line in proxy.text().splitlines() if "a testimony is forged" in line]
        assert "is another key than the one of database proven" in line and "setting=testimony.key_file" in line
        assert re.search(r"session=[0-9a-f-]{36}", line)
        assert proxy.text().count(said) == 1
        write_key_file(file, {1: KEY})
        proxy.send_signal("HUP")
        until(lambda: ask(proxy, "/logz")[0] == 200)
        assert ask(proxy, "/readyz")[1]["warnings"] == []
        proxy.wait_for_text("the testimony key is the database's")
    finally:
        proxy.stop()


def test_a_forgery_under_the_right_key_is_somebodys(site: Site, proxy: Proxy) -> None:
    before = proxy.text().count("a testimony is forged")
    forge = "DO $$ BEGIN RAISE INFO USING ERRCODE = 'SPX01', MESSAGE = 'SPX1 1 hunter2'; END $$"
    for _ in range(2):
        with psycopg.connect(proxy.dsn(database=DATABASE), autocommit=True) as sql:
            for _ in range(3):
                sql.execute(forge)
    proxy.wait_for_text("a testimony is forged", before + 2)
    lines = [line for line in proxy.text().splitlines() if "a testimony is forged" in line][before:]
    assert len(lines) == 2 and len({re.search(r"session=(\S+)", line)[1] for line in lines}) == 2  # type: ignore[index]
    assert all("imitates" in line and "hunter2" not in line and "setting=" not in line for line in lines)


def test_what_the_database_signs_is_good_for_nothing_else(site: Site, proxy: Proxy) -> None:
    """Anybody may ask; what is asked stands behind words that begin no testimony, no token and no mask, and is of one
    length."""
    token = b"SPXT1 123 456".ljust(32)
    with psycopg.connect(site.backend.dsn("outsider", DATABASE), autocommit=True) as sql:
        (row,) = sql.execute("SELECT * FROM secretproxy.key_proof(%s)", (token,)).fetchall()
        assert row == (1, True, hmac.new(KEY, b"secretproxy key proof " + token, hashlib.sha256).hexdigest())
        for nonce in (b"", bytes(31), bytes(33), b"SPX1 " + bytes(400), None):
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                sql.execute("SELECT * FROM secretproxy.key_proof(%s::bytea)", (nonce,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("SELECT * FROM secretproxy.testimony_key")
    # The answer in the place of a testimony's signature.
    with psycopg.connect(proxy.dsn(database=DATABASE), autocommit=True) as sql:
        message = b"SPX1 1 1 1 0000000000000001 "
        (row,) = sql.execute("SELECT proof FROM secretproxy.key_proof(%s)", (message.ljust(32),)).fetchall()
        before = AccessLog(site.backend.dsn(database=DATABASE)).query(
            "SELECT count(*) AS n FROM secretproxy.access_log WHERE event = 'forgery'"
        )[0]["n"]
        sql.execute(
            f"DO $$ BEGIN RAISE INFO USING ERRCODE = 'SPX01', MESSAGE = '{message.decode()}f - - - - - - p - {row[0]}'; END $$"
        )
        log = AccessLog(site.backend.dsn(database=DATABASE))
        until(
            lambda: (
                log.query("SELECT count(*) AS n FROM secretproxy.access_log WHERE event = 'forgery'")[0]["n"]
                == before + 1
            )
        )


# --- the functions ---------------------------------------------------------------------------------------------------

PLAIN = GETTER.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
ALTERED = """CREATE OR REPLACE FUNCTION secretproxy.begin_call(function_signature text, function_operation text, owner uuid, names text[], field_encoding text)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ BEGIN NULL; END $$"""


@contextmanager
def damaged(site: Site, statement: str) -> Iterator[None]:
    with site.admin() as admin:
        admin.execute(statement)
    try:
        yield
    finally:
        with site.admin() as admin:
            admin.execute("DROP FUNCTION IF EXISTS encrypted_secrets.secrets_getter(uuid, text)")
        asyncio.run(install(site.backend.dsn(database=DATABASE), site.key_file, again=True))
        assert site.checked()["encrypted_secrets"] is None


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (PLAIN, "secrets_getter of encrypted_secrets in database proven do not testify"),
        ("CREATE FUNCTION encrypted_secrets.secrets_getter(a uuid, b text) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$", "secrets_getter of"),
        (ALTERED, "was altered (secretproxy.begin_call)"),
        ("DROP FUNCTION secretproxy.key_proof(bytea)", "another version"),
    ],
)  # fmt: skip
def test_functions_that_do_not_testify_are_told(site: Site, statement: str, words: str) -> None:
    with damaged(site, statement):
        fault = site.checked()["encrypted_secrets"]
    assert fault is not None and words in fault and "`secretproxy install`" in fault and "`calls` is NULL" in fault


def outcome(site: Site, proxy: Proxy, call: str) -> int | None:
    """Gives what the outcome of a call says of how often it ran."""
    log = AccessLog(site.backend.dsn(database=DATABASE))
    log.mark()
    # The original runs as its caller, who must be let to the table.
    with psycopg.connect(proxy.dsn("postgres", DATABASE), autocommit=True) as sql:
        sql.execute(call)
    (row,) = [row for row in log.settled() if row["event"] == "outcome"]
    return row["calls"]  # type: ignore[no-any-return]


def counted(site: Site, proxy: Proxy, call: str) -> int:
    """Gives what the outcome says once a proof is recent enough: before that it rightly says nothing."""
    counts: list[int | None] = []
    until(lambda: counts.append(outcome(site, proxy, call)) or counts[-1] is not None)  # type: ignore[func-returns-value]
    return counts[-1]  # type: ignore[return-value]


@pytest.mark.parametrize("way", ["past the proxy", "through the proxy", "before the proxy starts"])
def test_the_original_over_ours_is_noticed(site: Site, proxy: Proxy, way: str) -> None:
    owner = uuid.uuid4()
    call = f"SELECT encrypted_secrets.secrets_getter('{owner}', 'x', 'y')"
    never = f"{call} WHERE false"
    assert (counted(site, proxy, call), counted(site, proxy, never)) == (1, 0)
    running = proxy
    if way == "before the proxy starts":
        running = site.proxy("late", site.key_file, 0)
    with damaged(site, PLAIN if way != "through the proxy" else "SELECT 1"):
        if way == "before the proxy starts":
            running.start()
        elif way == "through the proxy":
            with psycopg.connect(proxy.dsn("postgres", DATABASE), autocommit=True) as sql:
                sql.execute(PLAIN)
        try:
            if running is proxy:
                until(lambda: ask(running, "/readyz")[1]["warnings"])
            else:
                until(lambda: ask(running, "/readyz")[0] == 200)
            status, body = ask(running, "/readyz")
            assert status == 200 and "secrets_getter of encrypted_secrets" in body["warnings"][0]
            assert ask(running, "/logz")[0] == 200 and ask(running, "/logz")[1]["warnings"] == body["warnings"]
            assert outcome(site, running, call) is None and outcome(site, running, never) is None
            assert counted(site, running, never.replace("secrets_getter", "secrets_verify")) == 0
            assert "secret functions do not testify" in running.text()
        finally:
            if running is not proxy:
                running.stop()
    until(lambda: ask(proxy, "/readyz")[1]["warnings"] == [])
    assert (counted(site, proxy, call), counted(site, proxy, never)) == (1, 0)
