"""Writes groups of rows on the journal's connection: a message a group, and one comparison with the answer that is
expected.

asyncpg opens the connection and runs all other statements. For a group it takes a future, a timer and four coroutines,
which cost as much as the log's answer does. So a GroupWriter stands between the transport and asyncpg's protocol. What
is not the answer to a group goes on to that. Must not let an error's text through (see journal.py). May import asyncpg.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import asyncpg

from secretproxy.audit.rows import (
    INSERT,
    INSERT_PACKED,
    NULL,
    PACKS,
    ROW_COLUMNS,
    ROW_TYPE,
    Line,
    array_head,
    joined,
    packed,
    sized,
)
from secretproxy.wire import messages
from secretproxy.wire.types import BackendMessage

# The end of a Bind that asks for no columns, an Execute of the unnamed portal without a row limit, and a Sync.
_END: Final = b"\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"
_END_OF_BIND: Final = 2
_BIND_COMPLETE: Final = b"2\0\0\0\x04"
_READY: Final = b"Z\0\0\0\x05I"
# What the backend says beside its answers; asyncpg tells its listeners.
_ASIDE: Final = frozenset(
    {BackendMessage.NOTICE_RESPONSE, BackendMessage.NOTIFICATION_RESPONSE, BackendMessage.PARAMETER_STATUS}
)
# What record_recv() and array_recv() raise, what a type that is gone does, a plan that is of other columns, and a
# statement that is gone.
_OTHER_ROWS: Final = frozenset({"42804", "42704", "0A000", "XX000", "26000"})


class GroupWriter:
    """The writer of one connection. One group at a time."""

    def __init__(
        self, connection: Any, statement: str, timeout: float, answered: Callable[[BaseException | None, int], None]
    ) -> None:
        """Takes an idle connection of asyncpg and the name of the statement that inserts a group. `answered`: is called
        with the error, or with None and the number of rows that went in."""
        self._connection: Final = connection
        self._transport: Final = connection._transport
        self._asyncpg: Final = connection._protocol
        self._timeout: Final = timeout
        self._answered: Final = answered
        self._loop: Final = asyncio.get_running_loop()
        # The unnamed portal, the statement, one parameter as a text.
        self._bind: Final = b"\0" + statement.encode("ascii") + b"\0\0\0\0\x01"
        # The same for a row of its own, each of its fields a parameter; empty where there is no such statement.
        self._bind_row = b""
        # The same for one in binary form, and the OID of a row's type; empty and 0 where there is no such statement.
        self._bind_packed = b""
        self._row_type = 0
        # What arrays of so many rows begin with.
        self._heads: dict[int, bytes] = {}
        # Whether the connection is closed.
        self.is_lost = False
        self._busy = False
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # The rows of the group, the answer that is expected to so many, and what came where it is another one.
        self._rows = 0
        self._expected = b""
        # The answers to groups of so many rows.
        self._answers: dict[int, bytes] = {}
        self._answer = b""
        self._error: BaseException | None = None
        self._tag = b""
        self._transport.set_protocol(self)

    @property
    def packs(self) -> bool:
        """Says whether rows go in the log's own types, in binary form."""
        return bool(self._row_type)

    def takes_fields(self, statement: str, fields: int) -> None:
        """Has a single row written by this statement, which has a parameter for each field."""
        self._bind_row = b"\0" + statement.encode("ascii") + b"\0\0\0" + fields.to_bytes(2, "big")

    def takes_packed(self, statement: str, row_type: int) -> None:
        """Has groups written by this statement, which has a parameter of rows of the type with that OID; 0: no more."""
        self._bind_packed = b"\0" + statement.encode("ascii") + b"\0\0\x01\0\x01\0\x01"
        self._row_type = row_type
        self._heads.clear()

    def bound(self, group: list[Line]) -> bytes | None:
        """Gives what `write` takes for a group; None if a field is escaped and rows do not go in binary form."""
        if self._row_type:
            count = len(group)
            head = self._heads.get(count)
            if head is None:
                head = self._heads[count] = array_head(self._row_type, count)
            rows = packed(group, head)
            if rows is not None:
                size = 0
                for piece in rows:
                    size += len(piece)
                return _messages(self._bind_packed + size.to_bytes(4, "big"), rows, size)
        lines = joined(group)
        if lines is None:
            return None
        if len(group) == 1 and self._bind_row:
            fields = [NULL if field == b"\\N" else sized(field) for field in lines.split(b"\t")]
            return _messages(self._bind_row, fields, sum(map(len, fields)))
        return _messages(self._bind + len(lines).to_bytes(4, "big"), [lines], len(lines))

    def write(self, bound: bytes, rows: int) -> None:
        """Writes so many rows, in one transaction; `bound` is what was given for them, and is sent as it is."""
        expected = self._answers.get(rows)
        if expected is None:
            tag = b"INSERT 0 %d\0" % rows
            expected = _BIND_COMPLETE + b"C" + (len(tag) + 4).to_bytes(4, "big") + tag + _READY
            self._answers[rows] = expected
        self._expected = expected
        self._busy = True
        self._rows = rows
        self._began = time.monotonic()
        if self._timer is None:
            # One timer for many groups: it looks at the one that is under way then.
            self._timer = self._loop.call_later(self._timeout, self._look)
        self._transport.write(bound)

    def _look(self) -> None:
        self._timer = None
        if not self._busy:
            return
        left = self._began + self._timeout - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
            return
        self._busy = False
        # The connection is of no more use. What the server is at would keep the next one from these rows.
        try:
            self._connection._cancel_current_command(self._loop.create_future())
        finally:
            self._answered(TimeoutError(), 0)

    # --- what the transport calls ---

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self._asyncpg.data_received(data)
        elif data == self._expected and not self._answer:
            self._busy = False
            self._answered(None, self._rows)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Takes another answer than the expected one, or a part of it."""
        answer = self._answer + data
        pos = 0
        while len(answer) - pos >= 5:
            end = pos + 1 + int.from_bytes(answer[pos + 1 : pos + 5], "big")
            if end > len(answer):
                break
            kind = answer[pos]
            if kind in _ASIDE:
                self._asyncpg.data_received(answer[pos:end])
            elif kind == BackendMessage.ERROR_RESPONSE:
                found = messages.fields(answer, pos, end)
                self._error = asyncpg.PostgresError.new(
                    {chr(field): value.decode("utf-8", "replace") for field, value in found.items()}
                )
            elif kind == BackendMessage.COMMAND_COMPLETE:
                self._tag = answer[pos + 5 : end - 1]
            elif kind == BackendMessage.READY_FOR_QUERY:
                # asyncpg tells of a notice in a later turn of the event loop: the end comes behind that.
                self._loop.call_soon(self._end)
            pos = end
        self._answer = answer[pos:]

    def _end(self) -> None:
        if not self._busy:
            return
        error, tag = self._error, self._tag
        self._busy = False
        self._error, self._tag, self._answer = None, b"", b""
        count = tag.rpartition(b" ")[2]
        self._answered(error, int(count) if count.isdigit() else 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._asyncpg.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._asyncpg.connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy:
            self._busy = False
            self._answered(self._error or exc or asyncpg.ConnectionDoesNotExistError("connection closed"), 0)

    def eof_received(self) -> Any:
        return self._asyncpg.eof_received()

    def pause_writing(self) -> None:
        self._asyncpg.pause_writing()

    def resume_writing(self) -> None:
        self._asyncpg.resume_writing()


def _messages(bind: bytes, values: list[bytes], size: int) -> bytes:
    """Makes a Bind of its beginning and so many bytes of values, an Execute and a Sync, with one copy of the values."""
    made = [b"B", (4 + len(bind) + size + _END_OF_BIND).to_bytes(4, "big"), bind]
    made.extend(values)
    made.append(_END)
    return b"".join(made)


def group_writer(
    connection: Any, statement: str, timeout: float, answered: Callable[[BaseException | None, int], None]
) -> GroupWriter | None:
    """Makes the writer of a connection; None where another driver than asyncpg opened it, or one that has changed: what
    it takes has no public name."""
    for name in ("_transport", "_protocol", "_cancel_current_command"):
        if getattr(connection, name, None) is None:
            return None
    return GroupWriter(connection, statement, timeout, answered)


async def open_writer(
    connection: Any, timeout: float, answered: Callable[[BaseException | None, int], None]
) -> tuple[Any, GroupWriter | None]:
    """Gives the statement that inserts a group as a text, and the writer of groups, as group_writer() does, which
    packs rows where it can. asyncpg lets the statement go with the object that is given. Raises asyncpg's errors, and
    TimeoutError where one step takes longer than `timeout` seconds."""
    # Kept under a name, or the server would parse and plan it anew for each group. Code that runs in this session is
    # that of whoever owns the log; the name is new, so that no other code can have prepared it before.
    name = f"secretproxy_{uuid.uuid4().hex}"
    insert = await asyncio.wait_for(connection.prepare(INSERT, name=name), timeout)
    # asyncpg prepares without a Sync, so that the statement's locks are held until the next one ends.
    await asyncio.wait_for(connection.execute("SELECT"), timeout)
    writer = group_writer(connection, name, timeout, answered)
    if writer is not None:
        await asyncio.wait_for(pack(connection, writer, f"{name}_packed"), timeout)
    return insert, writer


async def pack(connection: Any, writer: GroupWriter, name: str) -> None:
    """Has a writer's rows go in the log's own types, by a statement of that name, where the log has just the columns
    that we know. Raises asyncpg's errors."""
    if not PACKS:
        return
    found = await connection.fetchrow(ROW_TYPE)
    if found is None or found[1] != ROW_COLUMNS:
        return
    # By a text, for asyncpg would look up the type of each column.
    await connection.execute(f"PREPARE {name} AS {INSERT_PACKED}")
    writer.takes_packed(name, found[0])


def other_rows(error: BaseException | None) -> bool:
    """Says whether an error may be that a row of the table is of other columns now, or of another type. Then none went
    in."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in _OTHER_ROWS
