"""What the proxy prints of its own errors: their kind, never their text."""

from __future__ import annotations

import subprocess
import sys

BEGIN = """
import asyncio, logging, os, sys, threading, warnings
from secretproxy.config import LogSettings
from secretproxy.ops import logs
from secretproxy.proxy.server import _quiet
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
