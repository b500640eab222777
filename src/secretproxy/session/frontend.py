"""The client's half: what each of its messages means, one method a message, and what becomes of a secret call.

A handler gets the framer as the span of the message just reported. What it finds is an attempt, an entry of the
pipeline, or a name. A message that is an attempt waits for the log, and all behind it. Where it must not run, one takes
its place that the backend itself answers with an error, so that transaction, pipeline and Sync stay the backend's.
"""

from __future__ import annotations

import uuid
from typing import Final

from secretproxy.detect import Call, ResolvedCall, Verdict
from secretproxy.detect.arguments import NO_VALUES, Values
from secretproxy.detect.string_literals import EITHER, ESCAPES, STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.encodings import decoded
from secretproxy.session.events import Event
from secretproxy.session.names import MOST_TEXTS, Names
from secretproxy.session.pipeline import Outcomes, Pipeline
from secretproxy.session.statements import (
    BIND,
    CLOSE,
    DESCRIBE,
    PARSE,
    UNKNOWN,
    Describing,
    Portal,
    Prepared,
    Refusal,
    Running,
    Tally,
    call_key,
    resolve,
)
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Output, Step
from secretproxy.session.stream import ClientStream, Framer, Sealing
from secretproxy.session.weights import in_bytes, name_bytes, size, without_names
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError, UnreadableError
from secretproxy.wire.types import FrontendMessage, SqlState

# Longer names are the same to PostgreSQL where these bytes are (NAMEDATALEN, src/include/pg_config_manual.h;
# string_hash()).
_NAME_BYTES: Final = 63

_STATEMENT: Final = b"S"
# The length of a message without content.
_EMPTY: Final = 5

# The beginning of the name of a portal or a prepared statement that does not exist: whoever executes it gets an error
# of the backend. What follows is new each time, so that no client can have made one of that name. Together at most 63
# bytes.
_REFUSED_NAME: Final = "secretproxy refuses this secret call"
_REFUSED: Final = "call of a secret function refused: the access log cannot be written"
_REFUSED_HINT: Final = (
    "Other statements go on. See audit.dsn and audit.on_outage of secretproxy, and its log for the cause."
)
_LOG_REFUSES: Final = Refusal(SqlState.IO_ERROR, _REFUSED, _REFUSED_HINT)
TOO_LONG: Final = Refusal(
    SqlState.PROGRAM_LIMIT_EXCEEDED,
    "statement refused: it is too long to be looked into for calls of secret functions (limits.max_statement_memory)",
    "See limits.large_statements of secretproxy.",
)
TOO_MANY: Final = Refusal(
    SqlState.PROGRAM_LIMIT_EXCEEDED,
    "too many prepared statements, portals or cursors with calls of secret functions (limits.max_prepared)",
    "Close or DEALLOCATE those that are done with.",
)


class Attempts:
    """Finds secret calls before they run."""

    def __init__(
        self,
        state: State,
        output: Output,
        stream: ClientStream,
        names: Names,
        pipeline: Pipeline,
        outcomes: Outcomes,
        sealing: Sealing,
    ) -> None:
        self._state: Final = state
        self._output: Final = output
        self._stream: Final = stream
        self._names: Final = names
        self._pipeline: Final = pipeline
        self._outcomes: Final = outcomes
        self._sealing: Final = sealing
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
        conforming_strings = STANDARD
        if b"\\" in text:
            # Something under way may change the setting before the backend reads this.
            off = state.parameters.get("standard_conforming_strings") == "off"
            conforming_strings = EITHER if self._pipeline.due else ESCAPES if off else STANDARD
        known = detector.cached(text, state.codec, conforming_strings)
        if known is not None:
            return known
        if len(text) <= state.limits.parse_thread_bytes and detector.may_analyse_now(text):
            return detector.store(
                text, state.codec, detector.look(text, state.codec, conforming_strings), conforming_strings
            )
        self._stream.framer.unread()
        self._output.made().parse = (text, state.codec, conforming_strings)
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
        """Takes a statement that makes these calls: its message waits until the log has them, or its answer does if it
        only reads."""
        verdict, outcomes = running.verdict, self._outcomes
        if self._state.raw:
            attempts = tuple(map(in_bytes, attempts))
        if len(attempts) > 1:
            # The same call twice is one access, counted.
            attempts = tuple(dict.fromkeys(_within_limit(attempts)))
        running.attempts = attempts
        running.covered = {call_key(call.function, call.owner, call.names): Tally() for call in attempts if call.exact}
        running.number = self._pipeline.started + 1
        if not attempts and not verdict.concerns:
            self._pipeline.push_statement(running)
            return
        step = self._output.made()
        events = step.commit
        if verdict.only_reads and not events and self._sealing.may_seal(attempts):
            self._pipeline.push_statement(running)
            self._sealing.seal(running)
            step.sealed = running
            return
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

    def refuse_message(self, refusal: Refusal) -> None:
        """Replaces the message just reported by one that fails in the backend; what is still to come of it is
        swallowed."""
        step = self._output.made()
        simple = self._stream.framer.kind == FrontendMessage.QUERY
        running = Running("simple" if simple else "extended", HARMLESS)
        running.refused = refusal
        self._stream.replace(_failing_message(simple))
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
            out.append(_failing_message(running.protocol == "simple"))
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


def _within_limit(attempts: tuple[ResolvedCall, ...]) -> list[ResolvedCall]:
    """Gives the attempts with as many names as one statement may have in the log before it runs. What the rest
    was, testimony tells."""
    weight = 0
    kept: list[ResolvedCall] = []
    for call in attempts:
        weight += name_bytes(call)
        kept.append(call if weight <= MOST_TEXTS else without_names(call))
    return kept


def _failing_message(simple: bool) -> bytes:
    """Makes a message that the backend answers with an error: what it names does not exist."""
    name = f"{_REFUSED_NAME} {uuid.uuid4().hex[:20]}"
    return messages.query(f'EXECUTE "{name}"') if simple else messages.execute(name)


class Frontend:
    """Reads the client."""

    def __init__(self, state: State, names: Names, pipeline: Pipeline, attempts: Attempts) -> None:
        self._state: Final = state
        self._names: Final = names
        self._pipeline: Final = pipeline
        self._attempts: Final = attempts

    def passed(self, message: Framer) -> None:
        """Takes what nothing here depends on: CopyData, and the answers of a login, which are the backend's to
        judge."""

    def flush(self, message: Framer) -> None:
        """Takes a Flush. Nothing answers it, unless it has content: then the backend passes over what follows up to
        the next Sync, but for one that it overlooks during a COPY. Nobody could tell what it is at."""
        if message.end - message.start != _EMPTY:
            message.unread()
            raise ProtocolViolationError("invalid message format: a Flush has no content")

    def terminate(self, message: Framer) -> None:
        self._state.enter(Phase.CLOSED)

    # --- the simple protocol ---

    def query(self, message: Framer) -> None:
        if not message.complete:
            if not self._demand_or_refuse(message):
                self._pipeline.push_statement(b"")
            return
        if message.end - message.start < 6:
            raise UnreadableError("Query is too short")
        text = message.buffer[message.start + 5 : message.end - 1]
        verdict = self._attempts.verdict(text)
        if verdict is None:
            return
        if verdict is HARMLESS:
            self._pipeline.push_statement(text if self._may_keep(text) else b"")
            return
        if self._names.too_many(verdict):
            self._attempts.refuse_message(TOO_MANY)
            return
        running = Running("simple", verdict, text if len(text) <= self._state.limits.parse_thread_bytes else None)
        self._attempts.attempt(running, resolve(verdict.calls, NO_VALUES), NO_VALUES, message.start, message.end)

    def function_call(self, message: Framer) -> None:
        self._pipeline.push_statement(Running("fastpath", HARMLESS))

    def _demand_or_refuse(self, message: Framer) -> bool:
        """Decides on a statement of which only the beginning is there: False where it is to go on unread."""
        limits = self._state.limits
        if message.end - message.start <= limits.max_statement_memory:
            message.demand()
        elif limits.refuse_large:
            self._attempts.refuse_message(TOO_LONG)
        else:
            return False
        return True

    def _may_keep(self, text: bytes) -> bool:
        """Tells whether a harmless query's text may wait for its answer, should its fingerprint be wanted."""
        due, length = self._pipeline.due, len(text)
        return (due < 4 and length <= self._state.limits.parse_thread_bytes) or (due < 512 and length <= 512)

    # --- the extended protocol ---

    def parse(self, message: Framer) -> None:
        if not message.complete:
            if not self._demand_or_refuse(message):
                self._parsed(_name(message, message.start + 5)[0], UNKNOWN)
            return
        name, pos = _name(message, message.start + 5)
        text, pos = messages.cstring(message.buffer, pos, message.end)
        verdict = self._attempts.verdict(text)
        if verdict is None:
            return
        kept = text if len(text) <= self._state.limits.parse_thread_bytes else None
        if verdict is HARMLESS:
            self._parsed(name, Prepared(verdict, kept))
            return
        if self._names.statements_full(name):
            self._attempts.refuse_message(TOO_MANY)
            return
        try:
            types = messages.read_parse_types(message.buffer, pos, message.end)
        except UnreadableError:
            # The backend's to refuse; should it not, what runs is known all the same.
            types = ()
        self._parsed(name, Prepared(verdict, kept, types))

    def _parsed(self, name: bytes, prepared: Prepared) -> None:
        if self._pipeline.skipping:
            return
        self._pipeline.push_named(PARSE, self._names.parse(name, prepared))

    def bind(self, message: Framer) -> None:
        if not message.complete and message.buffer.count(b"\0", message.start + 5) < 2:
            # Names longer than what is there of the message.
            if message.end - message.start <= self._state.limits.max_statement_memory:
                message.demand()
                return
            self._bound(_name(message, message.start + 5)[0], UNKNOWN)
            return
        portal, pos = _name(message, message.start + 5)
        name, _ = _name(message, pos)
        statement, others = self._statements(name)
        if statement.verdict is HARMLESS:
            self._bound(portal, statement)
            return
        values = NO_VALUES
        if message.complete:
            values = self._values(message, statement)
        elif message.end - message.start <= self._state.limits.max_statement_memory:
            message.demand()
            return
        # A longer one than may be kept: its arguments stay unknown, its calls do not.
        if self._names.portals_full(portal):
            self._attempts.refuse_message(TOO_MANY)
            return
        self._bound(portal, self._portal(statement, others, values))

    def _statements(self, name: bytes) -> tuple[Prepared, list[Prepared | Portal]]:
        """Gives the statement of a name, and what else may stand there for an error that is not known yet."""
        statement = self._names.statement(name)
        others = self._names.doubted(name, portals=False)
        if others and (statement is None or statement.verdict is HARMLESS):
            doubted = others.pop()
            assert isinstance(doubted, Prepared)
            statement = doubted
        return UNKNOWN if statement is None else statement, others

    def _values(self, message: Framer, statement: Prepared) -> Values:
        """Reads the parameters of a complete Bind; none are known of one that cannot be read, which is an attempt
        all the same."""
        try:
            bind = messages.read_bind(message.buffer, message.start, message.end)
        except UnreadableError:
            return NO_VALUES
        return Values(bind, statement.types, self._state.codec)

    def _portal(self, statement: Prepared, others: list[Prepared | Portal], values: Values) -> Portal:
        """Makes a portal of a statement with secret calls. The values are kept no longer than they must be."""
        made = statement.verdict.calls
        for other in others:
            assert isinstance(other, Prepared)
            if other.verdict is not statement.verdict and other.verdict != statement.verdict:
                made += other.verdict.calls
        if not self._attempts.may_resolve(made, values):
            values = NO_VALUES
        calls = resolve(made, values)
        weight = sum(len(name or "") for call in calls for name in call.names or ())
        later = values if statement.verdict.executes or statement.verdict.cursors else NO_VALUES
        if later is not NO_VALUES:
            weight += size(later)
        if weight > 1024 and weight + self._names.portals_weigh() > MOST_TEXTS:
            calls, later, weight = resolve(made, NO_VALUES), NO_VALUES, 0
        return Portal(statement, calls, later, weight)

    def _bound(self, name: bytes, portal: Prepared | Portal) -> None:
        if self._pipeline.skipping:
            return
        self._pipeline.push_named(BIND, self._names.bind(name, portal))

    def describe(self, message: Framer) -> None:
        if message.complete and message.buffer[message.start + 5 : message.start + 6] == _STATEMENT:
            name, _ = _name(message, message.start + 6)
            statement = self._names.statement(name)
            if statement is not None and statement.verdict is not HARMLESS:
                self._pipeline.push(Describing(statement))
                return
        self._pipeline.push(DESCRIBE)

    def execute(self, message: Framer) -> None:
        name, _ = _name(message, message.start + 5)
        portal = self._names.portal(name)
        others = self._names.doubted(name, portals=True)
        if others and not isinstance(portal, Portal):
            portal = others.pop()
        if portal is None:
            attempts = self._names.cursors.get(decoded(name, self._state.codec))
            if attempts is None:
                self._pipeline.push_statement(UNKNOWN)
                return
            self._attempts.attempt_resolved(Running("extended", HARMLESS), attempts, message.start, message.end)
            return
        if isinstance(portal, Prepared):
            self._pipeline.push_statement(portal)
            return
        suspended = portal.suspended
        if suspended is not None:
            self._pipeline.resume(portal, suspended)
            return
        statement = portal.statement
        calls = portal.calls
        for other in others:
            assert isinstance(other, Portal)
            calls += other.calls
        running = Running("extended", statement.verdict, statement.text, portal)
        self._attempts.attempt(running, calls, portal.values, message.start, message.end)

    def close(self, message: Framer) -> None:
        if self._pipeline.skipping:
            return
        name, _ = _name(message, message.start + 6)
        if message.buffer[message.start + 5 : message.start + 6] == _STATEMENT:
            undo = self._names.close_statement(name)
        else:
            undo = self._names.close_portal(name)
        self._pipeline.push_named(CLOSE, undo)

    def sync(self, message: Framer) -> None:
        self._pipeline.sync()

    def copy_end(self, message: Framer) -> None:
        """Takes a CopyDone or CopyFail."""
        self._pipeline.copy_end()

    def unreadable(self, message: Framer) -> None:
        """Takes a message that is not what its type says: the backend answers it with an error of its own."""
        kind = message.kind
        if kind == FrontendMessage.EXECUTE:
            self._pipeline.push_statement(UNKNOWN)
        elif kind == FrontendMessage.QUERY:
            self._pipeline.push_statement(b"")
        else:
            self._pipeline.push(_ENTRIES[kind])


_ENTRIES: Final = {
    FrontendMessage.PARSE: PARSE,
    FrontendMessage.BIND: BIND,
    FrontendMessage.DESCRIBE: DESCRIBE,
    FrontendMessage.CLOSE: CLOSE,
}


def _name(message: Framer, pos: int) -> tuple[bytes, int]:
    """Reads a statement's or portal's name as far as it counts; gives the position behind it too."""
    end = min(message.end, len(message.buffer))
    if not message.complete and message.buffer.find(b"\0", pos, end) < 0:
        return message.buffer[pos : pos + _NAME_BYTES], end
    name, pos = messages.cstring(message.buffer, pos, end)
    return name[:_NAME_BYTES], pos
