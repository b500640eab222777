"""Checks that, whatever passes through a session, the proxy's memory grows by less than a megabyte for it.

Sizes are those of `make test` times BOUNDS_SCALE: with `make bounds` rows and parameters are of 500 MB, COPY of 10 GB.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from secretproxy.demo.postgres import free_port
from tests.bounds.wire import CHUNK, Client, deaf_backend, startup
from tests.conftest import Backend
from tests.support import raw
from tests.support.process import MIB, Growth
from tests.support.proxy import Proxy

BOUND = MIB
SCALE = int(os.environ.get("BOUNDS_SCALE", "1"))
LARGE = min(50_000_000 * SCALE, 500_000_000)
SYNC = raw.SYNC


def rows(client: Client) -> None:
    assert client.query(f"SELECT repeat('x', {LARGE})") > LARGE


def small_rows(client: Client) -> None:
    assert client.query(f"SELECT n, 'row' FROM generate_series(1, {500_000 * SCALE}) n") > 7_500_000 * SCALE


def copy_out(client: Client) -> None:
    lines = 100_000 * SCALE
    assert client.query(f"COPY (SELECT repeat('x', 1000) FROM generate_series(1, {lines})) TO STDOUT") > 1000 * lines


def copy_in(client: Client) -> None:
    client.send(raw.query("CREATE TEMP TABLE t (x text) ON COMMIT DELETE ROWS"))
    client.until_ready()
    client.send(raw.query("COPY t FROM STDIN"))
    piece = raw.copy_data("y" * 999 + "\n") * 1000
    for _ in range(50 * SCALE):
        client.send(piece)
    client.send(raw.COPY_DONE)
    client.until_ready()


def one_copy_message(client: Client) -> None:
    client.send(raw.query("CREATE TEMP TABLE t (x text) ON COMMIT DELETE ROWS"))
    client.until_ready()
    client.send(raw.query("COPY t FROM STDIN"))
    client.send_large(b"d", b"", LARGE, b"z", b"\n")
    client.send(raw.COPY_DONE)
    client.until_ready()


def large_statement(client: Client) -> None:
    """A statement of 50 MB is longer than what is parsed."""
    client.send_large(b"Q", b"SELECT length('", 50_000_000, b"x", b"')\0")
    client.until_ready()


def large_parse(client: Client) -> None:
    client.send_large(b"P", b"s\0SELECT length('", 50_000_000, b"x", b"')\0\0\0")
    client.send(raw.bind(name="s") + raw.execute() + SYNC)
    client.until_ready()


def large_parameter(client: Client) -> None:
    client.send(raw.parse("SELECT length($1)"))
    client.send_large(b"B", b"\0\0\0\0\0\1" + struct.pack("!i", LARGE), LARGE, b"x", b"\0\0")
    client.send(raw.execute() + SYNC)
    client.until_ready()


def large_secret_parameter(client: Client) -> None:
    """A Bind may be longer than what is read, of a statement with a secret call."""
    client.send(raw.parse("SELECT encrypted_secrets.secrets_verify(gen_random_uuid(), 'bounds', $1)"))
    client.send_large(b"B", b"\0\0\0\0\0\1" + struct.pack("!i", 50_000_000), 50_000_000, b"x", b"\0\0")
    client.send(raw.execute() + SYNC)
    client.until_ready()


def read_beside(client: Client, sent: Callable[[], None], count: int) -> None:
    """Sends in a thread and reads what comes."""
    thread = threading.Thread(target=sent)
    thread.start()
    client.until_ready(count)
    thread.join()


def pipeline(client: Client) -> None:
    """With BOUNDS_SCALE=10 it sends two million messages without a Sync."""
    part = (raw.bind(name="one") + raw.execute()) * 1000
    client.send(raw.parse("SELECT 1", "one"))

    def send() -> None:
        for _ in range(100 * SCALE):
            client.send(part)
        client.send(SYNC)

    read_beside(client, send, 1)


def queries(client: Client) -> None:
    """The client sends queries far ahead of their answers."""
    part = raw.query("SELECT 1 -- " + "x" * 50) * 1000

    def send() -> None:
        for _ in range(20 * SCALE):
            client.send(part)

    read_beside(client, send, 20_000 * SCALE)


def names(client: Client) -> None:
    """The client makes prepared statements under ten thousand names (times BOUNDS_SCALE), and portals under five
    thousand."""

    def send() -> None:
        for start in range(0, 10_000 * SCALE, 1000):
            client.send(b"".join(raw.parse("SELECT 1", f"s{n}") for n in range(start, start + 1000)))
        client.send(SYNC)

    read_beside(client, send, 1)
    client.query("BEGIN")
    client.send(b"".join(raw.bind(portal=f"p{n}", name="s1") for n in range(5000)) + SYNC)
    client.until_ready()
    client.query("ROLLBACK")
    client.query("DEALLOCATE ALL")


def notices(client: Client) -> None:
    client.query(
        "DO $$ BEGIN FOR n IN 1..50000 LOOP RAISE NOTICE 'a notice of some length, number %', n; END LOOP; END $$"
    )


def large_notice(client: Client) -> None:
    client.query("DO $$ BEGIN RAISE NOTICE '%', repeat('x', 50000000); END $$")


def forged_notice(client: Client) -> None:
    """A message that looks like testimony is kept to be checked, but not fifty megabytes of it."""
    client.query("DO $$ BEGIN RAISE INFO USING ERRCODE = 'SPX01', MESSAGE = repeat('x', 50000000); END $$")


def notifications(client: Client) -> None:
    client.query("LISTEN bounds")
    client.query("SELECT count(pg_notify('bounds', n || repeat('x', 1000))) FROM generate_series(1, 20000) n")
    client.query("UNLISTEN *")


CASES = [
    rows, small_rows, copy_out, copy_in, one_copy_message, large_statement, large_parse, large_parameter, large_secret_parameter,
    pipeline, queries, names, notices, large_notice, forged_notice, notifications,
]  # fmt: skip


@pytest.mark.parametrize("passes", CASES, ids=lambda case: case.__name__)
def test_a_session_takes_less_than_a_megabyte(quiet: Proxy, passes: Callable[[Client], None]) -> None:
    with Client(quiet.port) as client, Growth(quiet.pid) as growth:
        passes(client)
    assert growth.bytes < BOUND, f"{growth.bytes / MIB:.2f} MB"


def stalled(client: Client, send: bytes, seconds: float = 2) -> int:
    """Sends over and over until nothing more is taken; gives how much was."""
    client.socket.settimeout(0.5)
    taken, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            taken += client.socket.send(send)
        except TimeoutError:
            break
    return taken


def test_a_client_that_never_reads_rows(quiet: Proxy, postgres: Backend) -> None:
    with Client(quiet.port, receive=65_536) as client, Growth(quiet.pid) as growth:
        client.send(raw.query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"))
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            deadline = time.monotonic() + 60
            while not admin.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT repeat%' AND wait_event = 'ClientWrite'"
            ).fetchone()[0]:  # type: ignore[index]
                assert time.monotonic() < deadline, "the backend was never made to wait"
                time.sleep(0.05)
    assert growth.bytes < BOUND, f"{growth.bytes / MIB:.2f} MB"


def test_a_million_parses_without_reading_an_answer(quiet: Proxy) -> None:
    with Client(quiet.port, receive=65_536) as client, Growth(quiet.pid) as growth:
        taken = stalled(client, raw.parse("", "s") * 5000)
    assert taken > 1_000_000
    assert growth.bytes < BOUND, f"{growth.bytes / MIB:.2f} MB"


def test_a_backend_that_never_reads(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> None:
    with deaf_backend() as deaf:
        proxy = Proxy(
            tmp_path_factory.mktemp("deaf"), f"127.0.0.1:{deaf.port}", postgres.dsn("journal"), postgres.key_file
        )
        proxy.start()
        try:
            with Client(proxy.port) as client, Growth(proxy.pid) as growth:
                assert stalled(client, raw.copy_data(b"x" * 100_000)) > 100_000
            assert growth.bytes < BOUND, f"{growth.bytes / MIB:.2f} MB"
            with Client(proxy.port) as client, Growth(proxy.pid) as growth:
                stalled(client, raw.query("SELECT 1 /* " + "x" * 500 + " */"))
            assert growth.bytes < BOUND, f"{growth.bytes / MIB:.2f} MB"
        finally:
            # A last session is to find no backend, not one that lets it wait.
            deaf.close()
            proxy.stop()


def test_what_is_sent_ahead_of_the_login_is_bounded(
    postgres: Backend, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = socket.create_server(("127.0.0.1", free_port()))
    proxy = Proxy(
        tmp_path_factory.mktemp("early"),
        f"127.0.0.1:{listener.getsockname()[1]}",
        postgres.dsn("journal"),
        postgres.key_file,
    ).start()
    try:
        with Client(proxy.port, log_in=False) as client, listener, Growth(proxy.pid) as growth:
            client.send(startup())
            assert stalled(client, raw.query("x" * 1000) * 100) < 20 * CHUNK
        assert growth.bytes < BOUND, f"{growth.bytes / MIB:.2f} MB"
    finally:
        proxy.stop()
