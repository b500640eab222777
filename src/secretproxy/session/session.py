"""The session: reads both directions of one connection and decides what goes on, what waits for the log, what is said
to it.

`from_client` and `from_backend` take a chunk as it came and return either bytes, all of which may go on at once (the
common case), or a Step. What a Step says is carried out by the interpreter; this one has no sockets, no clock and no
event loop. May import wire and detect; must never put statement text or a value into an event.

A session is made of parts, a module each. A part owns its state, is given the parts that it needs, and those stand
before it here:

    states     State       who the session is, where it stands, how its texts are written
    step       Output      the Step of the chunk under way
    names      Names       statements, portals and cursors that lead to secret calls, and doubts about them
    pipeline   Outcomes    events, and how a statement ended
               Pipeline    answers that are due
    stream     *Stream     each direction's bytes: let on, held, dropped, replaced, or waiting
               Sealing     the answer of a statement that only reads, which waits for the log
    frontend   Attempts    verdicts, attempts that wait for the log, refusals
               Frontend    what each message of the client's means
    testimony  Token       the backend process and the session's token
               Matching    testimony, matched to attempts
    greeting   Greeting    login and greeting
    backend    Backend     what each message of the backend's means
    reads      Reads       the commonest read of a secret and its answer, at once
    plain      Plain       chunks of the commonest form, at once
    session    Session     chunks in, decisions out: the face, for the proxy, and the tables of messages

and beneath all, walk: where the messages of a chunk of the commonest form stand, for plain and reads.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Final

from secretproxy.detect import Detector, Verdict
from secretproxy.session.backend import Backend
from secretproxy.session.events import Event, Identity, LogState, Timing
from secretproxy.session.frontend import Attempts, Frontend
from secretproxy.session.greeting import Greeting
from secretproxy.session.names import Names
from secretproxy.session.pipeline import HIGH_WATER, LOW_WATER, Outcomes, Pipeline
from secretproxy.session.plain import Plain
from secretproxy.session.reads import Reads
from secretproxy.session.states import Phase, State
from secretproxy.session.step import Held, Limits, Output, Step
from secretproxy.session.stream import BackendStream, ClientStream, Framer, Sealing, withheld
from secretproxy.session.testimony import POOLER, Keys, Matching, Token
from secretproxy.wire.errors import MalformedError, ProtocolViolationError, UnreadableError
from secretproxy.wire.types import BackendMessage, FrontendMessage, SqlState, TransactionStatus

__all__ = ["Held", "Limits", "Session", "Step", "new_identity"]

# Compiled, a name of a module is at hand where a member of an enumeration is looked up.
_LOGIN: Final = Phase.LOGIN
_GREETING: Final = Phase.GREETING
_READY: Final = Phase.READY
_CLOSED: Final = Phase.CLOSED

# NAMEDATALEN - 1
_NAME_BYTES: Final = 63
# The most events that one chunk of the client may wait for; the rest is read once they are in the log.
_MOST_EVENTS: Final = 256
# Messages of one client that are read before others have their turn.
_MOST_MESSAGES: Final = 256

# What takes a message of each type: a message without an entry is not to be sent in that phase.
Handlers = dict[int, Callable[[Framer], None]]


class Session:
    """One client and its backend, from the moment the startup packet has gone on."""

    def __init__(
        self,
        identity: Identity,
        keys: Keys,
        detector: Detector,
        limits: Limits,
        replication: str | None = None,
        log: LogState | None = None,
    ) -> None:
        state = self.state = State(identity, detector, limits, replication, log)
        output = self._output = Output()
        client = self._client = ClientStream(limits.max_message, output)
        stream = self._backend = BackendStream(output)
        outcomes = self._outcomes = Outcomes(state, output)
        names = self.names = Names(state)
        pipeline = self.pipeline = Pipeline(names, outcomes)
        sealing = self._sealing = Sealing(state, stream, outcomes, pipeline)
        attempts = self._attempts = Attempts(state, output, client, names, pipeline, outcomes, sealing)
        frontend = self._frontend = Frontend(state, names, pipeline, attempts)
        token = self._token = Token(state, output, stream, pipeline, keys)
        greeting = self._greeting = Greeting(state, output, client, stream, token)
        matching = self.matching = Matching(state, output, stream, outcomes, pipeline, token)
        backend = Backend(state, output, client, stream, names, pipeline, token)
        reads = self._reads = Reads(state, stream, names, pipeline, sealing, token, matching)
        self._plain: Final = Plain(state, client, stream, names, pipeline, token, backend, sealing, reads)
        # Whether the backend has said anything.
        self.answered = False
        self._client_login: Final = _client_login(frontend)
        self._client_ready: Final = _client_ready(frontend)
        login = _backend_login(greeting, matching, backend)
        self._backend_ready: Final = _backend_ready(greeting, matching, backend)
        self._backend_before_and_after: Final = {
            _LOGIN: login,
            _GREETING: _backend_greeting(greeting, matching, backend),
            # A client may leave in the middle of its login.
            _CLOSED: login | self._backend_ready,
        }

    def __repr__(self) -> str:
        return f"Session({self.phase.value}, pid={self.backend_pid}, statements={self.pipeline.started})"

    # --- what the proxy asks ---

    @property
    def phase(self) -> Phase:
        return self.state.phase

    @property
    def identity(self) -> Identity:
        return self.state.identity

    @property
    def detector(self) -> Detector:
        return self.state.detector

    @property
    def parameters(self) -> dict[str, str]:
        """Gives what the backend has reported by ParameterStatus, of what matters here."""
        return self.state.parameters

    @property
    def codec(self) -> str:
        """Gives the Python codec of the client's texts."""
        return self.state.codec

    @property
    def physical(self) -> bool:
        """Says whether it is a session of physical replication, which takes no SQL."""
        return self.state.physical

    @property
    def token(self) -> str | None:
        """Gives the session's token, None until the start time of the backend process is known."""
        return self._token.value

    @property
    def backend_pid(self) -> int:
        return self._token.pid

    @property
    def backend_start(self) -> int | None:
        """Gives the start time of the backend process, in microseconds since the Unix epoch, if it is known."""
        return self._token.start

    @property
    def pooled(self) -> bool:
        """Says whether a pooler is in front of the server."""
        return self._token.pooled

    @property
    def pooler(self) -> ProtocolViolationError:
        """Makes the error that ends a session whose backend is not its own."""
        return POOLER

    @property
    def authenticated(self) -> bool:
        return self._greeting.authenticated

    @property
    def cancel_key(self) -> bytes:
        """Gives the content of a CancelRequest for this session: process id and secret key."""
        return self._greeting.cancel_key

    @property
    def client_gone(self) -> bool:
        """Says whether there is no client any more to tell how a statement ended."""
        return self.state.client_gone

    @client_gone.setter
    def client_gone(self, gone: bool) -> None:
        self.state.client_gone = gone

    @property
    def login_refusal(self) -> str:
        """Gives the SQLSTATE by which the backend refuses the login; the proxy clears it after it has read it."""
        return self._greeting.refusal

    @login_refusal.setter
    def login_refusal(self, sqlstate: str) -> None:
        self._greeting.refusal = sqlstate

    @property
    def idle(self) -> bool:
        """Says whether nothing is pending: no transaction, no answer due, no message half sent."""
        state = self.state
        return (
            state.phase is _READY
            and state.transaction_status == TransactionStatus.IDLE
            and self.pipeline.idle
            and self._client.at_rest
        )

    @property
    def quiet(self) -> bool:
        """Says whether the backend runs nothing: it owes no answer and is not in the middle of its login."""
        return self.state.phase in (_READY, _CLOSED) and self.pipeline.idle

    @property
    def takes_terminate(self) -> bool:
        """Says whether a Terminate can follow what the backend was sent."""
        return self.state.phase is _READY and not self._client.streaming

    @property
    def answer_is_cut(self) -> bool:
        """Says whether the client has only a part of a message."""
        return self._sealing.client_is_cut

    @property
    def above_high_water(self) -> bool:
        """Says whether so many answers are due that the client must wait; a Flush to the backend makes sure that they
        come.
        """
        return self.pipeline.due > HIGH_WATER and not self._client.streaming

    @property
    def below_low_water(self) -> bool:
        """Says whether so few answers are due that a waiting client is read from again."""
        return self.pipeline.due < LOW_WATER

    @property
    def waiting_bytes(self) -> int:
        """Counts the client's bytes that the session keeps until the backend is ready for them."""
        return self._client.waiting_bytes

    # --- what the proxy says ---

    def use(self, detector: Detector) -> None:
        """Takes the detector of the session's database."""
        self.state.detector = detector

    def expect_silence(self, functions: frozenset[str]) -> None:
        """Takes the names of the secret functions whose calls may go without testimony."""
        self.state.silent = functions

    def texts(self) -> list[bytes]:
        """Gives what is prepared, where its text is known."""
        return self.names.texts()

    def reconsider(self, found: Mapping[bytes, Verdict]) -> None:
        """Takes new verdicts on what is prepared: the detector knows more, or something else."""
        self.names.reconsider(found)

    def parsed(self, text: bytes, verdict: Verdict) -> None:
        """Takes the verdict that a Step asked for."""
        self._attempts.supply(text, verdict)

    def refuse(self, step: Step, *, taken: bool) -> tuple[bytes, list[Event]]:
        """Refuses what a client's Step holds, for the log cannot commit it: gives what goes to the backend
        instead, and what the log shall hear of it later. `taken`: the journal has the attempts and will write them
        when it can."""
        return self._attempts.refuse(step, taken=taken)

    # --- chunks ---

    def from_client(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the client's. Raises ProtocolViolationError if the session must end."""
        return data if self._plain.takes_client(data) else self.reads_client(data)

    def passes_client(self, data: bytes) -> bool:
        """Takes a chunk of the client's if it is of the commonest form, and goes on as it came; reads_client() takes it
        if not. Nothing else is due then."""
        return self._plain.takes_client(data)

    def reads_client(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the client's message by message. Raises ProtocolViolationError if the session must end."""
        if self._reads.read is not None:
            self._settle()
        state, stream = self.state, self._client
        phase = state.phase
        if phase is not _READY:
            if phase is _GREETING or (phase is _LOGIN and stream.waits):
                stream.keep(data)
                return b""
            if phase is _CLOSED:
                # The backend would not read it either.
                return b""
        stream.begin(data)
        framer = stream.framer
        try:
            early = self._read_client(framer)
            if early is not None:
                return early
        except MalformedError:
            if state.at(_LOGIN) and framer.buffer[framer.cut] not in self._client_login:
                return stream.keep_early()
            framer.forward_header()
            state.enter(_CLOSED)
        except ProtocolViolationError as violation:
            if framer.cut == 0:
                raise
            # The bytes before it are forwarded, as if they were a chunk of their own.
            self._output.made().violation = violation
        return stream.finish()

    def _read_client(self, framer: Framer) -> bytes | None:
        """Handles the chunk's messages; gives what goes on at once where the rest must wait for the login."""
        state, stream, output = self.state, self._client, self._output
        handlers = self._client_ready if state.phase is _READY else self._client_login
        seen = 0
        while framer.next():
            handler = handlers.get(framer.kind)
            if handler is None:
                if state.phase is _LOGIN:
                    # A client that does not wait to be let in: as the backend would, read it once it is ready.
                    framer.unread()
                    return stream.keep_early()
                # The backend's to answer: it ends the session there and reads no further.
                state.enter(_CLOSED)
                return None
            try:
                handler(framer)
            except UnreadableError:
                self._frontend.unreadable(framer)
            if state.at(_CLOSED):
                return None
            seen += 1
            if seen >= _MOST_MESSAGES and framer.cut < len(framer.buffer) and state.at(_READY):
                output.made().again = True
            step = output.step
            if step is not None and (step.parse is not None or step.again or len(step.commit) >= _MOST_EVENTS):
                stream.keep_rest()
                break
        return None

    def from_backend(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the backend's. Raises ProtocolViolationError if it is no PostgreSQL that speaks."""
        return data if self._plain.takes_backend(data) else self.reads_backend(data)

    def passes_backend(self, data: bytes) -> bool:
        """Takes a chunk of the backend's if it is the whole answer to one that passes_client() took, and goes on as it
        came; reads_backend() takes it if not."""
        return self._plain.takes_backend(data)

    def reads_backend(self, data: bytes) -> bytes | Step:
        """Takes a chunk of the backend's that passes_backend() has not taken. Raises ProtocolViolationError if it is no
        PostgreSQL that speaks."""
        if self._reads.read is not None:
            out = self._reads.takes_backend(data)
            if out is not None:
                return out
            self._settle()
        return self._read_backend(data)

    def _read_backend(self, data: bytes) -> bytes | Step:
        """Reads a chunk of the backend's message by message."""
        self.answered = True
        state, stream = self.state, self._backend
        stream.begin(data)
        self.matching.begin()
        framer = stream.framer
        while framer.next():
            phase = state.phase
            handlers = self._backend_ready if phase is _READY else self._backend_before_and_after[phase]
            handler = handlers.get(framer.kind)
            if handler is None:
                raise ProtocolViolationError(f"unexpected message type {framer.kind} from the backend")
            handler(framer)
        out = stream.finish()
        return out if self._sealing.running is None else self._sealing.take(out)

    def _settle(self) -> None:
        """Leaves a read that was taken at once to the handlers, and what was kept of its answer."""
        read = self._reads.read
        if read is None:
            return
        kept = self._reads.settle()
        if kept:
            # All of it is kept on: that testimony is the statement's own.
            self.matching.known = read.heard
            self._read_backend(kept)
            self.matching.known = None

    @property
    def read_timing(self) -> Timing | None:
        """Gives the timing of the statement that passes_client() has just taken, if it is a read: nothing that the
        backend says goes on before the log has it."""
        return self._reads.read

    @property
    def sealed(self) -> Timing | None:
        """Gives the timing of the statement whose answer is kept until the log has it."""
        read, running = self._reads.read, self._sealing.running
        if read is not None:
            return read
        return None if running is None else running.timing

    @property
    def keeps_answer(self) -> bool:
        """Says whether a part of an answer is kept until the log has its statement."""
        read = self._reads.read
        return self._sealing.keeps if read is None else len(read.kept) > 0

    def unseal(self) -> Step | None:
        """Ends the keeping of an answer that takes long: gives the attempts to commit and what goes on behind them,
        None if none is kept."""
        self._settle()
        return self._sealing.open()

    def withhold(self, step: Step) -> tuple[bytes, list[Event]]:
        """Gives what goes to the client instead of a replaceable Step's answer, for the log cannot commit it, and what
        the log shall hear of that later."""
        return withheld(step.take_held()), self._outcomes.undelivered(step.commit, "refused", SqlState.IO_ERROR)

    def undelivered(self, step: Step) -> list[Event]:
        """Gives what the log shall hear of a backend's Step whose answer finds no client any more."""
        return self._outcomes.undelivered(step.commit, "lost")

    def lost(self, *, broke: bool = False) -> list[Event]:
        """Ends the session, the connection is gone: gives the outcome of everything that was under way. `broke`:
        some of what the backend said may not have come."""
        self._settle()
        state, pipeline = self.state, self.pipeline
        ready = state.phase in (_READY, _CLOSED)
        state.enter(_CLOSED)
        self._output.begin()
        record = self._output.made().record
        if broke and ready and state.testifies and pipeline.at_statement:
            # What it called last, nobody has heard.
            event = self._outcomes.event(pipeline.under_way(), "refusal")
            event.outcome = "lost"
            event.sqlstate = SqlState.CONNECTION_FAILURE
            record.append(event)
        pipeline.lost()
        record += self._output.made().access
        self._output.begin()
        return self._sealing.take_ended() + record


def _client_login(frontend: Frontend) -> Handlers:
    return {FrontendMessage.PASSWORD: frontend.passed, FrontendMessage.TERMINATE: frontend.terminate}


def _client_ready(frontend: Frontend) -> Handlers:
    return {
        FrontendMessage.QUERY: frontend.query,
        FrontendMessage.PARSE: frontend.parse,
        FrontendMessage.BIND: frontend.bind,
        FrontendMessage.DESCRIBE: frontend.describe,
        FrontendMessage.EXECUTE: frontend.execute,
        FrontendMessage.CLOSE: frontend.close,
        FrontendMessage.SYNC: frontend.sync,
        FrontendMessage.FLUSH: frontend.flush,
        FrontendMessage.FUNCTION_CALL: frontend.function_call,
        FrontendMessage.COPY_DATA: frontend.passed,
        FrontendMessage.COPY_DONE: frontend.copy_end,
        FrontendMessage.COPY_FAIL: frontend.copy_end,
        FrontendMessage.TERMINATE: frontend.terminate,
    }


def _backend_login(greeting: Greeting, matching: Matching, backend: Backend) -> Handlers:
    return {
        BackendMessage.AUTHENTICATION: greeting.authentication,
        BackendMessage.PARAMETER_STATUS: backend.parameter_status,
        BackendMessage.BACKEND_KEY_DATA: greeting.key_data,
        BackendMessage.ERROR_RESPONSE: greeting.refused,
        BackendMessage.NOTICE_RESPONSE: matching.notice,
        BackendMessage.NOTIFICATION_RESPONSE: backend.passed,
        BackendMessage.NEGOTIATE_PROTOCOL_VERSION: backend.passed,
        BackendMessage.READY_FOR_QUERY: greeting.logged_in,
    }


def _backend_greeting(greeting: Greeting, matching: Matching, backend: Backend) -> Handlers:
    return {
        BackendMessage.ROW_DESCRIPTION: greeting.dropped,
        BackendMessage.DATA_ROW: greeting.row,
        BackendMessage.COMMAND_COMPLETE: greeting.dropped,
        BackendMessage.FUNCTION_CALL_RESPONSE: greeting.dropped,
        BackendMessage.ERROR_RESPONSE: greeting.failed,
        BackendMessage.NOTICE_RESPONSE: matching.notice,
        BackendMessage.PARAMETER_STATUS: backend.parameter_status,
        BackendMessage.NOTIFICATION_RESPONSE: backend.passed,
        BackendMessage.READY_FOR_QUERY: greeting.greeted,
    }


def _backend_ready(greeting: Greeting, matching: Matching, backend: Backend) -> Handlers:
    return {
        BackendMessage.PARSE_COMPLETE: backend.parse_complete,
        BackendMessage.BIND_COMPLETE: backend.bind_complete,
        BackendMessage.CLOSE_COMPLETE: backend.close_complete,
        BackendMessage.PARAMETER_DESCRIPTION: backend.parameter_description,
        BackendMessage.ROW_DESCRIPTION: backend.row_description,
        BackendMessage.NO_DATA: backend.row_description,
        BackendMessage.COMMAND_COMPLETE: backend.complete,
        BackendMessage.EMPTY_QUERY_RESPONSE: backend.complete,
        BackendMessage.PORTAL_SUSPENDED: backend.suspended,
        BackendMessage.FUNCTION_CALL_RESPONSE: backend.passed,
        BackendMessage.COPY_IN_RESPONSE: backend.copy_in,
        BackendMessage.COPY_OUT_RESPONSE: backend.passed,
        BackendMessage.COPY_BOTH_RESPONSE: backend.passed,
        BackendMessage.COPY_DONE: backend.passed,
        BackendMessage.COPY_DATA: backend.passed,
        BackendMessage.DATA_ROW: backend.passed,
        BackendMessage.ERROR_RESPONSE: backend.error,
        BackendMessage.NOTICE_RESPONSE: matching.notice,
        BackendMessage.PARAMETER_STATUS: backend.parameter_status,
        BackendMessage.NOTIFICATION_RESPONSE: backend.passed,
        BackendMessage.BACKEND_KEY_DATA: greeting.key_data,
        BackendMessage.READY_FOR_QUERY: backend.ready,
    }


def new_identity(
    user: str | None,
    database: str | None,
    application_name: str | None,
) -> Identity:
    """Makes an identity with a new session id."""
    return Identity(uuid.uuid4(), _as_used(user), _as_used(database or user), application_name)


def _as_used(name: str | None) -> str | None:
    """Gives a user or database by the name that the server uses: it cuts at 63 bytes, even within a character
    (ProcessStartupPacket()).
    """
    if name is None or len(name) < _NAME_BYTES // 4:
        return name
    return name.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "surrogateescape")
