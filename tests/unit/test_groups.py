"""Tests of the writer of groups: what it takes for the answer to a group, and what goes on to asyncpg."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from secretproxy.audit.groups import GroupWriter, group_writer, other_rows
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Line, Lines, array_head, packed
from secretproxy.session.events import Event, Identity
from secretproxy.wire import messages

# What a writer made of two rows.
BOUND_ROWS = b"two rows"
BOUND = b"2\0\0\0\x04"
READY = b"Z\0\0\0\x05I"
NOTICE = b"N" + messages.error_response("WARNING", "01000", "a notice")[1:]


def inserted(rows: int) -> bytes:
    tag = b"INSERT 0 %d\0" % rows
    return b"C" + (4 + len(tag)).to_bytes(4, "big") + tag


class Peer:
    """A connection of asyncpg: its transport, and what its protocol gets."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.written = b""
        self.passed: list[bytes] = []
        self.lost: list[Exception | None] = []
        self.cancelled = 0
        self.answers: list[tuple[BaseException | None, int]] = []
        transport = SimpleNamespace(set_protocol=self.take, write=self.write)
        protocol = SimpleNamespace(data_received=self.passed.append, connection_lost=self.lost.append)
        connection = SimpleNamespace(_transport=transport, _protocol=protocol, _cancel_current_command=self.cancel)
        writer = group_writer(connection, "stored", 0.05, lambda error, rows: self.answers.append((error, rows)))
        assert writer is self.protocol
        self.writer: GroupWriter = self.protocol

    def take(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.written += data

    def cancel(self, waiter: object) -> None:
        self.cancelled += 1

    async def says(self, *chunks: bytes) -> tuple[BaseException | None, int]:
        """Answers a group of two rows in these chunks; gives what the writer makes of it."""
        self.writer.write(BOUND_ROWS, 2)
        for chunk in chunks:
            self.writer.data_received(chunk)
        await asyncio.sleep(0)
        (answer,) = self.answers
        self.answers.clear()
        return answer


async def test_a_group_is_one_bind_execute_and_sync_of_the_statement() -> None:
    peer, group = Peer(), lines("one", "two")
    assert await peer.says(BOUND + inserted(2) + READY) == (None, 2)
    assert peer.written == BOUND_ROWS, "it is sent as it is"
    assert peer.passed == []
    texts = b"\n".join([line.plain() or b"" for line in group])
    assert (
        bind_of(peer.writer.bound(group)) == b"\0stored\0\0\0\0\x01" + len(texts).to_bytes(4, "big") + texts + b"\0\0"
    )


def bind_of(messages: bytes | None) -> bytes:
    """Gives what is in the Bind of these messages, which are that, an Execute of all rows and a Sync."""
    assert messages is not None and messages[:1] == b"B"
    end = 1 + int.from_bytes(messages[1:5], "big")
    assert messages[end:] == b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"
    return messages[5:end]


def lines(*names: str) -> list[Line]:
    made = Lines(NameMask(200, (), b"k" * 32), uuid.UUID(int=9))
    return [made.add(Event("call", Identity(uuid.UUID(int=1)), 1, secret_names=(name,)), 0, None) for name in names]


async def test_rows_go_in_binary_form_where_a_statement_takes_them_so() -> None:
    peer, group = Peer(), lines("one", "two")
    texts = peer.writer.bound(group)
    told = bind_of(texts)
    assert told.startswith(b"\0stored\0\0\0\0\x01") and b"{one}" in told and not peer.writer.packs
    peer.writer.takes_packed("packed", 4711)
    bound = bind_of(peer.writer.bound(group))
    pieces = packed(group, array_head(4711, 2))
    assert peer.writer.packs and pieces is not None
    rows = b"".join(pieces)
    assert bound == b"\0packed\0\0\x01\0\x01\0\x01" + len(rows).to_bytes(4, "big") + rows + b"\0\0"
    assert rows[:20] == b"\0\0\0\1" + bytes(4) + (4711).to_bytes(4, "big") + b"\0\0\0\2" + b"\0\0\0\1"
    peer.writer.takes_packed("", 0)
    assert peer.writer.bound(group) == texts and not peer.writer.packs
    quoted = lines("one", 'q"uoted')
    assert peer.writer.bound(quoted) is None, "an escaped field goes by a statement of its own"
    peer.writer.takes_packed("packed", 4711)
    assert b'q"uoted' in (peer.writer.bound(quoted) or b"")


async def test_a_single_row_goes_field_by_field_where_a_statement_takes_it_so() -> None:
    peer, (line,) = Peer(), lines("one")
    group = peer.writer.bound([line, line])
    peer.writer.takes_fields("row", 29)
    fields = [b"" if field == rb"\N" else field for field in (line.plain() or b"").split(b"\t")]
    bound = bind_of(peer.writer.bound([line]))
    assert bound.startswith(b"\0row\0\0\0\0\x1d") and bound.endswith(b"\0\0")
    pos = 9
    for field in fields:
        size = bound[pos : pos + 4]
        assert size == (len(field).to_bytes(4, "big") if field else b"\xff\xff\xff\xff")
        assert bound[pos + 4 : pos + 4 + len(field)] == field
        pos += 4 + len(field)
    assert pos == len(bound) - 2
    assert peer.writer.bound([line, line]) == group
    peer.writer.takes_packed("packed", 4711)
    assert bind_of(peer.writer.bound([line])).startswith(b"\0packed\0")


@pytest.mark.parametrize(
    ("state", "ends"),
    [("42804", True), ("XX000", True), ("23505", False), ("22P05", False), ("57014", False), ("42501", False)],
)
def test_only_an_error_of_other_columns_ends_the_binary_form(state: str, ends: bool) -> None:
    assert other_rows(asyncpg.PostgresError.new({"C": state, "M": "canary"})) == ends
    assert not other_rows(None) and not other_rows(TimeoutError())


@pytest.mark.parametrize("size", [1, 3, 5, 12, 20])
async def test_an_answer_in_parts_is_the_same(size: int) -> None:
    answer = BOUND + inserted(2) + READY
    peer = Peer()
    assert await peer.says(*[answer[at : at + size] for at in range(0, len(answer), size)]) == (None, 2)
    assert await peer.says(answer) == (None, 2)


async def test_a_log_that_takes_fewer_rows_says_so() -> None:
    assert await Peer().says(BOUND + inserted(1) + READY) == (None, 1)


async def test_what_is_said_beside_an_answer_goes_to_asyncpg_first() -> None:
    peer = Peer()
    peer.writer.write(BOUND_ROWS, 2)
    peer.writer.data_received(BOUND + NOTICE + inserted(2) + READY)
    assert peer.passed == [NOTICE]
    assert peer.answers == [], "asyncpg tells its listeners in the next turn"
    await asyncio.sleep(0)
    assert peer.answers == [(None, 2)]
    peer.writer.data_received(NOTICE)
    assert peer.passed == [NOTICE, NOTICE]


async def test_an_error_is_one_of_asyncpg_and_of_its_group_alone() -> None:
    peer = Peer()
    error, _ = await peer.says(messages.error_response("ERROR", "23505", "canary") + READY)
    assert isinstance(error, asyncpg.UniqueViolationError)
    assert await peer.says(BOUND + inserted(2) + READY) == (None, 2)


@pytest.mark.parametrize("fatal", [False, True])
async def test_a_connection_that_is_lost_ends_its_group(fatal: bool) -> None:
    peer = Peer()
    peer.writer.write(BOUND_ROWS, 2)
    if fatal:
        peer.writer.data_received(messages.error_response("FATAL", "57P01", "canary"))
    peer.writer.connection_lost(None)
    ((error, _),) = peer.answers
    assert isinstance(error, asyncpg.AdminShutdownError if fatal else asyncpg.ConnectionDoesNotExistError)
    assert peer.lost == [None]


async def test_a_group_that_takes_too_long_is_cancelled_and_fails_once() -> None:
    peer = Peer()
    assert await peer.says(BOUND + inserted(2) + READY) == (None, 2)
    peer.writer.write(BOUND_ROWS, 2)
    async with asyncio.timeout(5):
        while not peer.answers:
            await asyncio.sleep(0.01)
    peer.writer.connection_lost(None)
    ((error, _),) = peer.answers
    assert isinstance(error, TimeoutError) and peer.cancelled == 1


async def test_a_connection_of_another_driver_has_no_writer() -> None:
    assert group_writer(SimpleNamespace(), "stored", 1.0, lambda error, rows: None) is None


def test_the_driver_that_is_installed_has_what_a_writer_takes() -> None:
    assert {"_transport", "_protocol"} <= set(asyncpg.Connection.__slots__)
    assert callable(asyncpg.Connection._cancel_current_command)
