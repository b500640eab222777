"""Checks that a client that leaves, or ends its own direction alone, is served as over plain TCP, whichever of the two
ways is in TLS.

Every case runs directly too, in clear and in TLS: what PostgreSQL itself does is what is asked of the proxy.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.support import raw
from tests.support.proxy import Proxy
from tests.support.tls_site import Site, tls_site

SSL_REQUEST = struct.pack("!II", 8, 80877103)
# Client in TLS, backend in TLS; None: there is no proxy.
WAYS: dict[str, tuple[bool, bool | None]] = {
    "direct, clear": (False, None),
    "direct, TLS": (True, None),
    "clear to clear": (False, False),
    "clear to TLS": (False, True),
    "TLS to clear": (True, False),
    "TLS to TLS": (True, True),
}
PROXIED = [way for way in WAYS if "direct" not in way]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with tls_site(tmp_path_factory.mktemp("ends")) as made:
        with psycopg.connect(made.backend.dsn(), autocommit=True) as admin:
            admin.execute("CREATE TABLE public.copied (run text, n int); GRANT ALL ON public.copied TO PUBLIC")
        yield made


@pytest.fixture(scope="module")
def ports(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool | None, int]]:
    """Gives the port that leads to the backend in clear, in TLS, and without a proxy."""
    proxies: dict[bool, Proxy] = {
        tls: site.proxy(tmp_path_factory.mktemp("proxy"), listen="allow", backend="require" if tls else "off")
        for tls in (False, True)
    }
    yield {None: site.backend.port} | {tls: proxy.port for tls, proxy in proxies.items()}
    for proxy in proxies.values():
        assert "internal error" not in proxy.text()
        proxy.stop()


@pytest.fixture
def port(request: pytest.FixtureRequest, ports: dict[bool | None, int], way: str) -> int:
    return ports[WAYS[way][1]]


class Client:
    """A socket that is logged in (not without a name), in TLS or not, each direction of which is ended by hand."""

    def __init__(self, port: int, tls: bool, name: str | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if tls:
            self.socket.sendall(SSL_REQUEST)
            assert self.socket.recv(1) == b"S"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self._tls = context.wrap_bio(self._incoming, self._outgoing)
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._flush()
                    self._incoming.write(self.socket.recv(65536))
            self._flush()
        if name is not None:
            self.send(raw.startup({"user": "journal", "database": "app", "application_name": name}))
            self.until(b"Z\0\0\0\5I")

    def _flush(self) -> None:
        self.socket.sendall(self._outgoing.read())

    def send(self, data: bytes) -> None:
        if self._tls is None:
            self.socket.sendall(data)
        else:
            self._tls.write(data)
            self._flush()

    def read(self) -> bytes:
        """Reads what comes next; nothing at the end of the stream or behind a close_notify."""
        while self._tls is not None:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                data = self.socket.recv(65536)
                if not data:
                    return b""
                self._incoming.write(data)
            except ssl.SSLError:
                return b""
        return self.socket.recv(65536)

    def until(self, end: bytes) -> bytes:
        received = b""
        while end not in received:
            data = self.read()
            assert data, received
            received += data
        return received

    def rest(self) -> bytes:
        """Reads everything up to the end."""
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := self.read():
                received += data
        return bytes(received)

    def end(self, how: str) -> None:
        """Ends the client's own direction."""
        if self._tls is not None and "notify" in how:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            self._flush()
        if "fin" in how or self._tls is None:
            self.socket.shutdown(socket.SHUT_WR)

    def leave(self, how: str) -> None:
        """Leaves by a reset, a Terminate, a close_notify, or by closing the socket alone."""
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "terminate":
            self.send(raw.TERMINATE)
            self.end("notify")
        elif how == "notify":
            self.end("notify")
        self.socket.close()


def until(done: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def there(site: Site, name: str) -> bool:
    with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
        return admin.execute("SELECT FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchone() is not None


def copied(site: Site, run: str) -> int:
    with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
        row = admin.execute("SELECT count(*) FROM public.copied WHERE run = %s", (run,)).fetchone()
    assert row is not None
    return int(row[0])


def kinds(data: bytes) -> bytes:
    """Gives the kinds of the messages, without what the backend says of its settings."""
    found, position = bytearray(), 0
    while position < len(data):
        found += data[position : position + 1]
        position += 1 + int.from_bytes(data[position + 1 : position + 5], "big")
    return bytes(found)


@pytest.mark.parametrize("how", ["terminate", "notify", "fin", "reset"])
@pytest.mark.parametrize("way", WAYS)
def test_a_statement_whose_client_has_left_does_not_run_on(site: Site, port: int, way: str, how: str) -> None:
    """The backend looks every 50 ms whether its client is there (client_connection_check_interval)."""
    name = f"left {uuid.uuid4()}"
    client = Client(port, WAYS[way][0], name)
    client.send(raw.query("SET client_connection_check_interval = 50"))
    client.until(b"Z\0\0\0\5I")
    client.send(raw.query("SELECT pg_sleep(300)"))
    until(lambda: there(site, name))
    time.sleep(0.1)
    client.leave(how)
    until(lambda: not there(site, name))


@pytest.mark.parametrize("how", ["terminate", "notify", "fin", "reset"])
@pytest.mark.parametrize("way", WAYS)
def test_an_idle_session_ends_with_its_client(site: Site, port: int, way: str, how: str) -> None:
    name = f"idle {uuid.uuid4()}"
    client = Client(port, WAYS[way][0], name)
    client.send(raw.query("BEGIN"))
    client.until(b"Z\0\0\0\5T")
    client.leave(how)
    until(lambda: not there(site, name))


@pytest.mark.parametrize("how", ["notify", "fin", "notify, fin"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_that_is_whole_loses_nothing(site: Site, port: int, way: str, how: str) -> None:
    """Everything up to CopyDone is on its way when the client ends its direction: 5 MB, more than the buffers on the
    way hold."""
    run = uuid.uuid4().hex
    client = Client(port, WAYS[way][0], run)
    client.send(raw.query("COPY public.copied FROM STDIN"))
    client.until(b"G")
    line = f"{run}\t1\n" * 1000
    for _ in range(150):
        client.send(raw.copy_data(line))
    client.send(raw.COPY_DONE)
    client.end(how)
    assert client.rest().startswith(b"C\0\0\0\x10COPY 150000\0")
    client.socket.close()
    assert copied(site, run) == 150_000


@pytest.mark.parametrize("how", ["notify", "fin", "notify, fin"])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_that_breaks_off_is_undone_and_its_client_is_told(site: Site, port: int, way: str, how: str) -> None:
    run = uuid.uuid4().hex
    client = Client(port, WAYS[way][0], run)
    client.send(raw.query("COPY public.copied FROM STDIN"))
    client.until(b"G")
    client.send(raw.copy_data(f"{run}\t1\n" * 1000))
    client.end(how)
    answer = client.rest()
    # OpenSSL writes nothing more at a server that met the end of the stream without a close_notify.
    assert b"C08006\0" in answer or (way == "direct, TLS" and how == "fin")
    assert copied(site, run) == 0
    client.socket.close()
    until(lambda: not there(site, run))


@pytest.mark.parametrize("how", ["notify", "fin", "notify, fin"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_asked_before_the_end_is_answered(port: int, way: str, how: str) -> None:
    """The client sends five queries, the first of which gives 8 MB that the client takes only once it has ended its
    direction."""
    client = Client(port, WAYS[way][0], "asked")
    with contextlib.suppress(ConnectionError):
        client.send(
            raw.query("SELECT repeat('x', 1000) FROM generate_series(1, 8000)")
            + raw.query("SELECT 1; SELECT 2") * 3
            + raw.extended("SELECT 1")
            + raw.SYNC
        )
        client.end(how)
    time.sleep(0.2)
    answer = client.rest()
    client.socket.close()
    asked = kinds(answer)
    if how != "fin" or way != "direct, TLS":
        assert asked == b"T" + b"D" * 8_000 + b"CZ" + b"TDCTDCZ" * 3 + b"12TDCZ"


@pytest.mark.parametrize("how", ["notify", "fin", "notify, fin"])
@pytest.mark.parametrize("way", WAYS)
def test_a_terminate_behind_questions(site: Site, port: int, way: str, how: str) -> None:
    name = f"terminated {uuid.uuid4()}"
    client = Client(port, WAYS[way][0], name)
    client.send(raw.query("SELECT 1") * 3 + raw.TERMINATE)
    # PostgreSQL ends at the Terminate, and may have closed by now: what it answered is read all the same.
    with contextlib.suppress(OSError):
        client.end(how)
    assert kinds(client.rest()) == b"TDCZ" * 3
    client.socket.close()
    until(lambda: not there(site, name))


@pytest.mark.parametrize("how", ["notify", "fin", "reset"])
@pytest.mark.parametrize("way", PROXIED)
def test_a_client_that_leaves_in_the_middle_of_a_message(site: Site, port: int, way: str, how: str) -> None:
    name = f"cut {uuid.uuid4()}"
    client = Client(port, WAYS[way][0], name)
    client.send(raw.query("SELECT '" + "x" * 200_000 + "'")[:100_000])
    client.leave(how)
    until(lambda: not there(site, name))


@pytest.mark.parametrize("way", PROXIED)
def test_a_backend_that_is_terminated_says_so_and_ends(site: Site, port: int, way: str) -> None:
    name = f"shot {uuid.uuid4()}"
    client = Client(port, WAYS[way][0], name)
    with psycopg.connect(site.backend.dsn(), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", (name,))
    assert b"C57P01\0" in client.rest()
    client.socket.close()


def _held(port: int, client: Client) -> bool:
    """Tells whether the proxy still has its end of a client's connection: the socket has an inode."""
    ends = (f":{port:04X}", f":{client.socket.getsockname()[1]:04X}")
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(ends[0]) and row[2].endswith(ends[1]) and row[9] != "0" for row in rows)


def test_whoever_does_not_hang_up_holds_no_connection(ports: dict[bool | None, int]) -> None:
    """The proxy does not wait for a close_notify, and for one that does not read only the few seconds that last words
    take."""
    ways = [(ports[backend], tls) for tls, backend in map(WAYS.__getitem__, PROXIED)]
    full = [(port, Client(port, tls, "does not read")) for port, tls in ways]
    for _, client in full:
        client.send(raw.query("SELECT repeat('x', 1000) FROM generate_series(1, 50000)"))
    time.sleep(0.5)
    for _, client in full:
        # A Flush with content: the proxy ends the session, whose answer nobody takes.
        client.send(b"H\0\0\0\5x")
    silent = [(port, Client(port, tls, None)) for port, tls in ways for _ in range(3)]
    unwanted = (b"\0\0\0\1", struct.pack("!iiii", 16, 80877102, 1, 1), raw.startup({"user": "nobody"}) + b"\0" * 20)
    for (_, client), data in zip(silent, unwanted * len(ways), strict=True):
        client.send(data)
    until(lambda: not any(_held(*one) for one in silent), 10)
    until(lambda: not any(_held(*one) for one in full), 20)
    for _, client in full + silent:
        client.socket.close()
