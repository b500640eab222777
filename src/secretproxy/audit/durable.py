"""Checks that a commit of the journal is durable: on the synchronous standby too, if the server has one.

May import asyncpg.

PostgreSQL commits, then waits for the standby. A wait that is cancelled ends with a WARNING and a COMMIT that looks
like any other. And what the first try has committed, a second one does not commit again: it changes nothing, so it
would not wait either. `AGAIN` makes it wait: it puts a record into the WAL within that transaction
(RecordTransactionCommit() waits for the standby only where the transaction has written WAL).
"""

from __future__ import annotations

from typing import Any

from secretproxy.wire.types import SqlState

# In the transaction of whatever may be in the log already.
AGAIN = "SELECT pg_catalog.pg_logical_emit_message(true, 'secretproxy'::pg_catalog.text, ''::pg_catalog.text)"


class NotReplicatedError(Exception):
    """A commit is on this server and perhaps on no other: its wait for a synchronous standby was cancelled."""


class NotTakenError(Exception):
    """The log has taken fewer rows than it was given, and no error was raised: a trigger or a rule drops them."""


class Warnings:
    """Listens on a connection for the warning that a commit did not wait until its standby had it."""

    def __init__(self, connection: Any) -> None:
        self._cancelled = False
        connection.add_log_listener(self)

    def __call__(self, connection: Any, message: Any) -> None:
        # The texts are translated, the names of the server's functions are not. A commit's own warnings have no
        # context; those of a trigger, which says it with RAISE, do.
        if message.severity_en == "WARNING" and (
            message.server_source_filename == "syncrep.c"
            or (message.sqlstate in (SqlState.WARNING, SqlState.ADMIN_SHUTDOWN) and message.context is None)
        ):
            self._cancelled = True

    def check(self) -> None:
        """Raises NotReplicatedError, once, where such a warning came."""
        cancelled, self._cancelled = self._cancelled, False
        if cancelled:
            raise NotReplicatedError
