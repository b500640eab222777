"""Provides a private PostgreSQL with the backend half installed, a proxy before it, the log, and canary values.

`TEST_BACKEND=testcontainers` takes the server from a container where an engine answers; otherwise it is a local one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from secretproxy.demo.postgres import PrivateServer, find_postgres
from secretproxy.install import install
from tests.support import canary as canaries
from tests.support.canary import Canary, found_in
from tests.support.cluster import copy_data_directories
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

LOGINS = """
CREATE ROLE app_user LOGIN;
GRANT authenticated TO app_user;
CREATE ROLE journal LOGIN;
GRANT secretproxy_writer TO journal;
CREATE ROLE auditor LOGIN;
GRANT secretproxy_auditor TO auditor;
CREATE ROLE outsider LOGIN;
GRANT CREATE ON SCHEMA public TO app_user;
"""


_COMMON = pytest.StashKey[Proxy]()
# Tests run beside others: how long an example takes says nothing of it.
settings.register_profile("beside others", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside others")
copy_data_directories()


@dataclass(frozen=True)
class Backend:
    """Gives a server with the database `app`, in which the backend half is installed."""

    host: str
    port: int
    key_file: Path
    server: PrivateServer | None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def dsn(self, user: str = "postgres", database: str = "app") -> str:
        return f"postgresql://{user}@{self.host}:{self.port}/{database}"

    def program(self, name: str) -> str:
        assert self.server is not None
        return str(self.server.binaries.program(name))


def prepare(host: str, port: int, directory: Path) -> Backend:
    """Makes the database and the logins and installs the backend half."""
    backend = Backend(host, port, directory / "keys", None)
    with psycopg.connect(backend.dsn(database="postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE app")
    asyncio.run(install(backend.dsn(), backend.key_file, direct_calls="log"))  # tests also call past the proxy
    with psycopg.connect(backend.dsn(), autocommit=True) as connection:
        connection.execute(LOGINS)
        connection.execute("UPDATE secretproxy.settings SET crypt_cost = 4")  # a sixteenth of the time of 8
    return backend


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    directory = tmp_path_factory.mktemp("backend")
    if os.environ.get("TEST_BACKEND") == "testcontainers":
        yield from _container(directory)
        return
    with PrivateServer(find_postgres(), settings={"wal_level": "logical", "max_prepared_transactions": "5"}) as server:
        made = prepare(server.host, server.port, directory)
        yield Backend(made.host, made.port, made.key_file, server)


def _container(directory: Path) -> Iterator[Backend]:
    from testcontainers.postgres import PostgresContainer

    try:
        container = PostgresContainer("postgres:17", username="postgres", password="postgres")
        container.with_env("POSTGRES_HOST_AUTH_METHOD", "trust").start()
    except Exception as error:
        pytest.skip(f"TEST_BACKEND=testcontainers, but no container engine answers ({type(error).__name__})")
    try:
        yield prepare(container.get_container_host_ip(), int(container.get_exposed_port(5432)), directory)
    finally:
        container.stop()


@pytest.fixture(scope="session")
def proxy(
    postgres: Backend, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Proxy]:
    running = Proxy(tmp_path_factory.mktemp("proxy"), postgres.address, postgres.dsn("journal"), postgres.key_file)
    running.python = sys.executable  # a whole one: what its command line and environment hold is searched
    running.start()
    running.wait_for_text("access log can be written")
    request.session.stash[_COMMON] = running
    yield running
    running.stop()


@pytest.fixture(scope="session", autouse=True)
def no_value_is_left_anywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checks that, whatever the tests did, no table of a log, no file, metric or process holds one of their values."""
    stop = PrivateServer.stop

    def search_and_stop(server: PrivateServer) -> None:
        if server.running:
            canaries.search_server(server)
        stop(server)

    PrivateServer.stop = search_and_stop  # type: ignore[method-assign]
    yield
    PrivateServer.stop = stop  # type: ignore[method-assign]
    canaries.search_files(tmp_path_factory.getbasetemp())
    assert canaries.leaks == [], f"values of the tests were found in {sorted(set(canaries.leaks))}"


@pytest.fixture(scope="module", autouse=True)
def values_of_the_module(request: pytest.FixtureRequest, no_value_is_left_anywhere: None) -> Iterator[None]:
    """Has a session of each module that uses the common proxy leave values in it."""
    yield
    common = request.session.stash.get(_COMMON, None)
    mine = (item for item in request.session.items if item.nodeid.startswith(request.node.nodeid))
    if common is not None and any("proxy" in getattr(item, "fixturenames", ()) for item in mine):
        assert canaries.leave_values(common, 60), "the common proxy let no session in"


@pytest.fixture
def log(postgres: Backend) -> AccessLog:
    return AccessLog(postgres.dsn())


@pytest.fixture
def canary(postgres: Backend, proxy: Proxy) -> Iterator[Canary]:
    """Gives values whose marker must be nowhere once the test is over."""
    values = Canary()
    yield values
    places = found_in(values, AccessLog(postgres.dsn()), proxy)
    assert not places, f"a value was found in {places}"
