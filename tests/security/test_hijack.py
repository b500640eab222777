"""Checks that nobody's operator, function, type or relation runs in a statement of our own, whatever path a login is
given.

A database where every name has a double of somebody else's: in a schema that stands first in every login's path, and in
public, where a better fit wins. Every command and service is run there. What runs tells the server's log, so neither a
rollback nor a read-only transaction hides it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from secretproxy.audit import counting
from secretproxy.audit.filters import Filter
from secretproxy.audit.reading import reading
from secretproxy.cli.audit import app as audit
from secretproxy.config import AuthSettings
from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.proxy.authentication.verifiers import users_of
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

HOSTILE = (Path(__file__).parent / "hostile.sql").read_text()
LOGINS = """
CREATE ROLE mallory; CREATE ROLE app_user LOGIN; CREATE ROLE journal LOGIN; CREATE ROLE auditor LOGIN; CREATE ROLE deployer LOGIN CREATEROLE CREATEDB;
CREATE ROLE looked_up LOGIN PASSWORD 'a password';
"""
PATH = "evil, public, pg_catalog"
# How a login comes by its path.
WAYS = ("role", "database", "role in database", "options", "public")
OWNER = str(uuid.UUID(int=7))


class Site:
    """A server with a hostile database; `login` gives a DSN whose path is the attacker's."""

    def __init__(self, server: PrivateServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.key_file = directory / "keys"
        self.database = ""
        self.way = ""
        self._read = 0

    def prepare(self, way: str, owner: str) -> None:
        self.way = way
        self.database = f"{way} {owner}".replace(" ", "_")
        with self.admin("postgres") as admin:
            admin.execute(f"CREATE DATABASE {self.database} TEMPLATE hostile OWNER {owner}")
        with self.admin() as admin:
            admin.execute(f"GRANT CREATE ON DATABASE {self.database} TO mallory")
            logins = ("postgres", "journal", "auditor", "deployer", "app_user")
            for login in logins:
                admin.execute(f"ALTER ROLE {login} RESET ALL")
                if way == "role":
                    admin.execute(f"ALTER ROLE {login} SET search_path = {PATH}")
                elif way == "role in database":
                    admin.execute(f"ALTER ROLE {login} IN DATABASE {self.database} SET search_path = {PATH}")
            if way == "database":
                admin.execute(f"ALTER DATABASE {self.database} SET search_path = {PATH}")
        self.ran()

    def admin(self, database: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
        dsn = self.server.dsn(database or self.database)
        return psycopg.connect(
            dsn, autocommit=True, options="-c search_path=pg_catalog", cursor_factory=psycopg.ClientCursor
        )

    def login(self, user: str) -> str:
        dsn = self.server.dsn(self.database, user)
        return dsn + ("?options=-csearch_path%3D" + PATH.replace(", ", "%2C") if self.way == "options" else "")

    def ran(self) -> list[str]:
        """Gives what of the attacker's has run since the last question."""
        with self.server.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
            self._read = log.tell()
        return re.findall(r"HIJACKED (.*)", new.decode(errors="replace"))

    def config(self) -> Path:
        path = self.directory / "secretproxy.toml"
        path.write_text(
            f'[backend]\nhosts = ["{self.server.host}:{self.server.port}"]\n[testimony]\nkey_file = "{self.key_file}"\n'
            f'[audit]\ndsn = "{self.login("journal")}"\nretention = "400 days"\ncheckpoint_key_file = "{self.directory / "signer"}"\n'
        )
        return path

    def command(self, user: str, *arguments: str) -> tuple[int, str]:
        """Runs a command in this process; gives its exit status, and what it said."""
        given = [] if arguments[0] == "check" else ["--dsn", self.login(user)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
        done = secretproxy([*arguments, *given], env=environment | {"SECRETPROXY_CONFIG": str(self.config())})
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with PrivateServer(find_postgres()) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(LOGINS)
            if admin.info.server_version >= 160000:
                admin.execute("GRANT pg_read_all_stats TO deployer WITH ADMIN OPTION")
            # Its thousand doubles are made once; each site is a copy.
            admin.execute("CREATE DATABASE hostile")
            admin.execute("GRANT CREATE ON DATABASE hostile TO mallory")
        with psycopg.connect(server.dsn("hostile"), autocommit=True, options="-c search_path=pg_catalog") as admin:
            admin.execute("GRANT CREATE ON SCHEMA public TO mallory")
            psycopg.ClientCursor(admin).execute(HOSTILE.encode())
        yield server


@pytest.fixture(params=WAYS)
def site(server: PrivateServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(server, tmp_path)
    site.prepare(request.param, "postgres")
    yield site
    _clean(site)


def _clean(site: Site) -> None:
    """Drops what belongs to the cluster, such as roles: the next database finds it as this one did."""
    with site.admin("postgres") as admin:
        admin.execute(f"DROP DATABASE {site.database} WITH (FORCE)")
        for login in ("postgres", "journal", "auditor", "deployer", "app_user"):
            admin.execute(f"ALTER ROLE {login} RESET ALL")
        ours = admin.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'secretproxy%' OR rolname IN ('anonymous', 'authenticated', 'administrator')"
        ).fetchall()
        for (role,) in ours:
            admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def members(site: Site) -> None:
    """Makes logins what they are, and something that the catalog's reader finds."""
    body = "BEGIN RETURN encrypted_secrets.secrets_getter(NULL, 'a'); END"
    with site.admin() as admin:
        admin.execute(
            "GRANT authenticated TO app_user; GRANT secretproxy_writer TO journal; GRANT secretproxy_auditor TO auditor"
        )
        admin.execute(f"CREATE FUNCTION public.leads() RETURNS pg_catalog.text LANGUAGE plpgsql AS $${body}$$".encode())


# Each would run what is the attacker's, were its session not pinned and its names not qualified.
IN_FRONT = [
    "SELECT 1::pg_catalog.oid = 1::pg_catalog.oid", "SELECT 'a'::pg_catalog.text || 'b'::pg_catalog.text", "SELECT 2::pg_catalog.numeric * 3::pg_catalog.numeric",
    "SELECT '{}'::pg_catalog.jsonb @> '{}'::pg_catalog.jsonb", "SELECT pg_catalog.now() <= pg_catalog.now()", "SELECT now()", "SELECT to_regclass('a')",
    "SELECT set_config('a.b', 'c', true)", "SELECT current_setting('a.b', true)", "SELECT has_table_privilege('a'::pg_catalog.text, 'SELECT'::pg_catalog.text)", "SELECT quote_ident('a')",
    "SELECT pg_backend_pid()", "SELECT count(*) FROM pg_catalog.pg_roles", "SELECT 'a'::text", f"SELECT '{OWNER}'::uuid", "SELECT 'pg_class'::regclass",
    "SELECT 1 FROM pg_class LIMIT 1", "SELECT 1 FROM pg_proc LIMIT 1", "SELECT 1 FROM pg_roles LIMIT 1", "SELECT * FROM access_log",
]  # fmt: skip
IN_PUBLIC = [
    "SELECT 1::real = 1", "SELECT 1::oid = 1", "SELECT 'a'::name || 'b'::text", "SELECT 2::numeric * 3", "SELECT now() <= 1",
    "SELECT '{a}'::name[] @> '{a}'::text[]", "SELECT quote_ident('a'::name)", "SELECT to_regclass('a'::name)",
    "SELECT current_setting('a.b'::name, true)", "SELECT pg_catalog.now() - 1", "SELECT pg_size_pretty(1::int4)",
]  # fmt: skip


def test_the_traps_are_live(server: PrivateServer, tmp_path: Path) -> None:
    """The attacker's objects run where they may: else nothing here would show anything."""
    site = Site(server, tmp_path)
    for way in WAYS:
        site.prepare(way, "postgres")
        try:
            silent = []
            for statement in IN_PUBLIC if way == "public" else IN_FRONT:
                with (
                    psycopg.connect(site.login("postgres"), autocommit=True) as victim,
                    contextlib.suppress(psycopg.Error),
                ):
                    victim.execute(statement)
                if not site.ran():
                    silent.append(statement)
            assert silent == [], way
        finally:
            _clean(site)


AS_SUPERUSER = [
    ("install",), ("install", "--again"), ("install", "--record"), ("verify",), ("doctor",), ("keys", "status"), ("keys", "rotate"), ("keys", "reencrypt"),
]  # fmt: skip
AS_AUDITOR = [
    ("audit", "list"), ("audit", "list", "--json", "--user", "app_user", "--outcome", "ok", "--secret", "a", "--jwt-user", "0"), ("audit", "list", "--outcome", "error"),
    ("audit", "events"), ("audit", "events", "--kind", "direct,forgery"), ("audit", "stats"), ("audit", "bursts"), ("audit", "unused"), ("audit", "secret", "stripe"),
    ("audit", "user", "app_user", "--since", "1d"), ("audit", "incident", "--user", "app_user", "--since", "1d"),
    ("audit", "compare", "--since", "1d", "--with-since", "2d"), ("audit", "export", "-"), ("audit", "verify"), ("audit", "show", "{session}"), ("doctor",),
    ("audit", "review"), ("audit", "evidence", "--month", "2026-01", "--to", "{new}"),
]  # fmt: skip
# doctor finds faults here, and there are values that nothing seals anew.
FINE = {"doctor": (0, 1, 3)}


def all_run(site: Site, user: str, commands: list[tuple[str, ...]], session: str = "") -> list[str]:
    """Runs them and gives what is wrong: the attacker's that ran, and commands that could not do their work."""
    wrong = []
    for command in commands:
        given = {"{session}": session, "{new}": str(site.directory / f"{uuid.uuid4()}.zip")}
        status, said = site.command(user, *(given.get(argument, argument) for argument in command))
        name = f"{user}: {' '.join(command)}"
        wrong += [f"{name}: ran {what}" for what in sorted(set(site.ran()))]
        if status not in FINE.get(command[0], (0,)):
            wrong.append(f"{name}: status {status}: {said[-300:]}")
    return wrong


def test_every_command_of_a_reviewer_is_tried() -> None:
    """Lists the commands, but those that follow (which `services` tries) or that are the owner's."""
    tried = {command[1] for command in AS_AUDITOR if command[0] == "audit"}
    assert tried == {str(one.name) for one in audit.registered_commands} - {"tail", "retention"}


def test_nothing_of_others_runs_in_a_command_or_service(site: Site) -> None:
    wrong = all_run(site, "postgres", [("install",)])
    assert wrong == []
    members(site)
    wrong += all_run(
        site, "postgres", [("keys", "rotate", "--testimony", *how) for how in (["--stage"], [], ["--retire"])]
    )
    wrong += services(site)
    wrong += sums(site)
    with site.admin() as admin:
        found = admin.execute(
            "SELECT session_id::text FROM secretproxy.access_log WHERE event IN ('attempt', 'access') LIMIT 1"
        ).fetchone()
    assert found is not None, wrong
    session = str(found[0])
    for user, commands in (
        ("postgres", AS_SUPERUSER),
        ("auditor", AS_AUDITOR),
        ("postgres", AS_AUDITOR),
        ("journal", [("check",)]),
    ):
        wrong += all_run(site, user, commands, session)
    wrong += all_run(
        site,
        "postgres",
        [("audit", "retention", "--dry-run"), ("audit", "retention"), ("revert", "--yes"), ("install",), ("verify",)],
    )
    assert wrong == []


def services(site: Site) -> list[str]:
    """Runs the proxy with its greeting, journal, checkpoints, catalog reader and questions to hosts, `audit tail`, a
    look-up of users."""
    wrong = []
    proxy = Proxy(
        site.directory, f"{site.server.host}:{site.server.port}", site.login("journal"), site.key_file, catalog=0.2
    )
    text = proxy.config.read_text()
    proxy.config.write_text(
        text.replace("[audit]\n", f'target_session_attrs = "read-write"\nmonitor_interval = 0.2\n[audit]\ncheckpoint_key_file = "{site.directory / "signer"}"\n'
                     "checkpoint_every = 1\ncheckpoint_seconds = 0.2\n")
    )  # fmt: skip
    proxy.start()
    try:
        proxy.wait_for_text("access log can be written")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SECRETPROXY_"))}
        with subprocess.Popen(
            [sys.executable, "-m", "secretproxy", "audit", "tail", "--json", "--dsn", site.login("auditor")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as tail:  # fmt: skip
            assert tail.stdout is not None and tail.stderr is not None
            try:
                assert "following" in tail.stderr.readline()
                wrong += client(site, proxy)
                assert "secrets_" in tail.stdout.readline()
            finally:
                tail.terminate()
        proxy.wait_for_text("catalog says what leads to secret functions")
    finally:
        proxy.stop()
    wrong += [f"services: ran {what}" for what in sorted(set(site.ran()))]
    lookup = users_of(AuthSettings(mode="scram", lookup_dsn=site.login("postgres")), 5.0)
    if asyncio.run(lookup.find("looked_up")) is None:
        wrong.append("the look-up finds nobody")
    return wrong + [f"look-up: ran {what}" for what in sorted(set(site.ran()))]


def sums(site: Site) -> list[str]:
    """Has the journal's login make sums of the log under each path, with doubles in pg_temp, and reads what fits them."""
    doubles = ("access_log", "sums", "sums_users", "pg_inherits")
    with site.admin() as admin:
        admin.execute(
            "INSERT INTO secretproxy.access_log (id, at, event, db_user, owner_id, secret_names, function, operation) SELECT gen_random_uuid(), "
            "now() - n * interval '7 minutes', 'direct', 'app_user', gen_random_uuid(), '{a}', 'f()', 'verify' FROM generate_series(1, 60) n"
        )
        site.ran()
    with psycopg.connect(site.login("journal"), autocommit=True, cursor_factory=psycopg.ClientCursor) as session:
        for name in doubles:
            session.execute(f"CREATE TEMP VIEW {name} AS SELECT evil.ran('pg_temp {name}')".encode())
        for name in ("timestamptz", "int8", "text"):
            session.execute(
                f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} CHECK (evil.ran('pg_temp type {name}'))".encode()
            )
        site.ran()
        for path in ("pg_temp, evil, public, pg_catalog", "evil, pg_temp", "public, evil", "public"):
            session.execute(f"SET search_path = {path}".encode())
            for _ in range(5):
                session.execute("SELECT secretproxy.keep_sums(3, 0)")
    wrong = [f"sums: ran {what}" for what in sorted(set(site.ran()))]

    async def differing() -> tuple[list[str], bool]:
        async with reading(site.login("auditor")) as connection:
            await counting.stats(connection, Filter(), limit=5, evening=22, morning=6)
            return await counting.unlike(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting.accesses, "MANY", 0)
        found, used = asyncio.run(differing())
    wrong += found if used else ["sums: are not used"]
    return wrong + [f"reading sums: ran {what}" for what in sorted(set(site.ran()))]


def client(site: Site, proxy: Proxy) -> list[str]:
    """A session brings its own path, and makes doubles in pg_temp; each statement of its own is qualified."""
    wrong = []
    with psycopg.connect(
        proxy.dsn(database=site.database), autocommit=True, options=f"-c search_path={PATH.replace(' ', '')}", cursor_factory=psycopg.ClientCursor
    ) as session:  # fmt: skip
        wrong += [f"greeting: ran {what}" for what in sorted(set(site.ran()))]
        for name in (
            "pg_proc",
            "pg_namespace",
            "pg_class",
            "secrets_table",
            "settings",
            "keyring",
            "testimony_key",
            "access_log",
        ):
            session.execute(f"CREATE TEMP VIEW {name} AS SELECT evil.ran('pg_temp {name}')".encode())
        for name in ("text", "uuid", "bytea", "regclass", "int8"):
            session.execute(
                f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} CHECK (evil.ran('pg_temp type {name}'))".encode()
            )
        site.ran()
        for path in ("pg_temp, evil, public, pg_catalog", "evil, pg_temp", "public, evil", "public"):
            session.execute(f"SET search_path = {path}".encode())
            for call in (
                f"secrets_upsert('{OWNER}', 'a', 'v')", f"secrets_getter('{OWNER}', 'a')", f"secrets_upsert('{OWNER}', 'b', 'v', 'crypt')",
                f"secrets_verify('{OWNER}', 'b', 'v')", f"secrets_delete('{OWNER}', 'b')", f"secrets_delete('{OWNER}', '{{c,d}}')",
            ):  # fmt: skip
                session.execute(f"SELECT encrypted_secrets.{call}".encode())
            wrong += [f"call under {path}: ran {what}" for what in sorted(set(site.ran()))]
            for again in ("RESET ALL", "RESET search_path"):
                session.execute(again)
            session.execute(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'a')".encode())
            wrong += [f"the token once more: ran {what}" for what in sorted(set(site.ran()))]
        session.execute("DISCARD ALL")
        session.execute(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'a')".encode())
    return wrong + [f"after DISCARD ALL: ran {what}" for what in sorted(set(site.ran()))]


@pytest.mark.parametrize("way", ["role", "public"])
def test_nothing_of_others_runs_for_an_owner_who_is_no_superuser(
    server: PrivateServer, tmp_path: Path, way: str
) -> None:
    site = Site(server, tmp_path)
    site.prepare(way, "deployer")
    try:
        wrong = all_run(site, "deployer", [
            ("install",), ("install", "--again"), ("verify",), ("doctor",), ("keys", "status"), ("keys", "rotate"), ("keys", "reencrypt"), ("revert", "--yes"),
            ("install",),
        ])  # fmt: skip
        assert wrong == []
    finally:
        _clean(site)
