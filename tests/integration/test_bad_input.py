"""Tries bytes that no client should send, settings that cannot be, a backend that is none: one clear error, and nobody
else notices."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.cli import secretproxy
from tests.support.proxy import Proxy

from secretproxy.demo.postgres import free_port


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def startup(**parameters: str) -> bytes:
    body = b"\0\3\0\0" + b"".join(f"{key}\0{value}\0".encode() for key, value in parameters.items()) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


class Raw:
    """A client of bytes."""

    def __init__(self, proxy: Proxy) -> None:
        self.socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)

    def log_in(self) -> Raw:
        self.socket.sendall(startup(user="app_user", database="app"))
        received = b""
        while not received.endswith(b"Z\0\0\0\5I"):
            received += self.socket.recv(65536)
        return self

    def send(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def everything(self) -> bytes:
        """Reads what comes until the end of the connection."""
        received = b""
        while data := self.socket.recv(65536):
            received += data
        self.socket.close()
        return received


def fatal(received: bytes) -> tuple[str, str]:
    """Gives SQLSTATE and message of the one ErrorResponse in what was received."""
    assert received[:1] == b"E" and struct.unpack("!i", received[1:5])[0] == len(received) - 1, received
    fields = {part[:1]: part[1:].decode() for part in received[5:].split(b"\0") if part}
    assert fields[b"S"] == "FATAL"
    return fields[b"C"], fields[b"M"]


@pytest.fixture
def bystander(proxy: Proxy) -> Iterator[None]:
    """Opens a well-behaved session that must not notice."""
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        connection.execute("SET application_name = 'bystander'")
        yield
        assert connection.execute("SHOW application_name").fetchone() == ("bystander",)
    assert "Traceback" not in proxy.text() and "internal error" not in proxy.text()


@pytest.mark.parametrize(
    ("data", "sqlstate", "words"),
    [
        (struct.pack("!ii", 9, 2 << 16) + b"\0", "0A000", "unsupported frontend protocol 2.0"),
        (struct.pack("!ii", 9, 4 << 16) + b"\0", "0A000", "unsupported frontend protocol 4.0"),
        (struct.pack("!ii", 12, 196608) + b"user", "08P01", "terminator"),
        (struct.pack("!ii", 14, 196608) + b"user\0\0", "08P01", "terminator"),
    ],
)
def test_startup(proxy: Proxy, bystander: None, data: bytes, sqlstate: str, words: str) -> None:
    state, text = fatal(Raw(proxy).send(data).everything())
    assert state == sqlstate and words in text


@pytest.mark.parametrize(
    "data", [b"\0\0\0\3", b"\x7f\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", struct.pack("!ii", 8, 80877102)]
)
def test_what_is_no_startup_packet_gets_no_answer(proxy: Proxy, bystander: None, data: bytes) -> None:
    """Like PostgreSQL, the proxy gives no answer."""
    before = proxy.text().count("malformed startup packet")
    assert Raw(proxy).send(data).everything() == b""
    proxy.wait_for_text("malformed startup packet", before + 1)


def direct(postgres: Backend) -> Raw:
    raw = Raw.__new__(Raw)
    raw.socket = socket.create_connection((postgres.host, postgres.port), timeout=10)
    return raw.log_in()


@pytest.mark.parametrize(
    "data",
    [
        message(b"p", b"password\0"),
        message(b"!", b""),
        b"Q\0\0\0\3",
        b"Q\x7f\xff\xff\xff",
        message(b"X", b"") + b"hello",
    ],
)
def test_what_ends_a_session_is_answered_by_the_backend(
    proxy: Proxy, postgres: Backend, bystander: None, data: bytes
) -> None:
    """The message that came before it in the same bytes is answered, too."""
    before = message(b"Q", b"SELECT 1\0")
    through = Raw(proxy).log_in().send(before + data).everything()
    assert through == direct(postgres).send(before + data).everything()
    assert b"SELECT 1" in through


@pytest.mark.parametrize(
    "data",
    [message(b"B", b"abc"), message(b"E", b""), message(b"D", b""), message(b"P", b"x"), message(b"Q", b"no end")],
)
def test_unreadable_content_is_answered_by_the_backend(
    proxy: Proxy, postgres: Backend, bystander: None, data: bytes
) -> None:
    end = message(b"S", b"") + message(b"X", b"")
    through = Raw(proxy).log_in().send(data + end).everything()
    assert through == direct(postgres).send(data + end).everything()
    assert b"08P01" in through


def test_half_a_message_and_gone(proxy: Proxy, bystander: None) -> None:
    for data in (b"Q", b"Q\0\0\1\0select", b"B\0\0\1"):
        Raw(proxy).log_in().send(data).socket.close()
    Raw(proxy).send(b"\0\0").socket.close()


def test_the_longest_message_is_a_setting(postgres: Backend, tmp_path: Path) -> None:
    proxy = Proxy(
        tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file, "[limits]\nmax_message = 2000\n"
    ).start()
    try:
        with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
            connection.execute("SELECT 1 /* " + "x" * 1000 + " */")
            with pytest.raises(psycopg.OperationalError, match=r"limits\.max_message"):
                connection.execute("SELECT 1 /* " + "x" * 3000 + " */")
    finally:
        proxy.stop()


def test_one_session_too_many(postgres: Backend, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, postgres.address, postgres.dsn("journal"), postgres.key_file)
    proxy.config.write_text(proxy.config.read_text().replace("[listen]\n", "[listen]\nmax_sessions = 2\n"))
    proxy.start()
    try:
        two = [psycopg.connect(proxy.dsn()), psycopg.connect(proxy.dsn())]
        with pytest.raises(psycopg.OperationalError, match=r"listen\.max_sessions"):
            psycopg.connect(proxy.dsn())
        for connection in two:
            connection.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(proxy.dsn()).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        proxy.stop()


def serve(answer: bytes) -> int:
    """Runs a server that gives each connection an answer and hangs up: the proxy looks at its backends by itself,
    too."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1000)
                connection.sendall(answer)

    threading.Thread(target=run, daemon=True).start()
    return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak"),
        (b"\0" * 20, "does not speak"),
        (b"", "without an answer"),
    ],
)
def test_a_backend_that_is_none(postgres: Backend, tmp_path: Path, answer: bytes, words: str) -> None:
    proxy = Proxy(tmp_path, f"127.0.0.1:{serve(answer)}", postgres.dsn("journal"), postgres.key_file).start()
    try:
        state, text = fatal(Raw(proxy).send(startup(user="app_user")).everything())
        assert state in ("08P01", "08006") and words in text and "backend.hosts" in text
    finally:
        proxy.stop()


def test_a_backend_that_is_down(postgres: Backend, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, f"127.0.0.1:{free_port()}", postgres.dsn("journal"), postgres.key_file).start()
    try:
        state, text = fatal(Raw(proxy).send(startup(user="app_user")).everything())
        assert state == "08001" and "refused" in text
        assert "backend.hosts" in proxy.text()
    finally:
        proxy.stop()


def test_a_log_without_the_schema(postgres: Backend, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, postgres.address, postgres.dsn(database="postgres"), postgres.key_file).start()
    try:
        proxy.wait_for_text("secretproxy install")
        assert "audit.dsn" in proxy.text() and "Traceback" not in proxy.text()
        with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            with pytest.raises(psycopg.errors.IoError):
                connection.execute("SELECT encrypted_secrets.secrets_getter(NULL, 'x')")
        assert proxy.text().count("cannot be written") == 1
    finally:
        proxy.stop()


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("[listen]\nprot = 1\n", "listen.prot"),
        ("[listen]\nport = 99999\n", "listen.port"),
        ("[listen]\nport = 'many'\n", "listen.port"),
        ("[backend]\nhosts = []\n", "backend.hosts"),
        ("[backend]\nhosts = ['a:b:c']\n", "backend.hosts"),
        ("[limits]\nhold_timeout = 0\n", "limits.hold_timeout"),
        ("[audit]\non_outage = 'ignore'\n", "audit.on_outage"),
        ("[nothing]\nx = 1\n", "nothing"),
        ("not toml", "not valid TOML"),
        ("[testimony]\nkey_file = '/nowhere/keys'\n", "testimony.key_file"),
        ("[listen]\ntls = 'require'\n", "listen.tls"),
        ("[monitor]\nname_patterns = ['(']\n", "monitor.name_patterns"),
        ("[auth]\nmode = 'scram'\n", "auth.users_file"),
        ("[auth]\nmode = 'scram'\nusers_file = '/nowhere'\n", "auth.users_file"),
    ],
)
def test_settings(tmp_path: Path, text: str, setting: str) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECRETPROXY_")}
    done = secretproxy(["run", "--config", str(config)], env=environment)
    assert done.returncode == 2
    assert setting in done.stderr
    assert re.fullmatch(r"secretproxy: [^\n]*\n", done.stderr), done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_an_unknown_variable(tmp_path: Path) -> None:
    done = secretproxy(["run"], cwd=tmp_path, env=os.environ | {"SECRETPROXY_LISTEN_PROT": "1"})
    assert done.returncode == 2 and "listen.prot" in done.stderr
