"""The client's half: what each of its messages means, one method a message (the table is in states.py).

Takes no step of its own beyond that: what it finds is an attempt of the layer below, or an entry of what waits for an answer.
"""

from __future__ import annotations

from secretproxy.detect import Verdict
from secretproxy.detect.arguments import NO_VALUES, Values
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.attempts import TOO_LONG, TOO_MANY, Attempts
from secretproxy.session.connection import CROWDED, MOST_HARMLESS, MOST_TEXTS
from secretproxy.session.encodings import decoded
from secretproxy.session.statements import (
    BIND,
    CLOSE,
    COPY_END,
    DESCRIBE,
    PARSE,
    SYNC,
    Describing,
    Portal,
    Prepared,
    Running,
    Undo,
    resolve,
)
from secretproxy.session.states import Phase
from secretproxy.session.weights import size
from secretproxy.wire import messages
from secretproxy.wire.errors import Unreadable
from secretproxy.wire.types import FrontendMessage

# Longer names are the same to PostgreSQL where these bytes are (NAMEDATALEN, src/include/pg_config_manual.h; string_hash()).
_NAME_BYTES = 63

_UNKNOWN = Prepared(HARMLESS, None)
_UNREADABLE = {
    FrontendMessage.PARSE: PARSE,
    FrontendMessage.BIND: BIND,
    FrontendMessage.DESCRIBE: DESCRIBE,
    FrontendMessage.CLOSE: CLOSE,
}


class Client(Attempts):
    """A session that reads its client."""

    def client_authentication(self) -> None:
        """PasswordMessage, SASL or GSS response: the backend's to judge."""

    def client_flush(self) -> None:
        """Nothing answers it."""

    def client_terminate(self) -> None:
        self.phase = Phase.CLOSED

    def client_query(self) -> None:
        framer = self._client
        if not framer.complete:
            if not self._waited_for_or_refused():
                self._push_statement(b"")
            return
        if framer.end - framer.start < 6:
            raise Unreadable("Query is too short")
        text = framer.buffer[framer.start + 5 : framer.end - 1]
        verdict = self._verdict(text)
        if verdict is None:
            return
        if verdict is HARMLESS:
            self._push_statement(text if self._may_keep(text) else b"")
            return
        if self._too_many(verdict):
            self._refuse_here(TOO_MANY)
            return
        running = Running("simple", verdict, text if len(text) <= self._limits.parse_thread_bytes else None)
        self._attempt(running, resolve(verdict.calls, NO_VALUES), NO_VALUES, framer.start, framer.end)

    def _waited_for_or_refused(self) -> bool:
        """What becomes of a statement of which only the beginning is there: False where it is to go on unread."""
        framer = self._client
        if framer.end - framer.start <= self._limits.max_statement_memory:
            framer.demand()
        elif self._limits.refuse_large:
            self._refuse_here(TOO_LONG)
        else:
            return False
        return True

    def _may_keep(self, text: bytes) -> bool:
        """Whether a harmless query's text may wait for its answer, should its fingerprint be wanted."""
        due, size = len(self._pending), len(text)
        return (due < 4 and size <= self._limits.parse_thread_bytes) or (due < 512 and size <= 512)

    def _too_many(self, verdict: Verdict) -> bool:
        most = self._limits.max_prepared
        return (bool(verdict.prepares) and len(self._sql_calls) >= most) or (bool(verdict.cursors) and len(self._cursors) >= most)

    def client_parse(self) -> None:
        framer = self._client
        if not framer.complete:
            if not self._waited_for_or_refused():
                self._remember_statement(self._name(framer.start + 5)[0], _UNKNOWN)
            return
        name, pos = self._name(framer.start + 5)
        text, pos = messages.cstring(framer.buffer, pos, framer.end)
        verdict = self._verdict(text)
        if verdict is None:
            return
        kept = text if len(text) <= self._limits.parse_thread_bytes else None
        if verdict is HARMLESS:
            self._remember_statement(name, Prepared(verdict, kept))
            return
        if self._secret_statements >= self._limits.max_prepared and name not in self._statements:
            self._refuse_here(TOO_MANY)
            return
        try:
            types = messages.read_parse_types(framer.buffer, pos, framer.end)
        except Unreadable:
            # The backend's to refuse; should it not, what runs is known all the same.
            types = ()
        self._remember_statement(name, Prepared(verdict, kept, types))

    def _remember_statement(self, name: bytes, prepared: Prepared) -> None:
        if self._skipping:
            return
        before = self._statements.get(name)
        self._store_statement(name, prepared)
        if self._doubts:
            self._renamed.add((False, name))
        if prepared.verdict is not HARMLESS or (before is not None and before.verdict is not HARMLESS):
            # A Parse that fails or is passed over leaves the statement of that name as it was.
            self._push_undo(Undo(PARSE, name, before))
            if name:
                self._refresh_remembered()
        else:
            self._push(PARSE)

    def client_bind(self) -> None:
        framer = self._client
        if not framer.complete and framer.buffer.count(b"\0", framer.start + 5) < 2:
            # Names longer than what is there of the message.
            if framer.end - framer.start <= self._limits.max_statement_memory:
                framer.demand()
                return
            self._bind(self._name(framer.start + 5)[0], _UNKNOWN)
            return
        portal, pos = self._name(framer.start + 5)
        name, _ = self._name(pos)
        statement = self._statements.get(name)
        others = self._doubted(name, portals=False) if self._doubts else []
        if others and (statement is None or statement.verdict is HARMLESS):
            doubted = others.pop()
            assert isinstance(doubted, Prepared)
            statement = doubted
        if statement is None or statement.verdict is HARMLESS:
            self._bind(portal, statement or _UNKNOWN)
            return
        values = NO_VALUES
        if framer.complete:
            values = self._bound(statement)
        elif framer.end - framer.start <= self._limits.max_statement_memory:
            framer.demand()
            return
        # A longer one than may be kept: its arguments stay unknown, its calls do not.
        if len(self._portals) >= self._limits.max_prepared + MOST_HARMLESS and portal not in self._portals:
            self._refuse_here(TOO_MANY)
            return
        made = statement.verdict.calls
        for other in others:
            assert isinstance(other, Prepared)
            if other.verdict is not statement.verdict:
                made += other.verdict.calls
        if not self._may_resolve(made, values):
            values = NO_VALUES
        calls = resolve(made, values)
        weight = sum(len(name or "") for call in calls for name in call.names or ())
        # The values are kept no longer than they must be.
        later = values if statement.verdict.executes or statement.verdict.cursors else NO_VALUES
        if later is not NO_VALUES:
            weight += size(later)
        if weight > 1024 and weight + sum(p.weight for p in self._portals.values() if isinstance(p, Portal)) > MOST_TEXTS:
            calls, later, weight = resolve(made, NO_VALUES), NO_VALUES, 0
        self._bind(portal, Portal(statement, calls, later, weight))

    def _bound(self, statement: Prepared) -> Values:
        """The parameters of a complete Bind; none are known of one that cannot be read, which is an attempt all the same."""
        framer, encoding = self._client, self._codec
        try:
            bind = messages.read_bind(framer.buffer, framer.start, framer.end)
        except Unreadable:
            return NO_VALUES
        return Values(bind, statement.types, lambda raw: raw.decode(encoding))

    def _bind(self, name: bytes, portal: Prepared | Portal) -> None:
        if self._skipping:
            return
        before = self._portals.get(name)
        if self._doubts:
            self._renamed.add((True, name))
        if isinstance(portal, Portal):
            self._portals_matter = True
        elif name:
            self._portals_matter = True
            if before is None and len(self._portals) >= MOST_HARMLESS:
                # A portal that is not known is taken for harmless too.
                self._push(BIND)
                return
        self._portals[name] = portal
        if isinstance(before, Portal):
            self._close_portal(before)
        if isinstance(portal, Portal) or isinstance(before, Portal):
            self._push_undo(Undo(BIND, name, before))
        else:
            self._push(BIND)

    def client_describe(self) -> None:
        framer = self._client
        if framer.complete and framer.buffer[framer.start + 5 : framer.start + 6] == b"S":
            name, _ = self._name(framer.start + 6)
            statement = self._statements.get(name)
            if statement is not None and statement.verdict is not HARMLESS:
                self._push(Describing(statement))
                return
        self._push(DESCRIBE)

    def client_execute(self) -> None:
        framer = self._client
        name, _ = self._name(framer.start + 5)
        portal = self._portals.get(name)
        others = self._doubted(name, portals=True) if self._doubts else []
        if others and not isinstance(portal, Portal):
            portal = others.pop()
        if portal is None:
            attempts = self._cursors.get(decoded(name, self._codec))
            if attempts is None:
                self._push_statement(_UNKNOWN)
                return
            self._attempt_resolved(Running("extended", HARMLESS), attempts, framer.start, framer.end)
            return
        if isinstance(portal, Prepared):
            self._push_statement(portal)
            return
        suspended = portal.suspended
        if suspended is not None:
            # The same execution goes on; its attempts are in the log.
            self._started += 1
            if self._skipping:
                self._ended = self._started
                return
            portal.suspended = None
            self._suspended.pop(portal, None)
            self._pending.append(suspended)
            return
        statement = portal.statement
        running = Running("extended", statement.verdict, statement.text, portal)
        calls = portal.calls
        for other in others:
            assert isinstance(other, Portal)
            calls += other.calls
        self._attempt(running, calls, portal.values, framer.start, framer.end)

    def client_close(self) -> None:
        framer = self._client
        if self._skipping:
            return
        name, _ = self._name(framer.start + 6)
        if framer.buffer[framer.start + 5 : framer.start + 6] == b"S":
            statement = self._store_statement(name, None)
            if statement is not None and statement.verdict is not HARMLESS:
                self._push_undo(Undo(CLOSE, name, statement))
                self._refresh_remembered()
                return
        else:
            portal = self._portals.pop(name, None)
            if isinstance(portal, Portal):
                self._close_portal(portal)
                self._push_undo(Undo(CLOSE, name, portal))
                return
        self._push(CLOSE)

    def client_sync(self) -> None:
        if self._copying:
            return
        self._skipping = False
        self._pipeline += 1
        if self._renamed:
            self._renamed.clear()
        self._pending.append(SYNC)

    def client_copy_end(self) -> None:
        if self._copying:
            self._copying = False
        elif self._pending and len(self._pending) < CROWDED:
            # Nothing answers it: without a COPY under way or to come it means nothing.
            self._push(COPY_END)

    def client_function_call(self) -> None:
        self._push_statement(Running("fastpath", HARMLESS))

    def _unreadable(self) -> None:
        """The backend answers such a message with an error of its own."""
        kind = self._client.kind
        if kind == FrontendMessage.EXECUTE:
            self._push_statement(_UNKNOWN)
        elif kind == FrontendMessage.QUERY:
            self._push_statement(b"")
        else:
            self._push(_UNREADABLE[kind])

    def _name(self, pos: int) -> tuple[bytes, int]:
        """A statement's or portal's name as far as it counts, and the position behind it."""
        framer = self._client
        end = min(framer.end, len(framer.buffer))
        if not framer.complete and framer.buffer.find(b"\0", pos, end) < 0:
            return framer.buffer[pos : pos + _NAME_BYTES], end
        name, pos = messages.cstring(framer.buffer, pos, end)
        return name[:_NAME_BYTES], pos
