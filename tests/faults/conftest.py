"""Gives a backend whose log stands on a server of its own, so that the one can fail without the other."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend, prepare
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

from secretproxy.demo.postgres import PrivateServer

HOLD = 4.0
FUNCTIONS = """
CREATE TABLE IF NOT EXISTS public.loot (owner uuid, n int, value text);
GRANT ALL ON public.loot TO PUBLIC;
CREATE OR REPLACE FUNCTION public.concealed(owner uuid, n int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN encrypted_secrets.secrets_getter(owner, 'name-' || n, 'none'); END $$;
"""


@dataclass
class Separate:
    """`admin` is a superuser's connection to the log's database."""

    backend: Backend
    server: PrivateServer
    log: AccessLog
    proxy: Proxy
    admin: psycopg.Connection[Any]

    def up(self, count: int = 1) -> None:
        """Waits until the proxy says that the log takes events."""
        self.proxy.wait_for_text("access log can be written", count)

    @property
    def ups(self) -> int:
        return self.proxy.text().count("access log can be written")

    def until_up(self) -> None:
        """Waits until calls go on again, asked by a call."""
        with psycopg.connect(self.proxy.dsn(), autocommit=True) as sql:
            until(
                lambda: answers(
                    sql, "SELECT encrypted_secrets.secrets_getter('00000000-0000-4000-8000-000000000000', 'probe')"
                )
            )

    def loot(self, owner: object) -> int:
        with psycopg.connect(self.backend.dsn(), autocommit=True) as sql:
            found = sql.execute("SELECT count(*) FROM public.loot WHERE owner = %s", (owner,)).fetchone()
            assert found is not None
            return int(found[0])

    def calls(self, owner: object) -> int:
        return len(self.log.query("SELECT FROM secretproxy.access_log WHERE event = 'call' AND owner_id = %s", owner))

    def running(self, marker: str) -> int:
        """Gives statements of the backend that hold this text and run now."""
        with psycopg.connect(self.backend.dsn(), autocommit=True) as sql:
            found = sql.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%' || %s || '%%' AND pid <> pg_backend_pid()",
                (marker,),
            ).fetchone()
            assert found is not None
            return int(found[0])


def answers(sql: psycopg.Connection[Any], statement: str) -> bool:
    try:
        sql.execute(statement)
    except psycopg.errors.IoError:
        return False
    return True


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits for a condition that something else brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def reset(connection: psycopg.Connection[Any]) -> None:
    """Ends a client's connection the hard way: the other side sees a reset, not an end."""
    sock = socket.socket(fileno=connection.fileno())
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        sock.detach()
    connection.close()


@pytest.fixture(scope="package")
def separate_server(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Separate]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as sql:
        sql.execute(FUNCTIONS)
    with PrivateServer() as server:
        logged = prepare(server.host, server.port, tmp_path_factory.mktemp("log"))
        proxy = Proxy(
            tmp_path_factory.mktemp("separate"),
            postgres.address,
            logged.dsn("journal"),
            postgres.key_file,
            f"[limits]\nhold_timeout = {HOLD}\n",
        )
        proxy.config.write_text(proxy.config.read_text().replace("timeout = 2.0\n", "timeout = 1.0\n", 1))
        proxy.start()
        with psycopg.connect(logged.dsn(), autocommit=True) as admin:
            yield Separate(postgres, server, AccessLog(logged.dsn()), proxy, admin)
        proxy.stop()


@pytest.fixture
def separate(separate_server: Separate) -> Separate:
    """Gives the server of the folder to a test, with the log able to be written."""
    if not separate_server.proxy.running:
        separate_server.proxy.start()
    separate_server.until_up()
    separate_server.log.mark()
    return separate_server
