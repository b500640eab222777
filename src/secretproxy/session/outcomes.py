"""Makes the events of a statement, of its calls and of its end, for the log.

Nothing else makes an Event. A statement's text becomes its fingerprint here and is let go; nothing else of it is kept.
"""

from __future__ import annotations

import uuid
from typing import Final

from secretproxy.detect import ResolvedCall
from secretproxy.detect.functions import NAMES
from secretproxy.session.events import Event, EventKind, Outcome
from secretproxy.session.statements import Running
from secretproxy.session.states import State
from secretproxy.session.step import Output
from secretproxy.wire.types import SqlState

# How many calls, and the role and the jwt user that made them.
Done = tuple[int | None, str | None, uuid.UUID | None]


def testifies(function: str, silent: frozenset[str]) -> bool:
    """Tells whether a function is one of those that tell of each call, once the backend half is installed and no other
    body in their place."""
    schema, _, name = function.partition("(")[0].rpartition(".")
    return schema == "encrypted_secrets" and name in NAMES and name not in silent


class Outcomes:
    """Says what happened."""

    def __init__(self, state: State, output: Output) -> None:
        self._state: Final = state
        self._output: Final = output

    def event(self, running: Running, kind: EventKind) -> Event:
        """Makes an event of a statement; the first one of it works out its fingerprint."""
        if running.fingerprint is None:
            running.fingerprint = running.verdict.fingerprint
            if running.fingerprint is None and running.text is not None:
                running.fingerprint = self._state.detector.fingerprint_now(running.text, self._state.codec)
                running.text = None
        return Event(
            kind,
            self._state.identity,
            statement_no=running.number,
            protocol=running.protocol,
            fingerprint=running.fingerprint,
            timing=running.timing,
        )

    def about(self, running: Running, kind: EventKind, call: ResolvedCall) -> Event:
        """Makes an event of one call of a statement, as the text shows it."""
        event = self.event(running, kind)
        event.function = call.function
        event.operation = call.operation
        event.owner_id = call.owner
        event.secret_names = call.names
        event.encoding = call.encoding
        event.via = call.via
        return event

    def end(self, running: Running, outcome: Outcome) -> None:
        """Records the statement's outcome, if the log knows of the statement."""
        if not running.in_the_log:
            return
        if outcome == "error" and running.sqlstate == SqlState.QUERY_CANCELED:
            outcome = "cancelled"
        if running.refused is not None:
            outcome = "refused"
        elif outcome == "ok" and self._state.client_gone:
            # It ran, and nobody was told so.
            outcome = "lost"
        record = self._output.made().record
        attempts = running.attempts
        if not attempts or running.refused is not None:
            record.append(self._outcome(running, outcome, running.calls, running.role, running.accessed_by))
            return
        if len(attempts) == 1:
            calls, role, accessed_by = self._done(running, attempts[0])
            record.append(self._outcome(running, outcome, calls, role, accessed_by))
            return
        done = {(call.function, call.owner, call.names): self._done(running, call) for call in attempts}
        if len(set(done.values())) == 1:
            # One speaks for each.
            calls, role, accessed_by = next(iter(done.values()))
            record.append(self._outcome(running, outcome, calls, role, accessed_by))
            return
        for (function, owner, names), (calls, role, accessed_by) in done.items():
            event = self._outcome(running, outcome, calls, role, accessed_by)
            event.function = function
            event.owner_id = owner
            event.secret_names = names
            record.append(event)

    def _outcome(
        self, running: Running, outcome: Outcome, calls: int | None, role: str | None, accessed_by: uuid.UUID | None
    ) -> Event:
        event = self.event(running, "outcome")
        event.outcome = outcome
        event.sqlstate = running.sqlstate
        event.calls = calls
        event.role = role
        event.accessed_by = accessed_by
        return event

    def _done(self, running: Running, call: ResolvedCall) -> Done:
        """Tells what the backend testified to of an attempt: how often it ran (None: nobody can tell), as which
        role and jwt user."""
        tally = running.covered.get((call.function, call.owner, call.names))
        if tally is not None and tally.calls:
            return tally.calls, tally.role, tally.accessed_by
        if not self._state.testifies or not testifies(call.function, self._state.silent):
            return None, None, None
        if tally is None:
            # Which of the calls of its function was this one?
            name = call.function.partition("(")[0]
            heard = any(function.partition("(")[0] == name for function in running.uncovered)
            if heard or any(key[0].partition("(")[0] == name and tally.calls for key, tally in running.covered.items()):
                return None, None, None
        return 0, None, None
