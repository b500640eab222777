"""A statement that only reads runs before the log has it: none of its answer goes on before, whatever fails between."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.faults.conftest import Separate, until
from tests.faults.test_testimony import log_locked
from tests.support import raw
from tests.support.log import Row
from tests.support.raw import Address, Raw

VALUE = "sealed-canary-4b1d7e"
GETTER = "SELECT encrypted_secrets.secrets_getter('{}', 'sealed')"


@pytest.fixture
def owner(separate: Separate) -> Iterator[uuid.UUID]:
    """The owner of a secret, whose session is known to testify."""
    made = uuid.uuid4()
    # A session stays, so that the proxy goes on looking at the functions.
    sql = psycopg.connect(separate.proxy.dsn(), autocommit=True)
    sql.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'sealed', %s)", (made, VALUE))
    # From when the proxy has looked at the functions on, a read is one row.
    until(lambda: read(sql, made) and any(row["event"] == "access" for row in rows(separate, made)))
    # What it said last is not what is waited for.
    sql.execute("SELECT 1")
    separate.log.mark()
    yield made
    sql.close()


def read(sql: psycopg.Connection[Any], owner: uuid.UUID) -> bool:
    return sql.execute(GETTER.format(owner)).fetchone() == (VALUE,)


def rows(separate: Separate, owner: uuid.UUID) -> list[Row]:
    """What the log has of the statements with this owner."""
    written = separate.log.written()
    mine = {(row["session_id"], row["statement_no"]) for row in written if row["owner_id"] == owner}
    return [row for row in written if (row["session_id"], row["statement_no"]) in mine]


def told(separate: Separate, owner: uuid.UUID) -> list[tuple[Any, ...]]:
    return [(row["event"], row["outcome"], row["sqlstate"], row["calls"]) for row in rows(separate, owner)]


@contextmanager
def secrets_locked(separate: Separate) -> Iterator[None]:
    with psycopg.connect(separate.backend.dsn()) as holder:
        holder.execute("LOCK TABLE secrets_schema.secrets_table IN ACCESS EXCLUSIVE MODE")
        yield
        holder.rollback()


def executed(separate: Separate, owner: uuid.UUID) -> bool:
    """Whether the backend has run a read of this owner to its end."""
    with psycopg.connect(separate.backend.dsn(), autocommit=True) as sql:
        found = sql.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle%%' AND query = %s", (GETTER.format(owner),)
        ).fetchone()
        return found is not None and found[0] > 0


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_read_is_one_row_of_one_transaction(separate: Separate, owner: uuid.UUID, extended: bool) -> None:
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
        cursor = sql.cursor() if extended else psycopg.ClientCursor(sql)
        for _ in range(3):
            cursor.execute("SELECT encrypted_secrets.secrets_getter(%s, %s)", (owner, "sealed"))
            assert cursor.fetchone() == (VALUE,)
            # Once the client has the answer, the log has the row.
            assert len(rows(separate, owner)) == _ + 1
    assert told(separate, owner) == [("access", "ok", None, 1)] * 3
    (row, *_) = rows(separate, owner)
    assert row["duration"] > 0 and row["operation"] == "read" and row["fingerprint"] and row["db_user"] == "app_user"
    assert row["protocol"] == ("extended" if extended else "simple")
    seen = separate.log.query("SELECT how, outcome, calls FROM secretproxy.secret_access WHERE owner_id = %s", owner)
    assert [one for one in seen if one["how"] == "access"][-3:] == [{"how": "access", "outcome": "ok", "calls": 1}] * 3


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_the_proxy_killed_before_a_read_is_recorded_releases_nothing(
    separate: Separate, owner: uuid.UUID, extended: bool
) -> None:
    async def play() -> bytes:
        client = await Raw.connect(Address("127.0.0.1", separate.proxy.port, "app", "app_user"))
        statement = GETTER.format(owner)
        with log_locked(separate):
            await client.send(raw.extended(statement) + raw.SYNC if extended else raw.query(statement))
            await asyncio.to_thread(until, lambda: executed(separate, owner))
            separate.proxy.kill()
            received = b"".join([said.kind + said.body for said in await client.ready()])
        await client.hang_up()
        return received

    received = asyncio.run(play())
    assert VALUE.encode() not in received
    # The log's server may have had the row already, and commits it without the proxy.
    assert told(separate, owner) in ([], [("access", "ok", None, 1)])


def test_a_log_that_stops_replaces_the_answer_and_the_session_goes_on(separate: Separate, owner: uuid.UUID) -> None:
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
        assert sql.execute("SELECT 1").fetchone() == (1,)
        with log_locked(separate):
            with pytest.raises(psycopg.errors.IoError, match="access log cannot be written") as failed:
                sql.execute(GETTER.format(owner))
            assert VALUE not in str(failed.value)
            assert sql.execute("SELECT 2").fetchone() == (2,)
        until(lambda: told(separate, owner)[-1:] == [("outcome", "refused", "58030", None)])
    assert told(separate, owner) == [("access", "ok", None, 1), ("outcome", "refused", "58030", None)]
    (seen,) = separate.log.query(
        "SELECT outcome, sqlstate, calls FROM secretproxy.secret_access WHERE owner_id = %s AND at >= %s",
        owner,
        separate.log._since,
    )
    assert seen == {"outcome": "refused", "sqlstate": "58030", "calls": 1}
    separate.until_up()


def test_in_a_transaction_the_session_ends_instead(separate: Separate, owner: uuid.UUID) -> None:
    with psycopg.connect(separate.proxy.dsn()) as sql:
        sql.execute("CREATE TEMPORARY TABLE mine (n int)")
        with log_locked(separate), pytest.raises(psycopg.OperationalError) as ended:
            sql.execute(GETTER.format(owner))
        assert VALUE not in str(ended.value) and sql.closed
    until(lambda: told(separate, owner)[-1:] == [("outcome", "lost", None, None)])
    assert told(separate, owner) == [("access", "ok", None, 1), ("outcome", "lost", None, None)]
    separate.until_up()


def test_a_read_that_takes_long_is_in_the_log_while_it_runs_and_says_how_it_ended(
    separate: Separate, owner: uuid.UUID
) -> None:
    states: list[str | None] = []

    def call(sql: psycopg.Connection[Any]) -> None:
        try:
            sql.execute(GETTER.format(owner))
        except psycopg.Error as error:
            states.append(error.sqlstate)

    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
        with secrets_locked(separate):
            thread = threading.Thread(target=call, args=(sql,))
            thread.start()
            until(lambda: told(separate, owner) == [("attempt", None, None, None)])
            sql.cancel_safe()
            thread.join(20)
        assert states == ["57014"] and read(sql, owner)
    until(lambda: len(told(separate, owner)) == 3)
    assert [one[:3] for one in told(separate, owner)] == [
        ("attempt", None, None), ("outcome", "cancelled", "57014"), ("access", "ok", None),
    ]  # fmt: skip


def test_a_client_that_leaves_is_not_told_and_the_row_says_so(separate: Separate, owner: uuid.UUID) -> None:
    async def play() -> None:
        client = await Raw.connect(Address("127.0.0.1", separate.proxy.port, "app", "app_user"))
        with log_locked(separate):
            await client.send(raw.query(GETTER.format(owner)))
            await asyncio.to_thread(until, lambda: executed(separate, owner))
            # With a reset: an end of what it writes does not tell that it has gone.
            sock = client._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client._writer.transport.abort()
            # The proxy has noticed, and has let the backend go.
            await asyncio.to_thread(until, lambda: not executed(separate, owner))

    asyncio.run(play())
    until(lambda: told(separate, owner)[-1:] and told(separate, owner)[-1][1] in ("lost", "refused"))
    assert told(separate, owner)[0][0] == "access" and told(separate, owner)[0][3] == 1
    separate.until_up()


def test_a_log_of_an_older_version_gets_no_such_row(separate: Separate, owner: uuid.UUID) -> None:
    kinds = ["attempt", "call", "outcome", "definition", "table", "refusal", "forgery", "direct", "review"]
    listed = ", ".join(f"'{name}'" for name in kinds)

    def alter(how: str) -> None:
        # A connection of its own: other tests end all that the log has.
        with psycopg.connect(separate.log.dsn, autocommit=True) as admin:
            admin.execute(f"ALTER TABLE secretproxy.access_log {how}")  # type: ignore[arg-type]

    alter(f"ADD CONSTRAINT access_log_event_check CHECK (event OPERATOR(pg_catalog.=) ANY (ARRAY[{listed}])) NOT VALID")
    try:
        separate.proxy.halt()
        separate.proxy.start()
        separate.proxy.wait_for_text("run `secretproxy install`")
        with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
            assert all(read(sql, owner) for _ in range(3))
        until(lambda: len(told(separate, owner)) == 6)
        assert [one[0] for one in told(separate, owner)] == ["attempt", "outcome"] * 3
    finally:
        alter("DROP CONSTRAINT access_log_event_check")
        separate.proxy.halt()
        separate.proxy.start()
        separate.until_up()
