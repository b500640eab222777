"""Checks pgbouncer in front of the proxy, and between it and PostgreSQL: each call is in the log once, or the session
is refused."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from structlog.testing import capture_logs
from tests.conftest import Backend
from tests.support.command import run
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

from secretproxy.audit.ahead import Ahead, ElsewhereError, Place, place_of
from secretproxy.audit.housekeeping import Housekeeping
from secretproxy.demo.postgres import die_with_parent, free_port

PROGRAM = "/usr/sbin/pgbouncer"
GETTER = "SELECT encrypted_secrets.secrets_getter(%s, %s)"
HIDDEN = "DO $$ DECLARE v text; BEGIN EXECUTE 'SELECT encrypted_' || 'secrets.secrets_' || 'getter(''{}'', ''hidden'')' INTO v; END $$"
Pooler = Callable[..., int]

pytestmark = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="no pgbouncer")


@pytest.fixture
def pooler(tmp_path: Path) -> Iterator[Pooler]:
    """Starts a pooler before a port, in a mode; gives its own port."""
    with contextlib.ExitStack() as stack:

        def start(before: int, mode: str, user: str = "app_user") -> int:
            port = free_port()
            config = tmp_path / f"{port}.ini"
            config.write_text(
                f"[databases]\napp = user={user} host=127.0.0.1 port={before}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
                f"auth_type = any\npool_mode = {mode}\nunix_socket_dir =\nignore_startup_parameters = extra_float_digits,options\n"
                "default_pool_size = 5\nserver_reset_query = DISCARD ALL\n"
            )
            # It does not run as root.
            command = [PROGRAM, *(["-u", "nobody"] if os.getuid() == 0 else []), str(config)]
            config.chmod(0o644)
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent
            )
            stack.callback(lambda: (process.terminate(), process.wait(10)))
            assert process.stderr is not None
            for line in process.stderr:
                if "process up" in line:
                    break
            stack.callback(process.stderr.close)
            return port

        yield start


def dsn(port: int) -> str:
    return f"postgresql://app_user@127.0.0.1:{port}/app"


@pytest.fixture
def behind(postgres: Backend, pooler: Pooler, tmp_path: Path) -> Iterator[Callable[[str], Proxy]]:
    """Gives a proxy whose backend is a pooler of a mode."""
    with contextlib.ExitStack() as stack:

        def start(mode: str) -> Proxy:
            directory = tmp_path / mode
            directory.mkdir()
            proxy = Proxy(
                directory, f"127.0.0.1:{pooler(postgres.port, mode)}", postgres.dsn("journal"), postgres.key_file
            )
            proxy.start()
            stack.callback(proxy.stop)
            proxy.wait_for_text("access log can be written")
            return proxy

        yield start


def calls(rows: list[dict[str, object]], owner: uuid.UUID) -> list[tuple[object, object]]:
    return [
        (row["event"], row["secret_names"]) for row in rows if row["owner_id"] == owner and row["event"] != "outcome"
    ]


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_in_front_every_mode_works(proxy: Proxy, log: AccessLog, pooler: Pooler, mode: str) -> None:
    port, owner = pooler(proxy.port, mode), uuid.uuid4()
    connections = [psycopg.connect(dsn(port), autocommit=True, prepare_threshold=None) for _ in range(3)]
    for number in range(9):
        connections[number % 3].execute(GETTER, (owner, f"n{number}"))
        connections[number % 3].execute(HIDDEN.format(owner))
    for connection in connections:
        connection.close()
    found = calls(log.settled(), owner)
    assert sorted(map(str, found)) == sorted(
        [str(("attempt", [f"n{number}"])) for number in range(9)] + [str(("call", ["hidden"]))] * 9
    )  # fmt: skip


def test_behind_session_mode_works(log: AccessLog, behind: Callable[[str], Proxy]) -> None:
    proxy, owner = behind("session"), uuid.uuid4()
    for turn in range(3):
        # The pooler gives the second and third session what the first have left.
        with psycopg.connect(proxy.dsn(), autocommit=True) as one, psycopg.connect(proxy.dsn(), autocommit=True) as two:
            for sql in (one, two):
                sql.execute(GETTER, (owner, f"n{turn}"))
                sql.execute(HIDDEN.format(owner))
    rows = log.settled()
    assert sorted(map(str, calls(rows, owner))) == sorted(
        [str(("attempt", [f"n{turn}"])) for turn in range(3)] * 2 + [str(("call", ["hidden"]))] * 6
    )  # fmt: skip
    assert not [row for row in rows if row["event"] in ("forgery", "direct")]
    assert [row["calls"] for row in rows if row["event"] == "outcome"] == [1] * 12


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_behind_transaction_mode_is_refused_as_soon_as_it_shows(
    log: AccessLog, behind: Callable[[str], Proxy], mode: str
) -> None:
    proxy, owner = behind(mode), uuid.uuid4()
    shown = r"(?s)gives each transaction another session.*pool_mode = session"
    try:
        first = psycopg.connect(proxy.dsn(), autocommit=True)
    except psycopg.OperationalError as error:
        # A connection of the proxy's own has this one's process already.
        if re.search(shown, str(error)):
            return
        raise
    with first:
        sooner = None
        try:
            first.execute(GETTER, (owner, "one"))
        except psycopg.errors.FeatureNotSupported as error:
            sooner = str(error)
        if sooner is not None:
            # A connection of the proxy's own was just given this one's process.
            assert re.search(shown, sooner) and not [row for row in log.settled() if row["event"] == "forgery"]
            return
        with pytest.raises(psycopg.OperationalError, match=shown) as refused:
            psycopg.connect(proxy.dsn(), autocommit=True)
        assert "0A000" not in str(refused.value)
        first.execute(GETTER, (owner, "two"))
    rows = log.settled()
    assert calls(rows, owner) == [("attempt", ["one"]), ("attempt", ["two"])]
    assert not [row for row in rows if row["event"] == "forgery"]


@pytest.mark.parametrize("mode", ["session", "transaction", "statement", "none"])
def test_check_tells_of_a_pooler_behind_that_shares_its_sessions(
    postgres: Backend, pooler: Pooler, tmp_path: Path, mode: str
) -> None:
    port = postgres.port if mode == "none" else pooler(postgres.port, mode)
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'[backend]\nhosts = ["127.0.0.1:{port}"]\n[listen]\nport = 0\n[audit]\ndsn = "{postgres.dsn("journal")}"\n'
        f'[testimony]\nkey_file = "{postgres.key_file}"\n'
    )
    said = run("check", "--config", str(config))
    shared = mode in ("transaction", "statement")
    assert said.status == (1 if shared else 0), said
    assert ("pool_mode = session" in said.out) is shared


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
async def test_before_the_log_no_commit_of_others_is_made_less_durable(
    postgres: Backend, pooler: Pooler, mode: str
) -> None:
    """Nothing is written ahead of its sync where the next transaction may be another process's, and what needs no sync
    says so for its own transaction alone."""
    port = pooler(postgres.port, mode, "journal")

    async def connect() -> Any:
        return await asyncpg.connect(f"postgresql://journal@127.0.0.1:{port}/app", statement_cache_size=0)

    keeping = Housekeeping(connect, uuid.uuid4(), timeout=10, signer=None, checkpoint_every=1, checkpoint_seconds=1)
    with capture_logs() as logs:
        await keeping._keep_sums()
    assert mode == "statement" or logs == []
    connection = await connect()
    assert await place_of(connection, 10) is None
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    ahead = Ahead(connect, 10, Place(1, None, "app"))
    with pytest.raises(ElsewhereError):
        await ahead.open(lambda error, rows: None)
    ahead.close()
    await connection.close()
    direct = await asyncpg.connect(postgres.dsn("journal"))
    assert await place_of(direct, 10) is not None
    await direct.close()
