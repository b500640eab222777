"""The interpreter: carries out what a session decides, in the one order that step.py states.

The proxy's relay, the reader of an orphaned backend, the playbook of the tests and the fuzz harness all run a session
through this module; they differ in their Effects alone. Here is also the one place outside the session where bytes
wait: the chunks of a side that is waiting for the log, for a verdict, for its turn or for answers. Has no sockets, no
clock and no event loop; may import the session and wire.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final, Protocol

from secretproxy.detect import Verdict
from secretproxy.session.events import Event
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


class Sides(Enum):
    """The sides of a session that are still connected."""

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
_BOTH: Final = Sides.BOTH
_BACKEND: Final = Sides.BACKEND
_NONE: Final = Sides.NONE


class Effects(Protocol):
    """The effects that an interpreter asks of its owner.

    No method may block; an error goes to the interpreter's caller.
    """

    def send_to_backend(self, data: bytes) -> None:
        """Sends what the client said, or what stands for it."""

    def send_to_client(self, data: bytes) -> None:
        """Sends what the backend said."""

    def send_to_client_soon(self, data: bytes) -> None:
        """Does the same, but may wait a moment to send it with what the backend says next."""

    def inject(self, data: bytes) -> None:
        """Sends the backend a message of the proxy's own."""

    def flush_backend(self) -> None:
        """Sends a Flush: answers may lie in the backend's buffer, and the client is not read from before they
        come."""

    def record(self, events: list[Event]) -> None:
        """Hands the log events that nobody waits for."""

    def commit_attempts(self, step: Step) -> None:
        """Hands the log a client's `commit`; attempts_committed() is called once it has them, or refuse() and
        proceed()."""

    def commit_testimony(self, step: Step) -> None:
        """Hands the log a backend's `commit`; testimony_committed() is called once it has them."""

    def refused(self, events: list[Event], attempts: int) -> None:
        """Takes note of so many attempts that were refused, and hands the log what it shall hear of them."""

    def parse(self, text: bytes, codec: str, strings: int) -> None:
        """Finds a verdict elsewhere; parsed() is called with it."""

    def continue_later(self) -> None:
        """Calls resume_client() in a later turn of the event loop."""

    def pause_client(self) -> None:
        """Stops reading from the client."""

    def resume_client(self) -> None:
        """Reads from the client again: nothing of it waits any more."""

    def pause_backend(self) -> None:
        """Stops reading from the backend."""

    def resume_backend(self) -> None:
        """Reads from the backend again: nothing of it waits any more."""

    def login_may_proceed(self) -> bool:
        """Looks at the session after a chunk of the backend's at the login. False: the session was ended."""

    def owns_process(self) -> bool:
        """Takes the backend process behind a pooler. False: another session has it."""

    def ready(self) -> None:
        """Takes note that login and greeting are done."""

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

    def send_to_backend(self, data: bytes) -> None:
        pass

    def send_to_client(self, data: bytes) -> None:
        pass

    def send_to_client_soon(self, data: bytes) -> None:
        pass

    def inject(self, data: bytes) -> None:
        pass

    def flush_backend(self) -> None:
        pass

    def record(self, events: list[Event]) -> None:
        pass

    def commit_attempts(self, step: Step) -> None:
        pass

    def commit_testimony(self, step: Step) -> None:
        pass

    def refused(self, events: list[Event], attempts: int) -> None:
        pass

    def parse(self, text: bytes, codec: str, strings: int) -> None:
        pass

    def continue_later(self) -> None:
        pass

    def pause_client(self) -> None:
        pass

    def resume_client(self) -> None:
        pass

    def pause_backend(self) -> None:
        pass

    def resume_backend(self) -> None:
        pass

    def login_may_proceed(self) -> bool:
        return True

    def owns_process(self) -> bool:
        return True

    def ready(self) -> None:
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


class Interpreter:
    """One session's. A method that is called once the session has ended does nothing."""

    def __init__(self, session: Session, effects: Effects) -> None:
        self._session: Final = session
        self._effects = effects
        self._sides = _BOTH
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
        if self._sides is not _BOTH:
            return
        if self._client_waits is not _NOTHING:
            self._client_backlog.append(data)
            self._effects.pause_client()
            return
        self._take_client(data)

    def _take_client(self, data: bytes) -> None:
        session, effects = self._session, self._effects
        try:
            out = session.from_client(data)
        except ProtocolViolationError as violation:
            effects.end_by_client(violation)
            return
        if type(out) is bytes:
            if out:
                effects.send_to_backend(out)
            elif not self._ready and session.waiting_bytes > _MOST_EARLY:
                self._client_waits = _LOGIN
                effects.pause_client()
        else:
            assert isinstance(out, Step)
            self.carry_out_client(out)
        if session.above_high_water and self._client_waits is _NOTHING and self._sides is _BOTH:
            effects.flush_backend()
            self._client_waits = _ANSWERS
            effects.pause_client()

    def carry_out_client(self, step: Step) -> None:
        """Does what is to be done with a client's chunk, in the order that step.py states."""
        effects = self._effects
        if step.forward:
            effects.send_to_backend(step.forward)
        if step.record:
            effects.record(step.record)
        if step.commit:
            # The client is read from meanwhile: it mostly has nothing to say.
            self._client_waits = _LOG
            self._client_step = step
            effects.commit_attempts(step)
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
            self._effects.send_to_backend(b"".join([held.data for held in step.held]))
            self._proceed(step)

    def refuse(self, *, taken: bool) -> None:
        """Forwards the replacement of a client's attempts that the log cannot commit.

        `taken`: the journal has them and writes them when it can. Call proceed() after it.
        """
        step = self._client_step
        if step is not None:
            data, events = self._session.refuse(step, taken=taken)
            self._effects.refused(events, sum([held.running is not None for held in step.held]))
            self._effects.send_to_backend(data)

    def proceed(self) -> None:
        """Goes on behind what was refused."""
        step, self._client_step = self._client_step, None
        if step is not None:
            self._proceed(step)

    def _proceed(self, step: Step) -> None:
        """Does what a step says of what stands behind it, once all that goes before has gone on: a verdict found
        sooner would let its statement overtake those that waited for the log."""
        if self._sides is not _BOTH:
            return
        effects = self._effects
        if step.parse is not None:
            self._client_waits = _VERDICT
            effects.pause_client()
            text, codec, strings = step.parse
            effects.parse(text, codec, strings)
        elif step.violation is not None:
            effects.end_by_client(step.violation)
        elif step.again and not self._session.above_high_water:
            self._client_waits = _TURN
            effects.continue_later()
        elif step.commit:
            self.resume_client()

    def parsed(self, text: bytes, verdict: Verdict) -> None:
        """Takes the verdict that was asked for."""
        if self._sides is _BOTH:
            self._session.parsed(text, verdict)
            self.resume_client()

    def resume_client(self) -> None:
        """Takes the rest of the chunk under way, then what came meanwhile; then the client is read from again. Not
        before: it would send more in each turn of the event loop than is looked at in one."""
        if self._sides is not _BOTH:
            return
        self._client_waits = _NOTHING
        self._take_client(b"")
        while self._client_backlog and self._takes_client():
            self._take_client(self._client_backlog.popleft())
        if self._takes_client():
            self._effects.resume_client()

    def _takes_client(self) -> bool:
        return self._client_waits is _NOTHING and self._sides is _BOTH

    # --- from the backend ---

    def from_backend(self, data: bytes) -> None:
        """Takes a chunk of the backend's."""
        if self._sides is _NONE:
            return
        if self._backend_waits is not _NOTHING:
            self._backend_backlog.append(data)
            self._effects.pause_backend()
            return
        self._take_backend(data)

    def _take_backend(self, data: bytes) -> None:
        session, effects = self._session, self._effects
        try:
            out = session.from_backend(data)
        except ProtocolViolationError as violation:
            effects.unreadable_backend(violation)
            return
        if not self._ready and not effects.login_may_proceed():
            return
        if type(out) is bytes:
            if out:
                effects.send_to_client(out)
        else:
            assert isinstance(out, Step)
            self.carry_out_backend(out)
        if self._client_waits is _ANSWERS and session.below_low_water:
            self.resume_client()

    def carry_out_backend(self, step: Step) -> None:
        """Does what is to be done with a backend's chunk, in the order that step.py states."""
        session, effects = self._session, self._effects
        if self._sides is _BOTH:
            if step.ready and session.pooled and not effects.owns_process():
                step.violation = session.pooler
            if step.violation is not None and not step.commit:
                effects.end_by_backend(step.violation)
                return
        if step.forward:
            if step.more:
                effects.send_to_client_soon(step.forward)
            else:
                effects.send_to_client(step.forward)
        if step.inject:
            effects.inject(step.inject)
        if step.commit:
            self._backend_waits = _LOG
            self._backend_step = step
            effects.commit_testimony(step)
        else:
            assert not step.held, "nothing is held but for the log"
            if step.record:
                effects.record(step.record)
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
        effects = self._effects
        if step.violation is not None and self._sides is _BOTH:
            self._backend_step = step
            effects.end_by_backend(step.violation)
            return
        effects.send_to_client(b"".join([held.data for held in step.held]))
        # How a statement ended that the client has not heard of yet is not known before it has.
        if step.record:
            effects.record(step.record)
        self._backend_waits = _NOTHING
        effects.resume_backend()
        self.take_backlog()

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
        while self._backend_backlog and self._backend_waits is _NOTHING and self._sides is not _NONE:
            self._take_backend(self._backend_backlog.popleft())

    # --- the end ---

    def lose_client(self) -> None:
        """Notes that the client has gone: nothing more goes to it or comes from it, and it was not told how held
        statements ended.
        """
        if self._sides is _BOTH:
            self._sides = _BACKEND
            self._client_backlog.clear()
            self._client_step = None
            self._end_held()

    def _end_held(self) -> None:
        step, self._backend_step = self._backend_step, None
        if step is not None and step.record:
            for event in step.record:
                if event.outcome == "ok":
                    event.outcome = "lost"
            self._effects.record(step.record)

    def read_orphan(self, effects: Effects) -> None:
        """Reads on from a backend whose client has gone, with other effects; nothing is held from here on."""
        self._effects = effects
        self._backend_waits = _NOTHING

    def stop(self) -> None:
        """Stops both directions."""
        self.lose_client()
        self._end_held()
        self._sides = _NONE
        self._backend_backlog.clear()
