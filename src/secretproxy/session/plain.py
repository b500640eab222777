"""Chunks of the commonest form, each taken at once: one statement without secret calls, and its whole answer.

A client that waits for each answer sends a Query, or Bind, Execute and Sync with or without Parse and Describe, in one
chunk, and mostly gets the answer in one. Where such a chunk comes while nothing else is under way, nothing of it needs
a message by message look: it goes on as it came, and the pipeline has one entry for all of it. Every other chunk, and
whatever is not as expected in one of these, is left to the streams and the handlers, which find the pipeline as if
they had seen each message. What is taken here must leave the session as they would leave it.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.backend import Backend
from secretproxy.session.names import Names
from secretproxy.session.pipeline import Pipeline
from secretproxy.session.statements import BIND, DESCRIBE, PARSE, Portal, Prepared
from secretproxy.session.states import Phase, State
from secretproxy.session.stream import BackendStream, ClientStream, Sealing
from secretproxy.session.testimony import Token
from secretproxy.wire.types import TransactionStatus

# Bytes of a chunk of the client's: a longer one is not worth it. No name that is looked for here is cut.
_MOST: Final = 8192
_MOST_NAME: Final = 63

# Types of messages, as numbers that are known when this is compiled.
_PARSE: Final = 80
_BIND: Final = 66
_DESCRIBE: Final = 68
_EXECUTE: Final = 69
_SYNC: Final = 83
_QUERY: Final = 81
_PORTAL: Final = 80
_PARSE_COMPLETE: Final = 49
_BIND_COMPLETE: Final = 50
_ROW_DESCRIPTION: Final = 84
_NO_DATA: Final = 110
_DATA_ROW: Final = 68
_COMMAND_COMPLETE: Final = 67
_READY_FOR_QUERY: Final = 90
# How the tags begin that mean nothing to a session: BEGIN, COMMIT, DELETE, INSERT, SELECT, UPDATE.
_SELECT: Final = 0x53454C
_TAGS: Final = frozenset({0x424547, 0x434F4D, 0x44454C, 0x494E53, _SELECT, 0x555044})

_READY: Final = Phase.READY
_HARMLESS: Final = HARMLESS
_IDLE: Final = 73
_IN_TRANSACTION: Final = 84

# Boxed already: compiled, a tuple of numbers is no object by itself.
_BOUND: Final[tuple[int, ...]] = (BIND,)
_DESCRIBED: Final[tuple[int, ...]] = (BIND, DESCRIBE)


class Plain:
    """Takes whole chunks where nothing else is under way."""

    def __init__(
        self,
        state: State,
        client: ClientStream,
        stream: BackendStream,
        names: Names,
        pipeline: Pipeline,
        token: Token,
        backend: Backend,
        sealing: Sealing,
    ) -> None:
        self._state: Final = state
        self._client: Final = client
        self._stream: Final = stream
        self._names: Final = names
        self._pipeline: Final = pipeline
        self._token: Final = token
        self._backend: Final = backend
        self._sealing: Final = sealing
        self._most: i64 = min(_MOST, state.limits.max_message, state.limits.parse_thread_bytes)
        # What the answer begins with.
        self._parsed = False
        self._described = False

    # --- the client's ---

    def takes_client(self, data: bytes) -> bool:
        """Takes a chunk of the client's if it is a pipeline of one statement without secret calls."""
        size: i64 = len(data)
        if size < 6 or size > self._most or not self._is_free():
            return False
        if data[0] == _QUERY:
            return self._takes_query(data)
        return self._takes_extended(data)

    def _is_free(self) -> bool:
        state = self._state
        if state.phase is not _READY or not self._pipeline.takes_whole or self._sealing.running is not None:
            return False
        return self._client.at_rest and self._names.settled and not self._backend.defined

    def _takes_query(self, data: bytes) -> bool:
        size: i64 = len(data)
        if _length(data, 0) != size - 1 or size == 6:
            return False
        text = data[5 : size - 1]
        if self._state.detector.may_concern(text, self._names.remembered):
            return False
        self._parsed = self._described = False
        self._pipeline.enter_whole(text, ())
        return True

    def _takes_extended(self, data: bytes) -> bool:
        size: i64 = len(data)
        start: i64 = 0
        text_end: i64 = 0
        parsed = data[0] == _PARSE
        if parsed:
            # Of an unnamed statement.
            start = 1 + _length(data, 0)
            if start < 8 or start > size or data[5] != 0:
                return False
            text_end = data.find(b"\0", 6, start)
            if text_end < 0:
                return False
        if size - start < 25 or data[start] != _BIND or data[start + 5] != 0:
            # Of the unnamed portal.
            return False
        pos: i64 = start + 6
        most: i64 = pos + _MOST_NAME + 1
        end: i64 = start + 1 + _length(data, start)
        if end < pos or end > size:
            return False
        while data[pos] != 0:
            pos += 1
            if pos >= end or pos >= most:
                return False
        name = data[start + 6 : pos]
        described = _stands(data, end, _DESCRIBE, 6) and data[end + 5] == _PORTAL and data[end + 6] == 0
        if described:
            end += 7
        if not _stands(data, end, _EXECUTE, 9) or data[end + 5] != 0:
            return False
        end += 10
        if not _stands(data, end, _SYNC, 4) or end + 5 != size:
            return False
        return self._enters(data[6:text_end] if parsed else None, name, described=described)

    def _enters(self, text: bytes | None, name: bytes, *, described: bool) -> bool:
        """Enters a pipeline of the extended protocol, if what it parses, binds and replaces makes no secret calls."""
        names = self._names
        portal = names.portal(b"")
        if isinstance(portal, Portal):
            return False
        parsed = text is not None
        if text is not None:
            before = names.statement(b"")
            if (before is not None and before.verdict is not _HARMLESS) or name:
                return False
            if self._state.detector.may_concern(text, names.remembered):
                return False
            names.parse(b"", Prepared(_HARMLESS, text))
        statement = names.statement(name)
        if statement is None or statement.verdict is not _HARMLESS:
            return False
        if portal is not statement:
            names.bind(b"", statement)
        ahead: tuple[int, ...] = _DESCRIBED if described else _BOUND
        if parsed:
            ahead = (PARSE, *ahead)
        self._parsed, self._described = parsed, described
        self._pipeline.enter_whole(statement, ahead)
        return True

    # --- the backend's ---

    def takes_backend(self, data: bytes) -> bool:
        """Takes a chunk of the backend's if it is the whole answer to what was entered here, and no error."""
        whole = self._pipeline.whole
        if whole is None or self._state.phase is not _READY or not self._token.is_set:
            return False
        if not self._stream.framer.at_boundary:
            return False
        size: i64 = len(data)
        pos: i64 = 0
        if isinstance(whole, Prepared):
            if self._parsed:
                if not _stands(data, pos, _PARSE_COMPLETE, 4):
                    return False
                pos += 5
            if not _stands(data, pos, _BIND_COMPLETE, 4):
                return False
            pos += 5
            if self._described:
                if size - pos < 5 or (data[pos] != _ROW_DESCRIPTION and data[pos] != _NO_DATA):
                    return False
                pos = _behind(data, pos)
        elif size > 5 and data[0] == _ROW_DESCRIPTION:
            pos = _behind(data, 0)
        while size - pos >= 5 and data[pos] == _DATA_ROW:
            pos = _behind(data, pos)
        if size - pos < 14 or data[pos] != _COMMAND_COMPLETE or size - 6 != pos + 1 + _length(data, pos):
            return False
        tag: i64 = (data[pos + 5] << 16) | (data[pos + 6] << 8) | data[pos + 7]
        if tag != _SELECT and tag not in _TAGS:
            return False
        return _stands(data, size - 6, _READY_FOR_QUERY, 5) and self._answered(data[size - 1])

    def _answered(self, status: int) -> bool:
        if status == _IDLE:
            self._pipeline.answer_whole()
            self._state.transaction_status = TransactionStatus.IDLE
            # Nothing was suspended when it was entered.
            self._names.end_transaction()
            self._token.end_transaction()
            return True
        if status == _IN_TRANSACTION:
            self._pipeline.answer_whole()
            self._state.transaction_status = TransactionStatus.IN_TRANSACTION
            return True
        return False


def _length(data: bytes, pos: i64) -> i64:
    """Reads the length of the message at `pos`, of which at least five bytes are there."""
    return (data[pos + 1] << 24) | (data[pos + 2] << 16) | (data[pos + 3] << 8) | data[pos + 4]


def _behind(data: bytes, pos: i64) -> i64:
    """Gives the position behind the message at `pos`, or behind all of the data if it has no such length."""
    length: i64 = _length(data, pos)
    return pos + 1 + length if length >= 4 else len(data)


def _stands(data: bytes, pos: i64, kind: i64, length: i64) -> bool:
    """Tells whether a whole message of this type and length is at `pos`."""
    return len(data) - pos > length and data[pos] == kind and _length(data, pos) == length
