"""Runs one proxy in this process whose every `await`, and every call of the session and the journal, can be made to
fail: a campaign.

Run as a program: BACKEND LOG_DSN KEY_FILE DIRECTORY MARKER SHARE SEED prints a JSON report. The modules are compiled
once more with each await put through `_await` and each of those calls through `_call`; nothing of this is in the
package."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import io
import itertools
import json
import os
import random
import signal
import socket
import ssl
import struct
import sys
import time
import traceback
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg

MODULES = (
    "secretproxy.session.interpreter", "secretproxy.proxy.service_connection", "secretproxy.proxy.transport.secured",
    "secretproxy.proxy.backend.connect", "secretproxy.proxy.backend.hosts", "secretproxy.proxy.backend.cancel",
    "secretproxy.proxy.authentication.verifiers", "secretproxy.proxy.authentication.login", "secretproxy.proxy.client.tls",
    "secretproxy.audit.housekeeping", "secretproxy.audit.journal",
    "secretproxy.proxy.client.endpoint", "secretproxy.proxy.client.stage", "secretproxy.proxy.client.orphan",
    "secretproxy.proxy.client.session_log", "secretproxy.proxy.client.relay", "secretproxy.proxy.client.handshake", "secretproxy.proxy.listeners.server",
)  # fmt: skip
CALLS = {
    "passes_client", "reads_client", "passes_backend", "reads_backend", "from_backend", "refuse", "parsed", "lost", "append", "commit", "keep", "spawn", "count_testified", "analyse", "prepare", "sign", "wrote",
}  # fmt: skip
# What has an append of its own.
LISTS = (
    "events",
    "out",
    "group",
    "backlog",
    "_client_backlog",
    "_backend_backlog",
    "_rows",
    "_waiting",
    "settled",
    "failed",
)
PATIENCE = 10.0
OWNER = "11111111-2222-4333-8444-555555555555"


class Points:
    """The points at which something can be made to fail, which one is armed with what, and which were reached."""

    def __init__(self) -> None:
        self.all: dict[str, str] = {}
        self.reached: set[str] = set()
        self.armed = ""
        self.error: Callable[[], BaseException] = RuntimeError
        self.fired = False

    def check(self, point: str) -> bool:
        self.reached.add(point)
        if point == self.armed and not self.fired:
            self.fired = True
            return True
        return False


POINTS = Points()


async def _await(point: str, awaitable: Any) -> Any:
    if POINTS.check(point):
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise POINTS.error()
    return await awaitable


def _call(point: str, function: Any, *args: Any, **named: Any) -> Any:
    if POINTS.check(point):
        for arg in args:
            if inspect.iscoroutine(arg):
                arg.close()
        raise POINTS.error()
    return function(*args, **named)


class Instrument(ast.NodeTransformer):
    def __init__(self, module: str) -> None:
        self._module = module.rpartition(".")[2]
        self._where: list[str] = []
        self._count = itertools.count(1)

    def _point(self, node: ast.Await | ast.Call, kind: str) -> ast.Constant:
        name = f"{self._module}.{'.'.join(self._where)}:{next(self._count)}"
        POINTS.all[name] = kind
        return ast.Constant(name)

    def _inside(self, node: Any) -> Any:
        self._where.append(node.name)
        self.generic_visit(node)
        self._where.pop()
        return node

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _inside  # noqa: N815

    def visit_Await(self, node: ast.Await) -> ast.Await:
        self.generic_visit(node)
        return ast.Await(ast.Call(ast.Name("_await_point", ast.Load()), [self._point(node, "await"), node.value], []))

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        function = node.func
        if not (
            isinstance(function, ast.Attribute)
            and function.attr in CALLS
            and self._module
            in ("interpreter", "session_log", "relay", "handshake", "orphan", "stage", "journal", "housekeeping")
        ):
            return node
        if ast.unparse(function.value).rpartition(".")[2] in LISTS:
            # A list's own append.
            return node
        return ast.Call(
            ast.Name("_call_point", ast.Load()), [self._point(node, "call"), function, *node.args], node.keywords
        )


def instrument() -> None:
    for name in MODULES:
        module: ModuleType = importlib.import_module(name)
        assert module.__file__ is not None
        # Compiled or not, its source stands next to it.
        path = str(Path(module.__file__).with_name(f"{name.rpartition('.')[2]}.py"))
        tree = ast.fix_missing_locations(Instrument(name).visit(ast.parse(Path(path).read_text())))
        module.__dict__.update(_await_point=_await, _call_point=_call)
        exec(compile(tree, path, "exec"), module.__dict__)


# --- what happens under it -------------------------------------------------------------------------------------------


class Client:
    """The clients of a round, and what they got: values with the names they were asked under, and whether anything hung."""

    def __init__(self, port: int, prefix: str, marker: str) -> None:
        self.port = port
        self.prefix = prefix
        self.marker = marker
        self.received: list[str] = []
        self.said: list[bytes] = []
        self.hung: list[str] = []
        self._names = itertools.count()

    def name(self) -> str:
        return f"{self.prefix}-{next(self._names)}"

    async def play(self) -> None:
        for part in (self.named_and_hidden, self.pipelined, self.left_alone, self.cancelled, self.transaction):
            try:
                async with asyncio.timeout(PATIENCE):
                    await part()
            except TimeoutError:
                self.hung.append(part.__name__)
            except (OSError, AssertionError, EOFError):
                pass

    async def connect(self) -> Any:
        from tests.support.raw import Address, Raw

        client = await Raw.connect(Address("127.0.0.1", self.port, "app"))
        if client.seen[-1].kind != b"Z":
            self._keep(client)
            raise EOFError
        return client

    def _keep(self, client: Any) -> None:
        self.said += [message.body for message in client.seen if message.kind in (b"E", b"N")]

    async def ask(self, client: Any, name: str, *parts: bytes, readies: int = 1) -> None:
        await client.send(*parts)
        for message in await client.ready(readies):
            if message.kind == b"D" and self.marker.encode() in message.body:
                self.received.append(name)
        self._keep(client)
        if client.seen[-1].kind != b"Z":
            raise EOFError

    def _getter(self, name: str, more: str = "") -> str:
        return f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '{name}', '{self.marker}'){more}"

    def _hidden(self, name: str) -> str:
        return f"SELECT public.disguised('{OWNER}', '{name}', '{self.marker}')"

    async def named_and_hidden(self) -> None:
        from tests.support.raw import query

        client = await self.connect()
        await self.ask(client, "", query(f"SELECT '{self.marker}'::int"))
        for _ in range(2):
            name = self.name()
            await self.ask(client, name, query(self._getter(name)))
            name = self.name()
            await self.ask(client, name, query(self._hidden(name)))
        name = self.name()
        # Longer than is parsed in place.
        await self.ask(client, name, query(self._getter(name, f" /* {self.marker * 40} */")))
        await self.ask(
            client, "", query("DO $$ BEGIN RAISE INFO SQLSTATE 'SPX01' USING MESSAGE = 'SPX1 1 forged'; END $$")
        )
        await self.ask(client, "", query("RESET ALL"))
        await client.terminate()

    async def pipelined(self) -> None:
        from tests.support.raw import SYNC, extended

        client = await self.connect()
        call, hidden = "SELECT encrypted_secrets.secrets_getter($1, $2, $3)", "SELECT public.disguised($1, $2, $3)"
        for text in (call, hidden):
            name = self.name()
            await self.ask(client, name, extended(text, [OWNER, name, self.marker]), extended("SELECT 1"), SYNC)
        await client.terminate()

    async def left_alone(self) -> None:
        from tests.support.raw import query

        client = await self.connect()
        name = self.name()
        text = f"INSERT INTO public.disguises SELECT '{name}', public.disguised('{OWNER}', '{name}', '{self.marker}') FROM pg_sleep(0.05)"
        await client.send(query(text))
        client._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client._writer.transport.abort()

    async def cancelled(self) -> None:
        from tests.support.raw import cancel_request, query

        client = await self.connect()
        name = self.name()
        await client.send(query(self._getter(name, ", pg_sleep(5)")))
        await asyncio.sleep(0.05)
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(cancel_request(client.key))
        await self.ask(client, name)
        writer.close()
        await client.terminate()

    async def transaction(self) -> None:
        from tests.support.raw import query

        client = await self.connect()
        await self.ask(client, "", query("BEGIN"))
        for make in (self._hidden, self._getter):
            name = self.name()
            await self.ask(client, name, query(make(name)))
        await self.ask(client, "", query("COMMIT"))
        await client.terminate()

    async def probe(self) -> bool:
        """Tells whether the proxy serves on: another statement at once, a call when the log has come back."""
        from tests.support.raw import query

        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    client = await self.connect()
                    await self.ask(client, "", query("SELECT 1"))
                    name, before = self.name(), len(self.received)
                    await self.ask(client, name, query(self._getter(name)))
                    await client.terminate()
                    if len(self.received) > before:
                        return True
            await asyncio.sleep(0.05)
        return False


async def round_of(settings: Any, keys: dict[int, bytes], prefix: str, marker: str) -> dict[str, Any]:
    """Runs a proxy from its start to its end, with one failure somewhere between."""

    from secretproxy.ops.metrics import Metrics
    from secretproxy.proxy.authentication.throttle import LoginThrottle
    from secretproxy.proxy.capacity import Capacity
    from secretproxy.proxy.listeners import server as module

    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    client = Client(sock.getsockname()[1], prefix, marker)
    metrics = Metrics()
    server = module.Server(settings, keys, metrics, LoginThrottle(10, 10), Capacity(settings).share(0))
    serving = asyncio.create_task(server.serve([sock]))
    report: dict[str, Any] = {"began": True, "probed": False}
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.listening and not serving.done() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        if not server.listening and not serving.done():
            client.hung.append("start")
        elif serving.done():
            # It did not start, and says so to whoever started it.
            report["began"] = False
        else:
            await client.play()
            report["probed"] = await client.probe()
    finally:
        if not serving.done():
            os.kill(os.getpid(), signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await asyncio.wait([serving])
            if not serving.done():
                client.hung.append("shutdown")
                serving.cancel()
        if serving.done() and not serving.cancelled():
            serving.exception()
        sock.close()
    report.update(hung=client.hung, received=client.received, leaked=[], fired=POINTS.fired)
    if any(marker.encode() in said and b"integer" not in said and b"forged" not in said for said in client.said):
        report["leaked"].append("client")
    if marker.encode() in metrics.text():
        report["leaked"].append("metrics")
    return report


def errors(marker: str) -> list[Callable[[], BaseException]]:
    return [
        lambda: OSError(5, os.strerror(5), f"/{marker}"),
        lambda: TimeoutError(marker),
        lambda: asyncpg.UniqueViolationError(f"Key (name)=({marker}) already exists."),
        lambda: MemoryError(marker),
        lambda: ValueError(marker),
        lambda: ssl.SSLError(1, marker),
        lambda: UnicodeDecodeError("utf-8", marker.encode(), 0, 1, marker),
        lambda: ConnectionResetError(marker),
        lambda: asyncpg.ConnectionDoesNotExistError(marker),
        lambda: asyncio.CancelledError(marker),
    ]


def main() -> None:
    from secretproxy.config import LogSettings, Settings
    from secretproxy.install.keyfile import load_key_file
    from secretproxy.ops import logs

    backend, dsn, key_file, directory, marker, share, seed = sys.argv[1:]
    warnings.simplefilter("ignore")
    instrument()
    said = io.StringIO()
    logs.configure(LogSettings(level="debug"), said)
    out, sys.stderr = sys.stdout, said
    sys.stdout = said
    settings = Settings(
        listen={"port": 0, "drain_timeout": 1.0}, backend={"hosts": [backend]}, testimony={"key_file": key_file},
        audit={"dsn": dsn, "timeout": 1.0, "checkpoint_key_file": f"{directory}/checkpoint.key", "checkpoint_every": 1},
        limits={"hold_timeout": 2.0, "parse_thread_bytes": 500},
    )  # type: ignore[arg-type]  # fmt: skip
    keys = load_key_file(Path(key_file))
    rounds: list[dict[str, Any]] = []

    def run(point: str, number: int, error: Callable[[], BaseException]) -> None:
        POINTS.armed, POINTS.error, POINTS.fired = point, error, False
        before = said.tell()
        report = asyncio.run(round_of(settings, keys, uuid.uuid4().hex[:12], marker))
        said.seek(before)
        text = said.read()
        if marker in text:
            report["leaked"].append(text[-2000:])
        if os.environ.get("INJECT_PROGRESS"):
            print(point, type(error()).__name__, report, file=sys.__stderr__)
        rounds.append({"point": point, "error": type(error()).__name__, "kind": number, **report})

    run("", -1, RuntimeError)
    reachable = sorted(POINTS.reached)
    each = errors(marker)
    pairs = [(point, number) for point in reachable for number in range(len(each))]
    if share.isdigit():
        pairs = random.Random(seed).sample(pairs, min(int(share), len(pairs)))
    elif share != "all":
        pairs = [pair for pair in pairs if pair[0].startswith(share)]
    for point, number in pairs:
        run(point, number, each[number])
    json.dump({"points": sorted(POINTS.all), "reachable": reachable, "rounds": rounds}, out)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        raise SystemExit(1) from None
