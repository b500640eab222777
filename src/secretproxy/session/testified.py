"""Testimony in the backend's stream: taken out, checked, and matched to the attempt that covers it, or the stream waits for the log.

How it is made and checked stands in testimony.py. One that is not this backend's own, or is played again, is a forgery.
"""

from __future__ import annotations

from secretproxy.detect.functions import operation_of
from secretproxy.session import testimony
from secretproxy.session.events import Event, EventKind
from secretproxy.session.greeting import Greeting
from secretproxy.session.statements import Running
from secretproxy.wire import framing, messages


class Testified(Greeting):
    """A session that hears what the functions say."""

    def backend_notice(self) -> None:
        framer = self._backend
        if not framer.complete:
            head = framer.buffer[framer.start : framer.start + framing.HEAD]
            if messages.field(head, 0, len(head), 0x43) == testimony.SQLSTATE:
                if framer.end - framer.start <= self._limits.max_statement_memory:
                    framer.demand()
                    return
                # No function says so much: it need not be kept to be checked.
                self._drop()
                self._forged(self._under_way(), None)
            return
        if framer.buffer.find(b"CSPX01\0", framer.start, framer.end) < 0:
            return
        found = messages.fields(framer.buffer, framer.start, framer.end)
        if found.get(0x43) != testimony.SQLSTATE:
            return
        self._drop()
        told = self._keys.read(found.get(0x4D, b""))
        running = self._under_way()
        if told is None or not self._is_ours(told):
            self._forged(running, told)
            return
        self._last_clock = told.clock
        running.calls += 1
        running.role = told.role
        running.accessed_by = told.jwt_user
        if (told.function, told.owner, told.names) in running.covered:
            return
        event = self._told(running, "call", told)
        if not any(call.function == told.function for call in running.attempts):
            self._stepped().surprised = True
        context = found.get(0x57)
        if context is not None:
            event.via = testimony.call_path(context[: testimony.MOST_CONTEXT].decode(self._codec, "replace"))
        self._await(event)

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
