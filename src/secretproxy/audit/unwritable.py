"""A row that the log does not take: found, told from an outage, and written in a form that the log does take. May
import asyncpg.

One row can fail for good what stands with it in a group: a character that the log's encoding lacks, a CHECK or a
trigger that somebody put there, a time limit. It must not take the log down. An outage must not cost a row its columns
either. So the whole row and a reduced form of it are tried in turns in one transaction: where the log takes the reduced
form and, before and after that, not the whole one, it is the row. A reduced row keeps its place in the chain, its id
and its time, and says in `secret_names` that it is not whole.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import asyncpg

from secretproxy.audit.columns import CHAINED, STORED
from secretproxy.audit.durable import AGAIN, Warnings
from secretproxy.audit.rows import INSERT_ONE, Line
from secretproxy.wire.types import SqlState

NOTE = "masked: the log did not take this row whole"
# What is left out first, what next; at last all that a row does not need.
_FIRST = frozenset({"via", "application_name"})
_NEXT = frozenset(
    {
        "function",
        "encoding",
        "fingerprint",
        "role",
        "database",
        "client_addr",
        "client_port",
        "sqlstate",
        "duration",
        "calls",
    }
)
_NEEDED = frozenset({"instance", "seq", "id", "at", "event", "session_id", "secret_names"})
_LEFT_OUT = (_FIRST, _NEXT, frozenset(CHAINED) - _FIRST - _NEXT - _NEEDED)
# Classes of SQLSTATE, and SQLSTATEs, that are about the server or the connection, whatever is written.
_OUTAGE_CLASSES = frozenset({"08", "25", "28", "3D", "3F", "40", "53", "55", "57", "58", "F0"})
_OUTAGES = frozenset({SqlState.UNDEFINED_TABLE, SqlState.DATA_CORRUPTED, SqlState.INDEX_CORRUPTED})
CANCELLED = SqlState.QUERY_CANCELED


def may_be_the_row(error: BaseException) -> bool:
    """Says whether the log might have taken another row where this error was raised."""
    if not isinstance(error, asyncpg.PostgresError):
        return False
    state = str(getattr(error, "sqlstate", None) or "")
    return state == CANCELLED or not (state[:2] in _OUTAGE_CLASSES or state in _OUTAGES)


def milliseconds(timeout: float) -> int:
    """Gives the server's time limit for a statement, which is shorter than the client's."""
    return max(1, int(timeout * 900))


def reduced(line: Line) -> Iterator[Line]:
    """Yields the row with less and less in it, under its own number, id and time.

    The same row always gives the same forms.
    """
    fields = line.line.split(b"\t")
    fields[STORED.index("secret_names")] = b'{"' + NOTE.encode("ascii") + b'"}'
    for names in _LEFT_OUT:
        for name in names:
            fields[STORED.index(name)] = b"\\N"
        yield Line(line.seq, b"\t".join(fields), line.prev_hash, b"").after(line.prev_hash)


class OneRow:
    """Writes one row, in whatever form the log takes."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # Forms that went in instead of their rows, by instance and number.
        self.replaced: dict[tuple[uuid.UUID, int], Line] = {}
        # Backends that were given rows and did not answer: one of them may still be about to write them.
        self.unanswered: set[int] = set()
        # A form whose commit was not answered, and its transaction.
        self._pending: tuple[Line, str] | None = None

    async def settle(self, connection: Any, warnings: Warnings) -> None:
        """Finds out, on a new connection, what became of a commit that was not answered.

        Raises asyncpg's errors, TimeoutError.
        """
        if self._pending is None:
            return
        form, transaction = self._pending
        async with asyncio.timeout(self._timeout):
            await self._alone(connection)
            status = await connection.fetchval(
                "SELECT pg_catalog.pg_xact_status($1::pg_catalog.text::pg_catalog.xid8)", transaction
            )
            if status == "in progress":
                raise TimeoutError
            if status == "committed":
                await connection.execute(f"BEGIN; {AGAIN}; COMMIT")
        warnings.check()
        if status == "committed":
            self.replaced[form.instance, form.seq] = form
        self._pending = None

    async def write(self, connection: Any, warnings: Warnings, line: Line, *, left: bool) -> Line:
        """Gives the row as the log has it now.

        `left`: a process that is gone may have written a reduced form of it. Raises what an outage raises; the
        connection is then of no more use.
        """
        # Each try may take the server the whole of its time.
        async with asyncio.timeout(self._timeout * 5 + 1):
            await connection.execute(f"BEGIN; {AGAIN}; SAVEPOINT one_row")
            transaction = await connection.fetchval("SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text")
            cause = await self._try(connection, line)
            if isinstance(cause, int):
                await connection.execute("COMMIT")
                warnings.check()
                return line
            for form in reduced(line):
                count = await self._try(connection, form)
                if isinstance(count, int):
                    break
            else:
                raise cause
            await connection.execute("ROLLBACK TO SAVEPOINT one_row")
            again = await self._try(connection, line)
            if isinstance(again, int) or (count == 0 and not left):
                # It was the log after all, or the log has the whole row since a try that was not answered.
                form = line
            else:
                await self._alone(connection)
                taken = await self._try(connection, form)
                if not isinstance(taken, int):
                    raise taken
                self._pending = (form, transaction)
            await connection.execute("COMMIT")
            warnings.check()
            if form is not line:
                self._pending = None
                self.replaced[form.instance, form.seq] = form
        return form

    @staticmethod
    async def _try(connection: Any, line: Line) -> int | asyncpg.PostgresError:
        """Inserts rows and gives how many, or the error. Raises errors that do not concern the row."""
        try:
            status = str(await connection.execute(INSERT_ONE, *line.fields()))
        except asyncpg.PostgresError as error:
            if not may_be_the_row(error) or connection.is_closed():
                raise
            await connection.execute("ROLLBACK TO SAVEPOINT one_row")
            return error
        return int(status.rpartition(" ")[2])

    async def _alone(self, connection: Any) -> None:
        """Raises TimeoutError while a backend lives that may still write what it was given."""
        if self.unanswered:
            alive = await connection.fetch(
                "SELECT a.pid FROM pg_catalog.pg_stat_activity AS a WHERE a.pid OPERATOR(pg_catalog.=) ANY "
                "($1::pg_catalog.int4[])"
                " AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()",
                list(self.unanswered),
            )
            self.unanswered = {row[0] for row in alive}
            if self.unanswered:
                raise TimeoutError
