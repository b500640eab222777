"""Checks that a client that is gone, or is put out, may leave a statement behind that runs on: what it calls is in the
log all the same."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import struct
import threading
import time
import uuid

import psycopg
import pytest
from tests.faults.conftest import Separate, reset, until
from tests.support import raw
from tests.support.log import known_calls

LOOT = "INSERT INTO public.loot SELECT '{owner}', n, public.concealed('{owner}', n) FROM generate_series(1, {count}) n"
SLOW = "INSERT INTO public.loot SELECT '{owner}', 1, public.concealed('{owner}', 1) FROM pg_sleep(1)"


def send(sql: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    """Sends a Query and does not wait for its answer."""
    sql.pgconn.nonblocking = 1
    sql.pgconn.send_query(statement.encode())
    while sql.pgconn.flush():
        pass


@pytest.mark.parametrize("ending", ["reset", "closed", "terminated"])
def test_a_statement_that_its_client_left_alone_is_followed_to_its_end(separate: Separate, ending: str) -> None:
    owner = uuid.uuid4()
    sql = psycopg.connect(separate.proxy.dsn(), autocommit=True)
    send(sql, SLOW.format(owner=owner))
    until(lambda: separate.running(str(owner)))
    if ending == "reset":
        reset(sql)
    elif ending == "terminated":
        sql.close()
    else:
        os.close(sql.fileno())
    until(lambda: not separate.running(str(owner)))
    until(lambda: separate.calls(owner))
    assert separate.calls(owner) == 1 >= separate.loot(owner)
    rows = separate.log.settled()
    (session,) = {row["session_id"] for row in rows if row["owner_id"] == owner}
    assert [row["event"] for row in rows if row["session_id"] == session] == ["call", "outcome"]


def test_a_statement_that_only_produces_stops_when_nobody_listens(separate: Separate) -> None:
    marker = uuid.uuid4().hex
    sql = psycopg.connect(separate.proxy.dsn(), autocommit=True)
    send(sql, f"SELECT '{marker}', repeat('x', 1000) FROM generate_series(1, 10000) a, generate_series(1, 10000) b")
    select.select([sql.fileno()], [], [], 20)
    reset(sql)
    until(lambda: not separate.running(marker))


def test_what_was_committed_behind_a_hold_is_in_the_log(separate: Separate) -> None:
    """The log is down, the statement commits before anybody can stop it, its session ends: every call is written
    later."""
    owner = uuid.uuid4()
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
        separate.server.halt()
        with pytest.raises(psycopg.OperationalError) as ended:
            sql.execute(LOOT.format(owner=owner, count=3000))
        assert "access log" in str(ended.value)
    until(lambda: not separate.running(str(owner)))
    separate.server.start()
    separate.until_up()
    until(lambda: separate.log.settled() is not None)
    assert separate.calls(owner) == 3000 if separate.loot(owner) else separate.calls(owner) > 0
    assert separate.loot(owner) <= separate.calls(owner)


def test_an_open_transaction_is_rolled_back_after_the_hold(separate: Separate) -> None:
    owner = uuid.uuid4()
    sql = psycopg.connect(separate.proxy.dsn())
    sql.execute("SELECT 1")
    separate.server.halt()
    with pytest.raises(psycopg.OperationalError):
        sql.execute(LOOT.format(owner=owner, count=10))
    separate.server.start()
    separate.until_up()
    assert separate.loot(owner) == 0 and separate.calls(owner) == 10


async def test_a_copy_that_its_client_left_in_the_middle_is_undone_and_its_calls_are_not(separate: Separate) -> None:
    owner = uuid.uuid4()
    table = f"copied_{owner.hex[:8]}"
    with psycopg.connect(separate.backend.dsn(), autocommit=True) as admin:
        admin.execute(
            f"CREATE TABLE public.{table} (n int, value text); GRANT ALL ON public.{table} TO PUBLIC;"
            f" CREATE FUNCTION public.{table}_calls() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN NEW.value := public.concealed('{owner}', NEW.n); RETURN NEW; END $$;"
            f" CREATE TRIGGER calls BEFORE INSERT ON public.{table} FOR EACH ROW EXECUTE FUNCTION public.{table}_calls()"
        )
    client = await raw.Raw.connect(raw.Address("127.0.0.1", separate.proxy.port, "app"), application_name=table)
    await client.send(raw.query(f"COPY public.{table} (n) FROM STDIN"))
    await client.until(b"G")
    # More than the backend collects before it inserts.
    await client.send(raw.copy_data("".join(f"{n}\n" for n in range(3000))))
    until(lambda: separate.calls(owner))
    client._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client._writer.transport.abort()
    await asyncio.sleep(0)
    with psycopg.connect(separate.backend.dsn(), autocommit=True) as admin:
        until(
            lambda: (
                admin.execute("SELECT FROM pg_stat_activity WHERE application_name = %s", (table,)).fetchone() is None
            )
        )
        assert admin.execute(f"SELECT count(*) FROM public.{table}").fetchone() == (0,)
    rows = [row for row in separate.log.settled() if row["application_name"] == table]
    assert rows[-1]["event"] == "outcome" and rows[-1]["outcome"] in ("error", "lost", "cancelled")
    assert known_calls(rows) == separate.calls(owner) > 0


def test_a_client_that_breaks_the_protocol_while_its_statement_runs(separate: Separate) -> None:
    owner = uuid.uuid4()
    sql = psycopg.connect(separate.proxy.dsn(), autocommit=True)
    send(sql, SLOW.format(owner=owner))
    until(lambda: separate.running(str(owner)))
    os.write(sql.fileno(), b"!\0\0\0\4")
    until(lambda: not separate.running(str(owner)))
    separate.until_up()
    assert separate.loot(owner) <= separate.calls(owner)


def test_the_proxy_leaves_while_a_statement_runs(separate: Separate) -> None:
    owner = uuid.uuid4()
    config = separate.proxy.config
    before = config.read_text()
    separate.proxy.stop()
    config.write_text(before.replace("drain_timeout = 5.0", "drain_timeout = 0.3"))
    try:
        separate.proxy.start()
        separate.until_up()
        sql = psycopg.connect(separate.proxy.dsn(), autocommit=True)
        failed: list[str | None] = []

        def run() -> None:
            try:
                sql.execute(LOOT.format(owner=owner, count=1_000_000))
            except psycopg.Error as error:
                failed.append(error.sqlstate)

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: separate.calls(owner))
        assert separate.proxy.halt(signal.SIGTERM) == 0
        thread.join(60)
        until(lambda: not separate.running(str(owner)))
        assert failed and separate.loot(owner) == 0
        assert "could not be written" not in separate.proxy.text()
    finally:
        config.write_text(before)


@pytest.mark.parametrize("ending", ["reset", "closed", "terminated"])
def test_a_client_that_leaves_while_the_log_hangs_is_no_internal_error(separate: Separate, ending: str) -> None:
    """Its statement waits for its attempt, the attempt fails, and nobody is there to be refused."""
    before = separate.proxy.text().count("cannot be written")
    with psycopg.connect(separate.log.dsn) as holder:
        holder.execute("LOCK TABLE secretproxy.access_log IN ACCESS EXCLUSIVE MODE")
        sql = psycopg.connect(separate.proxy.dsn(), autocommit=True)
        send(sql, f"SELECT encrypted_secrets.secrets_getter('{uuid.uuid4()}', 'hanging')")
        # The attempt is with the log when its session waits for a lock.
        until(lambda: separate.log.query("SELECT 1 FROM pg_locks WHERE NOT granted"))
        if ending == "reset":
            reset(sql)
        elif ending == "terminated":
            sql.close()
        else:
            os.close(sql.fileno())
        separate.proxy.wait_for_text("cannot be written", before + 1)
    separate.until_up()
    assert "internal error" not in separate.proxy.text()


# Ends by itself what it runs in, behind more notices than a client takes that does not read, and tells another session
# the value.
UNHEARD = """DO $$ DECLARE v text; BEGIN
    FOR i IN 1..{count} LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP;
    EXECUTE 'SELECT encrypted_secrets.secrets_' || 'getter($1, $2)' INTO v USING '{owner}'::uuid, 'a';
    PERFORM pg_notify('unheard', coalesce(v, 'none')); COMMIT;
    PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10);
END $$"""


def told_another_and_ended(address: raw.Address, direct: str, owner: uuid.UUID, count: int) -> bool:
    """Runs UNHEARD for a client that does not read, and writes once its backend has ended; gives whether another
    session got the value."""
    with psycopg.connect(direct, autocommit=True) as other, socket.socket() as client:
        other.execute("LISTEN unheard")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.host, address.port))
        client.sendall(raw.startup({"user": address.user, "database": address.database}))
        client.settimeout(20)
        seen = b""
        while not seen.endswith(b"Z\0\0\0\5I"):
            seen += client.recv(65_536)
        client.sendall(raw.query(UNHEARD.format(owner=owner, count=count)))
        got = any(True for _ in other.notifies(timeout=3, stop_after=1))
        if got:
            until(
                lambda: (
                    other.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s", (f"DO $$%{owner}%",)
                    ).fetchone()
                    == (0,)
                )
            )
        for _ in range(3):
            client.sendall(raw.query("SELECT 1"))
            time.sleep(0.05)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return got


@pytest.mark.parametrize("count", [2000, 4000, 6000, 8000])
def test_what_lies_unread_in_a_connection_that_breaks_is_heard(separate: Separate, count: int) -> None:
    """A backend that has ended resets its connection: what came is read, and where some of it never came a row says
    so."""
    owner = uuid.uuid4()
    address = raw.Address("127.0.0.1", separate.proxy.port, "app")
    if not told_another_and_ended(address, separate.backend.dsn(), owner, count):
        return  # the backend still waited for its client to read, and was stopped
    found = "SELECT FROM secretproxy.access_log WHERE event = 'call' AND owner_id = %s"
    lost = "SELECT FROM secretproxy.access_log WHERE event = 'refusal' AND outcome = 'lost' AND sqlstate = '08006' AND at > now() - interval '20 s'"
    until(lambda: separate.log.query(found, owner) or separate.log.query(lost))
