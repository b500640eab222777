"""Tries every way in which the log can fail: calls of secret functions are refused, everything else goes on, and
nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.faults.conftest import Separate, until
from tests.support import raw
from tests.support.proxy import Proxy

GETTER = "SELECT encrypted_secrets.secrets_getter('{owner}', '{name}', 'none')"
WRITERS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'secretproxy%%' AND backend_type = 'client backend'"
)
RAISES = """
CREATE FUNCTION public.broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION SQLSTATE '{state}'; END $$;
CREATE TRIGGER broken BEFORE INSERT ON secretproxy.access_log FOR EACH ROW EXECUTE FUNCTION public.broken()
"""
MEND_RAISES = "DROP TRIGGER broken ON secretproxy.access_log; DROP FUNCTION public.broken()"


def writers(site: Separate) -> list[int]:
    return [row[0] for row in site.admin.execute(WRITERS).fetchall()]


def cut_off(site: Separate) -> None:
    site.admin.execute(f"SELECT pg_terminate_backend(pid) FROM ({WRITERS}) w")
    until(lambda: not writers(site) or site.ups)


def statement(text: str, undo: str, *, cut: bool = False) -> Callable[[Separate], Iterator[None]]:
    def failing(site: Separate) -> Iterator[None]:
        for part in text.split(";\n"):
            site.admin.execute(part)
        if cut:
            cut_off(site)
        yield
        for part in undo.split(";\n"):
            site.admin.execute(part)

    return failing


def locked(relation: str) -> Callable[[Separate], Iterator[None]]:
    def failing(site: Separate) -> Iterator[None]:
        name = site.admin.execute(relation).fetchone()
        assert name is not None
        with psycopg.connect(site.log.dsn) as holder:
            holder.execute(f"LOCK TABLE {name[0]} IN ACCESS EXCLUSIVE MODE")
            yield
            holder.rollback()

    return failing


def refusing(site: Separate) -> Iterator[None]:
    site.server.halt()
    yield
    site.server.start()
    site.admin = psycopg.connect(site.log.dsn, autocommit=True)


def stopped(site: Separate) -> Iterator[None]:
    """The log's backends are there and do nothing: only the clock can tell."""
    stopped = writers(site)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


THIS_MONTH = "SELECT 'secretproxy.access_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')"
FAILURES: dict[str, tuple[Callable[[Separate], Iterator[None]], str]] = {
    "connection refused": (refusing, "access log"),
    "table locked": (locked("SELECT 'secretproxy.access_log'"), "audit.timeout"),
    "partition locked": (locked(THIS_MONTH), "audit.timeout"),
    "read only": (statement(RAISES.format(state="25006"), MEND_RAISES), "25006"),
    "disk full": (statement(RAISES.format(state="53100"), MEND_RAISES), "53100"),
    "deadlock": (statement(RAISES.format(state="40P01"), MEND_RAISES), "40P01"),
    "schema missing": (
        statement("ALTER SCHEMA secretproxy RENAME TO elsewhere", "ALTER SCHEMA elsewhere RENAME TO secretproxy"),
        "secretproxy install",
    ),
    "table missing": (
        statement("ALTER TABLE secretproxy.access_log RENAME TO elsewhere", "ALTER TABLE secretproxy.elsewhere RENAME TO access_log"),
        "secretproxy install",
    ),
    "permission lost": (
        statement(
            "REVOKE INSERT ON secretproxy.access_log FROM secretproxy_writer",
            "GRANT INSERT ON secretproxy.access_log TO secretproxy_writer",
        ),
        "42501",
    ),
    "no longer a member": (
        statement("REVOKE secretproxy_writer FROM journal", "GRANT secretproxy_writer TO journal", cut=True),
        "42501",
    ),
    "login taken away": (statement("ALTER ROLE journal NOLOGIN", "ALTER ROLE journal LOGIN", cut=True), "28000"),
    "no connection left": (
        statement("ALTER ROLE journal CONNECTION LIMIT 0", "ALTER ROLE journal CONNECTION LIMIT -1", cut=True),
        "53300",
    ),
    "backend stopped": (stopped, "audit.timeout"),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_refused_while_the_log_fails_and_nothing_else(separate: Separate, failure: str) -> None:
    breaks, said = FAILURES[failure]
    owner = uuid.uuid4()
    output = len(separate.proxy.text())
    with (
        psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql,
        psycopg.connect(separate.proxy.dsn(), autocommit=True) as other,
    ):
        failing = breaks(separate)
        next(failing)
        try:
            took: list[float] = []
            for number in range(3):
                began = time.monotonic()
                with pytest.raises(psycopg.errors.IoError) as refused:
                    sql.execute(GETTER.format(owner=owner, name=f"refused-{number}"))
                assert refused.value.sqlstate == "58030" and "access log" in str(refused.value)
                assert time.monotonic() - began < 6, "a refusal takes at most the log's timeout, some on a busy machine"
                # Others and other statements do not wait for the log.
                began = time.monotonic()
                assert other.execute("SELECT 1").fetchone() == (1,) and sql.execute("SELECT 2").fetchone() == (2,)
                took.append(time.monotonic() - began)
            # One of them may be slow on a busy machine.
            assert sorted(took)[1] < 1, took
        finally:
            for _ in failing:
                pass
        separate.until_up()
        sql.execute(GETTER.format(owner=owner, name="written"))
    text = separate.proxy.text()[output:]
    assert said in text and str(owner) not in text
    assert text.count("access log cannot be written") <= 2, "it says so once, not at each attempt to write"
    rows = [row for row in separate.log.settled() if row["owner_id"] == owner or row["event"] == "outcome"]
    names = [row["secret_names"][0] for row in rows if row["secret_names"]]
    assert names == ["refused-0", "refused-1", "refused-2", "written"]
    statements = {
        (row["session_id"], row["statement_no"]): row["secret_names"][0] for row in rows if row["secret_names"]
    }
    outcomes = {
        statements[key]: row["outcome"]
        for row in rows
        if row["event"] == "outcome" and (key := (row["session_id"], row["statement_no"])) in statements
    }
    assert outcomes == {"refused-0": "refused", "refused-1": "refused", "refused-2": "refused", "written": "ok"}
    whole(separate)


def whole(site: Separate) -> None:
    """Checks that the chains have no gap and no number twice."""
    found = site.log.query(
        "SELECT instance FROM secretproxy.access_log WHERE instance IS NOT NULL"
        " GROUP BY instance HAVING count(*) <> max(seq) OR count(DISTINCT seq) <> count(*)"
    )
    assert found == []


def test_a_killed_connection_of_the_writer_refuses_nothing(separate: Separate) -> None:
    owner = uuid.uuid4()
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
        for number in range(5):
            sql.execute(GETTER.format(owner=owner, name=str(number)))
            separate.admin.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({WRITERS}) w")
    names = [row["secret_names"][0] for row in separate.log.settled() if row["owner_id"] == owner]
    assert names == ["0", "1", "2", "3", "4"]
    whole(separate)


# --- the forms of a refusal ----------------------------------------------------------------------------------------


async def test_a_refusal_is_an_error_of_the_backends_own_in_every_form(separate: Separate) -> None:
    owner = uuid.uuid4()
    call = GETTER.format(owner=owner, name="x")
    table = f"refused_{owner.hex[:8]}"
    failing = statement(RAISES.format(state="53100"), MEND_RAISES)(separate)
    next(failing)
    try:
        client = await raw.Raw.connect(raw.Address("127.0.0.1", separate.proxy.port, "app"))
        await client.query(f"CREATE TEMPORARY TABLE {table} (n int)")
        count = f"SELECT count(*) FROM {table}"

        async def kinds(answer: list[raw.Message]) -> str:
            return " ".join(
                m.sqlstate if m.kind == b"E" else (m.kind + m.body if m.kind == b"Z" else m.kind).decode()
                for m in answer
            )

        # Several statements in one Query are one transaction: what stands before the call is undone with it.
        assert (
            await kinds(await client.query(f"INSERT INTO {table} VALUES (1); {call}; INSERT INTO {table} VALUES (2)"))
            == "58030 ZI"
        )
        assert await client.value(count) == "0"
        # COPY of a query.
        assert await kinds(await client.query(f"COPY ({call}) TO STDOUT")) == "58030 ZI"
        # A pipeline up to its Sync is one transaction too; the next one is not touched.
        await client.send(
            raw.extended(f"INSERT INTO {table} VALUES (3)"), raw.extended(call), raw.extended(f"INSERT INTO {table} VALUES (4)"), raw.SYNC,
            raw.extended(f"INSERT INTO {table} VALUES (5)"), raw.SYNC,
        )  # fmt: skip
        assert await kinds(await client.ready(2)) == "1 2 n C 1 2 T 58030 ZI 1 2 n C ZI"
        assert await client.value(count) == "1"
        # Two Queries at once.
        await client.send(raw.query(call), raw.query("SELECT 1"))
        assert await kinds(await client.ready(2)) == "58030 ZI T D C ZI"
        # In a transaction: it is aborted, refuses the call like anything else, and can be taken back to a savepoint.
        await client.query(f"BEGIN; INSERT INTO {table} VALUES (6); SAVEPOINT s")
        assert await kinds(await client.query(call)) == "58030 ZE"
        assert await kinds(await client.query(call)) == "25P02 ZE"
        assert await kinds(await client.extended(call)) == "25P02 ZE"
        assert await kinds(await client.query("SELECT 1")) == "25P02 ZE"
        assert await kinds(await client.query("ROLLBACK TO s")) == "C ZT"
        assert await kinds(await client.extended(call)) == "1 2 T 58030 ZE"
        assert await kinds(await client.query("ROLLBACK TO s; COMMIT")) == "C C ZI"
        assert await client.value(count) == "2"
        # A prepared statement can be executed again when the log is back.
        await client.send(raw.parse(call, "kept"), raw.bind(name="kept"), raw.execute(), raw.SYNC)
        assert await kinds(await client.ready()) == "1 2 58030 ZI"
    finally:
        for _ in failing:
            pass
    separate.until_up()
    await client.send(raw.bind(name="kept"), raw.execute(), raw.SYNC)
    assert await kinds(await client.ready()) == "2 D C ZI"
    await client.terminate()


async def test_a_fastpath_call_is_held_and_its_session_ended(separate: Separate) -> None:
    owner = uuid.uuid4()
    with psycopg.connect(separate.backend.dsn(), autocommit=True) as sql:
        oid = sql.execute(
            "SELECT 'encrypted_secrets.secrets_getter(uuid,text,text)'::regprocedure::oid::int"
        ).fetchone()
    assert oid is not None
    failing = statement(RAISES.format(state="53100"), MEND_RAISES)(separate)
    next(failing)
    try:
        client = await raw.Raw.connect(raw.Address("127.0.0.1", separate.proxy.port, "app"))
        await client.send(raw.function_call(oid[0], [str(owner), "fast", "default"]))
        answer = await client.until(b"")
        assert [message.sqlstate for message in answer if message.kind == b"E"] == ["58030"]
        assert not any(message.kind == b"V" for message in answer)
    finally:
        for _ in failing:
            pass
    separate.until_up()
    assert separate.calls(owner) == 1


# --- a commit whose fate is unknown ----------------------------------------------------------------------------------


class Swallowing:
    """A relay before the log's server. Once `armed` with a text, it lets a message with that text through, waits for
    the server's answer, keeps it to itself and closes: the commit has happened, and whoever asked for it cannot
    know."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.armed: bytes | None = None
        self.swallowed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            caught = threading.Event()
            threading.Thread(target=self._up, args=(client, server, caught), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server, caught), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, caught: threading.Event) -> None:
        try:
            while data := client.recv(65536):
                if self.armed is not None and self.armed in data:
                    self.armed = None
                    caught.set()
                server.sendall(data)
        except OSError:
            pass

    def _down(self, client: socket.socket, server: socket.socket, caught: threading.Event) -> None:
        try:
            while data := server.recv(65536):
                if caught.is_set():
                    assert data[-6:-1] == b"Z\0\0\0\5" and data[-1:] == b"I", "the server has committed"
                    self.swallowed += 1
                    break
                client.sendall(data)
        except OSError:
            pass
        for sock in (client, server):
            # Closing alone would wait for the thread that reads from it.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        self._listener.close()


def test_a_commit_whose_answer_is_lost_is_in_the_log_once(separate: Separate, tmp_path: Path) -> None:
    relay = Swallowing(separate.server.port)
    owner = uuid.uuid4()
    dsn = f"postgresql://journal@127.0.0.1:{relay.port}/app"
    proxy = Proxy(tmp_path, separate.backend.address, dsn, separate.backend.key_file, "[limits]\nhold_timeout = 5.0\n")
    proxy.start()
    try:
        proxy.wait_for_text("access log can be written")
        with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
            sql.execute(GETTER.format(owner=owner, name="first"))
            for number, text in enumerate(
                (GETTER.format(owner=owner, name="fate-0"), f"SELECT public.concealed('{owner}', 1)")
            ):
                relay.armed = b"fate-0" if number == 0 else b"name-1"
                sql.execute(text)
                assert relay.armed is None and relay.swallowed == number + 1
        assert proxy.halt() == 0
    finally:
        proxy.stop()
        relay.close()
    rows: list[Any] = [row["secret_names"] for row in separate.log.rows() if row["owner_id"] == owner]
    assert rows == [["first"], ["fate-0"], ["name-1"]]
    whole(separate)
