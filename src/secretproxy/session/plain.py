"""Chunks of the commonest form, each taken at once: one statement without secret calls, and its whole answer.

A client that waits for each answer sends a Query, or Bind, Execute and Sync with or without Parse and Describe, in one
chunk, and mostly gets the answer in one. Where such a chunk comes while nothing else is under way, nothing of it needs
a message by message look: it goes on as it came, and the pipeline has one entry for all of it. Every other chunk, and
whatever is not as expected in one of these, is left to the streams and the handlers, which find the pipeline as if
they had seen each message. What is taken here must leave the session as they would leave it. walk.py knows where a
message stands in a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.backend import Backend
from secretproxy.session.names import Names
from secretproxy.session.pipeline import Pipeline
from secretproxy.session.reads import Reads
from secretproxy.session.statements import BIND, DESCRIBE, PARSE, Portal, Prepared
from secretproxy.session.states import Phase, State
from secretproxy.session.stream import BackendStream, ClientStream, Sealing
from secretproxy.session.testimony import Token
from secretproxy.session.walk import (
    DESCRIBED,
    EXTENDED,
    MOST,
    NAME,
    NAME_BITS,
    NAME_SHIFT,
    PARSED,
    TEXT,
    TEXT_SHIFT,
    WALKS,
    length_at,
)
from secretproxy.wire.types import TransactionStatus

# Compiled, they are at hand.
_walk_client: Final[Callable[[bytes], int]] = WALKS[0]
_walk_backend: Final[Callable[[bytes, int], int]] = WALKS[1]

_QUERY: Final = 81
_IDLE: Final = 73
_READY: Final = Phase.READY
_HARMLESS: Final = HARMLESS

# What goes before an Execute. Boxed already: compiled, a tuple of numbers is no object by itself.
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
        reads: Reads,
    ) -> None:
        self._state: Final = state
        self._client: Final = client
        self._stream: Final = stream
        self._names: Final = names
        self._pipeline: Final = pipeline
        self._token: Final = token
        self._backend: Final = backend
        self._sealing: Final = sealing
        self._reads: Final = reads
        self._most: i64 = min(MOST, state.limits.max_message, state.limits.parse_thread_bytes)
        # What is to be answered, as walk.py says it.
        self._asked: i64 = 0

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
        if length_at(data, 0) != size - 1 or size == 6:
            return False
        text = data[5 : size - 1]
        if self._state.detector.may_concern(text, self._names.remembered):
            return self._reads.takes_query(text)
        self._asked = 0
        self._pipeline.enter_whole(text, ())
        return True

    def _takes_extended(self, data: bytes) -> bool:
        found: i64 = _walk_client(data)
        if found == 0:
            return False
        asked: i64 = found & (EXTENDED | PARSED | DESCRIBED)
        if asked & PARSED:
            return self._enters(data, data[TEXT : found >> TEXT_SHIFT], 0, asked)
        return self._enters(data, None, (found >> NAME_SHIFT) & NAME_BITS, asked)

    def _enters(self, data: bytes, text: bytes | None, name: i64, asked: i64) -> bool:
        """Enters a pipeline of the extended protocol, if what it parses, binds and replaces makes no secret calls, or
        if it is a read. `name`: the length of the statement's name."""
        names = self._names
        portal = names.portal(b"")
        if isinstance(portal, Portal):
            return False
        if text is not None:
            before = names.statement(b"")
            if before is not None and before.verdict is not _HARMLESS:
                return False
            if self._state.detector.may_concern(text, names.remembered):
                return False
            names.parse(b"", Prepared(_HARMLESS, text))
        statement = names.statement(data[NAME : NAME + name] if name else b"")
        if statement is None:
            return False
        if statement.verdict is not _HARMLESS:
            return text is None and self._reads.takes_bound(data, statement, name, asked)
        if portal is not statement:
            names.bind(b"", statement)
        ahead: tuple[int, ...] = _DESCRIBED if asked & DESCRIBED else _BOUND
        if text is not None:
            ahead = (PARSE, *ahead)
        self._asked = asked
        self._pipeline.enter_whole(statement, ahead)
        return True

    # --- the backend's ---

    def takes_backend(self, data: bytes) -> bool:
        """Takes a chunk of the backend's if it is the whole answer to what was entered here, and no error."""
        whole = self._pipeline.whole
        if whole is None or self._reads.read is not None:
            return False
        if self._state.phase is not _READY or not self._token.is_set:
            return False
        if not self._stream.framer.at_boundary:
            return False
        status = _walk_backend(data, self._asked)
        return status != 0 and self._answered(status)

    def _answered(self, status: int) -> bool:
        self._pipeline.answer_whole()
        if status == _IDLE:
            self._state.transaction_status = TransactionStatus.IDLE
            # Nothing was suspended when it was entered.
            self._names.end_transaction()
            self._token.end_transaction()
        else:
            self._state.transaction_status = TransactionStatus.IN_TRANSACTION
        return True
