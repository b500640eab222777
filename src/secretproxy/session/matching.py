"""Testimony in the backend's stream: taken out, checked, and matched to the attempt that covers it, or the stream
waits for the log.

How it is made and checked stands in testimony.py. One that is not this backend's own, or is played again, is a forgery.
"""

from __future__ import annotations

from typing import Final

from secretproxy.detect.functions import operation_of
from secretproxy.session import testimony
from secretproxy.session.encodings import decoded
from secretproxy.session.events import Event, EventKind
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.statements import CallKey, Running
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Output
from secretproxy.session.stream import BackendStream, Framer
from secretproxy.session.token import Token
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.types import ErrorField, SqlState

# The SQLSTATE field of a testimony.
_MARK: Final = bytes((ErrorField.SQLSTATE,)) + testimony.SQLSTATE + b"\0"


class Matching:
    """Hears what the functions say."""

    def __init__(
        self, state: State, output: Output, stream: BackendStream, outcomes: Outcomes, pipeline: Pipeline, token: Token
    ) -> None:
        self._state: Final = state
        self._output: Final = output
        self._stream: Final = stream
        self._outcomes: Final = outcomes
        self._pipeline: Final = pipeline
        self._token: Final = token
        # What the last testimony said of its time: a later one says more.
        self._last_clock = 0
        # Events of forgeries in the chunk under way.
        self._forgeries: dict[tuple[int, CallKey | None], Event] = {}

    @property
    def forgeries(self) -> int:
        """Counts the events that the forgeries of the current chunk have made."""
        return len(self._forgeries)

    def begin(self) -> None:
        """Starts on a chunk."""
        if self._forgeries:
            self._forgeries = {}

    def notice(self, message: Framer) -> None:
        buffer, start = message.buffer, message.start
        end = min(message.end, len(buffer))
        if message.complete and buffer.find(_MARK, start, end) < 0:
            return
        found = messages.fields(buffer, start, end)
        if found.get(ErrorField.SQLSTATE) != testimony.SQLSTATE:
            return
        said, context = found.get(ErrorField.MESSAGE), found.get(ErrorField.CONTEXT)
        if not message.complete:
            kind, cut = messages.begun(buffer, start, end)
            if self._wanted(message, said, kind, cut):
                return
            if kind == ErrorField.CONTEXT:
                context = cut
        self._stream.drop()
        told = self._token.keys.read(testimony.line(said or b"", found.get(ErrorField.CONSTRAINT_NAME, b"")))
        running = self._pipeline.under_way()
        if told is None or not self._is_ours(told):
            self._not_ours(running, told)
        else:
            self._match(running, told, context)

    def _wanted(self, message: Framer, said: bytes | None, kind: int, cut: bytes) -> bool:
        """Decides on a notice of which only the beginning is there: False where that is enough to take it.

        Severity, SQLSTATE and message stand first, in this order, and what follows them may be as long as the
        client likes. `kind` and `cut` are the field that is cut off.
        """
        size = min(message.end, len(message.buffer)) - message.start
        if kind == ErrorField.MESSAGE and testimony.may_be(cut):
            if size >= testimony.MOST:
                self._undecided()
            else:
                message.demand(min(4 * size, testimony.MOST))
            return True
        if (
            testimony.may_be_direct(cut)
            if kind == ErrorField.MESSAGE
            else said is not None and said.startswith(testimony.DIRECT)
        ):
            # Its line comes after the CONTEXT: it is read whole, or the session ends.
            if message.end - message.start > testimony.MOST:
                self._undecided()
            else:
                message.demand()
            return True
        if said is not None and size < testimony.HEAD and testimony.may_be(said):
            message.demand(testimony.HEAD)
            return True
        return False

    def _undecided(self) -> None:
        """Ends the session where a notice may be a testimony and does not end where the longest one does: nothing
        behind it goes on."""
        self._stream.drop()
        self._forged(self._pipeline.under_way(), None)
        self._state.enter(Phase.CLOSED)
        self._output.made().violation = ProtocolViolationError(
            "a testimony of a secret function is too long to be checked: the session ends before its answer goes on",
            SqlState.IO_ERROR,
        )

    def _match(self, running: Running, told: testimony.Testimony, context: bytes | None) -> None:
        """Counts a call for the attempt that covers it; where none does, nothing more reaches the client until the
        log has the call."""
        self._last_clock = told.clock
        self._state.testifies = True
        running.calls += 1
        tally = running.covered.get((told.function, told.owner, told.names))
        if tally is not None and tally.takes(told.role, told.jwt_user):
            self._stream.expect()
            return
        running.uncovered.add(told.function)
        running.role = told.role
        running.accessed_by = told.jwt_user
        event = self._told(running, "call", told)
        if not any(call.function == told.function for call in running.attempts):
            self._output.made().unannounced = True
        if context is not None:
            event.via = testimony.call_path(decoded(context[: testimony.MOST_CONTEXT], self._state.codec))
        self._await(event)

    def _not_ours(self, running: Running, told: testimony.Testimony | None) -> None:
        token = self._token
        if told is not None and token.is_of_another(told.pid, told.start):
            # Of another process behind a pooler: a call all the same, and no session that could be vouched for.
            running.calls += 1
            running.uncovered.add(told.function)
            self._await(self._told(running, "call", told))
            token.refuse_pooler()
            return
        self._forged(running, told)

    def _told(self, running: Running, kind: EventKind, told: testimony.Testimony) -> Event:
        event = self._outcomes.event(running, kind)
        event.function = told.function
        event.operation = operation_of(told.function)
        event.owner_id = told.owner
        event.secret_names = told.names
        event.encoding = told.encoding if told.encoding in ("pgp", "crypt", "none") else None
        event.role = told.role
        event.accessed_by = told.jwt_user
        return event

    def _forged(self, running: Running, told: testimony.Testimony | None) -> None:
        """Takes a message that is no testimony of this backend's: one event for all that a chunk holds of the same,
        counted in `calls`.

        What a genuine one says that was played again, or that a clock set back makes look so, is kept.
        """
        key = (running.number, None if told is None else (told.function, told.owner, told.names))
        event = self._forgeries.get(key)
        if event is None:
            event = self._outcomes.event(running, "forgery") if told is None else self._told(running, "forgery", told)
            event.calls = 0
            self._forgeries[key] = event
            self._await(event)
        event.calls = (event.calls or 0) + 1

    def _is_ours(self, told: testimony.Testimony) -> bool:
        """Tells whether it was made by this backend process, since that started, and not played again."""
        return self._token.is_of(told.pid, told.start) and told.clock > self._last_clock

    def _await(self, event: Event) -> None:
        """Lets nothing behind this message reach the client before the event is in the log."""
        self._stream.hold()
        self._output.made().commit.append(event)
