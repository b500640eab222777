"""Checks that connections that are too many, say nothing, are cut off or never end disturb nobody: those that behave
notice nothing."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from secretproxy.config import KeepaliveSettings
from secretproxy.proxy.transport.keepalive import keep_alive
from tests.bounds.wire import Client, startup
from tests.conftest import Backend
from tests.support import raw
from tests.support.process import descriptors
from tests.support.proxy import Proxy

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
CANCEL_REQUEST = struct.pack("!iiii", 16, 80877102, 1, 1)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def proxy_with(postgres: Backend, directory: Path, listen: str, extra: str = "") -> Iterator[Proxy]:
    proxy = Proxy(directory, postgres.address, postgres.dsn("journal"), postgres.key_file, extra)
    proxy.config.write_text(proxy.config.read_text().replace("[listen]\n", f"[listen]\n{listen}\n"))
    proxy.start()
    proxy.wait_for_text("access log can be written")
    try:
        yield proxy
    finally:
        proxy.stop()
    assert "internal error" not in proxy.text() and "Traceback" not in proxy.text()


class Bystander:
    """A session that was there before, and whether it still answers at once."""

    def __init__(self, proxy: Proxy) -> None:
        self.sql = psycopg.connect(proxy.dsn(), autocommit=True)

    def asks(self) -> float:
        began = time.monotonic()
        assert self.sql.execute("SELECT 1").fetchone() == (1,)
        return time.monotonic() - began


def backends(postgres: Backend) -> int:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        found = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_user'").fetchone()
        assert found is not None
        return int(found[0])


def test_above_max_sessions(postgres: Backend, tmp_path: Path) -> None:
    with proxy_with(postgres, tmp_path, "max_sessions = 3") as proxy:
        bystander = Bystander(proxy)
        others = [psycopg.connect(proxy.dsn()) for _ in range(2)]
        there = backends(postgres)
        for _ in range(200):
            with Client(proxy.port, log_in=False) as client:
                client.send(startup())
                assert b"C53300\0" in client.socket.recv(1000)
        assert backends(postgres) == there, "a refused client costs no backend"
        assert bystander.asks() < 1
        for connection in others:
            connection.close()
        until(lambda: connects(proxy))


def connects(proxy: Proxy) -> bool:
    try:
        psycopg.connect(proxy.dsn()).close()
    except psycopg.OperationalError:
        return False
    return True


def test_connections_that_say_nothing(postgres: Backend, tmp_path: Path) -> None:
    """They are no sessions, so max_sessions does not count them, but max_connections does, and login_timeout ends
    them."""
    with proxy_with(postgres, tmp_path, "max_sessions = 10\nlogin_timeout = 3.0") as proxy:
        bystander = Bystander(proxy)
        before = descriptors(proxy.pid)
        silent = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(100)]
        until(lambda: bystander.asks() < 1 and descriptors(proxy.pid) >= before + 10)
        assert descriptors(proxy.pid) < before + 25
        refused = sum(b"C53300\0" in _soon(one) for one in silent)
        assert refused >= 80
        until(lambda: descriptors(proxy.pid) <= before)
        assert all(_ended(one) for one in silent)
        assert bystander.asks() < 1
        assert connects(proxy)


def _soon(connection: socket.socket) -> bytes:
    connection.settimeout(0.01)
    try:
        return connection.recv(1000)
    except (TimeoutError, ConnectionError):
        return b""


def _ended(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        while connection.recv(1000):
            pass
    except ConnectionError:
        pass
    connection.close()
    return True


def test_a_byte_a_second_is_no_login(postgres: Backend, tmp_path: Path) -> None:
    with proxy_with(postgres, tmp_path, "login_timeout = 1.0") as proxy:
        bystander = Bystander(proxy)
        slow = socket.create_connection(("127.0.0.1", proxy.port))
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in startup():
                slow.send(bytes([byte]))
                time.sleep(0.1)
                if time.monotonic() - began > 5:
                    break
        assert time.monotonic() - began < 4
        assert bystander.asks() < 1


def test_out_of_descriptors(postgres: Backend, tmp_path: Path) -> None:
    with proxy_with(postgres, tmp_path, "max_sessions = 1000") as proxy:
        bystander = Bystander(proxy)
        used = descriptors(proxy.pid)
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
        began = Path(f"/proc/{proxy.pid}/stat").read_text().split()
        crowd = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(100)]
        for _ in range(20):
            assert bystander.asks() < 1
            time.sleep(0.05)
        ended = Path(f"/proc/{proxy.pid}/stat").read_text().split()
        ticks = int(ended[13]) + int(ended[14]) - int(began[13]) - int(began[14])
        assert ticks < 70, f"{ticks} hundredths of a second of CPU in a second in which nothing happens"
        for connection in crowd:
            connection.close()
        until(lambda: connects(proxy))
        # The last descriptors: a client gets in, but its backend cannot be reached.
        held = []
        for _ in range(30):
            with contextlib.suppress(psycopg.OperationalError):
                held.append(psycopg.connect(proxy.dsn(), connect_timeout=5))
        assert bystander.asks() < 1
        for one in held:
            one.close()
        until(lambda: connects(proxy))


def test_floods_of_cancel_requests_and_handshakes(quiet: Proxy) -> None:
    bystander = Bystander(quiet)
    before = descriptors(quiet.pid)
    slowest = 0.0
    for round_ in range(10):
        crowd = []
        for number in range(50):
            one = socket.create_connection(("127.0.0.1", quiet.port))
            one.sendall(CANCEL_REQUEST if (round_ + number) % 2 else SSL_REQUEST)
            crowd.append(one)
        slowest = max(slowest, bystander.asks())
        for one in crowd:
            one.close()
    assert slowest < 2
    until(lambda: descriptors(quiet.pid) <= before)


def test_the_same_request_twice(quiet: Proxy) -> None:
    with Client(quiet.port, log_in=False) as client:
        client.send(SSL_REQUEST * 3)
        said = b""
        while data := client.socket.recv(1000):
            said += data
        assert said[:2] == b"NE" and b"C0A000\0" in said


def test_cut_off_in_the_middle(quiet: Proxy, postgres: Backend) -> None:
    """The proxy survives clients that are reset while they are written to, while they write, and half closed."""
    bystander = Bystander(quiet)
    before = descriptors(quiet.pid)
    for _ in range(10):
        reading = Client(quiet.port)
        reading.send(raw.query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        reading.socket.recv(100_000)
        reading.reset()
        writing = Client(quiet.port)
        writing.send(raw.query("x" * 100_000)[:50_000])
        writing.reset()
    assert bystander.asks() < 2
    half = Client(quiet.port)
    half.send(raw.query("SELECT 'answer'"))
    half.socket.shutdown(socket.SHUT_WR)
    said = b""
    while data := half.socket.recv(1000):
        said += data
    assert b"answer" in said and said.endswith(b"Z\0\0\0\5I")
    half.socket.close()
    until(lambda: descriptors(quiet.pid) <= before)
    until(lambda: backends(postgres) <= 2)


def test_a_backend_that_is_killed_takes_its_session_alone(quiet: Proxy, postgres: Backend) -> None:
    bystander = Bystander(quiet)
    with Client(quiet.port) as client, psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        client.send(raw.query("SELECT repeat('x', 1000), pg_backend_pid() FROM generate_series(1, 1000000)"))
        client.socket.recv(1000)
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT repeat%' AND usename = 'app_user'"
        )
        with contextlib.suppress(ConnectionError):
            while client.socket.recv(1 << 20):
                pass
    assert bystander.asks() < 1


def test_a_client_that_neither_reads_nor_leaves_is_cut_off(postgres: Backend, tmp_path: Path) -> None:
    """Its session has ended and what it is told last cannot be delivered: the descriptor is not kept for ever."""
    with proxy_with(postgres, tmp_path, "", "[limits]\nmax_message = 2000\n") as proxy:
        before = descriptors(proxy.pid)
        with Client(proxy.port, receive=4096) as deaf:
            deaf.send(raw.query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"))
            # Until the proxy has more for it than goes into the kernel's buffers.
            until(lambda: _unread(deaf) and _stands_still(proxy))
            deaf.send(raw.query("x" * 3000))
            until(lambda: descriptors(proxy.pid) <= before)


def _unread(client: Client) -> bool:
    client.socket.settimeout(10)
    return bool(client.socket.recv(1, socket.MSG_PEEK))


def _stands_still(proxy: Proxy) -> bool:
    def ticks() -> list[str]:
        return Path(f"/proc/{proxy.pid}/stat").read_text().split()[13:15]

    before = ticks()
    time.sleep(0.3)
    return ticks() == before


def test_keepalive_options() -> None:
    settings = KeepaliveSettings(
        tcp_keepalives_idle=11, tcp_keepalives_interval=3, tcp_keepalives_count=2, tcp_user_timeout=4567
    )
    with socket.socket() as sock:
        keep_alive(sock, settings)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        found = [
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        ]
    assert found == [11, 3, 2, 4567]


def test_keepalive_on_both_sides(postgres: Backend, tmp_path: Path) -> None:
    try:
        subprocess.run(["ss", "-V"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("no ss (iproute2) to look at sockets' timers with")
    with proxy_with(postgres, tmp_path, "tcp_keepalives_idle = 77") as proxy:
        bystander = Bystander(proxy)
        assert bystander.asks() < 5
        until(lambda: _timers(proxy.port, postgres.port) == (True, True))


def _timers(listen: int, backend: int) -> tuple[bool, bool]:
    """Tells whether the proxy's connections to clients wait for the seconds that were set, and those to the backend for
    the default."""
    shown = subprocess.run(["ss", "-tnoH"], capture_output=True, text=True, check=True).stdout.splitlines()
    clients = [line for line in shown if line.split()[3].endswith(f":{listen}")]
    backends = [line for line in shown if line.split()[4].endswith(f":{backend}")]
    return any("timer:(keepalive,1min" in line for line in clients), any(
        "timer:(keepalive,4min" in line for line in backends
    )
