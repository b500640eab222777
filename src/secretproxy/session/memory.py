"""The session's memory: which answers are due, and which names of statements, portals and cursors lead to secret calls.

Entered when a message goes on, taken back when the backend says that it failed or passed it over. Every kind of it is bounded;
what is forgotten for that is taken for harmless, and known by testimony when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from secretproxy.detect import Verdict
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.connection import MOST_HARMLESS, MOST_TEXTS, Entry
from secretproxy.session.encodings import encoded
from secretproxy.session.events import Outcome
from secretproxy.session.outcomes import Outcomes
from secretproxy.session.statements import (
    BIND,
    CLOSE,
    COPY_END,
    INJECTED,
    SYNC,
    Portal,
    Prepared,
    Running,
    Undo,
)


class Memory(Outcomes):
    """A session that knows what is under way and what is prepared."""

    # --- answers that are due ---

    def _head(self) -> Entry | None:
        pending = self._pending
        while pending and pending[0] == COPY_END:
            pending.popleft()
        return pending[0] if pending else None

    def _push(self, entry: Entry) -> None:
        if not self._skipping:
            self._pending.append(entry)

    def _push_statement(self, entry: Entry) -> None:
        self._started += 1
        if isinstance(entry, Running):
            entry.number = self._started
        if self._skipping:
            # The backend will not look at it: an earlier message of the pipeline failed.
            self._ended = self._started
            if isinstance(entry, Running):
                entry.failed = True
                self._end(entry, "error")
            return
        self._pending.append(entry)

    def _push_undo(self, undo: Undo) -> None:
        """Behind an unanswered message of the same pipeline it may be passed over, and a name may be taken: later pipelines take
        what was before for possible too."""
        if self._may_be_skipped() or (undo.name and undo.kind != CLOSE):
            undo.pipeline = self._pipeline
            self._doubts.append(undo)
        self._pending.append(undo)

    def _may_be_skipped(self) -> bool:
        """Whether an unanswered message of the extended protocol stands before what comes now, with no Sync between."""
        for entry in reversed(self._pending):
            if entry == SYNC:
                return False
            if entry != COPY_END and entry != INJECTED and not self._query_like(entry):
                return True
        return False

    def _query_like(self, entry: Entry) -> bool:
        return isinstance(entry, bytes) or (isinstance(entry, Running) and entry.protocol != "extended")

    def _settle(self, undo: Undo) -> None:
        """It has been answered or passed over."""
        if undo.pipeline:
            self._doubts.popleft()

    def _under_way(self) -> Running:
        """The statement that the backend is at, made a Running if it is not one yet."""
        head = self._head()
        if isinstance(head, Running):
            return head
        if isinstance(head, bytes | Prepared):
            running = (
                Running("simple", HARMLESS, head or None)
                if isinstance(head, bytes)
                else Running("extended", head.verdict, head.text)
            )
            running.number = self._ended + 1
            self._pending[0] = running
            return running
        # At Parse, Bind or the commit of a Sync: counted with the statement before it.
        if self._between is None:
            self._between = Running("extended" if head is not None else "simple", HARMLESS)
            self._between.number = self._ended
        return self._between

    def _pop_cycle(self) -> None:
        """Everything up to the Query, FunctionCall or Sync that a ReadyForQuery answers."""
        pending = self._pending
        while pending:
            entry = pending.popleft()
            if entry == SYNC:
                break
            if isinstance(entry, Undo):
                self._settle(entry)
            if isinstance(entry, Prepared | bytes | Running):
                self._ended += 1
            if isinstance(entry, Running):
                self._end(entry, "error" if entry.failed else "ok")
            if self._query_like(entry):
                break
        self._head()

    def _skip(self, sqlstate: str) -> None:
        """An extended-protocol message failed: the backend looks at nothing up to the next Sync."""
        pending = self._pending
        dropped: list[Entry] = []
        while pending and pending[0] != SYNC:
            dropped.append(pending.popleft())
        self._skipping = not pending
        for entry in dropped:
            if isinstance(entry, Undo):
                self._settle(entry)
            if isinstance(entry, Prepared | bytes | Running):
                self._ended += 1
            if isinstance(entry, Running):
                entry.failed = True
                entry.sqlstate = sqlstate
                self._end(entry, "error")
        for entry in reversed(dropped):
            if isinstance(entry, Undo):
                self._undo(entry)

    def _undo(self, entry: Undo) -> None:
        """What the message changed is as it was; where a later one has changed it again, that is what it was before that one."""
        name, before = entry.name, entry.before
        portals = entry.kind == BIND or isinstance(before, Portal)
        for later in self._pending:
            if (
                isinstance(later, Undo)
                and later.name == name
                and (later.kind == BIND or isinstance(later.before, Portal)) is portals
            ):
                later.before = before
                return
        if not portals:
            assert not isinstance(before, Portal)
            self._store_statement(name, before)
            self._refresh_remembered()
        elif before is None:
            self._portals.pop(name, None)
        else:
            self._portals[name] = before
            if isinstance(before, Portal):
                before.current = True

    def _end(self, running: Running, outcome: Outcome) -> None:
        if running.prepared:
            self._unprepare(running)
        super()._end(running, outcome)

    def _unprepare(self, running: Running) -> None:
        """What no PREPARE has made leads where it led before; where a later statement has given that name again, before that one."""
        for name, made, before in reversed(running.prepared):
            for entry in self._pending:
                if isinstance(entry, Running) and entry is not running and any(made is other for _, _, other in entry.prepared):
                    entry.prepared = [(key, new, before if old is made else old) for key, new, old in entry.prepared]
                    break
            else:
                if self._sql_calls.get(name) is not made:
                    continue
                if before is None:
                    del self._sql_calls[name]
                else:
                    self._sql_calls[name] = before
        running.prepared = []
        self._refresh_remembered()

    # --- names ---

    def _store_statement(self, name: bytes, prepared: Prepared | None) -> Prepared | None:
        """Remembers the statement, or none of this name; gives what was there."""
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
                # A statement that is not known is taken for harmless too.
                return before
            self._texts += size
        self._statements[name] = prepared
        return before

    def _doubted(self, name: bytes, *, portals: bool) -> list[Prepared | Portal]:
        """What else may have this name and makes secret calls, should an earlier pipeline have failed."""
        found: list[Prepared | Portal] = []
        if (portals, name) in self._renamed:
            # Changed in this very pipeline: either that has been done, or nothing of what follows will be.
            return found
        for undo in self._doubts:
            before = undo.before
            if (
                undo.name != name
                or undo.pipeline == self._pipeline
                or before is None
                or isinstance(before, Portal) is not portals
            ):
                continue
            if isinstance(before, Portal) or before.verdict is not HARMLESS:
                found.append(before)
        return found

    def _close_portal(self, portal: Portal) -> None:
        portal.current = False
        self._suspended.pop(portal, None)
        running, portal.suspended = portal.suspended, None
        if running is not None:
            self._end(running, "ok")

    def _transaction_over(self) -> None:
        """Portals and cursors have ended with it; one WITH HOLD was run to its end by the commit."""
        if self._defined:
            self._defined = False
            self._stepped().defined = True
        for portal in self._suspended:
            running, portal.suspended = portal.suspended, None
            if running is not None:
                self._end(running, "ok")
        self._suspended.clear()
        self._token_inside = False
        if self._pending:
            # The client is ahead: what is remembered may be of the next transaction already.
            return
        if self._cursors:
            self._cursors.clear()
            self._refresh_remembered()
        if self._portals_matter:
            self._portals.clear()
            self._portals_matter = False

    def _forget(self) -> None:
        self._sql_calls.clear()
        self._cursors.clear()
        self._forget_statements()
        self._refresh_remembered()

    def _forget_statements(self) -> None:
        """All but the unnamed one."""
        self._statements = {name: kept for name, kept in self._statements.items() if not name}
        self._texts = self._secret_statements = 0

    def _forget_named(self, verdict: Verdict) -> None:
        """DEALLOCATE and CLOSE. Should one of them fail, what it named is known by testimony from here on."""
        for name in verdict.deallocates:
            if name is None:
                self._sql_calls.clear()
                self._forget_statements()
            else:
                self._sql_calls.pop(name, None)
                self._store_statement(encoded(name, self._codec), None)
        for name in verdict.closes:
            if name is None:
                self._cursors.clear()
            else:
                self._cursors.pop(name, None)

    def _refresh_remembered(self) -> None:
        names = {encoded(name.lower(), self._codec) for name in (*self._sql_calls, *self._cursors)}
        names |= {name.lower() for name, kept in self._statements.items() if name and kept.verdict is not HARMLESS}
        self._remembered = tuple(name for name in names if name)

    def texts(self) -> list[bytes]:
        """What is prepared, where its text is known."""
        return list({prepared.text: None for prepared in self._statements.values() if prepared.text is not None})

    def reconsider(self, found: Mapping[bytes, Verdict]) -> None:
        """The detector knows more, or something else: takes its new verdicts on what is prepared."""
        for name, prepared in list(self._statements.items()):
            verdict = found.get(prepared.text) if prepared.text is not None else None
            if verdict is not None and verdict != prepared.verdict:
                self._store_statement(name, Prepared(verdict, prepared.text, prepared.types))
        self._refresh_remembered()

    @property
    def codec(self) -> str:
        return self._codec
