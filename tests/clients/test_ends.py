"""Checks how sessions end that the client did not end: it hears PostgreSQL's own words, then the end of the connection,
never a reset."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend, prepare
from tests.support.proxy import Proxy
from tests.support.raw import query, startup

from secretproxy.demo.postgres import PrivateServer

WHO = {"user": "app_user", "database": "app"}


class Client:
    """A socket that is logged in."""

    def __init__(self, port: int, *, user: str = "app_user") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(startup(WHO | {"user": user}))
        self.until(b"Z\0\0\0\5I")
        self.pid = int(self.value("SELECT pg_backend_pid()"))

    def until(self, end: bytes) -> bytes:
        received = b""
        while end not in received:
            data = self.socket.recv(65536)
            assert data, received
            received += data
        return received

    def value(self, text: str) -> bytes:
        self.socket.sendall(query(text))
        row = self.until(b"Z\0\0\0\5").partition(b"D\0")[2]
        return row[9 : 9 + int.from_bytes(row[5:9], "big")]

    def try_to_send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def last_words(self) -> list[bytes]:
        """Reads everything up to the end: the fields S, C and M of each message, without a trace of a reset."""
        received = b""
        while data := self.socket.recv(65536):
            received += data
        self.socket.close()
        return [part for part in received[5:].split(b"\0") if part[:1] in (b"S", b"C", b"M")]


@pytest.fixture(params=["direct", "proxied"])
def connect(request: pytest.FixtureRequest, postgres: Backend, proxy: Proxy) -> Callable[[], Client]:
    port = postgres.port if request.param == "direct" else proxy.port
    return lambda: Client(port)


def terminate(postgres: Backend, pid: int) -> None:
    """Ends a backend and waits until it is gone."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        assert connection.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)).fetchone() == (True,)


def test_terminated(connect: Callable[[], Client], postgres: Backend) -> None:
    client = connect()
    terminate(postgres, client.pid)
    assert client.last_words() == [b"SFATAL", b"C57P01", b"Mterminating connection due to administrator command"]


def test_by_itself(connect: Callable[[], Client]) -> None:
    client = connect()
    client.socket.sendall(query("SELECT pg_terminate_backend(pg_backend_pid())") + query("SELECT 1"))
    assert b"C57P01" in client.last_words()


def test_idle_in_a_transaction(connect: Callable[[], Client]) -> None:
    client = connect()
    client.value("SET idle_in_transaction_session_timeout = 50; SELECT 1")
    client.socket.sendall(query("BEGIN"))
    client.until(b"T")
    assert client.last_words()[:2] == [b"SFATAL", b"C25P03"]


def test_a_statement_on_its_way_loses_no_last_words(proxy: Proxy, postgres: Backend) -> None:
    """Both arrive while the proxy is not looking: the end of the backend, and more of the client's than is read at
    once."""
    for _ in range(3):
        client = Client(proxy.port)
        sending = threading.Thread(target=client.try_to_send, args=(query("SELECT 1 -- " + "x" * 20_000_000),))
        os.kill(proxy.pid, signal.SIGSTOP)
        try:
            terminate(postgres, client.pid)
            sending.start()
            time.sleep(0.1)
        finally:
            os.kill(proxy.pid, signal.SIGCONT)
        assert client.last_words()[:2] == [b"SFATAL", b"C57P01"]
        sending.join(60)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrivateServer, Proxy]]:
    """Gives a server that may be stopped, and a proxy before it."""
    directory = tmp_path_factory.mktemp("ends")
    with PrivateServer() as server:
        backend = prepare(server.host, server.port, directory)
        proxy = Proxy(directory, backend.address, backend.dsn("journal"), backend.key_file).start()
        yield server, proxy
        proxy.stop()


def test_shutdown_and_crash(own: tuple[PrivateServer, Proxy], tmp_path: Path) -> None:
    server, proxy = own
    heard = {}
    for way in ("direct", "proxied"):
        port = server.port if way == "direct" else proxy.port
        if server.pid is None:
            server.start()
        waiting, other = Client(port), Client(port)
        waiting.socket.sendall(query("SELECT pg_sleep(60)"))
        _once_asleep(server, waiting.pid)
        os.kill(other.pid, signal.SIGKILL)
        crash = [other.last_words(), waiting.last_words()]
        again = _when_up(port)
        server.halt()
        heard[way] = [*crash, again.last_words()]
    assert heard["proxied"] == heard["direct"]
    killed, ended, shut_down = heard["direct"]
    assert killed == [] and b"C57P02" in ended
    assert shut_down == [b"SFATAL", b"C57P01", b"Mterminating connection due to administrator command"]


def _once_asleep(server: PrivateServer, pid: int) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        deadline = time.monotonic() + 60
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        while connection.execute(asleep, (pid,)).fetchone() != (1,):
            assert time.monotonic() < deadline


def _when_up(port: int) -> Client:
    """Gives a client, once the server has recovered from a crash."""
    dsn = f"postgresql://app_user@127.0.0.1:{port}/app?connect_timeout=5"
    for _ in range(200):
        try:
            psycopg.connect(dsn).close()
            return Client(port)
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError("the server does not come back")
