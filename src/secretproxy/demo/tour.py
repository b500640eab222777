"""The demo: a private PostgreSQL, the backend half installed, the proxy before it, a short tour with psql, the rows
that it left, and the console that shows them.

Everything lives in one temporary directory and in child processes that die with this one; leaving cleans up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from secretproxy.audit.checkpoints import Signer
from secretproxy.config import ConfigError
from secretproxy.connections import connect
from secretproxy.demo.postgres import PostgresNotFoundError, PrivateServer, ServerFailedError, find_postgres, free_port
from secretproxy.demo.simulated import MARK, simulate
from secretproxy.install import install

# Who signs in to the console.
_REVIEWER = "auditor"
OWNER = "5f0c1e52-7d0b-4b6e-9a57-0d6b1c2f3a44"

TOUR = (
    ("Store a secret", f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'stripe_key', '{{value}}');"),
    ("Read it", f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'stripe_key');"),
    ("Verify it, rightly and wrongly",
     f"SELECT encrypted_secrets.secrets_verify('{OWNER}', 'stripe_key', '{{value}}'),"
     f" encrypted_secrets.secrets_verify('{OWNER}', 'stripe_key', 'wrong');"),
    ("A call hidden in a function", f"SELECT billing_config('{OWNER}');"),
    ("A read that is rolled back", "BEGIN;"
     f" SELECT length(encrypted_secrets.secrets_getter('{OWNER}', 'stripe_key')); ROLLBACK;"),
    ("A secret that is not there", f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'nothing', 'a default');"),
)  # fmt: skip

SETUP = """
CREATE ROLE app LOGIN;
GRANT authenticated TO app;
CREATE ROLE journal LOGIN;
GRANT secretproxy_writer TO journal;
CREATE FUNCTION public.billing_config(owner uuid) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN jsonb_build_object('key_length', length(encrypted_secrets.secrets_getter(owner, 'stripe_key')));
END $$;
"""


class TourStoppedError(BaseException):
    """SIGTERM or SIGINT: leave, and clean up on the way."""


def run(port: int, *, once: bool, echo: Callable[[str], None], console_port: int = 6480) -> None:
    """Runs the demo until Ctrl-C, or with `once` until the tour is over, without the console. Raises ConfigError."""
    _port_is_free(port)
    try:
        binaries = find_postgres()
    except PostgresNotFoundError as error:
        raise ConfigError(str(error)) from None
    with _stop_by_signal(), contextlib.suppress(TourStoppedError), contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secretproxy-demo-")))
        echo(f"Starting a private PostgreSQL {binaries.version} ...")
        try:
            server = stack.enter_context(PrivateServer(binaries))
        except ServerFailedError as error:
            raise ConfigError(str(error)) from None
        echo("Installing the backend half ...")
        asyncio.run(_prepare(server, directory / "key"))
        echo("Starting the proxy ...")
        config = _configure(server, directory, port)
        log = directory / "proxy.log"
        _wait_for(stack.enter_context(_child(log, "run", "--config", str(config))), port, log)
        dsn = f"postgresql://app@127.0.0.1:{port}/postgres"
        echo(f"\nPoint anything at it:  {dsn}\n")
        _tour(server, dsn, echo)
        asyncio.run(_show_log(server))
        if once:
            return
        _console(stack, server, directory, config, console_port, echo)
        echo(f"\nThe proxy stays up at {dsn} until Ctrl-C. Review the log with")
        echo(f"  psql {server.dsn()} -c 'table secretproxy.secret_access'")
        while True:
            signal.pause()


def _port_is_free(port: int) -> None:
    if not _is_free(port):
        raise ConfigError(f"port {port} is in use: choose another one with --port")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _stop_by_signal() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        # Cleaning up is not to be broken off by a second Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TourStoppedError

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _prepare(server: PrivateServer, key_file: Path) -> None:
    await install(server.dsn(), key_file)
    connection = await connect(server.dsn(), "secretproxy demo", timeout=15)
    try:
        await connection.execute(SETUP)
    finally:
        await connection.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def _configure(server: PrivateServer, directory: Path, port: int) -> Path:
    """Writes the configuration of proxy and console."""
    config = directory / "secretproxy.toml"
    config.write_text(
        f'[listen]\nport = {port}\ndrain_timeout = 1\n[backend]\nhosts = ["{server.host}:{server.port}"]\n'
        f'[audit]\ndsn = "{server.dsn(user="journal")}"\nreview_dsn = "{server.dsn()}"\n'
        f'checkpoint_key_file = "{directory / "checkpoints.pem"}"\n[testimony]\nkey_file = "{directory / "key"}"\n'
    )
    return config


def _console(
    stack: contextlib.ExitStack,
    server: PrivateServer,
    directory: Path,
    config: Path,
    port: int,
    echo: Callable[[str], None],
) -> None:
    """Starts the console over the log and a few days of simulated life; says where it is and who may sign in."""
    password = secrets.token_hex(8)
    # The console lets nobody in whose password the server does not ask for.
    rules = server.data / "pg_hba.conf"
    rules.write_text(f"host all {_REVIEWER} 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    rows = asyncio.run(_simulate(server, password, Signer(directory / "checkpoints.pem")))
    if not _is_free(port):
        port = free_port()
    log = directory / "console.log"
    process = stack.enter_context(_child(log, "console", "--config", str(config), "--port", str(port)))
    _wait_for(process, port, log)
    echo(f"\nReview the log at  http://127.0.0.1:{port}/  as {_REVIEWER}, password {password}")
    echo(f'  It shows {rows:,} rows of simulated days too, whose application begins with "{MARK}".')


async def _simulate(server: PrivateServer, password: str, signer: Signer) -> int:
    connection = await connect(server.dsn(), "secretproxy demo", timeout=15)
    try:
        await connection.execute(f"CREATE ROLE {_REVIEWER} LOGIN PASSWORD '{password}' IN ROLE secretproxy_auditor")
        await connection.execute("SELECT pg_catalog.pg_reload_conf()")
        return await simulate(connection, signer)
    finally:
        await connection.close()


@contextlib.contextmanager
def _child(log_file: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command of secretproxy until the block ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECRETPROXY_")}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "secretproxy", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise ConfigError(f"{log.stem} did not start: {log.read_text(errors='replace').strip()[-400:]}")


def _tour(server: PrivateServer, dsn: str, echo: Callable[[str], None]) -> None:
    value = f"sk_demo_{secrets.token_hex(6)}"
    psql = server.binaries.program("psql")
    for title, template in TOUR:
        sql = template.replace("{value}", value)
        echo(f"-- {title}")
        echo(textwrap.fill(sql, 78, initial_indent="=> ", subsequent_indent="   ", break_on_hyphens=False))
        if server.binaries.has("psql"):
            done = subprocess.run(
                [psql, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--dbname", dsn, "--command", sql],
                capture_output=True, text=True, check=False, timeout=30,
                env={name: text for name, text in os.environ.items() if not name.startswith("PG")},
            )  # fmt: skip
            echo((done.stdout + done.stderr).strip() + "\n")
        else:
            echo(asyncio.run(_without_psql(dsn, sql)) + "\n")


async def _without_psql(dsn: str, sql: str) -> str:
    """Gives the same answers if the installation has no psql."""
    connection = await asyncpg.connect(dsn)
    try:
        lines = []
        for part in filter(None, (piece.strip() for piece in sql.split(";"))):
            rows = await connection.fetch(part)
            lines += ["|".join("" if cell is None else str(cell) for cell in row.values()) for row in rows]
        return "\n".join(lines)
    finally:
        await connection.close()


async def _show_log(server: PrivateServer) -> None:
    connection = await connect(server.dsn(), "secretproxy demo", timeout=15)
    try:
        rows = await _settled(connection)
    finally:
        await connection.close()
    console = Console(width=None if sys.stdout.isatty() else 80)
    table = Table(
        title="What the access log says of it (secretproxy.secret_access)",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("time", "user", "operation", "secret", "outcome", "calls", "how", "from"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        names = ",".join(row["secret_names"] or ["?"])
        table.add_row(
            f"{row['at']:%H:%M:%S}", row["db_user"], row["operation"], names, row["outcome"], str(row["calls"]),
            row["how"],
            str(row["client_addr"]),
        )  # fmt: skip
    console.print(table)


async def _settled(connection: Any) -> list[Any]:
    """Gives the rows, once each has its outcome: outcomes are written after the answer."""
    deadline = time.monotonic() + 5
    while True:
        rows: list[Any] = await connection.fetch("SELECT * FROM secretproxy.secret_access ORDER BY at")
        if all(row["outcome"] != "unknown" for row in rows) or time.monotonic() > deadline:
            return rows
        await asyncio.sleep(0.02)
