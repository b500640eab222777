"""What waits in a spool, as accesses: the answers of a review while the log, and the proxy too, may be down. Reads files only."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from secretproxy.audit.review import Filter
from secretproxy.audit.rows import STORED, TYPES, Line
from secretproxy.audit.spool import SpoolDamaged, read, segments
from secretproxy.config import ConfigError
from secretproxy.detect.arguments import Array, Constant, array_literal

_ACCESSES = ("attempt", "call", "refusal")


def accesses(directory: Path, wanted: Filter, limit: int | None) -> list[dict[str, Any]]:
    """The newest `limit` accesses (None: all), oldest first. Raises ConfigError."""
    rows = list(_rows(directory))
    outcomes: dict[tuple[str, int], dict[str, Any]] = {}
    called: set[tuple[str, int, str]] = set()
    for row in rows:
        if row["event"] == "outcome":
            outcomes[row["session_id"], row["statement_no"]] = row
        elif row["event"] == "call":
            called.add((row["session_id"], row["statement_no"], _bare(row["function"])))
    found = []
    for row in rows:
        vague = row["owner_id"] is None or row["secret_names"] is None
        if row["event"] not in _ACCESSES or (
            row["event"] == "attempt" and vague and (row["session_id"], row["statement_no"], _bare(row["function"])) in called
        ):
            continue
        end = outcomes.get((row["session_id"], row["statement_no"]), {})
        access = row | {
            "how": row["event"],
            "role": row["role"] or end.get("role"),
            "accessed_by": row["accessed_by"] or end.get("accessed_by"),
            "outcome": end.get("outcome") or row["outcome"] or "unknown",
            "sqlstate": end.get("sqlstate") or row["sqlstate"],
            "calls": end.get("calls"),
            "duration": end.get("duration"),
        }
        if _fits(access, wanted):
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
        except SpoolDamaged as error:
            raise ConfigError(f"--spool {path}: {error}") from None


def _row(line: Line) -> dict[str, Any]:
    return {name: _value(TYPES.get(name), text) for name, text in zip(STORED, line.fields(), strict=True)}


def _value(kind: str | None, text: str | None) -> Any:
    if text is None:
        return None
    if kind == "text[]":
        found = array_literal(text)
        return [part.text for part in found.elements if isinstance(part, Constant)] if isinstance(found, Array) else [text]
    if kind == "bool":
        return text == "t"
    if kind == "timestamptz":
        return datetime.fromisoformat(text)
    return int(text) if kind in ("int8", "int4") else float(text) if kind == "float8" else text


def _bare(function: str | None) -> str:
    return (function or "").partition("(")[0]


def _fits(access: dict[str, Any], wanted: Filter) -> bool:
    wanted.where()
    given = {
        "owner_id": wanted.owner, "db_user": wanted.user, "accessed_by": wanted.jwt_user, "operation": wanted.operation,
        "outcome": wanted.outcome, "application_name": wanted.application, "session_id": wanted.session,
    }  # fmt: skip
    name = _bare(access["function"])
    return (
        all(value is None or str(access[column]).lower() == value.lower() for column, value in given.items())
        and (wanted.since is None or access["at"] >= wanted.since)
        and (wanted.until is None or access["at"] < wanted.until)
        and (wanted.secret is None or wanted.secret in (access["secret_names"] or ()))
        and (wanted.function is None or wanted.function in (access["function"], name, name.removeprefix("encrypted_secrets.")))
        and (wanted.client is None or _within(access["client_addr"], wanted.client))
    )


def _within(address: str | None, network: str) -> bool:
    return address is not None and ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
