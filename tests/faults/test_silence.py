"""Stops a server, or cuts its cable, in the middle of a statement: each command says what it waits for, gives it up and
ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.cli import Forked
from tests.support.silent import Silent

from secretproxy.connections import ConnectError, connect, held, patience
from secretproxy.demo.postgres import free_port
from secretproxy.install import runner, verify
from secretproxy.install.runner import session
from secretproxy.ops import service


@pytest.fixture
def relay(postgres: Backend) -> Iterator[Silent]:
    with Silent(postgres.host, postgres.port) as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "QUIET", 1)


def dsn(postgres: Backend, relay: Silent, options: str = "connect_timeout=1") -> str:
    return f"{postgres.dsn().replace(str(postgres.port), str(relay.port))}?{options}"


def test_a_server_that_answers_nobody_is_given_up(postgres: Backend, relay: Silent, quick: None) -> None:
    said: list[str] = []

    async def work() -> None:
        async with session(dsn(postgres, relay)) as connection:
            relay.hush()
            await connection.execute("SELECT 1")

    with pytest.raises(Exception, match=r"answers no more.*run the command again") as raised:
        patience.run(work(), said.append)
    assert "connect_timeout" in str(raised.value) and f"127.0.0.1:{relay.port}" in str(raised.value)
    assert "statement_timeout" in said[0] and f"at 127.0.0.1:{relay.port} as user postgres" in said[0]


def test_a_server_that_answers_others_is_waited_for(postgres: Backend, relay: Silent, quick: None) -> None:
    said: list[str] = []

    async def work() -> str:
        async with held(await connect(dsn(postgres, relay), "waits", timeout=5), _never) as connection:
            return str(await connection.fetchval("SELECT pg_catalog.pg_sleep(2.5)::pg_catalog.text || 'slept'"))

    assert patience.run(work(), said.append) == "slept"
    assert len(said) == 1


async def _never(connection: object, error: Exception) -> Exception:
    raise AssertionError(error)


def test_what_comes_slowly_and_what_is_read_slowly_is_no_silence(postgres: Backend, relay: Silent, quick: None) -> None:
    said: list[str] = []

    async def work() -> int:
        rows = 0
        async with (
            held(await connect(dsn(postgres, relay), "waits", timeout=5), _never) as connection,
            connection.transaction(),
        ):
            async for _ in connection.cursor(
                "SELECT pg_catalog.pg_sleep(0.4) FROM pg_catalog.generate_series(1, 4)", prefetch=1
            ):
                rows += 1
            # As a pager that nobody pages on.
            time.sleep(1.5)
        return rows

    assert patience.run(work(), said.append) == 4
    assert said == []


INTERRUPTED = [
    ("audit", "tail"), ("audit", "verify"), ("install",), ("revert", "--yes"), ("verify",), ("doctor",),
    ("keys", "status"), ("keys", "rotate"), ("check",),
]  # fmt: skip


def test_ctrl_c_ends_a_command_that_waits_for_a_silent_server(postgres: Backend, tmp_path: Path) -> None:
    """All of them side by side: each waits for the server to take its statement back, and then no longer."""
    with contextlib.ExitStack() as stack:
        running = []
        for number, words in enumerate(INTERRUPTED):
            relay = stack.enter_context(Silent(postgres.host, postgres.port))
            relay.hush(after=4 if number % 2 else 5)
            config = tmp_path / f"{number}.toml"
            config.write_text(
                f'[backend]\nhosts = ["{postgres.address}"]\n[testimony]\nkey_file = "{postgres.key_file}"\n'
                f'[listen]\nport = 0\n[audit]\ndsn = "{dsn(postgres, relay, "connect_timeout=30")}"\n'
            )
            given = ["--dsn", dsn(postgres, relay, "connect_timeout=30")] if words != ("check",) else []
            given += ["--config", str(config)] if words[0] != "keys" else []
            out = stack.enter_context((tmp_path / f"{number}.out").open("w"))
            nothing = stack.enter_context(open(os.devnull))
            process = Forked([*words, *given], [nothing.fileno(), out.fileno(), out.fileno()], os.environ, tmp_path)
            running.append((words, relay, process, Path(out.name)))
        for words, relay, process, _ in running:
            assert relay.hushed.wait(30), words
            process.send_signal(signal.SIGINT)
        for words, _, process, out in running:
            assert process.wait(60) == 130, (words, out.read_text())
            assert "Traceback" not in out.read_text() and "retrieved" not in out.read_text(), out.read_text()


@pytest.mark.parametrize("command", ["run", "console"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_waits_for_a_silent_log_at_its_start_ends(
    postgres: Backend, relay: Silent, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    relay.hush()
    config = tmp_path / "secretproxy.toml"
    config.write_text(
        f'workers = {2 if number == signal.SIGTERM else 1}\n[backend]\nhosts = ["{postgres.address}"]\n'
        f'[testimony]\nkey_file = "{postgres.key_file}"\n[listen]\nhost = "127.0.0.1"\nport = {free_port()}\n'
        f'[audit]\ntimeout = 300\ndsn = "{dsn(postgres, relay, "connect_timeout=300")}"\n'
        f'review_dsn = "{dsn(postgres, relay, "connect_timeout=300")}"\n'
    )
    given = [command, "--config", str(config)] + (["--port", str(free_port())] if command == "console" else [])
    with (tmp_path / "out").open("w") as out, open(os.devnull) as nothing:
        process = Forked(given, [nothing.fileno(), out.fileno(), out.fileno()], os.environ, tmp_path)
        relay.wait_for_connection(30)
        process.send_signal(number)
        status = process.wait(60)
    said = (tmp_path / "out").read_text()
    assert status == (0 if command == "run" else {signal.SIGTERM: -15, signal.SIGINT: 130}[number]), said
    assert "listening" not in said and "Traceback" not in said and "internal error" not in said, said


def test_a_name_server_that_is_silent_holds_up_no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    late = []

    def silent(*given: object, **named: object) -> list[object]:
        late.append(answered.wait(60))
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        with pytest.raises(ConnectError, match="no answer in time"):
            patience.run(connect("postgresql://u@silent.invalid/d?connect_timeout=1", "names", timeout=5), print)
        assert late == []
    finally:
        answered.set()


def test_a_service_ends_while_a_thread_still_waits() -> None:
    """As a name look-up does; an event loop that is closed would wait for it."""
    answered = threading.Event()
    late = []

    async def serving() -> None:
        asyncio.get_running_loop().run_in_executor(None, lambda: late.append(answered.wait(60)))
        await asyncio.sleep(0)

    try:
        service.run(serving())
        assert late == []
    finally:
        answered.set()
        asyncio.set_event_loop(None)


def test_whoever_waits_for_another_installer_is_told_of_it(postgres: Backend, quick: None) -> None:
    said: list[str] = []
    with psycopg.connect(postgres.dsn(), autocommit=True) as other:
        other.execute(f"SELECT pg_advisory_lock({runner._LOCK})")
        pid = other.info.backend_pid

        async def work() -> None:
            working = asyncio.ensure_future(verify(postgres.dsn()))
            while not said:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(other.execute, "SELECT pg_advisory_unlock_all()")
            assert await working == []

        patience.run(work(), said.append)
    assert f"(server process {pid})" in said[0] and "another install" in said[0] and "database app" in said[0]


def test_ctrl_c_while_the_command_is_imported(tmp_path: Path) -> None:
    """The command's own modules are replaced by one that takes its time."""
    package = tmp_path / "secretproxy"
    package.mkdir()
    source = Path(patience.__file__).parents[1]
    for name in ("__init__.py", "__main__.py"):
        (package / name).write_text((source / name).read_text())
    (package / "cli.py").write_text("import pathlib, time\npathlib.Path('imports').touch()\ntime.sleep(60)\n")

    def imports() -> None:
        while not (tmp_path / "imports").exists():
            time.sleep(0.02)

    status, out, err = interrupted([], imports, tmp_path)
    assert (status, out, err) == (130, "", "")


def interrupted(words: list[str], when: object, directory: Path | None = None) -> tuple[int, str, str]:
    """Gives what a command in a process of its own says that is sent SIGINT once `when` returns."""
    process = subprocess.Popen(
        [sys.executable, "-m", "secretproxy", *words], cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | ({"PYTHONPATH": str(directory)} if directory else {}),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    when()  # type: ignore[operator]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err
