"""Reads the access log straight from its database, past the proxy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

Row = Mapping[str, Any]


class AccessLog:
    """The log as the superuser sees it. `mark` remembers where it ends; `rows` gives what came since."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._since: Any = None
        self.mark()

    def query(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.dsn, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(sql, values or None).fetchall()

    def mark(self) -> None:
        self._since = self.query("SELECT clock_timestamp() AS now")[0]["now"]

    def rows(self, application: str | None = None) -> list[Row]:
        """Gives the rows since the mark, in the order of their chain, as `as_told` tells them."""
        return as_told(self.written(application))

    def written(self, application: str | None = None) -> list[Row]:
        """Gives the rows since the mark as they are."""
        return self.query(
            "SELECT * FROM secretproxy.access_log WHERE at >= %s AND (%s::text IS NULL OR application_name = %s)"
            " ORDER BY instance, seq, at",
            self._since, application, application,
        )  # fmt: skip

    def settled(self, application: str | None = None, seconds: float = 60) -> list[Row]:
        """Gives the rows since the mark, once every statement in them has its outcome: outcomes are written after the
        answer.
        """
        deadline = time.monotonic() + seconds
        while True:
            rows = self.rows(application)
            begun = {
                (row["session_id"], row["statement_no"])
                for row in rows
                if row["event"] in ("attempt", "call", "definition")
            }
            ended = {(row["session_id"], row["statement_no"]) for row in rows if row["event"] == "outcome"}
            if begun <= ended:
                return rows
            assert time.monotonic() < deadline, f"no outcome for {len(begun - ended)} statements within {seconds} s"
            time.sleep(0.02)


_OF_THE_END = ("outcome", "sqlstate", "duration", "calls", "role", "accessed_by")
_OF_THE_CALL = ("function", "operation", "owner_id", "secret_names", "encoding", "via")


def as_told(rows: Sequence[Row]) -> list[Row]:
    """Tells an event `access` as the attempt and the outcome that it stands for, in their places.

    Whether a statement that only reads is written in one row or in two depends on what the proxy knew when it came:
    whether the log could be written, what ran before it, how long it took.
    """
    several: dict[Any, set[Any]] = {}
    ended = {(row["session_id"], row["statement_no"]) for row in rows if row["event"] == "outcome"}
    for row in rows:
        if row["event"] == "access":
            done = several.setdefault((row["session_id"], row["statement_no"]), set())
            done.add(tuple(row.get(name) for name in ("calls", "role", "accessed_by")))
    told: list[Row] = []
    for row in rows:
        if row["event"] != "access":
            told.append(row)
            continue
        assert row["outcome"] is not None, "an access has its outcome"
        told.append({**row, "event": "attempt"} | {name: None for name in _OF_THE_END if name in row})
        statement = (row["session_id"], row["statement_no"])
        if statement in ended:
            # Its client was not told how it ended, or was told something else: that outcome counts.
            continue
        end = {**row, "event": "outcome"}
        told.append(end)
        if len(several[statement]) == 1:
            end |= {name: None for name in _OF_THE_CALL if name in row}
            ended.add(statement)
        told[-1] = end
    return told


def outcome_of(attempt: Row, rows: list[Row]) -> Row:
    """Gives the outcome of an attempt: the one that names its call, else the one that names none."""
    key = ("session_id", "statement_no", "function", "owner_id", "secret_names")
    ends = [row for row in rows if row["event"] == "outcome" and all(row[name] == attempt[name] for name in key[:2])]
    return next(
        row for row in ends if row["function"] is None or all(str(row[name]) == str(attempt[name]) for name in key[2:])
    )  # fmt: skip


def known_calls(rows: list[Row]) -> int:
    """Counts the executions that the rows of proxied sessions show: those that attempts cover, and the rows of
    uncovered calls.
    """
    covered: dict[tuple[str, ...], int] = {}
    for row in rows:
        if row["event"] == "attempt":
            key = tuple(
                str(row[name]) for name in ("session_id", "statement_no", "function", "owner_id", "secret_names")
            )
            covered[key] = outcome_of(row, rows)["calls"] or 0
    return sum(covered.values()) + sum(row["event"] == "call" for row in rows)


def accesses(rows: list[Row]) -> list[tuple[str, Any, list[str], int, str | None]]:
    """Gives each attempt of a session with its statement's end: operation, owner, names, executions, SQLSTATE of an
    error.
    """
    assert {row["event"] for row in rows} == {"attempt", "outcome"}
    return [
        (
            row["operation"],
            row["owner_id"],
            row["secret_names"],
            outcome_of(row, rows)["calls"],
            outcome_of(row, rows)["sqlstate"],
        )
        for row in rows
        if row["event"] == "attempt"
    ]


def executions(rows: list[Row]) -> list[tuple[str, Any, list[str]]]:
    """Gives function, owner and names of every execution: the rows of a direct session's functions, or each attempt of
    a proxied session as often as it ran.
    """
    return sorted(
        (row["function"], row["owner_id"], row["secret_names"])
        for row in rows
        if row["event"] in ("attempt", "direct")
        for _ in range(1 if row["event"] == "direct" else outcome_of(row, rows)["calls"])
    )
