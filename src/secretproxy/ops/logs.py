"""The proxy's own log: structlog to stdout, for people or as JSON lines.

Tracebacks are never printed: their frames and their errors' texts can hold what passes through.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any, TextIO

import structlog

from secretproxy.config import LogSettings


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    out = stream or sys.stdout
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_traceback,
    ]
    if settings.format == "json":
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    # Libraries speak only of what is grave, and through the same door.
    logging.basicConfig(handlers=[_Forward()], level=logging.ERROR, force=True)
    # So do errors that nobody has caught, in any thread and in a destructor.
    sys.excepthook = lambda kind, error, traceback: _uncaught(kind)
    sys.unraisablehook = lambda about: _uncaught(about.exc_type)
    threading.excepthook = lambda about: _uncaught(about.exc_type)


def _uncaught(kind: type[BaseException]) -> None:
    structlog.get_logger("secretproxy").error("internal error", kind=kind.__name__)


def _without_traceback(logger: Any, method: str, event: Any) -> Any:
    event.pop("exc_info", None)
    event.pop("stack_info", None)
    return event


class _Forward(logging.Handler):
    """A library's record by its origin alone: its text can quote what it was given."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger("secretproxy").error(
            "library error", origin=record.name, level_name=record.levelname.lower()
        )
