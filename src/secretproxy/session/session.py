"""The session: reads both directions of one connection and decides what goes on, what waits for the log, what is said to it.

`from_client` and `from_backend` take a chunk as it came and return either bytes, all of which may go on at once (the common
case), or a Step. What a Step says is carried out by the outer layer; this one has no sockets, no clock and no event loop.
May import wire and detect; must never put statement text or a value into an event.

A session is one object in layers, a module each, and a layer calls only those before it:

    connection   what a session holds
    outcomes     events, and how a statement ended
    memory       answers that are due; names that lead to secret calls
    attempts     verdicts, attempts that wait for the log, refusals
    client       what each message of the client's means
    greeting     login, token, what of the backend's stream reaches the client
    testified    testimony in that stream
    answers      what each message of the backend's means
    session      chunks in, decisions out: the face, for the proxy

The states, and which method takes which message in them, stand in states.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from secretproxy.detect import Detector
from secretproxy.session import testimony
from secretproxy.session.answers import Answers
from secretproxy.session.connection import CROWDED, FROM_CLIENT, Entry
from secretproxy.session.events import Event, Identity
from secretproxy.session.statements import Prepared, Running
from secretproxy.session.states import BACKEND_GREETING, BACKEND_LOGIN, BACKEND_READY, CLIENT_MESSAGES, Phase
from secretproxy.session.step import Held, Limits, Step
from secretproxy.wire.errors import Malformed, ProtocolViolation, Unreadable
from secretproxy.wire.framing import Framer
from secretproxy.wire.types import SqlState

__all__ = ["Held", "Limits", "Session", "Step", "new_identity"]

# Entries of `pending` under which a client that was not read from is again.
_ROOMY = 512
# NAMEDATALEN - 1
_NAME_BYTES = 63
# Events that one step of the client's may have to wait for; what stands behind them is read once they are in the log.
_MOST_EVENTS = 256
# Messages of one client that are looked at before others have their turn.
_MOST_MESSAGES = 256


class Session(Answers):
    """One client and its backend, from the moment the startup packet has gone on."""

    def __init__(
        self,
        identity: Identity,
        keys: testimony.Keys,
        detector: Detector,
        limits: Limits,
        replication: str | None = None,
    ) -> None:
        super().__init__(identity, keys, detector, limits, replication)
        self._handlers: dict[Phase, dict[int, Callable[[], None]]] = {
            phase: {kind[0]: getattr(self, name) for kind, name in table.items()} for phase, table in CLIENT_MESSAGES.items()
        }
        self._login_handlers = {kind[0]: getattr(self, name) for kind, name in BACKEND_LOGIN.items()}
        self._greeting_handlers = {kind[0]: getattr(self, name) for kind, name in BACKEND_GREETING.items()}
        self._ready_handlers = {kind[0]: getattr(self, name) for kind, name in BACKEND_READY.items()}
        self._last_handlers = self._login_handlers | self._ready_handlers

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
    def answer_is_cut(self) -> bool:
        """Whether the client has a part of a message whose rest is still to come."""
        return self._backend.streaming

    @property
    def crowded(self) -> bool:
        """Whether so many answers are due that the client must wait for some; a Flush to the backend makes sure that they come."""
        return len(self._pending) > CROWDED and not self._client.streaming

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
        seen = 0
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
            seen += 1
            if seen >= _MOST_MESSAGES and framer.cut < len(framer.buffer) and self._in(Phase.READY):
                self._stepped().again = True
            if self._step is not None and (
                self._step.parse is not None or self._step.again or len(self._step.commit) >= _MOST_EVENTS
            ):
                # What stands behind is read again later.
                self._early.append(framer.buffer[framer.cut :])
                framer.buffer = framer.buffer[: framer.cut]
                break
            handlers = self._handlers[self.phase]
        return None

    def _too_early(self) -> bytes:
        framer = self._client
        before, rest = framer.buffer[: framer.cut], framer.buffer[framer.cut :]
        self._client = Framer(FROM_CLIENT, self._limits.max_message)
        self._early.append(rest)
        return before

    def _finish_client(self, framer: Framer) -> bytes | Step:
        step = self._step
        if step is None:
            buffer, cut = framer.buffer, framer.cut
            return buffer if cut == len(buffer) else buffer[:cut]
        self._let_on(framer.buffer[self._kept_from : framer.cut])
        self._step = None
        return step

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

    def lost(self, *, broke: bool = False) -> list[Event]:
        """The connection is gone: the outcome of everything that was under way. `broke`: some of what the backend said may not have come."""
        ready = self._in(Phase.READY) or self._in(Phase.CLOSED)
        self.phase = Phase.CLOSED
        self._step = Step()
        if broke and ready and self._testifies and isinstance(self._head(), bytes | Prepared | Running):
            # What it called last, nobody has heard.
            event = self._event(self._under_way(), "refusal")
            event.outcome = "lost"
            event.sqlstate = SqlState.CONNECTION_FAILURE
            self._step.record.append(event)
        entries: list[Entry | None] = [*self._pending, *(portal.suspended for portal in self._suspended), self._between]
        self._pending.clear()
        self._suspended.clear()
        self._between = None
        for entry in entries:
            if isinstance(entry, Running):
                self._end(entry, "error" if entry.failed else "lost")
        step = self._taken()
        return step.record if step is not None else []


def new_identity(
    user: str | None,
    database: str | None,
    application_name: str | None,
) -> Identity:
    """An identity with a new session id."""
    return Identity(uuid.uuid4(), _as_used(user), _as_used(database or user), application_name)


def _as_used(name: str | None) -> str | None:
    """A user or database by the name that the server uses: it cuts at 63 bytes, be it in a character (ProcessStartupPacket())."""
    if name is None or len(name) < _NAME_BYTES // 4:
        return name
    return name.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "surrogateescape")
