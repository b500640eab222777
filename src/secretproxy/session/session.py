"""The session: reads both directions of one connection and decides what goes on, what waits for the log, what is said to it.

`from_client` and `from_backend` take a chunk as it came and return either bytes, all of which may go on at once (the common
case), or a Step. What a Step says is carried out by the outer layer; this one has no sockets, no clock and no event loop.
The states stand in states.py. May import wire and detect; must never put statement text or a value into an event.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from secretproxy.detect import Detector, ResolvedCall, Verdict
from secretproxy.detect.arguments import NO_VALUES, Values
from secretproxy.detect.detector import fingerprint
from secretproxy.detect.functions import operation_of
from secretproxy.detect.strings import EITHER, ESCAPES, STANDARD
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session import testimony
from secretproxy.session.encodings import codec
from secretproxy.session.events import Event, EventKind, Identity, Outcome
from secretproxy.session.statements import (
    BIND,
    CLOSE,
    COPY_END,
    DESCRIBE,
    INJECTED,
    PARSE,
    SYNC,
    Describing,
    Key,
    Portal,
    Prepared,
    Refusal,
    Running,
    Undo,
    resolve,
)
from secretproxy.session.states import BACKEND_GREETING, BACKEND_LOGIN, BACKEND_READY, CLIENT_MESSAGES, Phase
from secretproxy.wire import framing, messages
from secretproxy.wire.errors import Malformed, ProtocolViolation, Unreadable
from secretproxy.wire.framing import Framer

# Rows and COPY data pass unseen. Everything else is seen; what is read must be whole.
_FROM_BACKEND = framing.actions(mark=b"12nstTVGHWcIA", whole=b"CENSKRZvtD")
_FROM_BACKEND_OWN = _FROM_BACKEND
_FROM_BACKEND = bytes(framing.PASS if kind in b"Dd" else action for kind, action in enumerate(_FROM_BACKEND))
_FROM_CLIENT = framing.actions(mark=b"SHcfXp", whole=b"QPBDECF")
_FROM_CLIENT = bytes(framing.PASS if kind in b"d" else action for kind, action in enumerate(_FROM_CLIENT))

_SET_CONFIG = 2078  # OID of pg_catalog.set_config(text, text, boolean), src/include/catalog/pg_proc.dat
_ASK_START = (
    "SELECT (extract(epoch from backend_start) * 1000000)::pg_catalog.int8"
    " FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())"
)
_ASK_START_AS_OWNER = "SELECT secretproxy.backend_start()"

_SASL_FINAL = b"\0\0\0\x0c"  # the one that asks for nothing

# How the tags begin of statements that may change what leads to a secret function, themselves or in what they run.
_DEFINING = frozenset({b"CREA", b"ALTE", b"DROP", b"IMPO", b"DO", b"CALL"})

# The beginning of the name of a portal or a prepared statement that does not exist: whoever executes it gets an error of the
# backend. What follows is new each time, so that no client can have made one of that name. Together at most 63 bytes.
_REFUSED_NAME = "secretproxy refuses this secret call"
_REFUSED = "call of a secret function refused: the access log cannot be written"
_REFUSED_HINT = "Other statements go on. See audit.dsn and audit.on_outage of secretproxy, and its log for the cause."
_LOG_REFUSES = Refusal("58030", _REFUSED, _REFUSED_HINT)
_TOO_LONG = Refusal(
    "54000",
    "statement refused: it is too long to be looked into for calls of secret functions (limits.max_statement_memory)",
    "See limits.large_statements of secretproxy.",
)
_TOO_MANY = Refusal(
    "54000",
    "too many prepared statements, portals or cursors with calls of secret functions (limits.max_prepared)",
    "Close or DEALLOCATE those that are done with.",
)
_ABORTED = "current transaction is aborted, commands ignored until end of transaction block"

# Longer names are the same to PostgreSQL where these bytes are (NAMEDATALEN, src/include/pg_config_manual.h; string_hash()).
_NAME_BYTES = 63
# What is kept of harmless statements serves a fingerprint alone: so many of them, and so many bytes of their texts.
_MOST_HARMLESS = 256
_MOST_TEXTS = 262_144
# Entries of `pending` from which on the client is not read from, and under which it is again.
_CROWDED = 1024
_ROOMY = 512
# Events that one step of the client's may have to wait for; what stands behind them is read once they are in the log.
_MOST_EVENTS = 256

_UNKNOWN = Prepared(HARMLESS, None)
_UNREADABLE = {0x50: PARSE, 0x42: BIND, 0x44: DESCRIBE, 0x43: CLOSE}
Entry = int | bytes | Prepared | Running | Undo | Describing


class Held:
    """A part of a client's chunk that waits for the log; `running` where it is an attempt itself."""

    __slots__ = ("data", "running")

    def __init__(self, data: bytes, running: Running | None = None) -> None:
        self.data = data
        self.running = running

    def __repr__(self) -> str:
        return f"Held({len(self.data)} bytes)"


class Step:
    """What is to be done with a chunk, in this order.

    forward: to the other side, at once. inject: to the backend, from the proxy itself. parse: a long text, its codec and how its
    strings may be read: run Detector.analyse elsewhere, hand the verdict to Session.parsed, then call from_client(b"").
    commit: events that must be durable before `held` goes on; where they cannot be, a client's chunk goes through
    Session.refuse and a backend's ends the session. record: events nobody waits for. ready: the client's chunks that waited can
    be taken now (from_client(b"")). violation: the session ends once all this is done. defined: the catalog
    may have changed. surprised: a call was made by a function that no attempt named.
    """

    __slots__ = ("commit", "defined", "forward", "held", "inject", "parse", "ready", "record", "surprised", "violation")

    def __init__(self) -> None:
        self.forward = b""
        self.inject = b""
        self.parse: tuple[bytes, str, int] | None = None
        self.commit: list[Event] = []
        self.held: list[Held] = []
        self.record: list[Event] = []
        self.ready = False
        self.violation: ProtocolViolation | None = None
        self.defined = False
        self.surprised = False

    def __repr__(self) -> str:
        return f"Step(forward={len(self.forward)} bytes, commit={len(self.commit)}, record={len(self.record)})"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: the longest message of a client, the longest statement that is parsed, the longest parsed without a thread.

    refuse_large: a longer statement than that is refused, not forwarded. max_prepared: statements with secret calls that may be
    prepared at once, and portals and cursors likewise.
    """

    max_message: int = 1_073_741_823
    max_statement_memory: int = 8 * 1024 * 1024
    parse_thread_bytes: int = 65_536
    refuse_large: bool = False
    max_prepared: int = 1000


class Session:
    """One client and its backend, from the moment the startup packet has gone on."""

    def __init__(
        self,
        identity: Identity,
        keys: testimony.Keys,
        detector: Detector,
        limits: Limits,
        replication: str | None = None,
    ) -> None:
        self.identity = identity
        self.phase = Phase.LOGIN
        self.backend_pid = 0
        # What a CancelRequest for this session carries: process id and secret key.
        self.cancel_key = b""
        self.login_refusal = ""
        self.authenticated = False
        self.client_gone = False
        self.backend_start: int | None = None
        self.transaction_status = "I"
        self.parameters: dict[str, str] = {}
        self.answered = False
        self._keys = keys
        self.detector = detector
        self._limits = limits
        # Physical replication takes no SQL, logical replication no extended protocol and no FunctionCall.
        self._physical = replication is not None and replication.lower() in (
            "true",
            "on",
            "yes",
            "1",
            "t",
            "y",
        )
        self._logical = replication is not None and replication.lower() == "database"
        self._codec = "utf-8"
        self._client = Framer(_FROM_CLIENT, limits.max_message)
        self._backend = Framer(_FROM_BACKEND, 0x7FFFFFFF)
        self._handlers: dict[Phase, dict[int, Callable[[], None]]] = {
            phase: {kind[0]: getattr(self, name) for kind, name in table.items()} for phase, table in CLIENT_MESSAGES.items()
        }
        self._login_handlers = {kind[0]: getattr(self, name) for kind, name in BACKEND_LOGIN.items()}
        self._greeting_handlers = {kind[0]: getattr(self, name) for kind, name in BACKEND_GREETING.items()}
        self._ready_handlers = {kind[0]: getattr(self, name) for kind, name in BACKEND_READY.items()}
        self._last_handlers = self._login_handlers | self._ready_handlers
        self._early: list[bytes] = []
        self._greeting = ""
        self._greeting_z = b""
        self._pending: deque[Entry] = deque()
        # Of these, what may yet turn out to be passed over; and how many pipelines have ended with a Sync.
        self._doubts: deque[Undo] = deque()
        self._pipeline = 1
        # While there are such: names of statements (False) and portals (True) that this pipeline has changed.
        self._renamed: set[tuple[bool, bytes]] = set()
        self._skipping = False
        self._copying = False
        # Whether the backend has said anything since the last ReadyForQuery that answers one of the client's messages.
        self._heard = False
        self._token_lost = False
        self._token_inside = False
        self._token_version = 0
        self._started = 0
        self._ended = 0
        self._last_clock = 0
        self._statements: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Prepared | Portal] = {}
        # Of statements: the bytes of harmless texts, and how many make secret calls.
        self._texts = 0
        self._secret_statements = 0
        # Of portals: those that have stopped at their row limit, in order; whether any matters to what comes.
        self._suspended: dict[Portal, None] = {}
        self._portals_matter = False
        self._sql_calls: dict[str, Verdict] = {}
        self._cursors: dict[str, tuple[ResolvedCall, ...]] = {}
        self._remembered: tuple[bytes, ...] = ()
        self._supplied: tuple[bytes, Verdict] | None = None
        self._between: Running | None = None
        self._defined = False
        # The rest of a message that is too long to be looked at is not let through.
        self._dropping = False
        # Bytes of a client's message that was replaced, still to come.
        self._swallow_client = 0
        # Of the chunk under way.
        self._forgeries: dict[tuple[int, Key | None], Event] = {}
        self._step: Step | None = None
        self._kept_from = 0
        self._holding = False

    def __repr__(self) -> str:
        return f"Session({self.phase.value}, pid={self.backend_pid}, statements={self._started})"

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: no transaction, no answer due, nothing half sent."""
        return (
            self.phase is Phase.READY
            and self.transaction_status == "I"
            and not self._pending
            and self._client.at_boundary
            and not self._early
            and not self._swallow_client
        )

    @property
    def quiet(self) -> bool:
        """Whether the backend runs nothing: it owes no answer and is not in the middle of its login."""
        return self.phase in (Phase.READY, Phase.CLOSED) and not self._pending

    @property
    def takes_terminate(self) -> bool:
        """Whether a Terminate can be put behind what the backend was sent."""
        return self.phase is Phase.READY and not self._client.streaming

    @property
    def farewell(self) -> bytes:
        """What tells the backend that its client sends no more: nothing can in the middle of a message or of COPY data."""
        return messages.TERMINATE if self.takes_terminate and not self._copying else b""

    @property
    def answer_is_cut(self) -> bool:
        """Whether the client has a part of a message whose rest is still to come."""
        return self._backend.streaming

    @property
    def crowded(self) -> bool:
        """Whether so many answers are due that the client must wait for some; a Flush to the backend makes sure that they come."""
        return len(self._pending) > _CROWDED and not self._client.streaming

    @property
    def roomy(self) -> bool:
        return len(self._pending) < _ROOMY

    @property
    def waiting_bytes(self) -> int:
        """How much of the client's the session keeps until the backend is ready for it."""
        return sum(len(part) for part in self._early)

    def use(self, detector: Detector) -> None:
        """Takes the detector of the session's database."""
        self.detector = detector

    def reconsider(self) -> None:
        """The detector knows more, or something else: verdicts on what is prepared are found again."""
        for name, prepared in list(self._statements.items()):
            if prepared.text is not None and len(prepared.text) <= self._limits.parse_thread_bytes:
                verdict = self.detector.verdict(prepared.text, self._codec, (), EITHER)
                if verdict != prepared.verdict:
                    self._store_statement(name, Prepared(verdict, prepared.text, prepared.types))
        self._refresh_remembered()

    @property
    def token(self) -> str | None:
        if self.backend_start is None:
            return None
        return self._keys.token(self.backend_pid, self.backend_start)

    # --- client to backend -------------------------------------------------------------------------------------

    def from_client(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the client's. Raises ProtocolViolation where the session must end."""
        if self.phase is not Phase.READY:
            if self.phase is Phase.GREETING or (self._early and self.phase is Phase.LOGIN):
                self._early.append(data)
                return b""
            if self.phase is Phase.CLOSED:
                # The backend would not read it either.
                return b""
        elif self._early:
            self._early.append(data)
            data = b"".join(self._early)
            self._early = []
        if self._swallow_client:
            gone = min(self._swallow_client, len(data))
            self._swallow_client -= gone
            data = data[gone:]
        framer = self._client
        framer.push(data)
        self._step = None
        self._kept_from = 0
        self._holding = False
        try:
            early = self._read_client(framer)
            if early is not None:
                return early
        except Malformed:
            if self._in(Phase.LOGIN) and framer.buffer[framer.cut] not in self._handlers[Phase.LOGIN]:
                return self._too_early()
            framer.let_head_go()
            self.phase = Phase.CLOSED
        except ProtocolViolation as violation:
            if framer.cut == 0:
                raise
            # What stands before it goes on, as if it had come in a chunk of its own.
            self._stepped().violation = violation
        return self._finish_client(framer)

    def _read_client(self, framer: Framer) -> bytes | None:
        """Handles the chunk's messages; gives what goes on at once where the rest must wait for the login."""
        handlers = self._handlers[self.phase]
        while framer.next():
            handler = handlers.get(framer.kind)
            if handler is None:
                if self._in(Phase.LOGIN):
                    # A client that does not wait to be let in: as the backend would, read it once it is ready.
                    framer.unread()
                    return self._too_early()
                # The backend's to answer: it ends the session there and reads no further.
                self.phase = Phase.CLOSED
                return None
            try:
                handler()
            except Unreadable:
                self._unreadable()
            if self._in(Phase.CLOSED):
                return None
            if self._step is not None and (self._step.parse is not None or len(self._step.commit) >= _MOST_EVENTS):
                # What stands behind is read again later.
                self._early.append(framer.buffer[framer.cut :])
                framer.buffer = framer.buffer[: framer.cut]
                break
            handlers = self._handlers[self.phase]
        return None

    def _unreadable(self) -> None:
        """The backend answers such a message with an error of its own."""
        kind = self._client.kind
        if kind == 0x45:
            self._push_statement(_UNKNOWN)
        elif kind == 0x51:
            self._push_statement(b"")
        else:
            self._push(_UNREADABLE[kind])

    def _in(self, phase: Phase) -> bool:
        return self.phase is phase

    def _taken(self) -> Step | None:
        step, self._step = self._step, None
        return step

    def _too_early(self) -> bytes:
        framer = self._client
        before, rest = framer.buffer[: framer.cut], framer.buffer[framer.cut :]
        self._client = Framer(_FROM_CLIENT, self._limits.max_message)
        self._early.append(rest)
        return before

    def _finish_client(self, framer: Framer) -> bytes | Step:
        step = self._step
        if step is None:
            buffer, cut = framer.buffer, framer.cut
            return buffer if cut == len(buffer) else buffer[:cut]
        rest = framer.buffer[self._kept_from : framer.cut]
        if self._holding:
            if rest:
                step.held.append(Held(rest))
        else:
            step.forward += rest
        self._step = None
        return step

    def _stepped(self) -> Step:
        if self._step is None:
            self._step = Step()
        return self._step

    def _hold_from(self, start: int, end: int, running: Running) -> None:
        """The message is an attempt: it and everything behind it waits."""
        step = self._stepped()
        buffer = self._client.buffer
        before = buffer[self._kept_from : start]
        if self._holding:
            if before:
                step.held.append(Held(before))
        else:
            step.forward += before
        self._holding = True
        step.held.append(Held(buffer[start:end], running))
        self._kept_from = end

    def _refuse_here(self, refusal: Refusal) -> None:
        """The message is replaced by one that fails in the backend, at once; what is still to come of it is swallowed."""
        framer = self._client
        step = self._stepped()
        simple = framer.kind == 0x51
        running = Running("simple" if simple else "extended", HARMLESS)
        running.refused = refusal
        before = framer.buffer[self._kept_from : framer.start] + _failing(simple)
        if self._holding:
            step.held.append(Held(before))
        else:
            step.forward += before
        self._kept_from = framer.cut
        if not framer.complete:
            self._swallow_client = framer.discard()
        self._push_statement(running)
        event = self._event(running, "refusal")
        event.outcome = "refused"
        event.sqlstate = refusal.sqlstate
        step.record.append(event)

    def client_authentication(self) -> None:
        """PasswordMessage, SASL or GSS response: the backend's to judge."""

    def client_flush(self) -> None:
        """Nothing answers it."""

    def client_terminate(self) -> None:
        self.phase = Phase.CLOSED

    def client_query(self) -> None:
        framer = self._client
        if not framer.complete:
            if framer.end - framer.start <= self._limits.max_statement_memory:
                framer.demand()
            elif self._limits.refuse_large:
                self._refuse_here(_TOO_LONG)
            else:
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
            self._refuse_here(_TOO_MANY)
            return
        running = Running("simple", verdict, text if len(text) <= self._limits.parse_thread_bytes else None)
        self._attempt(running, resolve(verdict.calls, NO_VALUES), NO_VALUES, framer.start, framer.end)

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
            if framer.end - framer.start <= self._limits.max_statement_memory:
                framer.demand()
            elif self._limits.refuse_large:
                self._refuse_here(_TOO_LONG)
            else:
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
            self._refuse_here(_TOO_MANY)
            return
        types = messages.read_parse_types(framer.buffer, pos, framer.end)
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
            if len(self._statements) >= _MOST_HARMLESS + self._secret_statements or self._texts + size > _MOST_TEXTS:
                # A statement that is not known is taken for harmless too.
                return before
            self._texts += size
        self._statements[name] = prepared
        return before

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
            bind = messages.read_bind(framer.buffer, framer.start, framer.end)
            encoding = self._codec
            values = Values(bind, statement.types, lambda raw: raw.decode(encoding))
        elif framer.end - framer.start <= self._limits.max_statement_memory:
            framer.demand()
            return
        # A longer one than may be kept: its arguments stay unknown, its calls do not.
        if len(self._portals) >= self._limits.max_prepared + _MOST_HARMLESS and portal not in self._portals:
            self._refuse_here(_TOO_MANY)
            return
        calls = resolve(statement.verdict.calls, values)
        for other in others:
            assert isinstance(other, Prepared)
            if other.verdict is not statement.verdict:
                calls += resolve(other.verdict.calls, values)
        weight = sum(len(name or "") for call in calls for name in call.names or ())
        if weight > 1024 and weight + sum(p.weight for p in self._portals.values() if isinstance(p, Portal)) > _MOST_TEXTS:
            calls, weight = resolve(statement.verdict.calls, NO_VALUES), 0
        # The values are kept no longer than they must be.
        later = statement.verdict.executes or statement.verdict.cursors
        self._bind(portal, Portal(statement, calls, values if later else NO_VALUES, weight))

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
            if before is None and len(self._portals) >= _MOST_HARMLESS:
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

    def _close_portal(self, portal: Portal) -> None:
        portal.current = False
        self._suspended.pop(portal, None)
        running, portal.suspended = portal.suspended, None
        if running is not None:
            self._end(running, "ok")

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
            attempts = self._cursors.get(name.decode(self._codec, "replace"))
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
        elif self._pending and len(self._pending) < _CROWDED:
            # Nothing answers it: without a COPY under way or to come it means nothing.
            self._push(COPY_END)

    def client_function_call(self) -> None:
        self._push_statement(Running("fastpath", HARMLESS))

    def _name(self, pos: int) -> tuple[bytes, int]:
        """A statement's or portal's name as far as it counts, and the position behind it."""
        framer = self._client
        end = min(framer.end, len(framer.buffer))
        if not framer.complete and framer.buffer.find(b"\0", pos, end) < 0:
            return framer.buffer[pos : pos + _NAME_BYTES], end
        name, pos = messages.cstring(framer.buffer, pos, end)
        return name[:_NAME_BYTES], pos

    def _push(self, entry: Entry) -> None:
        if not self._skipping:
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

    def _settle(self, undo: Undo) -> None:
        """It has been answered or passed over."""
        if undo.pipeline:
            self._doubts.popleft()

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

    def _verdict(self, text: bytes) -> Verdict | None:
        """The verdict, or None where it must be found in a thread first."""
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
        if len(text) <= self._limits.parse_thread_bytes:
            return detector.verdict(text, self._codec, self._remembered, strings)
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
                prepared = self._statements.get(execute.name.encode(self._codec, "replace"))
                made = prepared.verdict if prepared is not None else None
            if made is not None:
                attempts += resolve(made.calls, Values(arguments=execute.arguments, outer=values))
        for cursor in verdict.fetches:
            attempts += self._cursors.get(cursor, ())
        for name, prepared_calls in verdict.prepares:
            self._sql_calls[name] = Verdict(calls=prepared_calls)
        for name, cursor_calls in verdict.cursors:
            self._cursors[name] = resolve(cursor_calls, values)
        self._forget_named(verdict)
        if verdict.prepares or verdict.cursors or verdict.deallocates or verdict.closes:
            self._refresh_remembered()
        self._attempt_resolved(running, tuple(attempts), start, end)

    def _forget_named(self, verdict: Verdict) -> None:
        """DEALLOCATE and CLOSE. Should one of them fail, what it named is known by testimony from here on."""
        for name in verdict.deallocates:
            if name is None:
                self._sql_calls.clear()
                self._forget_statements()
            else:
                self._sql_calls.pop(name, None)
                self._store_statement(name.encode(self._codec, "replace"), None)
        for name in verdict.closes:
            if name is None:
                self._cursors.clear()
            else:
                self._cursors.pop(name, None)

    def _attempt_resolved(self, running: Running, attempts: tuple[ResolvedCall, ...], start: int, end: int) -> None:
        verdict = running.verdict
        running.attempts = attempts
        running.covered = {(call.function, call.owner, call.names) for call in attempts if call.exact}
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
            running.covered = set()
            out.append(_failing(running.protocol == "simple"))
            if taken:
                continue
            for call in running.attempts:
                event = self._about(running, "refusal", call)
                event.outcome = "refused"
                event.sqlstate = "58030"
                events.append(event)
            if not running.attempts:
                event = self._event(running, "refusal")
                event.outcome = "refused"
                event.sqlstate = "58030"
                event.via = running.verdict.tables or None
                events.append(event)
        return b"".join(out), events

    def _refresh_remembered(self) -> None:
        names = {name.lower().encode(self._codec, "replace") for name in (*self._sql_calls, *self._cursors)}
        names |= {name.lower() for name, kept in self._statements.items() if name and kept.verdict is not HARMLESS}
        self._remembered = tuple(name for name in names if name)

    # --- backend to client -------------------------------------------------------------------------------------

    def from_backend(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the backend's. Raises ProtocolViolation where it is no PostgreSQL that speaks."""
        self.answered = True
        framer = self._backend
        framer.push(data)
        self._step = None
        self._kept_from = 0
        self._holding = False
        if self._forgeries:
            self._forgeries = {}
        if self._dropping:
            self._stepped()
            self._kept_from = framer.cut
            self._dropping = framer.streaming
        while framer.next():
            handlers = self._ready_handlers if self.phase is Phase.READY else self._other_handlers()
            handler = handlers.get(framer.kind)
            if handler is None:
                raise ProtocolViolation(f"unexpected message type {framer.kind} from the backend")
            handler()
        step = self._taken()
        if step is None:
            buffer, cut = framer.buffer, framer.cut
            return buffer if cut == len(buffer) else buffer[:cut]
        self._step = step
        self._release(framer.cut)
        self._step = None
        return step

    def _other_handlers(self) -> dict[int, Callable[[], None]]:
        if self.phase is Phase.CLOSED:
            return self._last_handlers
        return self._greeting_handlers if self.phase is Phase.GREETING else self._login_handlers

    def _release(self, upto: int) -> None:
        """Lets what stands in the buffer up to here go on: at once, or behind what waits."""
        step = self._stepped()
        part = self._backend.buffer[self._kept_from : upto]
        if part:
            if self._holding:
                step.held.append(Held(part))
            else:
                step.forward += part
        self._kept_from = upto

    def _drop(self) -> None:
        """The message does not reach the client."""
        framer = self._backend
        self._release(framer.start)
        self._kept_from = min(framer.end, len(framer.buffer))

    def _replace(self, message: bytes) -> None:
        self._drop()
        self._say(message)

    def _say(self, message: bytes) -> None:
        """A message of the proxy's own to the client, in its place in the stream."""
        step = self._stepped()
        if self._holding:
            step.held.append(Held(message))
        else:
            step.forward += message

    def _head(self) -> Entry | None:
        pending = self._pending
        while pending and pending[0] == COPY_END:
            pending.popleft()
        return pending[0] if pending else None

    def _pop(self, kind: int) -> None:
        self._heard = True
        head = self._head()
        if head == INJECTED:
            self._drop()
        elif isinstance(head, Undo):
            if head.kind == kind:
                self._pending.popleft()
                self._settle(head)
        elif head == kind:
            self._pending.popleft()

    def backend_plain(self) -> None:
        """Goes on as it came."""
        if self._backend.kind != 0x41:
            self._heard = True
            if self._head() == INJECTED:
                self._drop()

    def backend_authentication(self) -> None:
        framer = self._backend
        code = framer.buffer[framer.start + 5 : framer.start + 9]
        if code == b"\0\0\0\0":
            self.authenticated = True
        elif self._early and code != _SASL_FINAL:
            # It asks for a password and gets what the client has said instead: the backend's to refuse.
            self._stepped().inject += b"".join(self._early)
            self._early = []
            self.phase = Phase.CLOSED
        elif code == b"\0\0\0\n" and framer.complete and not self.identity.tls:
            # AuthenticationSASL of a backend that is reached in TLS by a client that is not: channel binding is not the client's to do,
            # and libpq takes its offer for an attack.
            offered = framer.buffer[framer.start + 9 : framer.end].split(b"\0")
            if b"SCRAM-SHA-256-PLUS" in offered:
                self._replace(messages.authentication_sasl([name for name in offered if name and not name.endswith(b"-PLUS")]))

    def backend_key_data(self) -> None:
        framer = self._backend
        self.cancel_key = framer.buffer[framer.start + 5 : framer.end]
        self.backend_pid = int.from_bytes(self.cancel_key[:4], "big")

    def backend_parameter_status(self) -> None:
        framer = self._backend
        if not framer.complete:
            return
        name, pos = messages.cstring(framer.buffer, framer.start + 5, framer.end)
        raw, _ = messages.cstring(framer.buffer, pos, framer.end)
        key, value = name.decode("ascii", "replace"), raw.decode("utf-8", "replace")
        self.parameters[key] = value
        if key == "client_encoding":
            self._codec = codec(value)
        elif key == "application_name" and value != self.identity.application_name:
            self.identity = replace(self.identity, application_name=value or None)

    def backend_logged_in(self) -> None:
        """The first ReadyForQuery waits until the session has its token."""
        framer = self._backend
        if self._physical or not self.backend_pid:
            self._ready()
            return
        self.phase = Phase.GREETING
        self._greeting = "start"
        framer.actions = _FROM_BACKEND_OWN
        self._greeting_z = framer.buffer[framer.start : framer.end]
        self._drop()
        self._stepped().inject += messages.query(_ASK_START)

    def backend_greeted(self) -> None:
        """An own query of the greeting has ended."""
        self._drop()
        token = self.token
        if self._greeting == "start" and token is None:
            self._greeting = "owner"
            self._stepped().inject += messages.query(_ASK_START_AS_OWNER)
        elif self._greeting != "token" and token is not None:
            self._greeting = "token"
            self._stepped().inject += self._token_message(token)
        else:
            self._say(self._greeting_z)
            self._ready()

    def _ready(self) -> None:
        self.phase = Phase.READY
        self._backend.actions = _FROM_BACKEND
        self._stepped().ready = True

    def _token_message(self, token: str) -> bytes:
        self._token_version = self._keys.version
        setting = f"SET secretproxy.session TO '{token}'"
        if self._logical:
            return messages.query(setting)
        if self.transaction_status != "I":
            # The client may still choose its transaction's isolation or snapshot: nothing may take one before that.
            return messages.aside(setting, "secretproxy token")
        # A FunctionCall leaves the unnamed statement and portal alone, and no text of it is logged.
        return messages.function_call(_SET_CONFIG, ["secretproxy.session", token, "f"])

    def backend_greeting_row(self) -> None:
        """The answer to the question when this backend process began."""
        framer = self._backend
        self._drop()
        if framer.complete and self._greeting != "token":
            row = messages.data_row(framer.buffer, framer.start, framer.end)
            if len(row) == 1 and row[0] is not None and row[0].isdigit():
                self.backend_start = int(row[0])

    def backend_dropped(self) -> None:
        """Part of the answer to an own query."""
        self._drop()

    def backend_parse_complete(self) -> None:
        self._pop(PARSE)

    def backend_bind_complete(self) -> None:
        self._pop(BIND)

    def backend_close_complete(self) -> None:
        self._pop(CLOSE)

    def backend_parameter_description(self) -> None:
        framer = self._backend
        head = self._head()
        if isinstance(head, Describing) and framer.complete:
            head.statement.types = messages.parameter_types(framer.buffer, framer.start, framer.end)

    def backend_row_description(self) -> None:
        self._heard = True
        head = self._head()
        if head == DESCRIBE or isinstance(head, Describing):
            self._pending.popleft()
        elif head == INJECTED:
            self._drop()

    def backend_complete(self) -> None:
        """CommandComplete or EmptyQueryResponse."""
        self._heard = True
        head = self._head()
        if head == INJECTED:
            self._drop()
            return
        framer = self._backend
        if framer.kind == 0x43 and framer.end - framer.start > 5:
            tag = framer.buffer[framer.start + 5 : min(framer.end - 1, framer.start + 16)]
            if tag in (b"RESET", b"DISCARD ALL"):
                self._token_lost = True
            elif tag in (b"ROLLBACK", b"COMMIT") and self.transaction_status == "E":
                self.transaction_status = "T"
            elif tag[:4] in _DEFINING:
                self._defined = True
            if tag == b"ROLLBACK" and self._token_inside:
                # Back to what the setting was before, which may be none.
                self._token_lost = True
            due = len(self._pending) - 1
            if tag == b"DISCARD ALL" and (due <= 0 or (due == 1 and self._pending[1] == SYNC)):
                # With more under way, names may be new ones already.
                self._forget()
        if isinstance(head, Prepared) or (isinstance(head, Running) and head.protocol == "extended"):
            self._pending.popleft()
            self._ended += 1
            if isinstance(head, Running):
                self._end(head, "ok")
        self._copying = False

    def _forget(self) -> None:
        self._sql_calls.clear()
        self._cursors.clear()
        self._forget_statements()
        self._refresh_remembered()

    def _forget_statements(self) -> None:
        """All but the unnamed one."""
        self._statements = {name: kept for name, kept in self._statements.items() if not name}
        self._texts = self._secret_statements = 0

    def backend_suspended(self) -> None:
        self._heard = True
        head = self._head()
        if isinstance(head, Prepared):
            self._pending.popleft()
            self._ended += 1
        elif isinstance(head, Running) and head.protocol == "extended":
            self._pending.popleft()
            self._ended += 1
            portal = head.portal
            if portal is None or not portal.current or portal.suspended is not None:
                # Known by testimony alone, or executed again or replaced already: the next Execute is a statement of its own.
                self._end(head, "ok")
            elif head.in_the_log:
                portal.suspended = head
                self._suspended[portal] = None

    def backend_copy_in(self) -> None:
        """CopyInResponse: until CopyDone or CopyFail the backend overlooks Sync and Flush (CopyGetData, copyfromparse.c)."""
        self._heard = True
        if self._head() is None:
            return
        pending = self._pending
        head = pending.popleft()
        kept: list[Entry] = []
        ended = False
        for entry in pending:
            if ended:
                kept.append(entry)
            elif entry == COPY_END:
                ended = True
            elif entry != SYNC:
                kept.append(entry)
        self._pending = deque([head, *kept])
        self._copying = not ended

    def backend_error(self) -> None:
        framer = self._backend
        found = messages.fields(framer.buffer, framer.start, min(framer.end, len(framer.buffer)))
        sqlstate = found.get(0x43, b"").decode("ascii", "replace")
        severity = found.get(0x56, found.get(0x53, b""))
        fatal = severity in (b"FATAL", b"PANIC")
        if self.phase is Phase.GREETING:
            if fatal:
                self._release(framer.start)
                self._say(self._greeting_z)
                self.phase = Phase.CLOSED
            else:
                self._drop()
                self._token_lost = self._greeting == "token"
            return
        if self.phase is Phase.LOGIN:
            self.login_refusal = sqlstate
            return
        self._heard = True
        self._copying = False
        head = self._head()
        if head is None:
            return
        if head == INJECTED:
            if not fatal:
                self._drop()
                # Cancelled, perhaps: another try behind the next statement.
                self._token_lost = True
            return
        if isinstance(head, Running) and head.refused is not None and not fatal and framer.complete:
            self._answer_refusal(head.refused, sqlstate)
            sqlstate = head.refused.sqlstate
        if self._query_like(head):
            if isinstance(head, Running):
                head.failed = True
                head.sqlstate = sqlstate
            elif fatal:
                self._pending.popleft()
            return
        if head == SYNC:
            return
        self._skip(sqlstate)

    def _query_like(self, entry: Entry) -> bool:
        return isinstance(entry, bytes) or (isinstance(entry, Running) and entry.protocol != "extended")

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

    def _answer_refusal(self, refusal: Refusal, sqlstate: str) -> None:
        if sqlstate == "25P02" or self.transaction_status == "E":
            self._replace(messages.error_response("ERROR", "25P02", _ABORTED))
        else:
            self._replace(messages.error_response("ERROR", refusal.sqlstate, refusal.text, hint=refusal.hint))

    def backend_ready(self) -> None:
        framer = self._backend
        status = framer.buffer[framer.start + 5 : framer.start + 6].decode("ascii", "replace")
        head = self._head()
        heard, self._heard = self._heard, False
        if head == INJECTED:
            self._pending.popleft()
            self._drop()
            framer.actions = _FROM_BACKEND
            self.transaction_status = status
            return
        self.transaction_status = status
        self._copying = False
        # An error has been seen and no Sync is left: this answers one that was taken for overlooked during COPY.
        self._skipping = False
        if heard or head == SYNC:
            self._pop_cycle()
        pending = self._pending
        if self._between is not None:
            self._end(self._between, "ok")
            self._between = None
        if status == "I":
            self._transaction_over()
        if self._token_version and self._keys.version != self._token_version:
            self._token_lost = True
        if self._token_lost and not pending and status != "E" and not self._client.streaming and self.phase is Phase.READY:
            self._renew_token()

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

    def _renew_token(self) -> None:
        self._token_lost = False
        token = self.token
        if token is None or self._physical:
            return
        self._token_inside = self.transaction_status == "T"
        self._pending.append(INJECTED)
        self._backend.actions = _FROM_BACKEND_OWN
        self._stepped().inject += self._token_message(token)

    # --- testimony ---------------------------------------------------------------------------------------------

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
                self._dropping = True
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

    # --- events ------------------------------------------------------------------------------------------------

    def _event(self, running: Running, kind: EventKind) -> Event:
        if running.fingerprint is None:
            running.fingerprint = running.verdict.fingerprint
            if running.fingerprint is None and running.text is not None:
                running.fingerprint = fingerprint(running.text.decode(self._codec, "replace"))
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

    def lost(self) -> list[Event]:
        """The connection is gone: the outcome of everything that was under way."""
        self.phase = Phase.CLOSED
        self._step = Step()
        entries: list[Entry | None] = [*self._pending, *(portal.suspended for portal in self._suspended), self._between]
        self._pending.clear()
        self._suspended.clear()
        self._between = None
        for entry in entries:
            if isinstance(entry, Running):
                self._end(entry, "error" if entry.failed else "lost")
        step = self._taken()
        return step.record if step is not None else []


def _failing(simple: bool) -> bytes:
    """A message that the backend answers with an error: what it names does not exist."""
    name = f"{_REFUSED_NAME} {uuid.uuid4().hex[:20]}"
    return messages.query(f'EXECUTE "{name}"') if simple else messages.execute(name)


def new_identity(
    user: str | None,
    database: str | None,
    application_name: str | None,
) -> Identity:
    """An identity with a new session id."""
    return Identity(uuid.uuid4(), user, database or user, application_name)
