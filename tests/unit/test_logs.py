"""Checks what the proxy prints of its own errors: their kind, never their text."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secretproxy import proxy

BEGIN = """
import asyncio, logging, os, sys, threading, warnings
from secretproxy.config import LogSettings
from secretproxy.ops import logs
from secretproxy.proxy.listeners.server import _quiet
logs.configure(LogSettings(level="debug", format="console"))
text = "canary" + str(1234)
class Unlucky:
    def __del__(self): raise LookupError(text)
async def work():
    asyncio.get_running_loop().set_exception_handler(_quiet)
"""
WAYS = {
    "uncaught": "raise LookupError(text)",
    "chained": "try:\n    int(text)\nexcept ValueError as error:\n    raise LookupError(text) from error",
    "thread": "t = threading.Thread(target=lambda: {}[text], name=text); t.start(); t.join()",
    "destructor": "u = Unlucky(); del u",
    "library": "logging.getLogger('asyncio').error('task %s', text, exc_info=LookupError(text))",
    "structlog": "import structlog\ntry:\n    {}[text]\nexcept KeyError as error:\n    structlog.get_logger().exception('said', kind=type(error).__name__)",
    "callback": "async def go():\n    await work()\n    asyncio.get_running_loop().call_soon(lambda: {}[text])\n    await asyncio.sleep(0.01)\nasyncio.run(go())",
    "task": "async def go():\n    await work()\n    t = asyncio.create_task(asyncio.sleep(0)); t2 = asyncio.ensure_future(fail())\n    await asyncio.sleep(0.01); del t2\nasync def fail(): raise LookupError(text)\nasyncio.run(go())",
    "debug": "async def go():\n    loop = asyncio.get_running_loop(); loop.set_debug(True); loop.slow_callback_duration = 0.0\n    loop.call_soon(len, text)\n    await asyncio.sleep(0.01)\nasyncio.run(go())",
}


EACH = """
for name, way in WAYS.items():
    for form in ("console", "json"):
        print("====", name, form, flush=True)
        child = os.fork()
        if child == 0:
            logs.configure(LogSettings(level="debug", format=form))
            try:
                exec(way, globals())
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
"""


def test_an_error_is_told_by_its_kind_alone() -> None:
    program = f"{BEGIN}WAYS = {WAYS!r}\n{EACH}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0 and ran.stderr == ""
    assert "canary1234" not in ran.stdout and "Traceback" not in ran.stdout
    parts = ran.stdout.split("==== ")[1:]
    assert len(parts) == 2 * len(WAYS)
    for part in parts:
        assert "error" in part or part.startswith("debug"), part


# Lines that are of a process, a server or a database, and of no session.
OF_NO_SESSION = {
    "a backend answers", "backend.hosts leads back to this proxy: sessions are refused there", "catalog read",
    "catalog cannot be read: calls by way of views, functions and the like are known by testimony alone",
    "catalog says what leads to secret functions", "certificate not read again, the old one stays", "certificates of the backend not read again, the old ones stay",
    "clients that verify it refuse the certificate", "events could not be written to the access log",
    "internal error", "keys not read again, the old ones stay", "listening", "more leads to secret functions than are kept", "no backend answers",
    "reloaded", "secret functions do not testify", "secret functions testify", "server", "shutting down", "stopped",
    "the database is not there any more: its catalog is not read", "the database takes no connections: its catalog is not read",
    "the testimony key is not proven", "the testimony key is not the database's",
    "the testimony key is the database's", "users not read again, the old ones stay", "worker died, starting another", "worker failed",
}  # fmt: skip


def calls_of_log(path: Path) -> Iterator[tuple[int, str | None, set[str | None]]]:
    """Gives line, the event where it is a constant, and the fields of each call of the log."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.IfExp):
            functions = [node.func.body, node.func.orelse] if isinstance(node.func, ast.IfExp) else [node.func]
            if all(
                isinstance(one, ast.Attribute)
                and (
                    (isinstance(one.value, ast.Name) and one.value.id == "log")
                    or (one.attr == "count" and node.keywords)
                )
                for one in functions
            ):
                event = node.args[0]
                yield (
                    node.lineno,
                    event.value if isinstance(event, ast.Constant) else None,
                    {word.arg for word in node.keywords},
                )


@pytest.mark.parametrize(
    "path", sorted(Path(proxy.__file__).parent.rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_every_line_of_a_session_has_its_id(path: Path) -> None:
    """In the package where sessions are, a line has `session`, or is one of those that stand here, or gets both (None:
    **fields)."""
    for line, event, fields in calls_of_log(path):
        assert "session" in fields or event in OF_NO_SESSION or None in fields, f"{path.name}:{line}: {event}"


def test_the_lines_of_no_session_are_there() -> None:
    said = {
        event
        for path in Path(proxy.__file__).parent.rglob("*.py")
        for _, event, fields in calls_of_log(path)
        if "session" not in fields
    }
    assert OF_NO_SESSION - said == set()
