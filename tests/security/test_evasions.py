"""The battery: no way of calling a secret function leaves it out of the log, and none leaves a value in it.

Each file of evasions/ runs twice, in two copies of one database: past the proxy and through it. What runs is known three ways,
which must agree: from the file's own header, from the testimony that the direct session sees, and from the access log alone,
read as the auditor. The answers of both sessions are the same bytes, and the databases hold the same afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from secretproxy.install import install
from secretproxy.install.keyfile import load_key_file
from secretproxy.session.testimony import Keys
from tests.conftest import Backend
from tests.security.evasion import CANARY, Evasion, Expect, Key, load_all
from tests.support.proxy import Proxy
from tests.support.raw import Address, Message, Raw, answer

BASE = "evasions"
OWNER = "00000000-0000-4000-8000-00000000000a"
PREPARE = f"""
GRANT CREATE ON SCHEMA public TO app_user;
CREATE EXTENSION dblink;
SELECT encrypted_secrets.secrets_upsert('{OWNER}', n, '{CANARY}-' || n) FROM unnest(ARRAY['alpha', 'beta', 'gamma']) n;
SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'pass', '{CANARY}-pass', 'crypt');
CREATE TABLE public.owners (id int PRIMARY KEY, owner uuid NOT NULL, name text NOT NULL);
INSERT INTO public.owners VALUES (1, '{OWNER}', 'alpha'), (2, '{OWNER}', 'beta'), (3, '{OWNER}', 'gamma');
GRANT SELECT ON public.owners TO PUBLIC;
"""
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
SECRETS = (
    "SELECT secrets_owned_field, name, secrets_enc_field, octet_length(secrets_value_field) FROM secrets_schema.secrets_table"
)
FUNCTIONS = "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.oid >= 16384 ORDER BY 1"
LARGE_OBJECTS = "SELECT count(DISTINCT loid), md5(string_agg(data, '' ORDER BY loid, pageno)) FROM pg_largeobject"

CASES = [(evasion, protocol) for evasion in load_all() for protocol in evasion.protocols]


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

    def fresh(self, template: str) -> str:
        self.made += 1
        name = f"evasion_{self.made:05}"
        self.admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def rows(self, database: str, seconds: float = 10) -> list[dict[str, Any]]:
        """The proxy's rows on a database, once every statement in them has its outcome."""
        deadline = time.monotonic() + seconds
        while True:
            rows = self.auditor.execute(
                "SELECT * FROM secretproxy.access_log WHERE database = %s AND event <> 'direct' ORDER BY instance, seq",
                (database,),
            ).fetchall()
            begun = {
                (r["session_id"], r["statement_no"]) for r in rows if r["event"] in ("attempt", "call", "definition", "table")
            }
            ended = {(r["session_id"], r["statement_no"]) for r in rows if r["event"] == "outcome"}
            if begun <= ended:
                return rows
            assert time.monotonic() < deadline, f"no outcome for {len(begun - ended)} statements within {seconds} s"
            time.sleep(0.01)

    def accesses(self, database: str) -> list[dict[str, Any]]:
        return self.auditor.execute(
            "SELECT * FROM secretproxy.secret_access WHERE database = %s AND how <> 'direct'", (database,)
        ).fetchall()


@pytest.fixture(scope="module")
def site(postgres: Backend, proxy: Proxy) -> Iterator[Site]:
    admin = psycopg.connect(postgres.dsn(database="postgres"), autocommit=True)
    admin.execute(f"CREATE DATABASE {BASE}")
    asyncio.run(install(postgres.dsn(database=BASE), postgres.key_file))
    admin.execute(ROLES)
    with psycopg.connect(postgres.dsn(database=BASE), autocommit=True) as connection:
        connection.execute(PREPARE)
        extensions = {row[0] for row in connection.execute("SELECT name FROM pg_available_extensions").fetchall()}
        version = connection.info.server_version // 10000
    auditor = psycopg.connect(postgres.dsn("auditor"), autocommit=True, row_factory=dict_row)
    keys = Keys(load_key_file(postgres.key_file))
    yield Site(postgres, proxy, admin, auditor, keys, frozenset(extensions), version)
    auditor.close()
    admin.close()


def setup(site: Site, database: str, evasion: Evasion) -> Any:
    """Runs the setup and gives the time after it."""
    with psycopg.connect(site.postgres.dsn(database=database), autocommit=True) as connection:
        for block in evasion.setup:
            connection.execute(block)
        return connection.execute("SELECT clock_timestamp()").fetchone()[0]  # type: ignore[index]


async def play(evasion: Evasion, protocol: str, address: Address) -> list[list[Message]]:
    async with asyncio.timeout(120):
        raw = await Raw.connect(address, **evasion.parameters)
        try:
            await evasion.run(raw, protocol)
        finally:
            await raw.terminate()
    return raw.family


def state(site: Site, database: str) -> dict[str, Any]:
    """What stands in a database, but for the log and for what is random in a sealed value."""
    with psycopg.connect(site.postgres.dsn(database=database), autocommit=True) as connection:
        found: dict[str, Any] = {"functions": connection.execute(FUNCTIONS).fetchall()}
        found["large objects"] = connection.execute(LARGE_OBJECTS).fetchall()
        found["secrets"] = sorted(map(str, connection.execute(SECRETS).fetchall()))
        for _, schema, name, kind in connection.execute(STATE).fetchall():
            content: Any = kind
            if kind == "S":
                content = connection.execute(f'SELECT last_value, is_called FROM "{schema}"."{name}"').fetchall()
            elif kind in ("r", "m") and schema != "secrets_schema":
                content = sorted(row[0] for row in connection.execute(f'SELECT t::text FROM "{schema}"."{name}" t').fetchall())
            found[f"{schema}.{name}"] = content
        return found


def direct_rows(site: Site, database: str, since: Any) -> list[dict[str, Any]]:
    """What the functions themselves wrote into the database's own log."""
    with psycopg.connect(site.postgres.dsn("auditor", database), row_factory=dict_row) as connection:
        return connection.execute(
            "SELECT * FROM secretproxy.access_log WHERE event = 'direct' AND at > %s ORDER BY at", (since,)
        ).fetchall()


def told(site: Site, family: list[list[Message]]) -> Counter[Key]:
    """The calls that a direct session saw testimony of."""
    count: Counter[Key] = Counter()
    seen: set[bytes] = set()
    for message in (message for messages in family for message in messages if message.testimony):
        testimony = site.keys.read(message.text)
        # What a client replays is no second call.
        if testimony is not None and message.text not in seen:
            seen.add(message.text)
            count[testimony.function, str(testimony.owner) if testimony.owner else None, testimony.names] += 1
    return count


def key_of(row: dict[str, Any]) -> Key:
    names = row["secret_names"]
    return row["function"], str(row["owner_id"]) if row["owner_id"] else None, None if names is None else tuple(names)


def check_truth(evasion: Evasion, true: Counter[Key]) -> None:
    """The header tells what the direct session did."""
    left = Counter(true)
    for expect in evasion.expects:
        if expect.direct or expect.calls == 0:
            continue
        exact = next((key for key in left if expect.key == key), None) or next((k for k in left if masked(expect, k)), None)
        assert exact is not None, f"the evasion did not call {expect}; it called {dict(true)}"
        assert expect.calls is None or left[exact] >= expect.calls, f"called {left[exact]} times: {expect}"
        left[exact] -= left[exact] if expect.calls is None else expect.calls
        left = +left
    assert not left, f"the evasion also called {dict(left)}"


def masked(expect: Expect, key: Key) -> bool:
    """A name that the log masks cannot be told in the header but by a wildcard."""
    return key[:2] == expect.key[:2] and any("*" in (name or "") for name in expect.names or ())


def check_log(evasion: Evasion, calls: int, rows: list[dict[str, Any]], accesses: list[dict[str, Any]]) -> None:
    kinds = Counter(row["event"] for row in rows)
    assert not kinds["refusal"]
    for kind in ("forgery", "definition", "table"):
        if kind in evasion.also:
            assert kinds[kind], f"no {kind} in the log"
    assert bool(kinds["forgery"]) == ("forgery" in evasion.also)
    counted = sum(row["calls"] or 0 for row in rows if row["event"] == "outcome")
    assert counted == calls, f"the log knows of {counted} executions of {calls}: {brief(rows)}"
    if not evasion.expects:
        unasked = [row for row in rows if row["event"] not in {*evasion.also, "outcome"}]
        assert not unasked and (rows == [] or evasion.also), f"rows for a look-alike: {brief(rows)}"
        return
    for expect in (expect for expect in evasion.expects if not expect.direct):
        fitting = [row for row in accesses if expect.fits(*key_of(row))]
        assert fitting, f"not in the log: {expect}; there is {brief(accesses)}"
        assert {row["operation"] for row in fitting} == {expect.operation}
        if not any(row["how"] == "attempt" for row in fitting):
            assert len(fitting) >= (expect.calls or 1), f"{len(fitting)} rows for {expect.calls} calls"
    for row in accesses:
        known = [e for e in evasion.expects if e.fits(*key_of(row))]
        vague = row["owner_id"] is None or row["secret_names"] is None
        named = (row["function"] or "").partition("(")[0]
        assert (
            known or (vague and any(e.function.partition("(")[0] == named for e in evasion.expects)) or "attempt" in evasion.also
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


@pytest.fixture
def case(request: pytest.FixtureRequest, site: Site) -> Iterator[tuple[Evasion, str, str, str, Any]]:
    evasion, protocol = request.param
    if evasion.needs:
        needs = str(evasion.needs)
        if needs.startswith("server ") and site.version < int(needs.removeprefix("server ")):
            pytest.skip(f"needs PostgreSQL {needs.removeprefix('server ')}")
        if not needs.startswith("server ") and needs not in site.extensions:
            pytest.skip(f"the server has no extension {needs}")
    proxied = site.fresh(BASE)
    since = setup(site, proxied, evasion)
    direct = site.fresh(proxied)
    yield evasion, protocol, proxied, direct, since
    for name in (proxied, direct):
        site.admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def parameters() -> list[Any]:
    made = []
    for evasion, protocol in CASES:
        marks = [pytest.mark.xfail(strict=True, reason=evasion.known[protocol])] if protocol in evasion.known else []
        made.append(pytest.param((evasion, protocol), id=f"{evasion.name}-{protocol}", marks=marks))
    return made


@pytest.mark.parametrize("case", parameters(), indirect=True)
def test_evasion(case: tuple[Evasion, str, str, str, Any], site: Site, record_property: Any) -> None:
    evasion, protocol, proxied, direct, since = case
    record_property("mechanism", evasion.mechanism)
    written = site.proxy.output.stat().st_size
    host, port = site.postgres.host, site.postgres.port
    family = asyncio.run(play(evasion, protocol, Address(host, port, direct, evasion.role)))
    through = asyncio.run(play(evasion, protocol, Address("127.0.0.1", site.proxy.port, proxied, evasion.role)))

    true = told(site, family)
    check_truth(evasion, true)
    rows = site.rows(proxied)
    own = direct_rows(site, proxied, since)
    shown = f"{rows}{own}{site.proxy.output.read_bytes()[written:].decode(errors='replace')}"
    for spelling in (CANARY, CANARY.lower(), CANARY.encode().hex()):
        assert spelling not in shown, "a value is in the log"
    check_log(evasion, sum(true.values()), rows, site.accesses(proxied))
    check_direct(evasion, own)

    assert not any(message.testimony for messages in through for message in messages), "the client saw testimony"
    assert answer(through, (proxied, direct)) == answer(family, (proxied, direct))
    assert state(site, proxied) == state(site, direct)
