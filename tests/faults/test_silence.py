"""Stops a server, or cuts its cable, in the middle of a statement: each command says what it waits for, gives it up and
ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Backend
from tests.support.silent import Silent

from secretproxy.connections import connect, held, patience
from secretproxy.install.runner import session


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


INTERRUPTED = [("audit", "tail"), ("install",)]


@pytest.mark.parametrize("words", INTERRUPTED, ids=" ".join)
def test_ctrl_c_ends_a_command_that_waits_for_a_silent_server(
    postgres: Backend, relay: Silent, words: tuple[str, ...]
) -> None:
    relay.hush(after=8)
    status, out, err = interrupted([*words, "--dsn", dsn(postgres, relay)], relay.hushed.wait)
    assert status == 130 and "Traceback" not in out + err and "retrieved" not in err, err


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
