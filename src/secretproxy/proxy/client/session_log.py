"""A session's way to the access log: hands its events to the process's journal, and tells its interpreter when the log
has them.

An answer that is held for the log waits limits.hold_timeout at most; then the session ends. Must not look into a
message, and must not make an event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

from secretproxy.audit.journal import LogUnavailableError
from secretproxy.audit.waiting import Settled
from secretproxy.proxy.client.stage import ClientStage
from secretproxy.proxy.runtime import Runtime
from secretproxy.session.events import Event, Timing
from secretproxy.session.interpreter import Interpreter, Log
from secretproxy.session.session import Session
from secretproxy.session.step import Step
from secretproxy.wire.types import SqlState

_monotonic: Final[Callable[[], float]] = time.monotonic
_ANNOUNCED: Final = frozenset({"attempt", "access"})
# Seconds for which an answer is kept that the log has nothing of; then the statement's attempts are committed.
MOST_SEALED: Final = 0.25
log: Any = structlog.get_logger("secretproxy.session")

_LOG_LOST: Final = "session ended: a call of a secret function could not be written to the access log"
_LOG_LOST_HINT: Final = "An open transaction is rolled back. See audit.dsn and limits.hold_timeout of secretproxy."


class SessionLog(Log):
    """One session's, while its client is there."""

    def __init__(self, runtime: Runtime, stage: ClientStage, session: Session) -> None:
        """Takes the stage that ends the session where that is needed."""
        self._runtime: Final = runtime
        # By their methods alone: compiled code takes no other object for a Journal or a number, as tests have.
        self._journal: Final = cast(Any, runtime).journal
        self._metrics: Final = cast(Any, runtime).metrics
        # Compiled, one that is looked up for each call costs twice as much.
        self._hold: Final[Callable[[list[Event], Settled], None]] = self._journal.hold
        self._count_attempts: Final[Callable[[int], None]] = self._metrics.attempts.count
        self._access_settled: Final[Settled] = self.access_settled
        self._stage: Final = stage
        self._session: Final = session
        self._interpreter: Interpreter | None = None
        self._seal_timer: asyncio.TimerHandle | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._held_since = 0.0
        # Whether an answer is held for the testimony ahead of it.
        self._holds = False
        # Whether it was said that a testimony of this session was forged.
        self._forged = False
        self._closed = False

    def record(self, events: list[Event]) -> None:
        self._journal.append(events, wait=False)

    # --- a client's attempts ---

    def commit_attempts(self, step: Step, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._count_attempts(len(step.commit))
        try:
            self._journal.commit(step.commit, self.settled)
        except LogUnavailableError:
            interpreter.refuse(taken=False)
            self._stage.client.pause(True)
            asyncio.get_running_loop().call_soon(self._stage.guarded, interpreter.proceed)

    def settled(self, fault: str | None) -> None:
        """Handles the journal's answer: it has the attempts, or did not get them."""
        interpreter = self._interpreter
        if interpreter is None:
            return
        try:
            if fault is None:
                interpreter.attempts_committed()
            else:
                interpreter.refuse(taken=True)
                interpreter.proceed()
        except (Exception, asyncio.CancelledError) as error:
            self._stage.terminate_by_error(error)

    def refused(self, events: list[Event], attempts: int) -> None:
        self._metrics.refused.inc(attempts)
        self._journal.append(events, wait=False)

    # --- a statement that only reads, and its answer ---

    def seal(self, timing: Timing, interpreter: Interpreter) -> None:
        timing.began = _monotonic()
        if self._seal_timer is None:
            # One timer for many statements: it looks at the one that is under way then.
            self._interpreter = interpreter
            self._look_later(MOST_SEALED)

    def _look_later(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._seal_timer = loop.call_later(seconds, self._stage.guarded, self._look_at_seal)

    def _look_at_seal(self) -> None:
        """Has the attempts of a statement committed that takes long."""
        self._seal_timer = None
        timing, interpreter = self._session.sealed, self._interpreter
        if self._closed or timing is None or interpreter is None:
            return
        left = (timing.began or 0.0) + MOST_SEALED - time.monotonic()
        if left <= 0 and not interpreter.unseal():
            left = MOST_SEALED
        if self._session.sealed is not None:
            self._look_later(left)

    def commit_access(self, step: Step, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._count_attempts(len(step.commit))
        self._hold(step.commit, self._access_settled)

    def access_settled(self, fault: str | None) -> None:
        """Handles the journal's answer: the log has the access, or cannot be written."""
        interpreter = self._interpreter
        if interpreter is None or self._closed:
            return
        try:
            if fault is None:
                interpreter.testimony_committed()
            else:
                self._metrics.refused.inc()
                interpreter.withhold()
            self._stage.answer_sent()
        except (Exception, asyncio.CancelledError) as error:
            self._stage.terminate_by_error(error)

    # --- a backend's testimony ---

    def commit_testimony(self, step: Step, interpreter: Interpreter) -> None:
        self.count_testified(step.commit)
        announced = sum([event.event in _ANNOUNCED for event in step.commit])
        if announced:
            self._count_attempts(announced)
        self._interpreter = interpreter
        self._holds = True
        self._held_since = _monotonic()
        self._journal.keep_for(step.commit, self.testimony_settled)
        if self._hold_timer is None:
            # One timer for many calls: it looks at the one that is held then.
            self._look_at_hold_in(self._runtime.settings.limits.hold_timeout)

    def testimony_settled(self, fault: str | None) -> None:
        """Handles the journal's answer: the log has the calls."""
        interpreter = self._interpreter
        self._holds = False
        if interpreter is None or self._closed or fault is not None:
            return
        try:
            self._metrics.hold.observe(_monotonic() - self._held_since)
            interpreter.testimony_committed()
            self._stage.answer_sent()
        except (Exception, asyncio.CancelledError) as error:
            self._stage.terminate_by_error(error)

    def _look_at_hold_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._hold_timer = loop.call_later(seconds, self._stage.guarded, self._look_at_hold)

    def _look_at_hold(self) -> None:
        """Ends the session where an answer is held for too long."""
        self._hold_timer = None
        if self._closed or not self._holds:
            return
        left = self._held_since + self._runtime.settings.limits.hold_timeout - _monotonic()
        if left > 0:
            self._look_at_hold_in(left)
        else:
            self._timed_out()

    def _timed_out(self) -> None:
        log.error(
            "session ended: the access log did not take a call in time",
            session=self._stage.client.session_id,
            setting="limits.hold_timeout",
        )
        self._stage.terminate(SqlState.IO_ERROR, _LOG_LOST, hint=_LOG_LOST_HINT)

    def count_testified(self, events: list[Event]) -> None:
        """Counts calls that no attempt announced, and forgeries; logs the first of these with its likely cause."""
        runtime = self._runtime
        if self._metrics.count_testified(events) and not self._forged:
            self._forged = True
            runtime.spawn(runtime.proofs.tell_forgery(self._session, self._stage.client.session_id))

    def close(self) -> None:
        """Ends the wait of what is held: the client has gone."""
        self._closed = True
        if self._seal_timer is not None:
            self._seal_timer.cancel()
            self._seal_timer = None
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
