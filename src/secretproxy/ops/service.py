"""Runs a service's event loop, and ends its process.

A service ends when its own work has ended. It does not wait for a name that is being looked up, which may take as long
as the name server is silent: closing uvloop's loop would, and so would an ordinary end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import uvloop


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Runs to the end of `serving` and leaves the loop open."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serving)


def end(status: int) -> NoReturn:
    """Ends the process at once; what was printed is written out."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 2
    os._exit(status)
