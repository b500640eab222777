"""Checks that, while the log's database goes and comes back, secret calls are refused, everything else goes on, nothing
is lost."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend, prepare
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

from secretproxy.demo.postgres import PrivateServer

OWNER = uuid.UUID("a3f1c6d2-5a0e-4d8e-8f57-3d1f0c9b2e11")
GETTER = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"


@dataclass
class Apart:
    """A backend and, on a server of its own, the log."""

    backend: Backend
    log_server: PrivateServer
    log: AccessLog
    proxy: Proxy


@pytest.fixture
def apart(postgres: Backend, tmp_path: Path) -> Iterator[Apart]:
    directory = tmp_path / "log"
    directory.mkdir()
    with PrivateServer() as server:
        logged = prepare(server.host, server.port, directory)
        home = tmp_path / "proxy"
        home.mkdir()
        proxy = Proxy(
            home, postgres.address, logged.dsn("journal"), postgres.key_file, "[limits]\nhold_timeout = 2.0\n"
        )
        proxy.start()
        proxy.wait_for_text("access log can be written")
        yield Apart(postgres, server, AccessLog(logged.dsn()), proxy)
        proxy.stop()


def hidden_function(postgres: Backend) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION hidden_call(owner uuid) RETURNS text LANGUAGE plpgsql AS $$"
            " BEGIN INSERT INTO traces VALUES (owner); RETURN encrypted_secrets.secrets_getter(owner, 'hidden'); END $$;"
            " CREATE TABLE IF NOT EXISTS traces (owner uuid); GRANT ALL ON traces TO PUBLIC"
        )


def readiness(proxy: Proxy) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.health_port}/logz", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("simple", [True, False], ids=["simple", "extended"])
def test_refused_while_the_log_is_down_and_the_session_goes_on(apart: Apart, simple: bool) -> None:
    def cursor(connection: psycopg.Connection) -> psycopg.Cursor:
        return psycopg.ClientCursor(connection) if simple else connection.cursor()

    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as connection:
        run = cursor(connection)
        run.execute(GETTER)
        assert readiness(apart.proxy)[0] == 200
        apart.log_server.halt()
        assert run.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.IoError) as refused:
            run.execute(GETTER)
        assert refused.value.sqlstate == "58030"
        assert "access log" in str(refused.value) and "secrets_getter" not in str(refused.value)
        apart.proxy.wait_for_text("access log cannot be written")
        status, body = readiness(apart.proxy)
        assert status == 503 and "access log" in str(body["reasons"])
        assert run.execute("SELECT 2").fetchone() == (2,)
        # In a transaction block: the backend's own rules.
        run.execute("BEGIN")
        run.execute("CREATE TEMPORARY TABLE mine (n int)")
        run.execute("SAVEPOINT here")
        with pytest.raises(psycopg.errors.IoError):
            run.execute(GETTER)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            run.execute("SELECT 3")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            run.execute(GETTER)
        run.execute("ROLLBACK TO here")
        run.execute("INSERT INTO mine VALUES (1)")
        run.execute("COMMIT")
        assert run.execute("SELECT n FROM mine").fetchone() == (1,)
        apart.log_server.start()
        apart.proxy.wait_for_text("access log can be written", 2)
        run.execute(GETTER)
    rows = apart.log.settled()
    assert [row["event"] for row in rows if row["event"] in ("attempt", "refusal")] == [
        "attempt", "refusal", "refusal", "refusal", "attempt",
    ] or [row["event"] for row in rows if row["event"] == "attempt"] == ["attempt", "attempt", "attempt"]  # fmt: skip
    outcomes = [row["outcome"] for row in rows if row["event"] == "outcome"]
    assert outcomes == ["ok", "refused", "refused", "refused", "ok"]


def test_several_statements_in_one_query_are_refused_together(apart: Apart) -> None:
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as connection:
        run = psycopg.ClientCursor(connection)
        apart.log_server.halt()
        with pytest.raises(psycopg.errors.IoError):
            run.execute(f"CREATE TEMPORARY TABLE left_behind (n int); {GETTER}; SELECT 1")
        assert run.execute("SELECT to_regclass('left_behind')").fetchone() == (None,)


def test_a_pipeline_is_refused_from_the_call_on(apart: Apart) -> None:
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as connection:
        apart.log_server.halt()
        with connection.pipeline() as pipeline:
            first = connection.execute("SELECT 1")
            second = connection.execute(GETTER)
            third = connection.execute("SELECT 3")
            with pytest.raises(psycopg.errors.IoError):
                pipeline.sync()
            assert first.fetchone() == (1,)
            for refused in (second, third):
                with pytest.raises(psycopg.Error):
                    refused.fetchone()
        assert connection.execute("SELECT 4").fetchone() == (4,)


def test_a_call_that_only_testimony_shows_ends_its_session_and_rolls_back(apart: Apart, postgres: Backend) -> None:
    hidden_function(postgres)
    owner = uuid.uuid4()
    with psycopg.connect(apart.proxy.dsn()) as bystander:
        connection = psycopg.connect(apart.proxy.dsn())
        apart.log_server.halt()
        with pytest.raises(psycopg.OperationalError) as ended:
            connection.execute("SELECT hidden_call(%s)", (owner,))
        assert "access log" in str(ended.value)
        assert connection.closed
        assert bystander.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(postgres.dsn()) as direct:
        assert direct.execute("SELECT count(*) FROM traces WHERE owner = %s", (owner,)).fetchone() == (0,)
    apart.log_server.start()
    apart.proxy.wait_for_text("access log can be written", 2)
    rows = apart.log.settled()
    assert [(row["event"], row["owner_id"], row["outcome"]) for row in rows] == [
        ("call", owner, None),
        ("outcome", None, "lost"),
    ]


def test_a_held_answer_goes_on_when_the_log_comes_back(apart: Apart, postgres: Backend) -> None:
    hidden_function(postgres)
    owner = uuid.uuid4()
    # A server may take long to start.
    config = apart.proxy.config
    apart.proxy.halt()
    config.write_text(config.read_text().replace("hold_timeout = 2.0", "hold_timeout = 60.0"))
    apart.proxy.start()
    apart.proxy.wait_for_text("access log can be written", 2)
    with psycopg.connect(apart.proxy.dsn(), autocommit=True) as connection:
        apart.log_server.halt()
        # Its children die with the thread that started them, so the server is started from here.
        answers: list[object] = []
        query = threading.Thread(
            target=lambda: answers.append(connection.execute("SELECT hidden_call(%s)", (owner,)).fetchone())
        )
        query.start()
        apart.proxy.wait_for_text("cannot be written")
        apart.log_server.start()
        query.join(60)
        assert answers == [(None,)]
    rows = apart.log.settled()
    assert [(row["event"], row["owner_id"], row["outcome"]) for row in rows] == [
        ("call", owner, None),
        ("outcome", None, "ok"),
    ]


def test_the_proxy_killed_between_forward_and_outcome_leaves_the_attempt(apart: Apart) -> None:
    connection = psycopg.connect(apart.proxy.dsn(), autocommit=True)
    failed: list[BaseException] = []

    def call() -> None:
        try:
            connection.execute(f"{GETTER}, pg_sleep(30)")
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + 60
    while not apart.log.rows():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    apart.proxy.kill()
    thread.join(60)
    assert failed
    rows = apart.log.rows()
    assert [(row["event"], row["owner_id"]) for row in rows] == [("attempt", OWNER)]
    seen = apart.log.query("SELECT outcome FROM secretproxy.secret_access WHERE owner_id = %s", OWNER)
    assert seen == [{"outcome": "unknown"}]


def test_the_backend_killed_under_a_call_is_lost_and_a_cancelled_one_cancelled(apart: Apart) -> None:
    with PrivateServer() as server:
        home = apart.proxy.directory / "other"
        home.mkdir()
        made = prepare(server.host, server.port, home)
        proxy = Proxy(home, made.address, apart.log.dsn.replace("postgres@", "journal@"), made.key_file)
        proxy.start()
        proxy.wait_for_text("access log can be written")
        try:
            with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
                canceller = threading.Timer(0.5, connection.cancel)
                canceller.start()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    connection.execute(f"{GETTER}, pg_sleep(30)")
                canceller.join()
                assert connection.execute("SELECT 1").fetchone() == (1,)
                killer = threading.Timer(0.5, server.kill)
                killer.start()
                with pytest.raises(psycopg.OperationalError):
                    connection.execute(f"{GETTER}, pg_sleep(30)")
                killer.join()
            rows = apart.log.settled()
            assert [row["outcome"] for row in rows if row["event"] == "outcome"] == ["cancelled", "lost"]
            with pytest.raises(psycopg.OperationalError, match="backend cannot be reached"):
                psycopg.connect(proxy.dsn())
        finally:
            proxy.stop()


def test_sigterm_lets_an_open_transaction_finish(apart: Apart) -> None:
    idle = psycopg.connect(apart.proxy.dsn(), autocommit=True)
    busy = psycopg.connect(apart.proxy.dsn())
    busy.execute(GETTER)
    status: list[int] = []
    waiter = threading.Thread(target=lambda: status.append(apart.proxy.halt(signal.SIGTERM)))
    waiter.start()
    apart.proxy.wait_for_text("shutting down")
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    assert busy.execute("SELECT 2").fetchone() == (2,)
    busy.commit()
    waiter.join(60)
    assert status == [0]
    rows = apart.log.settled()
    assert [row["event"] for row in rows] == ["attempt", "outcome"]
    idle.close()
    busy.close()
