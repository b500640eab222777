"""Events: what the log is told of a statement, of one of its calls and of how it ended.

The one layer that makes an Event. A statement's text becomes its fingerprint here and is let go; nothing else of it is kept.
"""

from __future__ import annotations

from secretproxy.detect import ResolvedCall
from secretproxy.session.connection import Connection
from secretproxy.session.events import Event, EventKind, Outcome
from secretproxy.session.statements import Running


class Outcomes(Connection):
    """A session that can say what happened."""

    def _event(self, running: Running, kind: EventKind) -> Event:
        if running.fingerprint is None:
            running.fingerprint = running.verdict.fingerprint
            if running.fingerprint is None and running.text is not None:
                running.fingerprint = self.detector.fingerprint_now(running.text, self._codec)
                running.text = None
        return Event(
            kind,
            self.identity,
            statement_no=running.number,
            protocol=running.protocol,
            fingerprint=running.fingerprint,
            timing=running.timing,
        )

    def _about(self, running: Running, kind: EventKind, call: ResolvedCall) -> Event:
        event = self._event(running, kind)
        event.function = call.function
        event.operation = call.operation
        event.owner_id = call.owner
        event.secret_names = call.names
        event.encoding = call.encoding
        event.via = call.via
        return event

    def _end(self, running: Running, outcome: Outcome) -> None:
        """The statement's outcome, if the log knows of the statement."""
        if not running.in_the_log:
            return
        if outcome == "error" and running.sqlstate == "57014":
            outcome = "cancelled"
        if running.refused is not None:
            outcome = "refused"
        elif outcome == "ok" and self.client_gone:
            # It ran, and nobody was told so.
            outcome = "lost"
        event = self._event(running, "outcome")
        event.outcome = outcome
        event.sqlstate = running.sqlstate
        event.calls = running.calls
        event.role = running.role
        event.accessed_by = running.accessed_by
        self._stepped().record.append(event)
