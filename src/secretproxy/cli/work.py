"""Runs a command that waits for servers: in one event loop, which reports a long wait and ends at Ctrl-C with status
130.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

_Result = TypeVar("_Result")


def tell_place(place: str) -> None:
    """Says on standard error which database, server and login a command looks at."""
    from secretproxy.cli.audit.showing import say_place

    say_place(f"looked in {place}", ())


def finish(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Returns the result of a command's work. Raises typer.Exit(130) at Ctrl-C."""
    from secretproxy.connections import run as patient

    try:
        return patient(work, lambda line: print(f"secretproxy: {line}", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
