"""The pipeline: which answers are due, to which of the client's messages, how each statement ended, and the events that
say so.

A message is entered when it goes on. The pipeline knows what the backend skips after an error, what it overlooks during
a COPY, and which number a statement has. It reads no bytes. Outcomes makes every Event; a statement's text becomes its
fingerprint there and is let go, and nothing else of it is kept.
"""

from __future__ import annotations

import uuid
from collections import deque
from typing import Final

from secretproxy.detect import ResolvedCall
from secretproxy.detect.functions import NAMES
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.events import Event, EventKind, Outcome
from secretproxy.session.names import Names
from secretproxy.session.statements import (
    BIND,
    COPY_END,
    DESCRIBE,
    INJECTED,
    SYNC,
    Describing,
    Entry,
    Portal,
    Prepared,
    Running,
    Undo,
    call_key,
    query_like,
)
from secretproxy.session.states import State
from secretproxy.session.step import Output
from secretproxy.wire.types import SqlState

# Answers due from which on the client is not read from, and under which it is again.
HIGH_WATER: Final = 1024
LOW_WATER: Final = 512
_FEW: Final = 16

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
        attempts = running.attempts
        if running.sealed:
            if not running.uncovered:
                self._access(running, outcome)
                return
            self._output.made().access += self.unsealed(running)
        record = self._output.made().record
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

    def _access(self, running: Running, outcome: Outcome) -> None:
        """Tells of attempts, their calls and the statement's outcome in a row each."""
        access = self._output.made().access
        for call in running.attempts:
            event = self.about(running, "access", call)
            event.calls, event.role, event.accessed_by = self._done(running, call)
            event.outcome = outcome
            event.sqlstate = running.sqlstate
            access.append(event)

    def unsealed(self, running: Running) -> list[Event]:
        """Gives the attempts of a sealed statement, which is one like any other from here on."""
        running.sealed = False
        return [self.about(running, "attempt", call) for call in running.attempts]

    def undelivered(self, events: list[Event], outcome: Outcome, sqlstate: str | None = None) -> list[Event]:
        """Makes the outcome of a statement whose answer did not reach the client, of its accesses in the log."""
        for access in events:
            if access.event == "access" and (outcome != "lost" or access.outcome == "ok"):
                event = Event(
                    "outcome",
                    access.who,
                    statement_no=access.statement_no,
                    protocol=access.protocol,
                    fingerprint=access.fingerprint,
                    timing=access.timing,
                )
                event.outcome = outcome
                event.sqlstate = sqlstate
                return [event]
        return []

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
        tally = running.covered.get(call_key(call.function, call.owner, call.names))
        if tally is not None and tally.calls:
            return tally.calls, tally.role, tally.accessed_by
        if not self._state.testifies or not testifies(call.function, self._state.silent):
            return None, None, None
        if tally is None:
            # Which of the calls of its function was this one?
            name = call.function.partition("(")[0]
            others = any(function.partition("(")[0] == name for function in running.uncovered)
            if others or any(
                key[0].partition("(")[0] == name and tally.calls for key, tally in running.covered.items()
            ):
                return None, None, None
        return 0, None, None


class Pipeline:
    """The messages that the client has sent and the backend has not answered yet."""

    def __init__(self, names: Names, outcomes: Outcomes) -> None:
        self._names: Final = names
        self._outcomes: Final = outcomes
        self._entries: deque[Entry] = deque()
        # What runs in a pipeline that was entered whole, with nothing else due; and what goes before it there.
        self.whole: Prepared | bytes | None = None
        self._ahead: tuple[int, ...] = ()
        # Whether the backend looks at nothing up to the next Sync: a message of the extended protocol failed.
        self.skipping = False
        # Whether it overlooks Sync and Flush: it reads the data of a COPY; and whether there was a Sync since then.
        self._copying = False
        self._overlooked = False
        # Whether it has said anything since the last ReadyForQuery that answers one of the client's messages.
        self._answer_begun = False
        self._started = 0
        # The messages entered so far but for Syncs.
        self.entered = 0
        # The ReadyForQuery messages so far.
        self.cycles = 0
        self._ended = 0
        # What called something at Parse, Bind or the commit of a Sync.
        self._between: Running | None = None

    @property
    def _due(self) -> deque[Entry]:
        """Gives the entries of the answers that are due; those of a pipeline entered whole are made here."""
        whole = self.whole
        if whole is not None:
            self.whole = None
            entries = self._entries
            entries.extend(self._ahead)
            entries.append(whole)
            if isinstance(whole, Prepared):
                entries.append(SYNC)
        return self._entries

    @property
    def started(self) -> int:
        """Counts the statements that the client has sent."""
        return self._started

    @property
    def due(self) -> int:
        """Counts the answers that are due."""
        whole = self.whole
        if whole is None:
            return len(self._entries)
        return len(self._ahead) + (2 if isinstance(whole, Prepared) else 1)

    @property
    def idle(self) -> bool:
        """Says whether no answer is due."""
        return self.whole is None and not self._entries

    @property
    def nothing_else_due(self) -> bool:
        """Says whether nothing is due except the current answer and that to its Sync."""
        due = len(self._due) - 1
        return due <= 0 or (due == 1 and _is(self._due[1], SYNC))

    @property
    def owes_sync(self) -> bool:
        """Says whether nothing is due except the answer to a Sync."""
        return len(self._due) == 1 and _is(self._due[0], SYNC)

    @property
    def runs_nothing(self) -> bool:
        """Says whether nothing runs before what comes now: what is due are few messages, none a statement or a Sync."""
        due = self._due
        if self.skipping or self._copying or len(due) > _FEW:
            return False
        for entry in due:
            if _is(entry, SYNC) or _is(entry, COPY_END):
                return False
            if _runs(entry):
                return False
        return True

    # --- pipelines of one statement without secret calls (plain.py) ---

    @property
    def takes_whole(self) -> bool:
        """Says whether a pipeline may be entered whole: nothing is due, nor anything else remembered."""
        if self.whole is not None or self.skipping or self._copying or self._between is not None:
            return False
        return len(self._entries) == 0

    def enter_whole(self, statement: Prepared | bytes, ahead: tuple[int, ...]) -> None:
        """Enters a Query, or the messages `ahead`, an Execute of what was prepared and a Sync."""
        self.whole = statement
        self._ahead = ahead
        self._started += 1
        self.entered += len(ahead) + 1
        if isinstance(statement, Prepared):
            self._names.end_pipeline()

    def answer_whole(self) -> None:
        """Takes the answer to a pipeline entered whole, up to its ReadyForQuery."""
        self.whole = None
        self._answer_begun = False
        self.cycles += 1
        self._ended += 1

    def spell_out(self, undo: Undo | None, running: Running) -> None:
        """Makes the entries of a pipeline that was entered whole: what its Bind changes, and what runs in it."""
        ahead, self.whole = self._ahead, None
        due = self._entries
        for entry in ahead:
            due.append(undo if undo is not None and entry == BIND else entry)
        due.append(running)
        running.number = self._started
        if running.protocol == "extended":
            due.append(SYNC)

    # --- the client's messages ---

    def push(self, entry: Entry) -> None:
        """Enters a message that runs nothing."""
        if self._copying:
            self._leave_copy()
        self.entered += 1
        if not self.skipping:
            self._due.append(entry)

    def push_statement(self, entry: Entry) -> None:
        """Enters a message that runs a statement, and numbers it."""
        if self._copying:
            self._leave_copy()
        self._started += 1
        self.entered += 1
        if isinstance(entry, Running):
            entry.number = self._started
        if self.skipping:
            # The backend will not look at it: an earlier message of the pipeline failed.
            self._ended = self._started
            if isinstance(entry, Running):
                entry.failed = True
                self._end(entry, "error")
            return
        self._due.append(entry)

    def push_named(self, entry: Entry, undo: Undo | None) -> None:
        """Enters a message about a name: `undo` where it has changed what that leads to, else `entry`."""
        if undo is None:
            self.push(entry)
        else:
            self.push_undo(undo)

    def push_undo(self, undo: Undo) -> None:
        """Enters a message that has changed what a name leads to. A portal that the name had before is closed."""
        if self._copying:
            self._leave_copy()
        self.entered += 1
        before = undo.before
        if isinstance(before, Portal):
            self._close(before)
        self._names.doubt(undo, may_be_skipped=self._may_be_skipped())
        self._due.append(undo)

    def resume(self, portal: Portal, suspended: Running) -> None:
        """Enters an Execute that goes on where one stopped at its row limit: its attempts are in the log."""
        if self._copying:
            self._leave_copy()
        self._started += 1
        self.entered += 1
        if self.skipping:
            self._ended = self._started
            return
        self._names.resume(portal)
        self._due.append(suspended)

    def sync(self) -> None:
        """Enters a Sync."""
        if self._copying:
            self._overlooked = True
            return
        self.skipping = False
        self._names.end_pipeline()
        self._due.append(SYNC)

    def copy_end(self) -> None:
        """Takes a CopyDone or CopyFail. Nothing answers it: without a COPY under way or to come it means nothing."""
        if self._copying:
            self._copying = False
        elif self._due:
            self.push(COPY_END)

    def _leave_copy(self) -> None:
        """Takes note that what comes cannot be read during a COPY: that has failed before it, and the last Sync
        that was taken for overlooked ends what the backend skipped for it; else the backend ends the session."""
        self._copying = False
        if self._overlooked:
            self.sync()

    def inject(self) -> None:
        """Enters a message of the proxy's own."""
        self._due.append(INJECTED)

    def _may_be_skipped(self) -> bool:
        """Tells whether an unanswered message of the extended protocol stands before what comes now, with no Sync
        between."""
        due = self._due
        if not due:
            return False
        for entry in reversed(due):
            if _is(entry, SYNC):
                return False
            if not _is(entry, COPY_END) and not _is(entry, INJECTED) and not query_like(entry):
                return True
        return False

    # --- the backend's answers ---

    def head(self) -> Entry | None:
        """Gives the entry that is answered next."""
        due = self._due
        while due:
            entry = due[0]
            if isinstance(entry, Running):
                # One that waits for the log has not been sent.
                return None if entry.waits else entry
            if not _is(entry, COPY_END):
                return entry
            due.popleft()
        return None

    def under_way(self) -> Running:
        """Gives the statement that the backend is at, made a Running if it is not one yet."""
        head = self.head()
        if isinstance(head, Running):
            return head
        if isinstance(head, bytes) or isinstance(head, Prepared):  # noqa: SIM101
            running = (
                Running("simple", HARMLESS, head or None)
                if isinstance(head, bytes)
                else Running("extended", head.verdict, head.text)
            )
            running.number = self._ended + 1
            self._due[0] = running
            return running
        # At Parse, Bind or the commit of a Sync: counted with the statement before it.
        between = self._between
        if between is None:
            between = self._between = Running("extended" if head is not None else "simple", HARMLESS)
            between.number = self._ended
        return between

    @property
    def at_statement(self) -> bool:
        """Says whether the backend is at a statement."""
        return _runs(self.head())

    def described(self) -> Prepared | None:
        """Gives the statement whose Describe is answered next, where its parameter types matter."""
        head = self.head()
        return head.statement if isinstance(head, Describing) else None

    def answer_part(self) -> bool:
        """Takes an answer that ends nothing: False where it is one to the proxy's own message."""
        self._answer_begun = True
        return not _is(self.head(), INJECTED)

    def answered(self, kind: int) -> bool:
        """Takes the end of a Parse, Bind, Describe or Close: False where it is an answer to the proxy's own message."""
        self._answer_begun = True
        head = self.head()
        if _is(head, INJECTED):
            return False
        if isinstance(head, Undo):
            if head.kind == kind:
                self._due.popleft()
                self._names.settle(head)
        elif _is(head, kind) or (kind == DESCRIBE and isinstance(head, Describing)):
            self._due.popleft()
        return True

    def completed(self) -> None:
        """Takes the end of a statement. A simple Query may have more of them; a ReadyForQuery ends it."""
        head = self.head()
        if isinstance(head, Running):
            if head.protocol == "extended":
                self._due.popleft()
                self._ended += 1
                self._end(head, "ok")
        elif isinstance(head, Prepared):
            self._due.popleft()
            self._ended += 1
        self._copying = False

    def prepared(self) -> None:
        """Takes the end of an SQL PREPARE: what it made stays."""
        head = self.head()
        if isinstance(head, Running) and head.prepared:
            self._names.prepared(head)

    def suspended(self) -> None:
        """Takes a PortalSuspended: the execution may go on with another Execute."""
        self._answer_begun = True
        head = self.head()
        if isinstance(head, Prepared):
            self._due.popleft()
            self._ended += 1
        elif isinstance(head, Running) and head.protocol == "extended":
            self._due.popleft()
            self._ended += 1
            portal = head.portal
            if portal is None or not portal.current or portal.suspended is not None:
                # Known by testimony alone, or executed again or replaced already: the next Execute is a statement of
                # its own.
                self._end(head, "ok")
            elif head.in_the_log:
                self._names.suspend(portal, head)

    def copy_in(self) -> None:
        """Takes a CopyInResponse: until CopyDone or CopyFail the backend overlooks Sync and Flush (CopyGetData,
        copyfromparse.c)."""
        self._answer_begun = True
        if self.head() is None:
            return
        due = self._due
        head = due.popleft()
        kept: list[Entry] = [head]
        ended = False
        self._overlooked = False
        for entry in due:
            if ended:
                kept.append(entry)
            elif _is(entry, COPY_END):
                ended = True
            elif _is(entry, SYNC):
                self._overlooked = True
            else:
                # As in _leave_copy().
                ended = True
                if self._overlooked:
                    kept.append(SYNC)
                kept.append(entry)
        self._entries = deque(kept)
        self._copying = not ended

    def failing(self) -> Entry | None:
        """Takes an error: gives the entry that it answers."""
        self._answer_begun = True
        self._copying = False
        return self.head()

    def failed(self, head: Entry, sqlstate: str, *, fatal: bool) -> None:
        """Says how the entry of an error fails: a ReadyForQuery ends a Query, everything else is skipped up to the
        Sync."""
        if query_like(head):
            if isinstance(head, Running):
                head.failed = True
                head.sqlstate = sqlstate
            elif fatal:
                self._due.popleft()
        elif not _is(head, SYNC):
            self._skip(sqlstate)

    def ready(self) -> bool:
        """Takes a ReadyForQuery, which ends all up to its Query or Sync: False where it answers the proxy's own
        message."""
        head = self.head()
        begun, self._answer_begun = self._answer_begun, False
        if _is(head, INJECTED):
            self._due.popleft()
            return False
        self.cycles += 1
        self._copying = False
        # An error has been seen and no Sync is left: this answers one that seemed skipped during COPY.
        self.skipping = False
        if begun or _is(head, SYNC):
            self._pop_cycle()
        if self._between is not None:
            self._end(self._between, "ok")
            self._between = None
        return True

    def end_transaction(self) -> None:
        """Ends what the end of a transaction ends."""
        for running in self._names.take_suspended():
            self._end(running, "ok")
        if self.idle:
            # Else the client is ahead: what is remembered may be of the next transaction already.
            self._names.end_transaction()

    def lost(self) -> None:
        """Ends everything that was under way: the connection is gone."""
        entries: list[Entry | None] = [*self._due, *self._names.take_suspended(), self._between]
        self._due.clear()
        self._between = None
        for entry in entries:
            if isinstance(entry, Running):
                self._end(entry, "error" if entry.failed else "lost")

    # --- ends ---

    def _pop_cycle(self) -> None:
        """Ends everything up to the Query, FunctionCall or Sync that a ReadyForQuery answers."""
        due = self._due
        while due:
            entry = due[0]
            if isinstance(entry, Running) and entry.waits:
                break
            due.popleft()
            if _is(entry, SYNC):
                break
            if isinstance(entry, Undo):
                self._names.settle(entry)
            if _runs(entry):
                self._ended += 1
            if isinstance(entry, Running):
                self._end(entry, "error" if entry.failed else "ok")
            if query_like(entry):
                break
        self.head()

    def _skip(self, sqlstate: str) -> None:
        """Ends everything up to the next Sync: a message of the extended protocol failed, and the backend looks at
        nothing of it."""
        due = self._due
        dropped: list[Entry] = []
        while due and not _is(due[0], SYNC):
            dropped.append(due.popleft())
        self.skipping = not due
        for entry in dropped:
            if isinstance(entry, Undo):
                self._names.settle(entry)
            if _runs(entry):
                self._ended += 1
            if isinstance(entry, Running):
                entry.failed = True
                entry.sqlstate = sqlstate
                self._end(entry, "error")
        self._names.undo(dropped, due)

    def _close(self, portal: Portal) -> None:
        """Ends what a portal had under way that is closed or replaced."""
        portal.current = False
        running = portal.suspended
        self._names.resume(portal)
        if running is not None:
            self._end(running, "ok")

    def _end(self, running: Running, outcome: Outcome) -> None:
        if running.prepared:
            self._names.unprepare(running)
        self._outcomes.end(running, outcome)


def _is(entry: Entry | None, kind: int) -> bool:
    """Compares an entry with one of those that are numbers. The type first: compiled, that is a tenth of a
    comparison of objects."""
    return isinstance(entry, int) and entry == kind


def _runs(entry: Entry | None) -> bool:
    """Tells whether an entry runs a statement. One class after the other: compiled, a union or tuple of them is made
    anew each time."""
    return isinstance(entry, Running) or isinstance(entry, Prepared) or isinstance(entry, bytes)  # noqa: SIM101
