"""Checks what an operator reads: sessions by their id, limits by their setting and a count, and a proxy that is its own
backend."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.conftest import Backend
from tests.faults.conftest import until
from tests.support.proxy import Proxy

from secretproxy.cli.check import _results
from secretproxy.config import load_settings
from secretproxy.demo.postgres import free_port


def lines(proxy: Proxy) -> list[dict[str, Any]]:
    return [json.loads(line) for line in proxy.text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def limited(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path_factory.mktemp("limited"), postgres.address, postgres.dsn("journal"), postgres.key_file)
    text = proxy.config.read_text().replace("level = 'debug'", "level = 'info'\nformat = 'json'\nsessions = true")
    proxy.config.write_text(f"{text}max_sessions = 1\nlogin_timeout = 2.0\n")
    proxy.start()
    yield proxy
    proxy.stop()


def test_a_session_is_two_lines_of_its_id(limited: Proxy) -> None:
    with psycopg.connect(limited.dsn(), autocommit=True) as sql:
        sql.execute("SELECT 1")
    until(lambda: any(line["event"] == "session ends" for line in lines(limited)))
    begun = next(line for line in lines(limited) if line["event"] == "session")
    ended = next(line for line in lines(limited) if line["event"] == "session ends")
    assert begun["session"] == ended["session"] and (begun["level"], ended["level"]) == ("info", "info")
    assert (begun["user"], begun["database"], begun["client"]) == ("app_user", "app", "127.0.0.1") and ended[
        "seconds"
    ] >= 0


def test_sessions_that_a_limit_refuses_are_counted_not_listed(limited: Proxy) -> None:
    with psycopg.connect(limited.dsn()):
        for _ in range(40):
            with pytest.raises(psycopg.OperationalError, match=r"listen\.max_sessions"):
                psycopg.connect(limited.dsn())

    def said() -> list[dict[str, Any]]:
        return [
            one
            for one in lines(limited)
            if one["event"] == "sessions refused" and one["setting"] == "listen.max_sessions"
        ]

    until(lambda: sum(one["count"] for one in said()) == 40)
    # At once which, and then how many; a second has many of them.
    assert len(said()) < 40 and said()[0]["count"] == 1 and {"session", "client"} <= said()[0].keys()
    stamps = [one["timestamp"][:19] for one in said()[1:]]
    assert len(stamps) == len(set(stamps))


def test_a_login_that_takes_too_long_is_said_with_its_setting(limited: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", limited.port)) as silent:
        assert silent.recv(1) == b""
    until(
        lambda: any(
            line.get("setting") == "listen.login_timeout" and line["count"] == 1 and line["session"]
            for line in lines(limited)
        )
    )


@pytest.mark.parametrize("cause", ["backend unreachable", "users cannot be looked up"])
def test_an_outage_that_every_login_meets_is_counted_not_listed(postgres: Backend, tmp_path: Path, cause: str) -> None:
    """Applications connect again and again while a server is down: a line for each would bury all others."""
    nowhere = f"127.0.0.1:{free_port()}"
    backend, other = (nowhere, "") if cause == "backend unreachable" else (postgres.address, "mode = 'scram'\n")
    proxy = Proxy(tmp_path, backend, postgres.dsn("journal"), postgres.key_file)
    text = proxy.config.read_text().replace("level = 'debug'", "level = 'info'\nformat = 'json'")
    lookup = f"[auth]\n{other}lookup_dsn = 'postgresql://nobody@{nowhere}/app'\n" if other else ""
    proxy.config.write_text(f"{lookup}{text}")
    proxy.start()
    try:
        for _ in range(20):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(proxy.dsn(), password="any")

        def said() -> list[dict[str, Any]]:
            return [one for one in lines(proxy) if one["event"] == cause]

        until(lambda: sum(one["count"] for one in said()) == 20)
        assert len(said()) < 20 and said()[0]["count"] == 1 and said()[0]["level"] == "error"
        assert said()[0]["session"] and said()[0].get("tried", said()[0].get("cause"))
        assert all(one["setting"] and one.get("session") is None for one in said()[1:])
    finally:
        proxy.stop()


# --- its own backend -------------------------------------------------------------------------------------------------


@contextmanager
def forwarder(port: int, there: int) -> Iterator[None]:
    """Takes connections at a port and carries their bytes to another, as a load balancer does."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", there)
        except OSError:
            writer.close()
            return
        await asyncio.gather(carry(reader, other_writer), carry(other_reader, writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(meet, "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()


def ready(proxy: Proxy) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.health_port}/readyz", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("way", ["directly", "by another name", "through a forwarder"])
def test_a_proxy_that_is_its_own_backend_refuses_and_says_why(postgres: Backend, tmp_path: Path, way: str) -> None:
    """No session is opened at all where the backend is the proxy directly or by name; behind a forwarder it is the
    proxy's own mark that comes back."""
    proxy = Proxy(tmp_path, "127.0.0.1:1", postgres.dsn("journal"), postgres.key_file)
    front = free_port() if way == "through a forwarder" else proxy.port
    name = "localhost" if way == "by another name" else "127.0.0.1"
    proxy.config.write_text(proxy.config.read_text().replace("127.0.0.1:1", f"{name}:{front}", 1))
    with forwarder(front, proxy.port) if front != proxy.port else forwarder(free_port(), proxy.port):
        proxy.start()
        try:
            until(
                lambda: (
                    ready(proxy)[0] == 503
                    and "backend.hosts" in ready(proxy)[1]
                    and "itself" in ready(proxy)[1].replace("'s own", " itself")
                )
            )
            with pytest.raises(psycopg.OperationalError, match=r"secretproxy('s own address| itself).*backend\.hosts"):
                psycopg.connect(proxy.dsn())
            found = dict(asyncio.run(_results(load_settings(proxy.config))))
            faults = [fault for check, fault in found.items() if check.startswith("backend.hosts") and fault]
            assert any("secretproxy itself" in fault or "secretproxy's own address" in fault for fault in faults), found
            if way == "through a forwarder":
                proxy.wait_for_text("backend.hosts leads back to this proxy")
        finally:
            proxy.halt()
