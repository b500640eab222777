"""The interpreter: carries out what a session decides, in the one order that step.py states.

An endpoint hands it each chunk, and it writes what goes on to the other endpoint. The proxy, the reader of an orphaned
backend, the playbook of the tests and the fuzz harness all run a session through this module; they differ in what they
give it: two connections, a log, and effects for what is rare. Here is also the one place outside the session where
bytes wait: the chunks of a side that is waiting for the log, for a verdict, for its turn or for answers. Has no
sockets, no clock and no event loop; may import the session and wire.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from secretproxy.detect import Verdict
from secretproxy.session.events import Event, Timing
from secretproxy.session.session import Session
from secretproxy.session.step import Step
from secretproxy.wire.errors import ProtocolViolationError

# Bytes that a client may send before the end of its login; then the proxy stops reading from it.
_MOST_EARLY: Final = 65_536


class Wait(Enum):
    """The reason why no more of a side is taken."""

    NOTHING = "nothing"
    # The end of the login and the greeting.
    LOGIN = "login"
    LOG = "log"
    VERDICT = "verdict"
    # A later turn of the event loop.
    TURN = "turn"
    # So many answers are due that it is the backend's turn: above the high water mark, until below the low one.
    ANSWERS = "answers"


class Connected(Enum):
    """The peers of a session that are still connected."""

    BOTH = "both"
    # The client has gone; the backend is read to its end.
    BACKEND = "backend"
    NONE = "none"


_NOTHING: Final = Wait.NOTHING
_LOGIN: Final = Wait.LOGIN
_LOG: Final = Wait.LOG
_VERDICT: Final = Wait.VERDICT
_TURN: Final = Wait.TURN
_ANSWERS: Final = Wait.ANSWERS
_BOTH: Final = Connected.BOTH
_BACKEND: Final = Connected.BACKEND
_NONE: Final = Connected.NONE


# A class and no Protocol: compiled, a call of its methods costs a tenth.
@mypyc_attr(allow_interpreted_subclasses=True)
class Connection:
    """The connection to a peer, as far as an interpreter uses it. No method may block."""

    def write(self, data: bytes) -> None:
        """Sends bytes to the peer."""
        raise NotImplementedError

    def write_coalesced(self, data: bytes) -> None:
        """Does the same, but may wait a moment to send them with what is written next."""
        raise NotImplementedError

    def takes_directly(self) -> bool:
        """Tells whether nothing waits to be sent before a chunk that its reader sends on."""
        return False

    def pause(self, paused: bool) -> None:
        """Stops reading from the peer while some of its bytes wait here, or reads from it again."""
        raise NotImplementedError


class Log(Protocol):
    """The way to the access log. No method may block."""

    def record(self, events: list[Event]) -> None:
        """Takes events that nobody waits for."""

    def commit_attempts(self, step: Step, interpreter: Interpreter) -> None:
        """Takes a client's `commit`. The interpreter's attempts_committed() is called once the log has them, or its
        refuse() and proceed()."""

    def commit_testimony(self, step: Step, interpreter: Interpreter) -> None:
        """Takes a backend's `commit`. The interpreter's testimony_committed() is called once the log has them."""

    def seal(self, timing: Timing, interpreter: Interpreter) -> None:
        """Takes note of the timing of a statement that the log does not have yet and whose answer is kept. The
        interpreter's unseal() is called if that takes long."""

    def commit_access(self, step: Step, interpreter: Interpreter) -> None:
        """Takes a backend's `commit` that is replaceable. The interpreter's testimony_committed() is called once the
        log has it, or withhold() if it cannot be written."""

    def refused(self, events: list[Event], attempts: int) -> None:
        """Takes note of so many attempts that were refused, and the events that say so."""


class Effects(Protocol):
    """The rare rest, neither a chunk nor an event. No method may block; an error goes to the interpreter's caller."""

    def inject(self, data: bytes) -> None:
        """Sends the backend a message of the proxy's own."""

    def flush_backend(self) -> None:
        """Sends a Flush: answers may lie in the backend's buffer, and the client is not read from before they
        come."""

    def parse(self, text: bytes, codec: str, conforming_strings: int) -> None:
        """Finds a verdict elsewhere; parsed() is called with it."""

    def continue_later(self) -> None:
        """Calls resume_client() in a later turn of the event loop."""

    def end_backend_input(self) -> None:
        """Tells the backend that nothing more comes: the client has ended its output, and all of it has been sent."""

    def login_may_proceed(self) -> bool:
        """Looks at the session after a chunk of the backend's at the login. False: the session was ended."""

    def owns_process(self) -> bool:
        """Takes the backend process behind a pooler. False: another session has it."""

    def ready(self) -> None:
        """Takes note that login and greeting are done."""

    def idle_reported(self) -> None:
        """Takes note that the session is idle, which report_idle() asked for."""

    def unannounced(self) -> None:
        """Takes note of a call by a function that no attempt named."""

    def defined(self) -> None:
        """Takes note that the catalog may have changed."""

    def end_by_client(self, violation: ProtocolViolationError) -> None:
        """Ends the session for what the client said."""

    def end_by_backend(self, violation: ProtocolViolationError) -> None:
        """Ends the session for what the backend said."""

    def unreadable_backend(self, violation: ProtocolViolationError) -> None:
        """Ends the session: what the backend says is not PostgreSQL's protocol."""


class NoEffects(Effects):
    """Does nothing of all that: for whoever leaves most of it out."""

    def inject(self, data: bytes) -> None:
        pass

    def flush_backend(self) -> None:
        pass

    def parse(self, text: bytes, codec: str, conforming_strings: int) -> None:
        pass

    def continue_later(self) -> None:
        pass

    def end_backend_input(self) -> None:
        pass

    def login_may_proceed(self) -> bool:
        return True

    def owns_process(self) -> bool:
        return True

    def ready(self) -> None:
        pass

    def idle_reported(self) -> None:
        pass

    def unannounced(self) -> None:
        pass

    def defined(self) -> None:
        pass

    def end_by_client(self, violation: ProtocolViolationError) -> None:
        pass

    def end_by_backend(self, violation: ProtocolViolationError) -> None:
        pass

    def unreadable_backend(self, violation: ProtocolViolationError) -> None:
        pass


class Nobody(Connection):
    """The connection to a peer that has gone."""

    def write(self, data: bytes) -> None:
        pass

    def write_coalesced(self, data: bytes) -> None:
        pass

    def pause(self, paused: bool) -> None:
        pass


class Interpreter:
    """One session's. A method that is called once the session has ended does nothing."""

    def __init__(self, session: Session, client: Connection, backend: Connection, log: Log, effects: Effects) -> None:
        self._session: Final = session
        self._client = client
        self._backend = backend
        self._log = log
        self._effects = effects
        self._connected = _BOTH
        self._ready = False
        self._client_waits = _NOTHING
        self._backend_waits = _NOTHING
        # What the log is to take before its bytes go on.
        self._client_step: Step | None = None
        self._backend_step: Step | None = None
        # Chunks that came meanwhile.
        self._client_backlog: deque[bytes] = deque()
        self._backend_backlog: deque[bytes] = deque()
        self._in_backlog = False
        # Whether the client writes no more: the backend is told so once all of it has gone on.
        self._client_ended = False
        self._reports_idle = False

    @property
    def ready(self) -> bool:
        """Says whether login and greeting are done."""
        return self._ready

    @property
    def client_waits(self) -> Wait:
        """Gives what the client waits for."""
        return self._client_waits

    @property
    def client_is_free(self) -> bool:
        """Says whether the client's bytes are taken at once."""
        return self._client_waits is _NOTHING

    @property
    def backend_is_free(self) -> bool:
        """Says whether the backend's bytes are taken at once: nothing is held for the log."""
        return self._backend_waits is _NOTHING

    @property
    def backend_is_read(self) -> bool:
        """Says whether all bytes of the backend have been taken."""
        return not self._backend_backlog

    # --- from the client ---

    def from_client(self, data: bytes) -> None:
        """Takes a chunk of the client's."""
        self.reads_client(data, directly=False)

    def reads_client(self, data: bytes, *, directly: bool) -> bool:
        """Takes a chunk of the client's. True, only where it was taken `directly`: it goes on to the backend as it
        came, nothing else is to be done, and whoever has read it must send it now."""
        if self._connected is not _BOTH:
            return False
        if self._client_waits is not _NOTHING:
            self._client_backlog.append(data)
            self._client.pause(True)
            return False
        session = self._session
        if session.passes_client(data):
            timing = session.read_timing
            if timing is not None:
                self._log.seal(timing, self)
            if directly and self._backend.takes_directly():
                return True
            self._backend.write(data)
            return False
        return self._take_client(data, directly=directly)

    def _take_client(self, data: bytes, *, directly: bool = False) -> bool:
        session = self._session
        try:
            out = session.reads_client(data)
        except ProtocolViolationError as violation:
            self._effects.end_by_client(violation)
            return False
        if type(out) is bytes:
            if out:
                if directly and out is data and self._backend.takes_directly() and not session.above_high_water:
                    return True
                self._backend.write(out)
            elif not self._ready and session.waiting_bytes > _MOST_EARLY:
                self._client_waits = _LOGIN
                self._client.pause(True)
        else:
            assert isinstance(out, Step)
            self.carry_out_client(out)
        if session.above_high_water and self._client_waits is _NOTHING and self._connected is _BOTH:
            self._effects.flush_backend()
            self._client_waits = _ANSWERS
            self._client.pause(True)
        return False

    def carry_out_client(self, step: Step) -> None:
        """Does what is to be done with a client's chunk, in the order that step.py states."""
        if step.sealed is not None:
            self._log.seal(step.sealed.timing, self)
        if step.forward:
            self._backend.write(step.forward)
        if step.record:
            self._log.record(step.record)
        if step.commit:
            # The client is read from meanwhile: it mostly has nothing to say.
            self._client_waits = _LOG
            self._client_step = step
            self._log.commit_attempts(step, self)
        else:
            assert not step.held, "nothing is held but for the log"
            self._proceed(step)

    def attempts_committed(self) -> None:
        """Resumes the client after the log has committed its attempts."""
        step, self._client_step = self._client_step, None
        if step is not None:
            for held in step.held:
                if held.running is not None:
                    held.running.waits = False
            self._backend.write(step.take_held())
            self._proceed(step)

    def refuse(self, *, taken: bool) -> None:
        """Forwards the replacement of a client's attempts that the log cannot commit.

        `taken`: the journal has them and writes them when it can. Call proceed() after it.
        """
        step = self._client_step
        if step is not None:
            data, events = self._session.refuse(step, taken=taken)
            self._log.refused(events, sum([held.running is not None for held in step.held]))
            self._backend.write(data)

    def proceed(self) -> None:
        """Goes on behind what was refused."""
        step, self._client_step = self._client_step, None
        if step is not None:
            self._proceed(step)

    def _proceed(self, step: Step) -> None:
        """Does what a step says of what stands behind it, once all that goes before has gone on: a verdict found
        sooner would let its statement overtake those that waited for the log."""
        if self._connected is not _BOTH:
            return
        effects = self._effects
        if step.parse is not None:
            self._client_waits = _VERDICT
            self._client.pause(True)
            text, codec, conforming_strings = step.parse
            effects.parse(text, codec, conforming_strings)
        elif step.violation is not None:
            effects.end_by_client(step.violation)
        elif step.again and not self._session.above_high_water:
            self._client_waits = _TURN
            effects.continue_later()
        elif step.commit:
            self.resume_client()

    def parsed(self, text: bytes, verdict: Verdict) -> None:
        """Takes the verdict that was asked for."""
        if self._connected is _BOTH:
            self._session.parsed(text, verdict)
            self.resume_client()

    def resume_client(self) -> None:
        """Takes the rest of the chunk under way, then what came meanwhile; then the client is read from again. Not
        before: it would send more in each turn of the event loop than is looked at in one."""
        if self._connected is not _BOTH:
            return
        self._client_waits = _NOTHING
        self._take_client(b"")
        while self._client_backlog and self._takes_client():
            self._take_client(self._client_backlog.popleft())
        if self._takes_client():
            self._client.pause(False)
            if self._client_ended:
                self._effects.end_backend_input()

    def end_client(self) -> None:
        """Takes note that the client writes no more. What it has sent still goes on, and is answered."""
        self._client_ended = True
        if self._ready and self._client_waits is _NOTHING:
            self._effects.end_backend_input()

    def _takes_client(self) -> bool:
        return self._client_waits is _NOTHING and self._connected is _BOTH

    # --- from the backend ---

    def from_backend(self, data: bytes) -> None:
        """Takes a chunk of the backend's."""
        self.reads_backend(data, directly=False)

    def reads_backend(self, data: bytes, *, directly: bool) -> bool:
        """Takes a chunk of the backend's. True, only where it was taken `directly`: it goes on to the client as it
        came, nothing else is to be done, and whoever has read it must send it now."""
        if self._connected is _NONE:
            return False
        if self._backend_waits is not _NOTHING:
            self._backend_backlog.append(data)
            self._backend.pause(True)
        elif self._client_waits is _NOTHING and self._session.passes_backend(data):
            if directly and not self._reports_idle and self._client.takes_directly():
                return True
            self._client.write(data)
        elif self._take_backend(data, directly=directly and not self._reports_idle):
            return True
        if self._reports_idle and self._is_idle():
            self._effects.idle_reported()
        return False

    def _is_idle(self) -> bool:
        waits = self._client_waits is not _NOTHING or self._backend_waits is not _NOTHING
        return not waits and self._session.idle

    def report_idle(self) -> None:
        """Has the effects told when a chunk of the backend's leaves the session idle."""
        self._reports_idle = True

    def _take_backend(self, data: bytes, *, directly: bool = False) -> bool:
        session = self._session
        try:
            out = session.reads_backend(data)
        except ProtocolViolationError as violation:
            self._effects.unreadable_backend(violation)
            return False
        if not self._ready and not self._effects.login_may_proceed():
            return False
        if type(out) is bytes:
            if out:
                if directly and out is data and self._client_waits is not _ANSWERS and self._client.takes_directly():
                    return True
                self._client.write(out)
        else:
            assert isinstance(out, Step)
            self.carry_out_backend(out)
        if self._client_waits is _ANSWERS and session.below_low_water:
            self.resume_client()
        return False

    def carry_out_backend(self, step: Step) -> None:
        """Does what is to be done with a backend's chunk, in the order that step.py states."""
        session, effects = self._session, self._effects
        if self._connected is _BOTH:
            if step.ready and session.pooled and not effects.owns_process():
                step.violation = session.pooler
            if step.violation is not None and not step.commit:
                effects.end_by_backend(step.violation)
                return
        if step.forward:
            if step.more:
                self._client.write_coalesced(step.forward)
            else:
                self._client.write(step.forward)
        if step.inject:
            effects.inject(step.inject)
        if step.commit:
            self._backend_waits = _LOG
            self._backend_step = step
            if step.replaceable:
                self._log.commit_access(step, self)
            else:
                self._log.commit_testimony(step, self)
        else:
            assert not step.held, "nothing is held but for the log"
            if step.record:
                self._log.record(step.record)
        if step.unannounced:
            effects.unannounced()
        if step.defined:
            effects.defined()
        if step.ready:
            self._ready = True
            effects.ready()
            self.resume_client()

    def testimony_committed(self) -> None:
        """Resumes the backend after the log has committed its testimony."""
        step, self._backend_step = self._backend_step, None
        if step is None:
            return
        if step.violation is not None and self._connected is _BOTH:
            self._backend_step = step
            self._effects.end_by_backend(step.violation)
            return
        self._answer(step.take_held(), step.record)

    def withhold(self) -> None:
        """Sends an error in place of an answer whose access the log cannot commit, and resumes the backend."""
        step, self._backend_step = self._backend_step, None
        if step is not None:
            data, events = self._session.withhold(step)
            self._answer(data, events + step.record)

    def _answer(self, data: bytes, record: list[Event]) -> None:
        self._client.write(data)
        # How a statement ended that the client has not heard of yet is not known before it has.
        if record:
            self._log.record(record)
        self._backend_waits = _NOTHING
        self._backend.pause(False)
        self.take_backlog()
        if self._reports_idle and self._connected is _BOTH and self._is_idle():
            self._effects.idle_reported()

    def unseal(self) -> bool:
        """Has what is kept of an answer go on once the log has the statement's attempts; False if none is kept, or
        the log is waited for already."""
        if self._connected is not _BOTH or self._backend_waits is not _NOTHING:
            return False
        step = self._session.unseal()
        if step is None:
            return False
        self.carry_out_backend(step)
        return True

    def take_backlog(self) -> None:
        """Takes what came from the backend meanwhile."""
        if self._in_backlog:
            # Whoever is at it goes on.
            return
        self._in_backlog = True
        try:
            self._take_backlog()
        finally:
            self._in_backlog = False

    def _take_backlog(self) -> None:
        while self._backend_backlog and self._backend_waits is _NOTHING and self._connected is not _NONE:
            self._take_backend(self._backend_backlog.popleft())

    # --- the end ---

    def lose_client(self) -> None:
        """Notes that the client has gone: nothing more goes to it or comes from it, and it was not told how held
        statements ended.
        """
        if self._connected is _BOTH:
            self._connected = _BACKEND
            self._client_backlog.clear()
            self._client_step = None
            self._end_held()

    def _end_held(self) -> None:
        step, self._backend_step = self._backend_step, None
        if step is None:
            return
        for event in step.record:
            if event.outcome == "ok":
                event.outcome = "lost"
        # Nobody gets it.
        step.take_held()
        # An access was handed over as it ended; that the client has not got its answer is one event more.
        record = self._session.undelivered(step) + step.record
        if record:
            self._log.record(record)

    def read_orphan(self, client: Connection, backend: Connection, log: Log, effects: Effects) -> None:
        """Reads on from a backend whose client has gone, for another log and other effects; nothing is held from here
        on. `client`: nobody, to whom the backend's bytes go."""
        self._client, self._backend, self._log, self._effects = client, backend, log, effects
        self._backend_waits = _NOTHING

    def stop(self) -> None:
        """Stops both directions."""
        self.lose_client()
        self._end_held()
        self._connected = _NONE
        self._backend_backlog.clear()
