"""Attempts: the verdict on a statement's text, the calls it is about to make, and its way to the backend once the log has them.

A message that is an attempt waits, and all behind it. Where it must not run, one takes its place that the backend itself
answers with an error, so that transaction, pipeline and Sync stay the backend's.
"""

from __future__ import annotations

import uuid

from secretproxy.detect import Call, ResolvedCall, Verdict
from secretproxy.detect.arguments import NO_VALUES, Values
from secretproxy.detect.string_literals import EITHER, ESCAPES, STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.connection import MOST_TEXTS
from secretproxy.session.encodings import encoded
from secretproxy.session.events import Event
from secretproxy.session.memory import Memory
from secretproxy.session.statements import Refusal, Running, Tally, resolve
from secretproxy.session.step import Held, Step
from secretproxy.session.weights import in_bytes, lightened, lightened_call, name_bytes, size, without_names
from secretproxy.wire import messages
from secretproxy.wire.types import FrontendMessage, SqlState

# The beginning of the name of a portal or a prepared statement that does not exist: whoever executes it gets an error of the
# backend. What follows is new each time, so that no client can have made one of that name. Together at most 63 bytes.
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


class Attempts(Memory):
    """A session that finds secret calls before they run."""

    def _verdict(self, text: bytes) -> Verdict | None:
        """The verdict, or None where it must be found elsewhere first."""
        detector = self.detector
        if not detector.may_concern(text, self._remembered):
            return HARMLESS
        supplied = self._supplied
        if supplied is not None and supplied[0] == text:
            self._supplied = None
            return supplied[1]
        strings = STANDARD
        if b"\\" in text:
            # Something under way may change the setting before the backend reads this.
            off = self.parameters.get("standard_conforming_strings") == "off"
            strings = EITHER if self._pending else ESCAPES if off else STANDARD
        known = detector.cached(text, self._codec, strings)
        if known is not None:
            return known
        if len(text) <= self._limits.parse_thread_bytes and detector.may_now(text):
            return detector.store(text, self._codec, detector.analyse(text, self._codec, strings), strings)
        self._client.unread()
        self._stepped().parse = (text, self._codec, strings)
        return None

    def parsed(self, text: bytes, verdict: Verdict) -> None:
        """Takes the verdict that a Step asked for."""
        self._supplied = (text, verdict)

    def _attempt(self, running: Running, calls: tuple[ResolvedCall, ...], values: Values, start: int, end: int) -> None:
        verdict = running.verdict
        attempts = list(calls)
        for execute in verdict.executes:
            made = self._sql_calls.get(execute.name)
            if made is None:
                prepared = self._statements.get(encoded(execute.name, self._codec))
                made = prepared.verdict if prepared is not None else None
            if made is not None:
                given = Values(arguments=execute.arguments, outer=values)
                attempts += resolve(made.calls, given if self._may_resolve(made.calls, given) else NO_VALUES)
        for cursor in verdict.fetches:
            attempts += self._cursors.get(cursor, ())
        for name, prepared_calls in verdict.prepares:
            made = Verdict(calls=lightened(prepared_calls))
            running.prepared.append((name, made, self._sql_calls.get(name)))
            self._sql_calls[name] = made
        for name, cursor_calls in verdict.cursors:
            self._cursors[name] = tuple(map(lightened_call, resolve(cursor_calls, values)))
        self._forget_named(verdict)
        if verdict.prepares or verdict.cursors or verdict.deallocates or verdict.closes:
            self._refresh_remembered()
        self._attempt_resolved(running, tuple(attempts), start, end)

    def _may_resolve(self, calls: tuple[Call, ...], values: Values) -> bool:
        """Whether it is in proportion to look for each call's owner and names in these values."""
        return len(calls) < 2 or len(calls) * size(values) <= self._limits.max_statement_memory

    def _weighed(self, attempts: tuple[ResolvedCall, ...]) -> list[ResolvedCall]:
        """The attempts with as many names as one statement may have in the log before it runs. What the rest was, testimony tells."""
        weight = 0
        kept: list[ResolvedCall] = []
        for call in attempts:
            weight += name_bytes(call)
            kept.append(call if weight <= MOST_TEXTS else without_names(call))
        return kept

    def _attempt_resolved(self, running: Running, attempts: tuple[ResolvedCall, ...], start: int, end: int) -> None:
        verdict = running.verdict
        if self._raw:
            attempts = tuple(map(in_bytes, attempts))
        if len(attempts) > 1:
            # The same call twice is one access, counted.
            attempts = tuple(dict.fromkeys(self._weighed(attempts)))
        running.attempts = attempts
        running.covered = {(call.function, call.owner, call.names): Tally() for call in attempts if call.exact}
        running.number = self._started + 1
        if not attempts and not verdict.concerns:
            self._push_statement(running)
            return
        events = self._stepped().commit
        for call in attempts:
            events.append(self._about(running, "attempt", call))
        for signature in verdict.definitions:
            event = self._event(running, "definition")
            event.function = signature
            events.append(event)
        for table in verdict.tables:
            event = self._event(running, "table")
            event.via = (table,)
            events.append(event)
        self._hold_from(start, end, running)
        self._push_statement(running)

    def _hold_from(self, start: int, end: int, running: Running) -> None:
        """The message is an attempt: it and everything behind it waits."""
        step = self._stepped()
        buffer = self._client.buffer
        self._let_on(buffer[self._kept_from : start])
        self._holding = True
        step.held.append(Held(buffer[start:end], running))
        self._kept_from = end

    def _refuse_here(self, refusal: Refusal) -> None:
        """The message is replaced by one that fails in the backend, at once; what is still to come of it is swallowed."""
        framer = self._client
        step = self._stepped()
        simple = framer.kind == FrontendMessage.QUERY
        running = Running("simple" if simple else "extended", HARMLESS)
        running.refused = refusal
        self._let_on(framer.buffer[self._kept_from : framer.start] + _failing(simple))
        self._kept_from = framer.cut
        if not framer.complete:
            self._swallow_client = framer.discard()
        self._push_statement(running)
        event = self._event(running, "refusal")
        event.outcome = "refused"
        event.sqlstate = refusal.sqlstate
        step.record.append(event)

    def refuse(self, step: Step, *, taken: bool) -> tuple[bytes, list[Event]]:
        """The log cannot commit a client's Step: what goes to the backend instead, and what the log shall hear of it later.

        `taken`: the journal has the attempts and will write them when it can; otherwise a refusal is all the log will know.
        """
        out: list[bytes] = []
        events: list[Event] = []
        for held in step.held:
            running = held.running
            if running is None:
                out.append(held.data)
                continue
            running.refused = _LOG_REFUSES
            # Should it run after all, nothing in the log covers it.
            running.covered = {}
            out.append(_failing(running.protocol == "simple"))
            if taken:
                continue
            for call in running.attempts:
                event = self._about(running, "refusal", call)
                event.outcome = "refused"
                event.sqlstate = SqlState.IO_ERROR
                events.append(event)
            if not running.attempts:
                event = self._event(running, "refusal")
                event.outcome = "refused"
                event.sqlstate = SqlState.IO_ERROR
                event.via = running.verdict.tables or None
                events.append(event)
        return b"".join(out), events


def _failing(simple: bool) -> bytes:
    """A message that the backend answers with an error: what it names does not exist."""
    name = f"{_REFUSED_NAME} {uuid.uuid4().hex[:20]}"
    return messages.query(f'EXECUTE "{name}"') if simple else messages.execute(name)
