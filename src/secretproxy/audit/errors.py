"""Describes faults of the log, without a server's messages: those of a failed INSERT can show the row."""

from __future__ import annotations

import asyncio

import asyncpg

from secretproxy.audit.durable import NotReplicatedError, NotTakenError
from secretproxy.connections import ConnectError
from secretproxy.wire.types import SqlState


def task_is_cancelled() -> bool:
    """Says whether this task was cancelled, and not something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class NotAWriterError(Exception):
    """The journal's login may not become secretproxy_writer; the text says why."""


def describe(error: BaseException) -> str:
    """Describes an error by its SQLSTATE or class; a failed login in the server's words."""
    if isinstance(error, ConnectError):
        # It says its SQLSTATE itself. A refused parameter has one that would mean something else of a statement.
        return str(error)
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or "?"
        return f"SQLSTATE {state} ({_MEANINGS.get(state, type(error).__name__)})"
    if isinstance(error, NotAWriterError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time (audit.timeout)"
    if isinstance(error, NotReplicatedError):
        return "a commit did not wait for its synchronous standby: the wait was cancelled at the server"
    if isinstance(error, NotTakenError):
        return "a trigger or a rule on secretproxy.access_log drops rows: see `secretproxy audit verify`"
    if isinstance(error, OSError):
        return f"connection failed ({type(error).__name__})"
    if isinstance(error, asyncpg.InterfaceError):
        return "connection lost"
    return type(error).__name__


# Of statements of a login that has become secretproxy_writer.
_MEANINGS = {
    SqlState.INVALID_SCHEMA_NAME: "the database has no schema secretproxy: run `secretproxy install` there",
    SqlState.UNDEFINED_TABLE: "the database has no table secretproxy.access_log: run `secretproxy install` there",
    SqlState.UNDEFINED_FUNCTION: "the database lacks a function of secretproxy's: run `secretproxy install` there",
    SqlState.INSUFFICIENT_PRIVILEGE: "secretproxy_writer may not do this, though it was granted: run `secretproxy "
    "install --again`",
    SqlState.READ_ONLY_SQL_TRANSACTION: "the database is read-only: audit.dsn names a standby, or a server that "
    "takes no writes",
    SqlState.DISK_FULL: "disk full",
    SqlState.TOO_MANY_CONNECTIONS: "too many connections",
    SqlState.QUERY_CANCELED: "no answer in time (audit.timeout), or somebody cancelled it",
}
