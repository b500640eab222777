"""The names of statements, portals and cursors that lead to secret calls, and what may yet turn out otherwise.

A name is entered when its message goes on, and taken back when the backend says that it failed or passed it over.
Every kind of name is bounded; what is forgotten for that is taken for harmless, and known by testimony when it
runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from secretproxy.detect import ResolvedCall, Verdict
from secretproxy.detect.arguments import Values
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.encodings import encoded
from secretproxy.session.statements import (
    BIND,
    CLOSE,
    PARSE,
    Entry,
    Portal,
    Preparation,
    Prepared,
    Running,
    Undo,
    resolve,
)
from secretproxy.session.states import State
from secretproxy.session.weights import trimmed, trimmed_call

# What is kept of harmless statements serves a fingerprint alone: so many of them, and so many bytes of their texts.
MOST_HARMLESS: Final = 256
MOST_TEXTS: Final = 262_144
# So many names are looked for in a text. Where more are remembered, any text may hold one.
MOST_LOOKED_FOR: Final = 64
_ANY_NAME: Final = (b"",)
# The most states of a name before doubtful changes that are kept as possible.
MOST_DOUBTED: Final = 8


class Names:
    """The statements, portals and cursors that a client has prepared, bound and declared, as far as they matter
    later."""

    def __init__(self, state: State) -> None:
        self._state: Final = state
        self._statements: dict[bytes, Prepared] = {}
        # The name that was looked for last, and what it led to: most clients ask for the same one again.
        self._looked_up: bytes | None = None
        self._found: Prepared | None = None
        # Of statements: the bytes of harmless texts, and how many make secret calls.
        self._texts = 0
        self._secret_statements = 0
        self._portals: dict[bytes, Prepared | Portal] = {}
        # What is kept for them, added up.
        self._weight = 0
        # Whether any portal matters to what comes.
        self._portals_matter = False
        # Portals that have stopped at their row limit, in order.
        self._suspended: dict[Portal, None] = {}
        # Names of SQL's PREPARE and DECLARE.
        self.sql_calls: dict[str, Verdict] = {}
        self.cursors: dict[str, tuple[ResolvedCall, ...]] = {}
        # Of each name that SQL's PREPAREs under way give, the last one.
        self._preparations: dict[str, Preparation] = {}
        # All names, in small letters: a text without any of them runs nothing of what is known here.
        self.remembered: tuple[bytes, ...] = ()
        # Changes that may yet turn out to be passed over; and how many pipelines have ended with a Sync.
        self._doubts: dict[bytes, deque[Undo]] = {}
        self._pipeline = 1
        # While there are such: names of statements (False) and portals (True) that this pipeline has changed.
        self._renamed: set[tuple[bool, bytes]] = set()

    @property
    def settled(self) -> bool:
        """Says whether nothing that was entered may yet turn out otherwise, or go on."""
        return not self._doubts and not self._suspended

    # --- statements ---

    def statement(self, name: bytes) -> Prepared | None:
        """Gives the prepared statement of this name."""
        looked_up = self._looked_up
        if looked_up is None or looked_up != name:
            self._looked_up = name
            self._found = self._statements.get(name)
        return self._found

    def statements_full(self, name: bytes) -> bool:
        """Tells whether one more statement with secret calls would be too many."""
        return self._secret_statements >= self._state.limits.max_prepared and name not in self._statements

    def parse(self, name: bytes, prepared: Prepared) -> Undo | None:
        """Enters what a Parse prepares; gives what to undo where that matters: one that fails leaves the statement
        as it was."""
        before = self._statements.get(name)
        self._store(name, prepared)
        if self._doubts:
            self._renamed.add((False, name))
        if prepared.verdict is HARMLESS and (before is None or before.verdict is HARMLESS):
            return None
        if name:
            self._refresh()
        return Undo(PARSE, name, before)

    def close_statement(self, name: bytes) -> Undo | None:
        """Lets go of what a Close names; gives what to undo where that matters."""
        statement = self._store(name, None)
        if statement is None or statement.verdict is HARMLESS:
            return None
        self._refresh()
        return Undo(CLOSE, name, statement)

    def _store(self, name: bytes, prepared: Prepared | None) -> Prepared | None:
        """Remembers the statement, or none of this name; gives what was there."""
        self._looked_up = None
        before = self._statements.pop(name, None)
        if name and before is not None:
            if before.verdict is not HARMLESS:
                self._secret_statements -= 1
            elif before.text is not None:
                self._texts -= len(before.text)
        if prepared is None:
            return before
        if name and prepared.verdict is not HARMLESS:
            self._secret_statements += 1
        elif name:
            size = len(prepared.text or b"")
            if len(self._statements) >= MOST_HARMLESS + self._secret_statements or self._texts + size > MOST_TEXTS:
                # An unknown statement may be harmless too.
                return before
            self._texts += size
        self._statements[name] = prepared
        return before

    def texts(self) -> list[bytes]:
        """Gives what is prepared, where its text is known."""
        return list({prepared.text: None for prepared in self._statements.values() if prepared.text is not None})

    def reconsider(self, found: Mapping[bytes, Verdict]) -> None:
        """Takes new verdicts on what is prepared: the detector knows more, or something else."""
        for name, prepared in list(self._statements.items()):
            verdict = found.get(prepared.text) if prepared.text is not None else None
            if verdict is not None and verdict != prepared.verdict:
                self._store(name, Prepared(verdict, prepared.text, prepared.types))
        self._refresh()

    # --- portals ---

    def portal(self, name: bytes) -> Prepared | Portal | None:
        """Gives the portal of this name, a harmless one as its statement."""
        return self._portals.get(name)

    def portals_full(self, name: bytes) -> bool:
        """Tells whether one more portal with secret calls would be too many."""
        return len(self._portals) >= self._state.limits.max_prepared + MOST_HARMLESS and name not in self._portals

    def portals_weigh(self) -> int:
        """Adds up what is kept for portals."""
        return self._weight

    def bind(self, name: bytes, portal: Prepared | Portal) -> Undo | None:
        """Enters what a Bind makes; gives what to undo where that matters. A portal that stood there is to be
        closed."""
        before = self._portals.get(name)
        if self._doubts:
            self._renamed.add((True, name))
        if isinstance(portal, Portal):
            self._portals_matter = True
        elif name:
            self._portals_matter = True
            if before is None and len(self._portals) >= MOST_HARMLESS:
                # An unknown portal may be harmless too.
                return None
        self._place(name, portal)
        return Undo(BIND, name, before) if isinstance(portal, Portal) or isinstance(before, Portal) else None

    def close_portal(self, name: bytes) -> Undo | None:
        """Lets go of what a Close names; gives what to undo where that matters."""
        portal = self._place(name, None)
        return Undo(CLOSE, name, portal) if isinstance(portal, Portal) else None

    def _place(self, name: bytes, portal: Prepared | Portal | None) -> Prepared | Portal | None:
        """Remembers the portal, or none of this name; gives what was there."""
        before = self._portals.pop(name, None)
        if isinstance(before, Portal):
            self._weight -= before.weight
        if portal is not None:
            self._portals[name] = portal
            if isinstance(portal, Portal):
                self._weight += portal.weight
        return before

    def suspend(self, portal: Portal, running: Running) -> None:
        """Remembers an execution that stopped at its row limit."""
        portal.suspended = running
        self._suspended[portal] = None

    def resume(self, portal: Portal) -> None:
        """Forgets that the portal's execution had stopped: it goes on, or has ended."""
        portal.suspended = None
        self._suspended.pop(portal, None)

    def take_suspended(self) -> list[Running]:
        """Gives away the executions that have stopped: none of them goes on."""
        if not self._suspended:
            return []
        found: list[Running] = []
        for portal in self._suspended:
            running, portal.suspended = portal.suspended, None
            if running is not None:
                found.append(running)
        self._suspended.clear()
        return found

    # --- names of SQL ---

    def too_many(self, verdict: Verdict) -> bool:
        """Tells whether a statement prepares or declares more than may be remembered."""
        most = self._state.limits.max_prepared
        prepares, cursors = len(verdict.prepares), len(verdict.cursors)
        return (prepares > 0 and len(self.sql_calls) + prepares > most) or (
            cursors > 0 and len(self.cursors) + cursors > most
        )

    def executed(self, name: str) -> Verdict | None:
        """Gives what SQL's EXECUTE of this name runs: both kinds of prepared statement share their names."""
        made = self.sql_calls.get(name)
        if made is not None:
            return made
        prepared = self._statements.get(encoded(name, self._state.codec))
        return prepared.verdict if prepared is not None else None

    def enter_sql(self, running: Running, values: Values) -> None:
        """Enters what a statement of SQL prepares and declares, and lets go of what it deallocates and closes."""
        verdict = running.verdict
        for name, prepared_calls in verdict.prepares:
            made = Verdict(calls=trimmed(prepared_calls))
            self._prepare(running, Preparation(name, made, self.sql_calls.get(name)))
        for name, cursor_calls in verdict.cursors:
            self.cursors[name] = tuple(map(trimmed_call, resolve(cursor_calls, values)))
        self._forget_named(verdict)
        if verdict.prepares or verdict.cursors or verdict.deallocates or verdict.closes:
            self._refresh()

    def _forget_named(self, verdict: Verdict) -> None:
        """Lets go of what DEALLOCATE and CLOSE name. Should one fail, what it named is known by testimony from
        here on."""
        for name in verdict.deallocates:
            if name is None:
                self.sql_calls.clear()
                self._forget_statements()
            else:
                self.sql_calls.pop(name, None)
                self._store(encoded(name, self._state.codec), None)
        for name in verdict.closes:
            if name is None:
                self.cursors.clear()
            else:
                self.cursors.pop(name, None)

    def _prepare(self, running: Running, preparation: Preparation) -> None:
        name = preparation.name
        earlier = self._preparations.get(name)
        if earlier is not None and earlier.made is preparation.before:
            earlier.later = preparation
            preparation.earlier = earlier
        running.prepared.append(preparation)
        self._preparations[name] = preparation
        self.sql_calls[name] = preparation.made

    def prepared(self, running: Running) -> None:
        """Takes the end of the first PREPARE of a statement: what it made stays."""
        preparation = running.prepared.pop(0)
        if preparation.later is not None:
            preparation.later.earlier = None
        elif self._preparations.get(preparation.name) is preparation:
            del self._preparations[preparation.name]

    def unprepare(self, running: Running) -> None:
        """Has what no PREPARE has made lead where it led before; where a later statement has given that name
        again, before that one."""
        for preparation in reversed(running.prepared):
            name, earlier, later = preparation.name, preparation.earlier, preparation.later
            if later is not None:
                later.before = preparation.before
                later.earlier = earlier
            elif self.sql_calls.get(name) is preparation.made:
                if preparation.before is None:
                    del self.sql_calls[name]
                else:
                    self.sql_calls[name] = preparation.before
            if earlier is not None:
                earlier.later = later
            if self._preparations.get(name) is preparation:
                if earlier is None:
                    del self._preparations[name]
                else:
                    self._preparations[name] = earlier
        running.prepared = []
        self._refresh()

    # --- what is in doubt ---

    def doubt(self, undo: Undo, *, may_be_skipped: bool) -> None:
        """Notes a change that may be passed over, or whose name may be taken: later pipelines take both states for
        possible."""
        if may_be_skipped or (undo.name and undo.kind != CLOSE):
            undo.pipeline = self._pipeline
            doubts = self._doubts.get(undo.name)
            if doubts is None:
                doubts = self._doubts[undo.name] = deque()
            doubts.append(undo)

    def settle(self, undo: Undo) -> None:
        """Ends the doubt about a change: it has been answered or passed over."""
        if undo.pipeline:
            doubts = self._doubts[undo.name]
            doubts.popleft()
            if not doubts:
                del self._doubts[undo.name]

    def end_pipeline(self) -> None:
        """Takes a Sync: what comes behind it belongs to the next pipeline."""
        self._pipeline += 1
        if self._renamed:
            self._renamed.clear()

    def doubted(self, name: bytes, *, portals: bool) -> list[Prepared | Portal]:
        """Gives what else may have this name and makes secret calls, should an earlier pipeline have failed."""
        found: list[Prepared | Portal] = []
        doubts = self._doubts.get(name) if self._doubts else None
        if doubts is None or (portals, name) in self._renamed:
            # Changed in this very pipeline: either that has been done, or nothing of what follows will be.
            return found
        for undo in doubts:
            before = undo.before
            if undo.pipeline == self._pipeline or before is None or isinstance(before, Portal) is not portals:
                continue
            if isinstance(before, Portal) or before.verdict is not HARMLESS:
                found.append(before)
                if len(found) >= MOST_DOUBTED:
                    break
        return found

    def undo(self, dropped: Sequence[Entry], later: Sequence[Entry]) -> None:
        """Takes back the changes among what was passed over; where a later one has changed a name again, before that
        one it is as it was."""
        if not any(isinstance(entry, Undo) for entry in dropped):
            return
        again: dict[tuple[bool, bytes], Undo] = {}
        for other in later:
            if isinstance(other, Undo):
                again.setdefault((_of_a_portal(other), other.name), other)
        for entry in reversed(dropped):
            if isinstance(entry, Undo):
                self._undo(entry, again)
        self._refresh()

    def _undo(self, entry: Undo, again: dict[tuple[bool, bytes], Undo]) -> None:
        name, before = entry.name, entry.before
        portals = _of_a_portal(entry)
        other = again.get((portals, name))
        if other is not None:
            other.before = before
        elif not portals:
            assert not isinstance(before, Portal)
            self._store(name, before)
        else:
            self._place(name, before)
            if isinstance(before, Portal):
                before.current = True

    # --- what ends all of it ---

    def end_transaction(self) -> None:
        """Forgets portals and cursors, which end with their transaction; one WITH HOLD was run to its end by the
        commit."""
        if self.cursors:
            self.cursors.clear()
            self._refresh()
        if self._portals_matter:
            self._portals.clear()
            self._weight = 0
            self._portals_matter = False

    def end_portals(self) -> None:
        """Does the same at the end of a transaction in which a portal mattered."""
        self._portals_matter = len(self._portals) > 0
        self.end_transaction()

    def discard_all(self) -> None:
        """Forgets every name but the unnamed ones."""
        self.sql_calls.clear()
        self.cursors.clear()
        self._forget_statements()
        self._refresh()

    def _forget_statements(self) -> None:
        """Forgets all but the unnamed one."""
        self._looked_up = None
        self._statements = {name: kept for name, kept in self._statements.items() if not name}
        self._texts = self._secret_statements = 0

    def _refresh(self) -> None:
        if len(self.sql_calls) + len(self.cursors) + self._secret_statements > MOST_LOOKED_FOR:
            # Each change of a name would cost as much as there are names, and each text the more.
            self.remembered = _ANY_NAME
            return
        names = {encoded(name.lower(), self._state.codec) for name in (*self.sql_calls, *self.cursors)}
        if self._secret_statements:
            names |= {name.lower() for name, kept in self._statements.items() if name and kept.verdict is not HARMLESS}
        self.remembered = tuple(name for name in names if name)


def _of_a_portal(undo: Undo) -> bool:
    return undo.kind == BIND or isinstance(undo.before, Portal)
