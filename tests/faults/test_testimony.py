"""Checks what a backend testifies to: however much of it, wherever it comes, whatever is forged between. And what a
hold costs whom."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.faults.conftest import HOLD, Separate, until
from tests.support import raw

from secretproxy.install.keyfile import load_key_file

CALLS = int(os.environ.get("SECRETPROXY_TEST_CALLS", "10000"))
FORGERIES = int(os.environ.get("SECRETPROXY_TEST_FORGERIES", "100000"))
MIB = 1024 * 1024


def resident(proxy_pid: int) -> int:
    """Counts bytes of memory that a process holds now."""
    with open(f"/proc/{proxy_pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most that a process held while the block ran."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self.before = self.most = resident(pid)
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, resident(self._pid))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self.most - self.before


@contextmanager
def log_locked(site: Separate) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(site.log.dsn) as holder:
        holder.execute("LOCK TABLE secretproxy.access_log IN ACCESS EXCLUSIVE MODE")
        yield holder
        holder.rollback()


def forgeries(site: Separate) -> tuple[int, int]:
    (found,) = site.log.query(
        "SELECT count(*) AS rows, coalesce(sum(calls), 0)::int AS messages FROM secretproxy.access_log WHERE event = 'forgery' AND at >= %s",
        site.log._since,
    )
    return found["rows"], found["messages"]


# --- much of it ----------------------------------------------------------------------------------------------------


def test_thousands_of_uncovered_calls_in_one_statement(separate: Separate, record_property: Any) -> None:
    owner = uuid.uuid4()
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql, Peak(separate.proxy.pid) as peak:
        began = time.monotonic()
        found = sql.execute(
            f"SELECT count(public.concealed('{owner}', n)), count(DISTINCT n) FROM generate_series(1, {CALLS}) n"
        ).fetchone()
        took = time.monotonic() - began
    assert found == (CALLS, CALLS)
    (seen,) = separate.log.query(
        "SELECT count(*) AS n, count(DISTINCT secret_names) AS names, count(DISTINCT xmin::text) AS commits"
        " FROM secretproxy.access_log WHERE event = 'call' AND owner_id = %s", owner
    )  # fmt: skip
    assert (seen["n"], seen["names"]) == (CALLS, CALLS)
    record_property("calls_a_second", round(CALLS / took))
    print(f"{CALLS / took:.0f} calls a second, {seen['commits']} commits, {peak.grown / MIB:.1f} MiB more at the most")
    assert seen["commits"] < CALLS / 4, "they are written in groups"
    assert peak.grown < 64 * MIB


def test_thousands_of_covered_calls_in_one_statement(separate: Separate) -> None:
    owner = uuid.uuid4()
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql, Peak(separate.proxy.pid) as peak:
        sql.execute(f"SELECT encrypted_secrets.secrets_getter('{owner}', 'x') FROM generate_series(1, {CALLS})")
    rows = [
        (row["event"], row["calls"])
        for row in separate.log.settled()
        if row["owner_id"] == owner or row["event"] == "outcome"
    ]
    assert rows == [("attempt", None), ("outcome", CALLS)]
    assert peak.grown < 32 * MIB


# --- forged --------------------------------------------------------------------------------------------------------

FORGE = "DO $$ BEGIN FOR i IN 1..{count} LOOP RAISE INFO USING ERRCODE = 'SPX01', MESSAGE = {message}; END LOOP; END $$"


def test_a_flood_of_forgeries_is_counted_and_costs_little(separate: Separate) -> None:
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql, Peak(separate.proxy.pid) as peak:
        seen: list[str] = []
        sql.add_notice_handler(lambda diagnostic: seen.append(str(diagnostic.sqlstate)))
        sql.execute(FORGE.format(count=FORGERIES, message="'SPX1 1 ' || i"))
        assert sql.execute("SELECT 1").fetchone() == (1,)
    until(lambda: forgeries(separate)[1] == FORGERIES)
    rows, messages = forgeries(separate)
    print(f"{messages} forgeries in {rows} rows, {peak.grown / MIB:.1f} MiB more at the most")
    assert seen == [] and rows <= FORGERIES / 20
    assert peak.grown < 64 * MIB
    with urllib.request.urlopen(f"http://127.0.0.1:{separate.proxy.health_port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    counted = next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("secretproxy_forgeries_total ")
    )
    assert counted >= FORGERIES


@pytest.mark.parametrize(
    ("message", "encoding"),
    [
        ("repeat('x', 40000000)", "UTF8"),
        ("''", "UTF8"),
        ("repeat(U&'\\00e9', 100)", "LATIN1"),
        ("'SPX1 1 ' || repeat('-', 70000)", "UTF8"),
        ("E'SPX1\\n\\t1 %s %I'", "UTF8"),
        ("'SPX1 ' || repeat('9', 5000) || repeat(' -', 13) || ' 00'", "SQL_ASCII"),
    ],
)
def test_forgeries_of_any_form_are_dropped_and_the_session_goes_on(
    separate: Separate, message: str, encoding: str
) -> None:
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql, Peak(separate.proxy.pid) as peak:
        sql.execute(f"SET client_encoding = {encoding}")
        seen: list[str] = []
        sql.add_notice_handler(lambda diagnostic: seen.append(str(diagnostic.sqlstate)))
        sql.execute(FORGE.format(count=2, message=message))
        sql.execute("DO $$ BEGIN RAISE NOTICE 'passes'; END $$")
        assert sql.execute("SELECT 1").fetchone() == (1,)
    assert seen == ["00000"]
    until(lambda: forgeries(separate)[1] == 2)
    assert peak.grown < 24 * MIB


def test_testimony_of_another_session_is_a_forgery_that_keeps_what_it_says(separate: Separate) -> None:
    """The testimony is signed with the right key by another backend process: what a direct session was told, said again
    through the proxy."""
    owner = uuid.uuid4()
    told: list[str] = []
    with psycopg.connect(separate.backend.dsn("app_user"), autocommit=True) as direct:
        direct.add_notice_handler(lambda diagnostic: told.append(str(diagnostic.constraint_name)))
        direct.execute(f"SELECT encrypted_secrets.secrets_getter('{owner}', 'elsewhere')")
    assert len(told) == 1 and told[0].startswith("SPX1 ")
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
        seen: list[object] = []
        sql.add_notice_handler(seen.append)
        sql.execute(FORGE.format(count=3, message=f"'{told[0]}'"))
        sql.execute(f"SELECT public.concealed('{owner}', 1)")
    assert seen == []
    until(lambda: forgeries(separate)[1] == 3)
    rows = [row for row in separate.log.settled() if row["owner_id"] == owner]
    assert {(row["event"], row["secret_names"][0]) for row in rows} == {("forgery", "elsewhere"), ("call", "name-1")}
    assert sum(row["calls"] for row in rows if row["event"] == "forgery") == 3


def test_testimony_of_this_session_is_good_once(separate: Separate) -> None:
    owner = uuid.uuid4()
    keys = load_key_file(separate.backend.key_file)
    version = max(keys)
    with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
        sql.execute(f"SELECT public.concealed('{owner}', 1)")
        start = sql.execute(
            "SELECT secretproxy.backend_start(), encode(timestamptz_send(clock_timestamp()), 'hex')"
        ).fetchone()
        assert start is not None

        def say(name: str, clock: str) -> None:
            signed = (
                f"SPX1 {version} {sql.info.backend_pid} {start[0]} {clock} encrypted_secrets.secrets_getter(uuid,text,text)"
                f" {owner} {name.encode().hex()} - {b'app_user'.hex()} - - p -"
            )
            mac = hmac.new(keys[version], signed.encode(), hashlib.sha256).hexdigest()
            sql.execute(FORGE.format(count=1, message=f"'{signed} {mac}'"))

        say("new", start[1])
        say("new", start[1])
        say("old", "0000000000000001")
        sql.execute(f"SELECT public.concealed('{owner}', 2)")
    until(lambda: forgeries(separate)[1] == 2)
    rows = [(row["event"], row["secret_names"][0]) for row in separate.log.settled() if row["owner_id"] == owner]
    assert rows == [("call", "name-1"), ("call", "new"), ("forgery", "new"), ("forgery", "old"), ("call", "name-2")]


# --- wherever it comes ---------------------------------------------------------------------------------------------


def test_a_login_trigger_is_heard_before_the_session_is_ready(separate: Separate) -> None:
    owner = uuid.uuid4()
    with psycopg.connect(separate.backend.dsn(), autocommit=True) as admin:
        if admin.info.server_version < 170000:
            pytest.skip("login event triggers begin with PostgreSQL 17")
        admin.execute(
            "CREATE FUNCTION public.at_login() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            f" $$ BEGIN IF session_user = 'app_user' THEN PERFORM public.concealed('{owner}', 1); END IF; END $$;"
            " CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION public.at_login()"
        )
        try:
            with psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql:
                assert sql.execute("SELECT 1").fetchone() == (1,)
                # The token was set behind it: what is called now is no direct call.
                assert separate.calls(owner) == 1
                sql.execute(f"SELECT public.concealed('{owner}', 2)")
        finally:
            admin.execute("DROP EVENT TRIGGER at_login; DROP FUNCTION public.at_login()")
    assert separate.calls(owner) == 2


def test_a_replication_origin_session(separate: Separate) -> None:
    owner = uuid.uuid4()
    with psycopg.connect(separate.proxy.dsn("postgres"), autocommit=True) as sql:
        sql.execute(f"SELECT pg_replication_origin_create('{owner}')")
        sql.execute(f"SELECT pg_replication_origin_session_setup('{owner}')")
        sql.execute(f"SELECT public.concealed('{owner}', 1)")
        sql.execute("SELECT pg_replication_origin_session_reset()")
        sql.execute(f"SELECT pg_replication_origin_drop('{owner}')")
    assert separate.calls(owner) == 1


async def test_a_function_that_leads_to_one_called_by_its_oid(separate: Separate) -> None:
    owner = uuid.uuid4()
    with psycopg.connect(separate.backend.dsn(), autocommit=True) as sql:
        found = sql.execute("SELECT 'public.concealed(uuid,int)'::regprocedure::oid::int").fetchone()
    assert found is not None
    client = await raw.Raw.connect(raw.Address("127.0.0.1", separate.proxy.port, "app"))
    await client.send(raw.function_call(found[0], [str(owner), "1"]))
    answer = await client.ready()
    assert [message.kind for message in answer] == [b"V", b"Z"] and b"none" in answer[0].body
    await client.terminate()
    assert separate.calls(owner) == 1


# --- what a hold costs, and whom -----------------------------------------------------------------------------------


def test_only_the_session_that_called_waits_and_a_cancel_reaches_it(separate: Separate) -> None:
    owner = uuid.uuid4()
    outcome: list[str | None] = []
    with (
        psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql,
        psycopg.connect(separate.proxy.dsn(), autocommit=True) as other,
    ):

        def run() -> None:
            try:
                sql.execute(f"SELECT public.concealed('{owner}', 1), pg_sleep(60)")
            except psycopg.Error as error:
                outcome.append(error.sqlstate)

        thread = threading.Thread(target=run)
        with log_locked(separate):
            thread.start()
            until(lambda: waits(separate, owner, "PgSleep"))
            assert other.execute("SELECT 1").fetchone() == (1,)
            # The call has been made: the backend is told to stop, though nothing of it reaches the client.
            sql.cancel_safe()
            until(lambda: not separate.running(str(owner)))
            assert outcome == []
        thread.join(60)
    assert outcome == ["57014"]
    assert [(r["event"], r["outcome"]) for r in separate.log.settled() if r["owner_id"] == owner or r["event"] == "outcome"] == [
        ("call", None), ("outcome", "cancelled"),
    ]  # fmt: skip


async def test_what_is_held_of_a_large_answer_waits_in_the_backend(separate: Separate) -> None:
    owner = uuid.uuid4()
    client = await raw.Raw.connect(raw.Address("127.0.0.1", separate.proxy.port, "app"))
    size = 300
    with Peak(separate.proxy.pid) as peak:
        with log_locked(separate):
            await client.send(
                raw.query(
                    f"SELECT public.concealed('{owner}', 1), repeat('x', 1048576) FROM generate_series(1, {size}) OFFSET 0"
                )
            )
            # The backend comes to a stop in its write, long before the end.
            until(lambda: waits(separate, owner, "ClientWrite"))
            assert separate.running(str(owner)) == 1
        read = 0
        while (message := await client.read()).kind != b"Z":
            read += len(message.body)
            client.seen.clear()
    assert read > size * MIB
    print(f"{peak.grown / MIB:.1f} MiB more at the most for {size} MiB held")
    assert peak.grown < 32 * MIB
    await client.terminate()
    assert separate.calls(owner) == size


def waits(site: Separate, owner: uuid.UUID, event: str) -> bool:
    with psycopg.connect(site.backend.dsn(), autocommit=True) as sql:
        found = sql.execute(
            "SELECT FROM pg_stat_activity WHERE wait_event = %s AND query LIKE '%%' || %s || '%%'", (event, str(owner))
        ).fetchone()
        return found is not None


def test_a_hold_ends_in_time(separate: Separate) -> None:
    owner = uuid.uuid4()
    sql = psycopg.connect(separate.proxy.dsn(), autocommit=True)
    with log_locked(separate):
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError) as ended:
            sql.execute(f"SELECT public.concealed('{owner}', 1)")
        took = time.monotonic() - began
    assert ended.value.diag.severity_nonlocalized == "FATAL" and ended.value.sqlstate == "58030"
    assert "access log" in str(ended.value) and sql.closed
    assert HOLD * 0.9 < took < HOLD + 5
    separate.until_up()
    assert separate.calls(owner) == 1


def test_a_statement_that_its_attempt_covers_costs_one_commit_and_is_never_held(separate: Separate) -> None:
    """By the time it runs one transaction has written one row; from there on the log may stand still."""
    owner = uuid.uuid4()
    answers: list[Any] = []
    with (
        psycopg.connect(separate.proxy.dsn(), autocommit=True) as sql,
        psycopg.connect(separate.log.dsn, autocommit=True) as log,
    ):
        statement = f"SELECT pg_sleep(1)::text, encrypted_secrets.secrets_getter('{owner}', 'x', 'none')"
        thread = threading.Thread(target=lambda: answers.append(sql.execute(statement).fetchone()))
        thread.start()
        until(lambda: separate.running(str(owner)))
        written = log.execute(
            "SELECT event, count(DISTINCT xmin::text) FROM secretproxy.access_log WHERE at >= %s GROUP BY event",
            (separate.log._since,),
        ).fetchall()
        assert written == [("attempt", 1)]
        with log_locked(separate):
            assert separate.running(str(owner)), "the call is still to come when the log stands still"
            thread.join(60)
            assert answers == [("", "none")]
    rows = separate.log.settled()
    assert [(row["event"], row["calls"]) for row in rows] == [("attempt", None), ("outcome", 1)]
