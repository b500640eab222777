"""Runs a command of secretproxy in this process: a process of its own would cost half a second a time."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import traceback
from dataclasses import dataclass

import pytest
import structlog

from secretproxy.cli.app import main


@dataclass
class Said:
    status: int | str | None
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that says what went wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("secretproxy: ")]
        return line


def run(*arguments: str) -> Said:
    """Runs a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    given, sys.argv = sys.argv, ["secretproxy", *arguments]
    # `check` takes errors that nobody caught, and what libraries log, for its own.
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    handlers = logging.root.handlers[:]
    status: int | str | None = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        pytest.fail(f"{' '.join(arguments)}: {traceback.format_exc(limit=-5)}")
    finally:
        sys.argv = given
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
        logging.root.handlers[:] = handlers
        structlog.reset_defaults()
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Said(status, out.getvalue(), err.getvalue())
