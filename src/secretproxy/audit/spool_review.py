"""Reads the events that wait in a spool, as accesses.

The answers of a review while the log, and the proxy too, may be down. Reads files only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from secretproxy.audit.columns import STORED, TYPES
from secretproxy.audit.filters import UUIDS, Filter, uuid_range
from secretproxy.audit.review import Outcomes, access_of
from secretproxy.audit.rows import Line
from secretproxy.audit.spool import SpoolDamagedError, read, segments
from secretproxy.config import ConfigError
from secretproxy.detect.arguments import Array, Constant, array_literal

_ACCESSES = ("attempt", "access", "call", "refusal")


def accesses(directory: Path, wanted: Filter, limit: int | None) -> list[dict[str, Any]]:
    """Gives the newest `limit` accesses (None: all), oldest first. Raises ConfigError."""
    rows = list(_rows(directory))
    wanted = _resolved(wanted, rows)
    outcomes: Outcomes = {}
    called: set[tuple[str, int, str]] = set()
    for row in rows:
        if row["event"] == "outcome":
            outcomes.setdefault((row["session_id"], row["statement_no"]), []).append(row)
        elif row["event"] == "call":
            called.add((row["session_id"], row["statement_no"], _bare(row["function"])))
    found = []
    for row in rows:
        vague = row["owner_id"] is None or row["secret_names"] is None
        if row["event"] not in _ACCESSES or (
            row["event"] == "attempt"
            and vague
            and (row["session_id"], row["statement_no"], _bare(row["function"])) in called
        ):
            continue
        access = access_of(row, outcomes)
        if wanted.fits(access):
            found.append(access)
    found.sort(key=lambda access: (access["at"], access["seq"]))
    return found if limit is None else found[-limit:]


def _rows(directory: Path) -> Iterator[dict[str, Any]]:
    if not directory.is_dir():
        raise ConfigError(f"--spool {directory}: no such directory")
    for path in segments(directory):
        try:
            with path.open("rb") as file:
                for line in read(file):
                    yield _row(line)
        except FileNotFoundError:
            continue  # replayed by now
        except OSError as error:
            raise ConfigError(f"--spool {path}: {error.strerror}") from None
        except SpoolDamagedError as error:
            raise ConfigError(f"--spool {path}: {error}") from None


def _row(line: Line) -> dict[str, Any]:
    return {name: _value(TYPES[name], text) for name, text in zip(STORED, line.fields(), strict=True)}


def _value(kind: str, text: str | None) -> Any:
    if text is None:
        return None
    if kind == "text[]":
        found = array_literal(text)
        return (
            [part.text for part in found.elements if isinstance(part, Constant)] if isinstance(found, Array) else [text]
        )
    if kind == "bool":
        return text == "t"
    if kind == "timestamptz":
        return datetime.fromisoformat(text)
    return int(text) if kind in ("int8", "int4") else float(text) if kind == "float8" else text


def _bare(function: str | None) -> str:
    return (function or "").partition("(")[0]


def _resolved(wanted: Filter, rows: list[dict[str, Any]]) -> Filter:
    """Resolves each prefix of a uuid in the filter. Raises ConfigError if a prefix is ambiguous."""
    for option, column in UUIDS.items():
        text = getattr(wanted, option)
        if text is None:
            continue
        first, last = uuid_range(f"--{option.replace('_', '-')}", text)
        found = sorted(
            {str(row[column]) for row in rows if row[column] is not None and first <= uuid.UUID(row[column]) <= last}
        )
        if len(found) > 1:
            raise ConfigError(
                f"--{option.replace('_', '-')} {text}: several begin so, such as {found[0]} and {found[1]}; give more "
                "of it"
            )
        if found:
            wanted = wanted.but(**{option: found[0]})
    return wanted
