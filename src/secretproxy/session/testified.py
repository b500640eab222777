"""Testimony in the backend's stream: taken out, checked, and matched to the attempt that covers it, or the stream waits for the log.

How it is made and checked stands in testimony.py. One that is not this backend's own, or is played again, is a forgery.
"""

from __future__ import annotations

from secretproxy.detect.functions import operation_of
from secretproxy.session import testimony
from secretproxy.session.encodings import decoded
from secretproxy.session.events import Event, EventKind
from secretproxy.session.greeting import Greeting
from secretproxy.session.statements import Running
from secretproxy.session.states import Phase
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolation
from secretproxy.wire.types import ErrorField, SqlState


class Testified(Greeting):
    """A session that hears what the functions say."""

    def backend_notice(self) -> None:
        framer = self._backend
        buffer, start = framer.buffer, framer.start
        end = min(framer.end, len(buffer))
        if framer.complete and buffer.find(b"CSPX01\0", start, end) < 0:
            return
        found = messages.fields(buffer, start, end)
        if found.get(ErrorField.SQLSTATE) != testimony.SQLSTATE:
            return
        said, context = found.get(ErrorField.MESSAGE), found.get(ErrorField.CONTEXT)
        if not framer.complete:
            # Severity, SQLSTATE and message stand first, in this order, and what follows them may be as long as the client likes.
            kind, cut = messages.begun(buffer, start, end)
            if kind == ErrorField.MESSAGE and testimony.may_be(cut):
                if end - start >= testimony.MOST:
                    self._undecided()
                else:
                    framer.demand(min(4 * (end - start), testimony.MOST))
                return
            if (
                testimony.may_be_direct(cut)
                if kind == ErrorField.MESSAGE
                else said is not None and said.startswith(testimony.DIRECT)
            ):
                # Its line stands behind the CONTEXT: it is read whole, or the session ends.
                if framer.end - start > testimony.MOST:
                    self._undecided()
                else:
                    framer.demand()
                return
            if said is not None and end - start < testimony.HEAD and testimony.may_be(said):
                framer.demand(testimony.HEAD)
                return
            if kind == ErrorField.CONTEXT:
                context = cut
        self._drop()
        told = self._keys.read(testimony.line(said or b"", found.get(ErrorField.CONSTRAINT_NAME, b"")))
        running = self._under_way()
        if told is None or not self._is_ours(told):
            if told is not None and self.pooled and (told.pid, told.start) != (self.backend_pid, self.backend_start):
                # Of another process behind a pooler: a call all the same, and no session that could be vouched for.
                running.calls += 1
                running.uncovered.add(told.function)
                self._await(self._told(running, "call", told))
                self.refuse_pooler()
                return
            self._forged(running, told)
            return
        self._last_clock = told.clock
        self._testifies = True
        running.calls += 1
        tally = running.covered.get((told.function, told.owner, told.names))
        if tally is not None and tally.takes(told.role, told.jwt_user):
            return
        running.uncovered.add(told.function)
        running.role = told.role
        running.accessed_by = told.jwt_user
        event = self._told(running, "call", told)
        if not any(call.function == told.function for call in running.attempts):
            self._stepped().surprised = True
        if context is not None:
            event.via = testimony.call_path(decoded(context[: testimony.MOST_CONTEXT], self._codec))
        self._await(event)

    def _undecided(self) -> None:
        """What may be a testimony and does not end where the longest one does: nothing behind it goes on, and the session ends."""
        self._drop()
        self._forged(self._under_way(), None)
        self.phase = Phase.CLOSED
        self._stepped().violation = ProtocolViolation(
            "a testimony of a secret function is too long to be checked: the session ends before its answer goes on",
            SqlState.IO_ERROR,
        )

    def _told(self, running: Running, kind: EventKind, told: testimony.Testimony) -> Event:
        event = self._event(running, kind)
        event.function = told.function
        event.operation = operation_of(told.function)
        event.owner_id = told.owner
        event.secret_names = told.names
        event.encoding = told.encoding if told.encoding in ("pgp", "crypt", "none") else None
        event.role = told.role
        event.accessed_by = told.jwt_user
        return event

    def _forged(self, running: Running, told: testimony.Testimony | None) -> None:
        """A message that is no testimony of this backend's: one event for all that a chunk holds of the same, counted in `calls`.

        What a genuine one says that was played again, or that a clock set back makes look so, is kept.
        """
        key = (running.number, None if told is None else (told.function, told.owner, told.names))
        event = self._forgeries.get(key)
        if event is None:
            event = self._event(running, "forgery") if told is None else self._told(running, "forgery", told)
            event.calls = 0
            self._forgeries[key] = event
            self._await(event)
        event.calls = (event.calls or 0) + 1

    def _is_ours(self, told: testimony.Testimony) -> bool:
        """Made by this backend process, since it started, and not played again."""
        if told.pid != self.backend_pid:
            return False
        if self.backend_start is None:
            self.backend_start = told.start
        return told.start == self.backend_start and told.clock > self._last_clock

    def _await(self, event: Event) -> None:
        """Nothing behind this message reaches the client before the event is in the log."""
        self._holding = True
        self._stepped().commit.append(event)
