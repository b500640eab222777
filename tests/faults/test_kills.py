"""Kills backend, log and proxy in turn under sixteen clients: no call that the backend committed is missing, none is
there twice.

SOAK_SECONDS=300 is what `make soak` runs.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from tests.conftest import prepare
from tests.support.proxy import Proxy

from secretproxy.demo.postgres import PrivateServer

SECONDS = float(os.environ.get("SOAK_SECONDS", "12"))
CLIENTS = 16
OWNER = "b0a4c9d8-8d2e-4a52-9d8e-6c0a9f6b5e31"
SETUP = """
CREATE TABLE public.committed (name text PRIMARY KEY);
GRANT ALL ON public.committed TO PUBLIC;
CREATE FUNCTION public.hidden(n text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RETURN encrypted_secrets.secrets_getter('b0a4c9d8-8d2e-4a52-9d8e-6c0a9f6b5e31', n, 'none'); END $$;
"""


@dataclass
class Site:
    backend: PrivateServer
    log: PrivateServer
    proxy: Proxy
    stop: threading.Event = field(default_factory=threading.Event)
    answered: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    # What is acknowledged must survive a kill: the processes are killed, not the machine, so fsync may stay off.
    with PrivateServer() as backend, PrivateServer() as log:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        made = prepare(backend.host, backend.port, tmp_path / "a")
        logged = prepare(log.host, log.port, tmp_path / "b")
        with psycopg.connect(made.dsn(), autocommit=True) as admin:
            for statement in SETUP.split(";\n"):
                if statement.strip():
                    admin.execute(statement)
        proxy = Proxy(tmp_path, made.address, logged.dsn("journal"), made.key_file, "[limits]\nhold_timeout = 3.0\n")
        proxy.start()
        proxy.wait_for_text("access log can be written")
        yield Site(backend, log, proxy)
        proxy.stop()


def client(site: Site, number: int) -> None:
    """Makes calls, one a transaction, each with a name of its own that the transaction also notes; connects again when
    it is cut off."""
    names = (f"{number}-{count}-{uuid.uuid4().hex[:8]}" for count in itertools.count())
    connection: psycopg.Connection[tuple[object, ...]] | None = None
    while not site.stop.is_set():
        name = next(names)
        kind = random.choice(("named", "bound", "hidden"))
        try:
            if connection is None or connection.closed:
                connection = psycopg.connect(f"{site.proxy.dsn()}?connect_timeout=5")
            with connection.transaction():
                connection.execute("INSERT INTO committed VALUES (%s)", (name,))
                if kind == "named":
                    connection.execute(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '{name}', 'none')")
                elif kind == "bound":
                    connection.execute("SELECT encrypted_secrets.secrets_getter(%s, %s, 'none')", (OWNER, name))
                else:
                    connection.execute("SELECT public.hidden(%s)", (name,))
            site.answered[kind] += 1
        except psycopg.Error as error:
            site.errors[error.sqlstate or type(error).__name__] += 1
            if connection is not None and connection.broken:
                connection.close()
                connection = None
            if error.sqlstate is None or error.sqlstate.startswith("57"):
                site.stop.wait(0.05)


def test_kills_lose_and_double_nothing(site: Site) -> None:
    clients = [threading.Thread(target=client, args=(site, number), daemon=True) for number in range(CLIENTS)]
    for thread in clients:
        thread.start()
    ends = time.monotonic() + SECONDS
    killed: Counter[str] = Counter()
    for victim in itertools.cycle(("log", "proxy", "backend")):
        if site.stop.wait(min(2.0, max(0.0, ends - time.monotonic()))) or time.monotonic() >= ends:
            break
        if victim == "proxy":
            site.proxy.kill()
            site.proxy.start()
        else:
            server = site.log if victim == "log" else site.backend
            server.kill()
            if site.stop.wait(0.5):
                break
            server.start()
        killed[victim] += 1
    site.stop.set()
    for thread in clients:
        thread.join(60)
        assert not thread.is_alive()
    site.proxy.wait_for_text("access log can be written")
    assert site.proxy.halt() == 0

    with psycopg.connect(site.backend.dsn("app")) as sql:
        committed = {row[0] for row in sql.execute("SELECT name FROM committed").fetchall()}
    with psycopg.connect(site.log.dsn("app")) as sql:
        rows = sql.execute(
            "SELECT secret_names[1], event, count(*) FROM secretproxy.access_log WHERE event IN ('attempt', 'access', 'call') GROUP BY 1, 2"
        ).fetchall()
        twice = sql.execute(
            "SELECT count(*) FROM (SELECT FROM secretproxy.access_log GROUP BY instance, seq HAVING count(*) > 1) d"
        ).fetchone()
        gaps = sql.execute(
            "SELECT count(*) FROM (SELECT instance, max(seq) - count(*) AS missing FROM secretproxy.access_log"
            " WHERE instance IS NOT NULL GROUP BY 1) g WHERE missing <> 0"
        ).fetchone()
        open_attempts = sql.execute(
            "SELECT count(*) FROM secretproxy.access_log a WHERE event = 'attempt' AND NOT EXISTS (SELECT FROM secretproxy.access_log o"
            " WHERE o.session_id = a.session_id AND o.statement_no = a.statement_no AND o.event = 'outcome')"
            " AND a.instance = (SELECT instance FROM secretproxy.access_log ORDER BY at DESC LIMIT 1)"
        ).fetchone()
    logged = {name for name, _, _ in rows}
    assert committed - logged == set(), f"{len(committed - logged)} calls that were committed are not in the log"
    assert {(name, event): n for name, event, n in rows if n > 1} == {}
    assert twice == (0,) and gaps == (0,)
    assert open_attempts == (0,), "attempts of the proxy that ended by itself have no outcome"
    assert len(committed) > 100 and sum(killed.values()) >= 3, (len(committed), killed, site.errors)
    assert all(site.answered[kind] for kind in ("named", "bound", "hidden"))
