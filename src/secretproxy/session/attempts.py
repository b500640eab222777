"""Attempts: the verdict on a statement's text, the calls it is about to make, and its way to the backend once the log
has them.

A message that is an attempt waits, and all behind it. Where it must not run, one takes its place that the backend
itself answers with an error, so that transaction, pipeline and Sync stay the backend's.
"""

from __future__ import annotations

import uuid
from typing import Final

from secretproxy.detect import Call, ResolvedCall, Verdict
from secretproxy.detect.arguments import NO_VALUES, Values
from secretproxy.detect.string_literals import EITHER, ESCAPES, STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.events import Event
from secretproxy.session.names import MOST_TEXTS, Names
from secretproxy.session.outcomes import Outcomes
from secretproxy.session.pipeline import Pipeline
from secretproxy.session.statements import Refusal, Running, Tally, resolve
from secretproxy.session.states import State
from secretproxy.session.step import Output, Step
from secretproxy.session.stream import ClientStream
from secretproxy.session.weights import in_bytes, name_bytes, size, without_names
from secretproxy.wire import messages
from secretproxy.wire.types import FrontendMessage, SqlState

# The beginning of the name of a portal or a prepared statement that does not exist: whoever executes it gets an error
# of the backend. What follows is new each time, so that no client can have made one of that name. Together at most 63
# bytes.
_REFUSED_NAME = "secretproxy refuses this secret call"
_REFUSED = "call of a secret function refused: the access log cannot be written"
_REFUSED_HINT = "Other statements go on. See audit.dsn and audit.on_outage of secretproxy, and its log for the cause."
_LOG_REFUSES = Refusal(SqlState.IO_ERROR, _REFUSED, _REFUSED_HINT)
TOO_LONG = Refusal(
    SqlState.PROGRAM_LIMIT_EXCEEDED,
    "statement refused: it is too long to be looked into for calls of secret functions (limits.max_statement_memory)",
    "See limits.large_statements of secretproxy.",
)
TOO_MANY = Refusal(
    SqlState.PROGRAM_LIMIT_EXCEEDED,
    "too many prepared statements, portals or cursors with calls of secret functions (limits.max_prepared)",
    "Close or DEALLOCATE those that are done with.",
)


class Attempts:
    """Finds secret calls before they run."""

    def __init__(
        self, state: State, output: Output, stream: ClientStream, names: Names, pipeline: Pipeline, outcomes: Outcomes
    ) -> None:
        self._state: Final = state
        self._output: Final = output
        self._stream: Final = stream
        self._names: Final = names
        self._pipeline: Final = pipeline
        self._outcomes: Final = outcomes
        # A text and its verdict, found elsewhere for the message that comes next.
        self._supplied: tuple[bytes, Verdict] | None = None

    # --- verdicts ---

    def verdict(self, text: bytes) -> Verdict | None:
        """Gives the verdict on the text of the message just reported, or None if it must be found elsewhere
        first."""
        state = self._state
        detector = state.detector
        if not detector.may_concern(text, self._names.remembered):
            return HARMLESS
        supplied = self._supplied
        if supplied is not None and supplied[0] == text:
            self._supplied = None
            return supplied[1]
        strings = STANDARD
        if b"\\" in text:
            # Something under way may change the setting before the backend reads this.
            off = state.parameters.get("standard_conforming_strings") == "off"
            strings = EITHER if self._pipeline.due else ESCAPES if off else STANDARD
        known = detector.cached(text, state.codec, strings)
        if known is not None:
            return known
        if len(text) <= state.limits.parse_thread_bytes and detector.may_now(text):
            return detector.store(text, state.codec, detector.analyse(text, state.codec, strings), strings)
        self._stream.framer.unread()
        self._output.made().parse = (text, state.codec, strings)
        return None

    def supply(self, text: bytes, verdict: Verdict) -> None:
        """Takes a verdict that was found elsewhere."""
        self._supplied = (text, verdict)

    # --- attempts ---

    def attempt(self, running: Running, calls: tuple[ResolvedCall, ...], values: Values, start: int, end: int) -> None:
        """Takes a statement with these calls and those that SQL's own names in it lead to."""
        verdict, names = running.verdict, self._names
        attempts = list(calls)
        for execute in verdict.executes:
            made = names.executed(execute.name)
            if made is not None:
                given = Values(arguments=execute.arguments, outer=values)
                attempts += resolve(made.calls, given if self.may_resolve(made.calls, given) else NO_VALUES)
        for cursor in verdict.fetches:
            attempts += names.cursors.get(cursor, ())
        names.enter_sql(running, values)
        self.attempt_resolved(running, tuple(attempts), start, end)

    def may_resolve(self, calls: tuple[Call, ...], values: Values) -> bool:
        """Tells whether it is in proportion to look for each call's owner and names in these values."""
        return len(calls) < 2 or len(calls) * size(values) <= self._state.limits.max_statement_memory

    def attempt_resolved(self, running: Running, attempts: tuple[ResolvedCall, ...], start: int, end: int) -> None:
        """Takes a statement that makes these calls: its message waits until the log has them."""
        verdict, outcomes = running.verdict, self._outcomes
        if self._state.raw:
            attempts = tuple(map(in_bytes, attempts))
        if len(attempts) > 1:
            # The same call twice is one access, counted.
            attempts = tuple(dict.fromkeys(_weighed(attempts)))
        running.attempts = attempts
        running.covered = {(call.function, call.owner, call.names): Tally() for call in attempts if call.exact}
        running.number = self._pipeline.started + 1
        if not attempts and not verdict.concerns:
            self._pipeline.push_statement(running)
            return
        events = self._output.made().commit
        for call in attempts:
            events.append(outcomes.about(running, "attempt", call))
        for signature in verdict.definitions:
            event = outcomes.event(running, "definition")
            event.function = signature
            events.append(event)
        for table in verdict.tables:
            event = outcomes.event(running, "table")
            event.via = (table,)
            events.append(event)
        running.waits = True
        self._stream.hold(start, end, running)
        self._pipeline.push_statement(running)

    # --- refusals ---

    def refuse_here(self, refusal: Refusal) -> None:
        """Replaces the message just reported by one that fails in the backend; what is still to come of it is
        swallowed."""
        step = self._output.made()
        simple = self._stream.framer.kind == FrontendMessage.QUERY
        running = Running("simple" if simple else "extended", HARMLESS)
        running.refused = refusal
        self._stream.replace(_failing(simple))
        self._pipeline.push_statement(running)
        step.record.append(self._refused(running, refusal.sqlstate))

    def refuse(self, step: Step, *, taken: bool) -> tuple[bytes, list[Event]]:
        """Refuses what of a client's Step waits for a log that cannot commit it: what goes to the backend instead,
        and what the log shall hear of it later.

        `taken`: the journal has the attempts and will write them when it can; otherwise a refusal is all the log
        will know.
        """
        out: list[bytes] = []
        events: list[Event] = []
        for held in step.held:
            running = held.running
            if running is None:
                out.append(held.data)
                continue
            running.waits = False
            running.refused = _LOG_REFUSES
            # Should it run after all, nothing in the log covers it.
            running.covered = {}
            out.append(_failing(running.protocol == "simple"))
            if taken:
                continue
            for call in running.attempts:
                event = self._outcomes.about(running, "refusal", call)
                event.outcome = "refused"
                event.sqlstate = SqlState.IO_ERROR
                events.append(event)
            if not running.attempts:
                event = self._refused(running, SqlState.IO_ERROR)
                event.via = running.verdict.tables or None
                events.append(event)
        return b"".join(out), events

    def _refused(self, running: Running, sqlstate: str) -> Event:
        event = self._outcomes.event(running, "refusal")
        event.outcome = "refused"
        event.sqlstate = sqlstate
        return event


def _weighed(attempts: tuple[ResolvedCall, ...]) -> list[ResolvedCall]:
    """Gives the attempts with as many names as one statement may have in the log before it runs. What the rest
    was, testimony tells."""
    weight = 0
    kept: list[ResolvedCall] = []
    for call in attempts:
        weight += name_bytes(call)
        kept.append(call if weight <= MOST_TEXTS else without_names(call))
    return kept


def _failing(simple: bool) -> bytes:
    """Makes a message that the backend answers with an error: what it names does not exist."""
    name = f"{_REFUSED_NAME} {uuid.uuid4().hex[:20]}"
    return messages.query(f'EXECUTE "{name}"') if simple else messages.execute(name)
