"""Checks several servers: a primary and its standby, asked by target_session_attrs, changing places under connections;
names with addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend, prepare
from tests.support.log import AccessLog
from tests.support.proxy import Proxy
from tests.support.standby import Standby
from tests.support.tls_site import newest_postgres

from secretproxy.config import BackendSettings, Host, Settings
from secretproxy.demo.postgres import PrivateServer, free_port
from secretproxy.proxy.backend.connect import BackendUnreachableError, Target, connect, resolve
from secretproxy.proxy.backend.hosts import Hosts, Kind
from secretproxy.proxy.backend.tls import BackendTls
from secretproxy.proxy.service_connection import connect_log

PASSWORD = "not a secret"
OWNER = "7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2e"
GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'failover', 'nothing')"
ATTRS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")


@dataclass
class Pair:
    backend: Backend
    primary: PrivateServer
    standby: Standby

    @property
    def addresses(self) -> list[str]:
        """The standby stands first, so that what is not looked for is met first."""
        return [f"127.0.0.1:{self.standby.port}", f"127.0.0.1:{self.primary.port}"]

    @property
    def log_dsn(self) -> str:
        return f"postgresql://journal@{','.join(self.addresses)}/app?target_session_attrs=read-write"

    def settings(self, attrs: str, **more: object) -> Settings:
        return Settings(
            backend=BackendSettings(hosts=self.addresses, target_session_attrs=attrs, connect_timeout=5.0, **more),  # type: ignore[arg-type]
            audit={"dsn": self.log_dsn},  # type: ignore[arg-type]
        )

    def proxy(self, directory: Path, backend: str, rest: str = "") -> Proxy:
        directory.mkdir()
        made = Proxy(directory, '", "'.join(self.addresses), self.log_dsn, self.backend.key_file, rest)
        text = made.config.read_text().replace("[audit]", f"connect_timeout = 3.0\n{backend}\n[audit]")
        made.config.write_text(f"workers = 2\n{text}")
        return made.start()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    # The standby takes its primary's settings, and fsync is off in both.
    with PrivateServer(newest_postgres(), settings={"wal_level": "replica", "max_wal_senders": "5"}) as primary:
        backend = prepare(primary.host, primary.port, directory)
        with psycopg.connect(backend.dsn(), autocommit=True) as admin:
            admin.execute(
                f"CREATE ROLE with_password LOGIN PASSWORD '{PASSWORD}'; GRANT authenticated TO with_password"
            )
            rules = primary.data / "pg_hba.conf"
            rules.write_text(f"host all with_password 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
            admin.execute("SELECT pg_reload_conf()")
        with Standby(primary) as standby:
            yield Pair(backend, primary, standby)


def port_of(proxy: Proxy, user: str = "with_password") -> int:
    """Gives the server behind a new session."""
    with psycopg.connect(dsn(proxy, user), autocommit=True) as session:
        row = session.execute("SELECT inet_server_port()").fetchone()
    assert row is not None
    return int(row[0])


def dsn(proxy: Proxy, user: str = "with_password") -> str:
    return f"host=127.0.0.1 port={proxy.port} dbname=app user={user} password='{PASSWORD}' connect_timeout=20"


# --- which server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "suited"),
    [
        (Kind(standby=False, read_only=False), {"any", "read-write", "primary"}),
        (Kind(standby=False, read_only=True), {"any", "read-only", "primary"}),
        (Kind(standby=True, read_only=False), {"any", "read-only", "standby", "prefer-standby"}),
        (Kind(standby=True, read_only=True), {"any", "read-only", "standby", "prefer-standby"}),
    ],
)
def test_kinds_are_taken_as_libpq_takes_them(kind: Kind, suited: set[str]) -> None:
    assert {attrs for attrs in ATTRS if kind.suits(attrs)} == suited


@pytest.mark.parametrize("whose", ["ROLE journal", "DATABASE app", "ROLE journal IN DATABASE app"])
@pytest.mark.parametrize("attrs", ["any", "read-write"])
async def test_a_transaction_timeout_that_a_login_is_given_ends_no_connection_of_the_proxys_own(
    pair: Pair, whose: str, attrs: str
) -> None:
    """The time is a millisecond: neither a login nor the statement that pins the settings is done in that time."""
    with psycopg.connect(pair.backend.dsn(database="postgres"), autocommit=True) as admin:
        if admin.info.server_version < 170000:
            pytest.skip("transaction_timeout is of PostgreSQL 17")
        admin.execute(f"ALTER {whose} SET transaction_timeout = 1")
        try:
            for _ in range(3):
                connection = await connect_log(pair.settings(attrs))
                assert (
                    await connection.fetchval("SELECT current_setting('transaction_timeout') FROM pg_sleep(0.01)")
                    == "0"
                )
                await connection.close()
        finally:
            admin.execute(f"ALTER {whose} RESET transaction_timeout")


@pytest.mark.parametrize("attrs", ATTRS)
async def test_candidates_are_those_that_libpq_connects_to(pair: Pair, attrs: str) -> None:
    hosts = Hosts(pair.settings(attrs))
    hosts.start()
    try:
        found = [target.host.port for target in await hosts.candidates()]
    finally:
        await hosts.stop()
    both = ",".join(address.rpartition(":")[2] for address in pair.addresses)
    libpq = psycopg.pq.PGconn.connect(
        f"host=127.0.0.1,127.0.0.1 port={both} dbname=app user=app_user target_session_attrs={attrs}".encode()
    )
    assert found[0] == int(libpq.port)
    libpq.finish()
    # One that is preferred is not required.
    assert len(found) == (2 if attrs in ("any", "prefer-standby") else 1)


async def test_the_default_login_of_the_log_finds_the_server_that_takes_writes(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGUSER", "journal")
    monkeypatch.setenv("PGDATABASE", "app")
    connection = await connect_log(Settings(backend=BackendSettings(hosts=pair.addresses)))
    assert await connection.fetchval("SELECT inet_server_port()") == pair.primary.port
    await connection.close()


# --- addresses -------------------------------------------------------------------------------------------------------


async def test_every_address_of_a_name_is_tried(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    port = pair.primary.port
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.250", "127.0.0.1")]

    async def two(*_: object, **__: object) -> object:
        return answer

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    targets = await resolve(Host(host="a.name", port=port), 5)
    assert [target.address for target in targets] == ["127.0.0.250", "127.0.0.1"]
    monkeypatch.undo()
    _, target = await connect(asyncio.Protocol, targets, 5, BackendTls())
    assert target.address == "127.0.0.1" and str(target) == f"a.name:{port} (127.0.0.1)"


async def test_an_address_that_does_not_answer_takes_no_time_from_the_next(pair: Pair) -> None:
    """A listener whose queue is full neither takes nor refuses; each address has the whole of connect_timeout."""
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    with contextlib.ExitStack() as stack:
        stack.callback(silent.close)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        dead = Host(host="127.0.0.1", port=silent.getsockname()[1])
        live = Host(host="127.0.0.1", port=pair.primary.port)
        _, target = await connect(
            asyncio.Protocol, [Target(dead, "127.0.0.1"), Target(live, "127.0.0.1")], 0.5, BackendTls()
        )
        assert target.host == live
        hosts = Hosts(Settings(backend=BackendSettings(hosts=[str(dead), str(live)])))
        targets, _ = await hosts.addresses()
        assert [target.host for target in targets] == [dead, live]
        # Once somebody has waited for it, others do not for a while.
        await connect(asyncio.Protocol, targets, 0.5, BackendTls(), hosts.silent)
        targets, _ = await hosts.addresses()
        assert [target.host for target in targets] == [live, dead]
        with pytest.raises(BackendUnreachableError, match=r"no answer within 0\.5 s"):
            await connect(asyncio.Protocol, [Target(dead, "127.0.0.1")], 0.5, BackendTls())


async def test_a_name_that_does_not_resolve_is_named(pair: Pair) -> None:
    hosts = Hosts(Settings(backend=BackendSettings(hosts=["no.such.name.invalid", pair.addresses[0]])))
    found, causes = await hosts.addresses()
    assert [target.host.port for target in found] == [pair.standby.port]
    assert causes == ["no.such.name.invalid:5432: its name does not resolve"]


def test_unix_sockets_and_servers_that_are_down(pair: Pair, tmp_path: Path) -> None:
    proxy = Proxy(
        tmp_path,
        f'127.0.0.1:{free_port()}", "{pair.primary.socket_dir}:{pair.primary.port}',
        pair.log_dsn,
        pair.backend.key_file,
    )
    proxy.start()
    try:
        with psycopg.connect(dsn(proxy, "app_user"), autocommit=True) as session:
            assert session.execute("SELECT inet_server_port() IS NULL").fetchone() == (True,)
    finally:
        proxy.stop()


# --- changing places -------------------------------------------------------------------------------------------------


def cancelled(proxy: Proxy, times: int) -> None:
    """Requests reach the session's server from whichever worker gets them, also where it is not the first."""
    with psycopg.connect(dsn(proxy), autocommit=True) as session:
        for _ in range(times):
            threading.Timer(0.1, session.cancel_safe).start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                session.execute("SELECT pg_sleep(30)")


def first_session(proxy: Proxy, seconds: float) -> tuple[int, float]:
    """Gives the server of the first session that comes about, and how long it took."""
    began = time.monotonic()
    while True:
        try:
            return port_of(proxy), time.monotonic() - began
        except psycopg.OperationalError:
            assert time.monotonic() - began < seconds, proxy.text()[-3000:]
            time.sleep(0.05)


def test_a_failover_under_connections(pair: Pair, tmp_path: Path) -> None:
    """The primary dies, the standby is promoted: sessions and the log find it in both modes, and what was asked for is
    kept to."""
    lookup = f'[auth]\nmode = "scram"\nlookup_dsn = "{pair.log_dsn.replace("journal", "postgres")}"\n'
    relayed = pair.proxy(tmp_path / "relayed", 'target_session_attrs = "read-write"\nmonitor_interval = 0.5')
    logged_in = pair.proxy(tmp_path / "logged_in", 'target_session_attrs = "primary"', lookup)
    # Looks once and then no more by itself.
    stale = pair.proxy(tmp_path / "stale", 'target_session_attrs = "standby"\nmonitor_interval = 3600')
    try:
        assert port_of(relayed) == port_of(logged_in) == pair.primary.port
        assert port_of(stale) == pair.standby.port
        cancelled(relayed, 4)
        cancelled(logged_in, 4)
        with psycopg.connect(dsn(relayed), autocommit=True) as session:
            assert session.execute(GETTER).fetchone() == ("nothing",)
            pair.primary.kill()
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="it is a standby"):
            psycopg.connect(dsn(relayed))
        pair.standby.promote()
        took = {}
        for proxy in (relayed, logged_in):
            port, took[proxy] = first_session(proxy, 10)
            assert port == pair.standby.port
        assert took[relayed] < 4 and took[logged_in] < 4
        log = AccessLog(f"postgresql://postgres@127.0.0.1:{pair.standby.port}/app")
        for proxy in (relayed, logged_in):
            secret_call_when_the_log_is_back(proxy, 15)
        assert len([row for row in log.settled() if row["event"] == "attempt"]) >= 2
        # What is known here is old: the server's own word at the login counts, and the next look is a new one.
        with pytest.raises(psycopg.OperationalError, match=r"no longer what backend\.target_session_attrs = standby"):
            psycopg.connect(dsn(stale))
        assert "is not what it was a moment ago" in stale.text()
        with pytest.raises(psycopg.OperationalError, match=r"cannot be reached.*it is a primary"):
            connect_until_known(stale)
    finally:
        for proxy in (relayed, logged_in, stale):
            proxy.stop()


def secret_call_when_the_log_is_back(proxy: Proxy, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with psycopg.connect(dsn(proxy), autocommit=True) as session:
                assert session.execute(GETTER).fetchone() == ("nothing",)
                return
        except (psycopg.OperationalError, psycopg.errors.IoError):
            assert time.monotonic() < deadline, proxy.text()[-3000:]
            time.sleep(0.1)


def connect_until_known(proxy: Proxy) -> None:
    """There are two workers, each of which may have to learn it."""
    for _ in range(20):
        try:
            psycopg.connect(dsn(proxy)).close()
        except psycopg.OperationalError as error:
            if "no longer what" not in str(error):
                raise
