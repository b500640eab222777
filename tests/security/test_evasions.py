"""Runs the battery: no way of calling a secret function leaves it out of the log, and none leaves a value in it.

Each file of evasions/ runs twice, in two copies of one database: past the proxy and through it. What runs is known
three ways, which must agree: from the file's own header, from the testimony that the direct session sees, and from the
access log alone, read as the auditor. The answers of both sessions are the same bytes, and the databases hold the same
afterwards.

A case works in the schema `work`, which is dropped behind it. Where anything else of a database is then not as it was,
both are given up and made anew, so no case sees another's traces. The catalog is not read here: what is hidden is
testimony's alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from secretproxy.install import install
from secretproxy.install.keyfile import load_key_file
from secretproxy.session.testimony import Keys
from tests.conftest import Backend
from tests.security.evasion import CANARY, Evasion, Expect, Key, load_all
from tests.support.log import as_told, known_calls
from tests.support.proxy import Proxy
from tests.support.raw import Address, Message, Raw, answer

BASE = "evasions"
OWNER = "00000000-0000-4000-8000-00000000000a"
PREPARE = f"""
GRANT CREATE ON SCHEMA public TO app_user;
-- Some packages have the extension and not the library that it needs.
DO $$ BEGIN CREATE EXTENSION dblink; EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'no dblink'; END $$;
SELECT encrypted_secrets.secrets_upsert('{OWNER}', n, '{CANARY}-' || n) FROM unnest(ARRAY['alpha', 'beta', 'gamma']) n;
SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'pass', '{CANARY}-pass', 'crypt');
CREATE TABLE public.owners (id int PRIMARY KEY, owner uuid NOT NULL, name text NOT NULL);
INSERT INTO public.owners VALUES (1, '{OWNER}', 'alpha'), (2, '{OWNER}', 'beta'), (3, '{OWNER}', 'gamma');
GRANT SELECT ON public.owners TO PUBLIC;
CREATE SCHEMA saved;
CREATE TABLE saved.secrets AS TABLE secrets_schema.secrets_table;
CREATE TABLE saved.owners AS TABLE public.owners;
"""
# What a case works in, made again for each.
WORK = """
DROP SCHEMA IF EXISTS work CASCADE;
CREATE SCHEMA work;
GRANT USAGE ON SCHEMA work TO PUBLIC;
GRANT CREATE ON SCHEMA work TO app_user;
SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
"""
RESTORE = """
SET session_replication_role = replica;
DELETE FROM secrets_schema.secrets_table;
INSERT INTO secrets_schema.secrets_table SELECT * FROM saved.secrets;
DELETE FROM public.owners;
INSERT INTO public.owners SELECT * FROM saved.owners;
"""
CONTENT = """
SELECT md5(concat((SELECT string_agg(t::text, ',' ORDER BY t::text) FROM secrets_schema.secrets_table t),
                  (SELECT string_agg(t::text, ',' ORDER BY t::text) FROM public.owners t),
                  (SELECT string_agg(t::text, ',' ORDER BY t::text) FROM secretproxy.settings t)))
"""
_CATALOGS = (
    "pg_proc", "pg_type", "pg_operator", "pg_cast", "pg_event_trigger", "pg_publication", "pg_extension", "pg_language", "pg_opclass",
    "pg_foreign_data_wrapper", "pg_foreign_server", "pg_user_mapping", "pg_am", "pg_trigger", "pg_policy", "pg_rewrite", "pg_constraint",
    "pg_attrdef", "pg_conversion", "pg_ts_parser", "pg_ts_config", "pg_ts_dict", "pg_default_acl", "pg_transform", "pg_statistic_ext",
    "pg_auth_members", "pg_authid", "pg_largeobject_metadata",
)  # fmt: skip
_ROWS = [
    *((name, "true") for name in _CATALOGS),
    ("pg_class", "relpersistence <> 't'"),
    ("pg_db_role_setting", "setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))"),
    ("pg_namespace", "nspname <> 'work' AND nspname !~ '^pg_.*temp_'"),
]
# Equal before and after, if a case has left nothing outside its schema. Rows that were changed have another xmin.
SIGNATURE = (
    "SELECT concat_ws(' ', (SELECT count(*) FROM pg_prepared_xacts), "
    + ", ".join(
        f"(SELECT count(*) || ':' || coalesce(sum(xmin::text::bigint), 0) FROM {name} WHERE {which})"
        for name, which in _ROWS
    )
    + ")"
)
ROLES = """
CREATE ROLE battery_replicator LOGIN REPLICATION;
GRANT authenticated TO battery_replicator;
CREATE ROLE battery_other NOLOGIN;
GRANT authenticated TO battery_other;
GRANT battery_other TO app_user;
"""
STATE = """
SELECT c.oid, n.nspname, c.relname, c.relkind
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'secretproxy')
   AND c.relkind IN ('r', 'p', 'm', 'S', 'v') ORDER BY 2, 3
"""
SECRETS = "SELECT secrets_owned_field, name, secrets_enc_field, octet_length(secrets_value_field) FROM secrets_schema.secrets_table"
FUNCTIONS = "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.oid >= 16384 ORDER BY 1"
LARGE_OBJECTS = "SELECT count(DISTINCT loid), md5(string_agg(data, '' ORDER BY loid, pageno)) FROM pg_largeobject"

# The cases that the text announces exactly, so that each is an attempt before it runs; the rest is testimony's.
# ANNOUNCED=write makes the list anew.
ANNOUNCED_FILE = Path(__file__).parent / "announced.txt"
ANNOUNCED = frozenset(ANNOUNCED_FILE.read_text().split()) if ANNOUNCED_FILE.exists() else frozenset()

CASES = [(evasion, protocol) for evasion in load_all() for protocol in evasion.protocols]


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


@dataclass
class Copy:
    """A copy of the database, a superuser's connection to it and an auditor's, and how it was at first."""

    name: str
    connection: psycopg.Connection[Any]
    auditor: psycopg.Connection[dict[str, Any]]
    signature: str
    content: str

    def cleaned(self) -> bool:
        try:
            self.connection.execute("DISCARD ALL")
            self.connection.execute(WORK)
            if one(self.connection, CONTENT) != self.content:
                self.connection.execute(RESTORE)
                self.connection.execute("RESET ALL")
            return bool(
                one(self.connection, SIGNATURE) == self.signature and one(self.connection, CONTENT) == self.content
            )
        except psycopg.Error:
            return False

    def close(self) -> None:
        self.connection.close()
        self.auditor.close()


@dataclass
class Pair:
    proxied: Copy
    direct: Copy


@dataclass
class Site:
    """The server, the proxy, and connections kept for the whole module."""

    postgres: Backend
    proxy: Proxy
    admin: psycopg.Connection[Any]
    auditor: psycopg.Connection[dict[str, Any]]
    keys: Keys
    extensions: frozenset[str]
    version: int
    made: int = 0

    pair: Pair | None = None

    def databases(self) -> Pair:
        """Gives the two copies, as they were at first."""
        if self.pair is None:
            self.made += 1
            self.pair = Pair(*(self._copy(f"evasion_{kind}_{self.made:03}") for kind in ("proxied", "direct")))
        return self.pair

    def _copy(self, name: str) -> Copy:
        self.admin.execute(f"CREATE DATABASE {name} TEMPLATE {BASE} STRATEGY FILE_COPY")
        self.admin.execute(f"ALTER DATABASE {name} SET search_path = work, public")
        connection = psycopg.connect(self.postgres.dsn(database=name), autocommit=True, prepare_threshold=None)
        auditor = psycopg.connect(
            self.postgres.dsn("auditor", name), autocommit=True, row_factory=dict_row, prepare_threshold=None
        )
        connection.execute(WORK)
        return Copy(name, connection, auditor, one(connection, SIGNATURE), one(connection, CONTENT))

    def clean(self) -> None:
        """Drops what a case has made; gives the databases up if that was not all."""
        pair, self.pair = self.pair, None
        if pair is None:
            return
        if all(copy.cleaned() for copy in (pair.proxied, pair.direct)):
            self.pair = pair
            return
        for copy in (pair.proxied, pair.direct):
            copy.close()
            self.admin.execute(f"DROP DATABASE {copy.name} WITH (FORCE)")

    def mark(self, database: str) -> int:
        """Gives the number of the last row that the log has of a database."""
        row = self.auditor.execute(
            "SELECT coalesce(max(seq), 0) AS seq FROM secretproxy.access_log WHERE database = %s", (database,)
        ).fetchone()
        assert row is not None
        return int(row["seq"])

    def rows(self, database: str, mark: int, seconds: float = 60) -> list[dict[str, Any]]:
        """Gives the proxy's rows on a database, once every statement in them has its outcome."""
        deadline = time.monotonic() + seconds
        while True:
            written = self.auditor.execute(
                "SELECT * FROM secretproxy.access_log WHERE database = %s AND event <> 'direct' AND seq > %s ORDER BY seq",
                (database, mark),
            ).fetchall()
            rows: list[Any] = list(as_told(written))
            begun = {
                (r["session_id"], r["statement_no"])
                for r in rows
                if r["event"] in ("attempt", "call", "definition", "table")
            }
            ended = {(r["session_id"], r["statement_no"]) for r in rows if r["event"] == "outcome"}
            if begun <= ended:
                return rows
            assert time.monotonic() < deadline, f"no outcome for {len(begun - ended)} statements within {seconds} s"
            time.sleep(0.01)

    def accesses(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sessions = list({row["session_id"] for row in rows})
        return self.auditor.execute(
            "SELECT * FROM secretproxy.secret_access WHERE session_id = ANY (%s) AND how <> 'direct'", (sessions,)
        ).fetchall()


@pytest.fixture(scope="module")
def site(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    proxy = Proxy(tmp_path_factory.mktemp("battery"), postgres.address, postgres.dsn("journal"), postgres.key_file)
    proxy.start()
    proxy.wait_for_text("access log can be written")
    admin = psycopg.connect(postgres.dsn(database="postgres"), autocommit=True)
    admin.execute(f"CREATE DATABASE {BASE}")
    asyncio.run(install(postgres.dsn(database=BASE), postgres.key_file, direct_calls="log"))
    admin.execute(ROLES)
    with psycopg.connect(postgres.dsn(database=BASE), autocommit=True) as connection:
        connection.execute(PREPARE)
        # A direct session is what each case is compared with, also one of replication.
        connection.execute("UPDATE secretproxy.settings SET backend_types = ARRAY['walsender']")
        extensions = {row[0] for row in connection.execute("SELECT name FROM pg_available_extensions").fetchall()}
        if connection.execute("SELECT FROM pg_extension WHERE extname = 'dblink'").fetchone() is None:
            extensions.discard("dblink")
        version = connection.info.server_version // 10000
    auditor = psycopg.connect(postgres.dsn("auditor"), autocommit=True, row_factory=dict_row)
    keys = Keys(load_key_file(postgres.key_file))
    made = Site(postgres, proxy, admin, auditor, keys, frozenset(extensions), version)
    yield made
    auditor.close()
    if made.pair is not None:
        made.pair.proxied.close()
        made.pair.direct.close()
    admin.execute("ALTER ROLE battery_replicator NOREPLICATION")  # doctor's tests look at the same server
    admin.close()
    proxy.stop()


def setup(copy: Copy, evasion: Evasion) -> Any:
    """Runs the setup and gives the time after it."""
    for block in evasion.setup:
        copy.connection.execute(block)
    return one(copy.connection, "SELECT clock_timestamp()")


async def play(evasion: Evasion, protocol: str, address: Address) -> list[list[Message]]:
    async with asyncio.timeout(120):
        raw = await Raw.connect(address, **evasion.parameters)
        try:
            await evasion.run(raw, protocol)
        finally:
            await raw.terminate()
    return raw.family


def state(copy: Copy) -> dict[str, Any]:
    """Gives what stands in a database, but for the log and for what is random in a sealed value."""
    connection = copy.connection
    found: dict[str, Any] = {"functions": connection.execute(FUNCTIONS).fetchall()}
    found["large objects"] = connection.execute(LARGE_OBJECTS).fetchall()
    found["secrets"] = sorted(map(str, connection.execute(SECRETS).fetchall()))
    for _, schema, name, kind in connection.execute(STATE).fetchall():
        content: Any = kind
        if kind == "S":
            content = connection.execute(f'SELECT last_value, is_called FROM "{schema}"."{name}"').fetchall()
        elif kind in ("r", "m") and schema != "secrets_schema":
            content = sorted(
                row[0] for row in connection.execute(f'SELECT t::text FROM "{schema}"."{name}" t').fetchall()
            )
        found[f"{schema}.{name}"] = content
    return found


def direct_rows(copy: Copy, since: Any) -> list[dict[str, Any]]:
    """Gives what the functions themselves wrote into the database's own log."""
    return copy.auditor.execute(
        "SELECT * FROM secretproxy.access_log WHERE event = 'direct' AND at > %s ORDER BY at", (since,)
    ).fetchall()


def told(site: Site, family: list[list[Message]]) -> Counter[Key]:
    """Gives the calls that a direct session saw testimony of."""
    count: Counter[Key] = Counter()
    seen: set[bytes] = set()
    for message in (message for messages in family for message in messages if message.testimony):
        testimony = site.keys.read(message.signed)
        # What a client replays is no second call.
        if testimony is not None and message.signed not in seen:
            seen.add(message.signed)
            count[testimony.function, str(testimony.owner) if testimony.owner else None, testimony.names] += 1
    return count


def key_of(row: dict[str, Any]) -> Key:
    names = row["secret_names"]
    return row["function"], str(row["owner_id"]) if row["owner_id"] else None, None if names is None else tuple(names)


def check_truth(evasion: Evasion, true: Counter[Key]) -> None:
    """Checks that the header tells what the direct session did."""
    left = Counter(true)
    for expect in evasion.expects:
        if expect.direct or expect.calls == 0:
            continue
        exact = next((key for key in left if expect.key == key), None) or next(
            (k for k in left if masked(expect, k)), None
        )
        assert exact is not None, f"the evasion did not call {expect}; it called {dict(true)}"
        assert expect.calls is None or left[exact] >= expect.calls, f"called {left[exact]} times: {expect}"
        left[exact] -= left[exact] if expect.calls is None else expect.calls
        left = +left
    assert not left, f"the evasion also called {dict(left)}"


def masked(expect: Expect, key: Key) -> bool:
    """Compares a name of the header with one of the log: one that is masked can be given by a wildcard alone."""
    return key[:2] == expect.key[:2] and any("*" in (name or "") for name in expect.names or ())


def check_log(evasion: Evasion, calls: int, rows: list[dict[str, Any]], accesses: list[dict[str, Any]]) -> None:
    kinds = Counter(row["event"] for row in rows)
    assert not kinds["refusal"]
    for kind in ("forgery", "definition", "table"):
        if kind in evasion.also:
            assert kinds[kind], f"no {kind} in the log"
    assert bool(kinds["forgery"]) == ("forgery" in evasion.also)
    counted = known_calls(rows)
    assert counted == calls, f"the log knows of {counted} executions of {calls}: {brief(rows)}"
    if not evasion.expects:
        unasked = [row for row in rows if row["event"] not in {*evasion.also, "outcome"}]
        assert not unasked and (rows == [] or evasion.also), f"rows for a look-alike: {brief(rows)}"
        return
    for expect in (expect for expect in evasion.expects if not expect.direct):
        fitting = [row for row in accesses if expect.fits(*key_of(row))]
        assert fitting, f"not in the log: {expect}; there is {brief(accesses)}"
        assert {row["operation"] for row in fitting} == {expect.operation}
        if not any(row["how"] in ("attempt", "access") for row in fitting):
            assert len(fitting) >= (expect.calls or 1), f"{len(fitting)} rows for {expect.calls} calls"
    for row in accesses:
        known = [e for e in evasion.expects if e.fits(*key_of(row))]
        vague = row["owner_id"] is None or row["secret_names"] is None
        named = (row["function"] or "").partition("(")[0]
        assert (
            known
            or (vague and any(e.function.partition("(")[0] == named for e in evasion.expects))
            or "attempt" in evasion.also
        ), f"in the log, but never called: {brief([row])}"


def brief(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("event", "how", "function", "owner_id", "secret_names", "calls", "outcome", "sqlstate", "statement_no")
    return [tuple(str(row[key]) for key in keys if row.get(key) is not None) for row in rows]


def check_direct(evasion: Evasion, rows: list[dict[str, Any]]) -> None:
    wanted = [expect for expect in evasion.expects if expect.direct]
    for expect in wanted:
        fitting = [row for row in rows if expect.fits(*key_of(row))]
        assert len(fitting) == expect.calls, f"{len(fitting)} direct rows for {expect}: {brief(rows)}"
    assert len(rows) == sum(expect.calls or 0 for expect in wanted), f"direct rows that nobody expects: {brief(rows)}"


@dataclass(frozen=True)
class Case:
    evasion: Evasion
    protocol: str
    proxied: Copy
    direct: Copy
    since: Any


@pytest.fixture
def case(request: pytest.FixtureRequest, site: Site) -> Iterator[Case]:
    evasion, protocol = request.param
    if evasion.needs:
        needs = str(evasion.needs)
        if needs.startswith("server ") and site.version < int(needs.removeprefix("server ")):
            pytest.skip(f"needs PostgreSQL {needs.removeprefix('server ')}")
        if not needs.startswith("server ") and needs not in site.extensions:
            pytest.skip(f"the server has no extension {needs}")
    pair = site.databases()
    since = setup(pair.proxied, evasion)
    setup(pair.direct, evasion)
    yield Case(evasion, protocol, pair.proxied, pair.direct, since)
    site.clean()


def parameters() -> list[Any]:
    made = []
    for evasion, protocol in CASES:
        marks = [pytest.mark.xfail(strict=True, reason=evasion.known[protocol])] if protocol in evasion.known else []
        made.append(pytest.param((evasion, protocol), id=f"{evasion.name}-{protocol}", marks=marks))
    return made


@pytest.mark.parametrize("case", parameters(), indirect=True)
def test_evasion(case: Case, site: Site, record_property: Any) -> None:
    evasion, names = case.evasion, (case.proxied.name, case.direct.name)
    record_property("mechanism", evasion.mechanism)
    written, mark = site.proxy.output.stat().st_size, site.mark(case.proxied.name)
    host, port = site.postgres.host, site.postgres.port
    family = asyncio.run(play(evasion, case.protocol, Address(host, port, case.direct.name, evasion.role)))
    proxied = Address("127.0.0.1", site.proxy.port, case.proxied.name, evasion.role)
    through = asyncio.run(play(evasion, case.protocol, proxied))

    true = told(site, family)
    check_truth(evasion, true)
    rows = site.rows(case.proxied.name, mark)
    own = direct_rows(case.proxied, case.since)
    with site.proxy.output.open("rb") as output:
        output.seek(written)
        shown = f"{rows}{own}{output.read().decode(errors='replace')}"
    for spelling in (CANARY, CANARY.lower(), CANARY.encode().hex()):
        assert spelling not in shown, "a value is in the log"
    check_log(evasion, sum(true.values()), rows, site.accesses(rows))
    check_direct(evasion, own)
    announced = any(row["event"] == "attempt" and row["owner_id"] and row["secret_names"] for row in rows)
    name = f"{evasion.name}-{case.protocol}"
    if os.environ.get("ANNOUNCED") == "write":
        with ANNOUNCED_FILE.open("a") as file:
            file.write(f"{name}\n" if announced else "")
    else:
        assert announced == (name in ANNOUNCED), (
            "announced by its text" if announced else "not announced by its text any more"
        )

    assert not any(message.testimony for messages in through for message in messages), "the client saw testimony"
    assert answer(through, names) == answer(family, names)
    assert state(case.proxied) == state(case.direct)
