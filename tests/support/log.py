"""Reads the access log straight from its database, past the proxy."""

from __future__ import annotations

import time
from collections.abc import Mapping
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
        """The rows since the mark, in the order of their chain."""
        return self.query(
            "SELECT * FROM secretproxy.access_log WHERE at >= %s AND (%s::text IS NULL OR application_name = %s)"
            " ORDER BY instance, seq, at",
            self._since, application, application,
        )  # fmt: skip

    def settled(self, application: str | None = None, seconds: float = 10) -> list[Row]:
        """The rows since the mark, once every statement in them has its outcome: outcomes are written behind the answer."""
        deadline = time.monotonic() + seconds
        while True:
            rows = self.rows(application)
            begun = {
                (row["session_id"], row["statement_no"]) for row in rows if row["event"] in ("attempt", "call", "definition")
            }
            ended = {(row["session_id"], row["statement_no"]) for row in rows if row["event"] == "outcome"}
            if begun <= ended:
                return rows
            assert time.monotonic() < deadline, f"no outcome for {len(begun - ended)} statements within {seconds} s"
            time.sleep(0.02)


def accesses(rows: list[Row]) -> list[tuple[str, Any, list[str], int, str | None]]:
    """Each attempt of a session with how its statement ended: operation, owner, names, executions, SQLSTATE of an error."""
    ends = {row["statement_no"]: row for row in rows if row["event"] == "outcome"}
    assert {row["event"] for row in rows} == {"attempt", "outcome"}
    return [
        (
            row["operation"], row["owner_id"], row["secret_names"],
            ends[row["statement_no"]]["calls"], ends[row["statement_no"]]["sqlstate"],
        )
        for row in rows
        if row["event"] == "attempt"
    ]  # fmt: skip


def executions(rows: list[Row]) -> list[tuple[str, Any, list[str]]]:
    """Function, owner and names of every execution: what a direct session's functions wrote, or the attempts of a proxied one as often as they ran."""
    ends = {row["statement_no"]: row["calls"] for row in rows if row["event"] == "outcome"}
    return sorted(
        (row["function"], row["owner_id"], row["secret_names"])
        for row in rows
        if row["event"] in ("attempt", "direct")
        for _ in range(1 if row["event"] == "direct" else ends[row["statement_no"]])
    )
