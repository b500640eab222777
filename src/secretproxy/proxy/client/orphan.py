"""Reads an orphaned backend, whose client is gone, to its end, for the log's sake.

A backend that was sent a statement runs it, whether anybody waits for the answer or not, and what it calls on the way
may be committed. So its connection is not cut off: the backend is told that nothing more comes, is asked to stop where
it still produces something, and what it testifies to goes to the journal until it has ended. Nothing is held: nobody
could see a value. The interpreter is the session's own, with another log and without effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

from secretproxy.proxy.client.endpoint import BackendEndpoint, Receiver
from secretproxy.proxy.runtime import Runtime
from secretproxy.session.events import Event, Timing
from secretproxy.session.interpreter import Interpreter, Log, Nobody, NoEffects
from secretproxy.session.session import Session
from secretproxy.session.step import Step
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError

log: Any = structlog.get_logger("secretproxy.session")

# Events that may wait for the log; then the proxy stops reading from a backend without a client.
MOST_WAITING: Final = 100_000


class _OrphanReceiver(Receiver):
    """The receiver of the backend's endpoint once the client has gone."""

    def __init__(self, orphan: Orphan) -> None:
        self._orphan: Final = orphan

    def failed(self, error: BaseException) -> None:
        self._orphan.not_understood(error)

    def ended(self) -> bool:
        self._orphan.backend_ended()
        return False

    def lost(self) -> None:
        self._orphan.backend_ended()

    def congested(self, full: bool) -> None:
        """Does nothing: nothing is read from the client any more."""


class Orphan(NoEffects, Log):
    """Reads a backend without a client to its end, and calls `done` then."""

    def __init__(
        self,
        runtime: Runtime,
        backend: BackendEndpoint,
        session: Session,
        interpreter: Interpreter,
        session_id: str,
        count_testified: Callable[[list[Event]], None],
        done: Callable[[], None],
    ) -> None:
        """Takes the backend's endpoint and the session's interpreter from whoever had them."""
        self._runtime: Final = runtime
        # By its methods alone, as in SessionLog.
        self._journal: Final = cast(Any, runtime).journal
        self._backend: Final = backend
        self._session: Final = session
        self._interpreter: Final = interpreter
        self._session_id: Final = session_id
        self._count_testified: Final = count_testified
        self._done: Final = done
        self._cancelled = False
        self._over = False
        session.client_gone = True
        interpreter.lose_client()
        interpreter.read_orphan(Nobody(), backend, self, self)
        backend.attach(_OrphanReceiver(self), self._received)

    def begin(self, *, cancel: bool) -> None:
        """Tells the backend that its client has gone and reads what it has said already. `cancel`: the statement
        under way is cancelled at once, not at its next output."""
        backend = self._backend
        if cancel:
            self._cancel()
        if self._session.takes_terminate:
            backend.write(messages.TERMINATE)
        backend.end_writing()
        backend.write_no_more()
        backend.slow_down(False)
        backend.pause(False)
        if not self._interpreter.backend_is_read:
            self._read(self._interpreter.take_backlog)
        if backend.has_ended:
            self.backend_ended()

    def abort(self) -> None:
        """Ends at once: the proxy ends and there is no time left."""
        self._backend.abort()
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._done()

    def backend_ended(self) -> None:
        """Handles the end of the backend's output."""
        if self._interpreter.backend_is_free:
            self._end()

    def _read(self, work: Callable[[], None]) -> None:
        """Does a part of the reading; the end of all that ran is the end."""
        if self._over:
            return
        try:
            work()
        except (Exception, asyncio.CancelledError) as error:
            self.not_understood(error)
            return
        if self._session.quiet:
            self._end()
        elif not self._over:
            self._cancel()

    def not_understood(self, error: BaseException) -> None:
        """Ends the reading: nothing more can be learned from this backend."""
        if not self._over:
            kind = type(error).__name__
            log.error("a backend without a client is no longer understood", session=self._session_id, kind=kind)
            self._end()

    def _cancel(self) -> None:
        """Cancels the statement: a backend that cannot write to its client stops."""
        key = self._session.cancel_key
        if not self._cancelled and key:
            self._cancelled = True
            try:
                self._runtime.spawn(self._runtime.cancels.send(messages.cancel_request(key), self._session_id))
            except Exception as error:
                kind = type(error).__name__
                log.error("a backend without a client was not asked to stop", session=self._session_id, kind=kind)

    def _received(self, data: bytes) -> None:
        self._read(lambda: self._interpreter.from_backend(data))

    # --- the log, which alone gets anything ---

    def record(self, events: list[Event]) -> None:
        self._journal.append(events, wait=False)

    def commit_attempts(self, step: Step, interpreter: Interpreter) -> None:
        """Does nothing: there is no client that could make any."""

    def refused(self, events: list[Event], attempts: int) -> None:
        """Does nothing, likewise."""

    def seal(self, timing: Timing, interpreter: Interpreter) -> None:
        """Does nothing, likewise."""

    def commit_access(self, step: Step, interpreter: Interpreter) -> None:
        self.commit_testimony(step, interpreter)

    def commit_testimony(self, step: Step, interpreter: Interpreter) -> None:
        self._count_testified(step.commit)
        done = self._journal.keep(step.commit)
        if self._journal.backlog > MOST_WAITING:
            self._backend.pause(True)
            done.add_done_callback(self._log_has_capacity)
        else:
            interpreter.testimony_committed()

    def _log_has_capacity(self, done: asyncio.Future[None]) -> None:
        self._read(self._interpreter.testimony_committed)
        if self._backend.has_ended:
            self.backend_ended()

    def unreadable_backend(self, violation: ProtocolViolationError) -> None:
        self.not_understood(violation)
