"""The relay: owns a client's endpoint, a backend's endpoint and the session between them, from login to the end.

What an endpoint reads goes to the session's interpreter, and what that asks for is done here: written, handed to the
journal, ended. Backpressure goes both ways: a side whose peer does not read is not read from. Must not look into a
message itself.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import Any, Final

import structlog

from secretproxy.audit.journal import LogUnavailableError
from secretproxy.audit.masking import name_bytes
from secretproxy.proxy.backend.connect import Target
from secretproxy.proxy.backend.hosts import Kind
from secretproxy.proxy.client.endpoint import BackendEndpoint, ClientEndpoint, Receiver
from secretproxy.proxy.client.orphan import Orphan
from secretproxy.proxy.client.stage import SHUTTING_DOWN, ClientStage
from secretproxy.proxy.parsing.pool import Account
from secretproxy.proxy.runtime import Process, Runtime
from secretproxy.session.events import Event
from secretproxy.session.interpreter import Effects, Interpreter
from secretproxy.session.session import Session
from secretproxy.session.states import Phase
from secretproxy.session.step import Step
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.types import SqlState

log: Any = structlog.get_logger("secretproxy.session")

_LOG_LOST: Final = "session ended: a call of a secret function could not be written to the access log"
_LOG_LOST_HINT: Final = "An open transaction is rolled back. See audit.dsn and limits.hold_timeout of secretproxy."
_NO_PROTOCOL: Final = "the backend does not speak PostgreSQL's protocol"


class Life(Enum):
    """The life of a relay. Each state follows the one before it, and any may be left for a later one."""

    # The backend authenticates the client, and is greeted.
    LOGIN = "login"
    READY = "ready"
    # The client has gone; the backend is read to its end (orphan.py).
    ORPHANED = "orphaned"
    OVER = "over"


_LOGIN: Final = Life.LOGIN
_READY: Final = Life.READY
_ORPHANED: Final = Life.ORPHANED
_OVER: Final = Life.OVER


class _FromBackend(Receiver):
    """The receiver of the backend's endpoint while the client is there."""

    def __init__(self, relay: Relay) -> None:
        self._relay: Final = relay

    def received(self, data: bytes) -> None:
        self._relay.received_from_backend(data)

    def ended(self) -> bool:
        self._relay.backend_ended()
        return False

    def lost(self) -> None:
        self._relay.backend_ended()

    def congested(self, full: bool) -> None:
        self._relay.client.slow_down(full)


class Relay(ClientStage, Effects):
    """One client and its backend."""

    def __init__(
        self,
        runtime: Runtime,
        client: ClientEndpoint,
        backend: BackendEndpoint,
        session: Session,
        target: Target,
        deadline: float | None = None,
    ) -> None:
        """Takes both endpoints. `deadline`: when the login must be done, by the event loop's clock; None: any time."""
        super().__init__(client)
        self.backend: Final = backend
        self.session: Final = session
        self.interpreter: Final = Interpreter(session, self)
        self.life = _LOGIN
        self._runtime: Final = runtime
        self._admission: Final = runtime.admission
        self._loop: Final = asyncio.get_running_loop()
        self._target: Final = target
        self._parsing: Final = Account(client.session_id, session.identity.db_user or "")
        self._login_timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            self._login_timer = self._loop.call_at(deadline, self._login_timed_out)
        self._hold_timer: asyncio.TimerHandle | None = None
        self._held_since = 0.0
        self._logged_in_at = 0.0
        # Whether it was said that a testimony of this session was forged.
        self._forged = False
        # The backend process behind a pooler that this session has for itself.
        self._process: Process | None = None
        self._orphan: Orphan | None = None
        client.receiver = self
        backend.receiver = _FromBackend(self)

    @property
    def idle(self) -> bool:
        return self.session.idle and self.interpreter.client_is_free

    @property
    def _is_over(self) -> bool:
        return self.life is _ORPHANED or self.life is _OVER

    # --- what the client's endpoint says ---

    def received(self, data: bytes) -> None:
        try:
            self.interpreter.from_client(data)
        except (Exception, asyncio.CancelledError) as error:
            self.terminate_by_error(error)

    def ended(self) -> bool:
        if self._is_over:
            return False
        if self.life is not _READY and not self.session.waiting_bytes:
            self._close()
            return False
        if self.life is _READY and self.interpreter.client_is_free:
            self.backend.end_writing()
        # The backend still answers what it was sent; its end closes the session.
        return True

    def lost(self) -> None:
        self._close()

    def congested(self, full: bool) -> None:
        if not full or not self._is_over:
            self.backend.slow_down(full)

    # --- what the backend's endpoint says ---

    def received_from_backend(self, data: bytes) -> None:
        """Takes a chunk of the backend's."""
        interpreter = self.interpreter
        try:
            interpreter.from_backend(data)
        except (Exception, asyncio.CancelledError) as error:
            self.terminate_by_error(error)
            return
        if self._admission.draining and self.idle and interpreter.backend_is_free:
            self.shut_down()

    def backend_ended(self) -> None:
        """Handles the end of the backend's output."""
        if self._is_over or not self.interpreter.backend_is_free:
            # Something is held for the log: it goes to the client first, or the session ends by then.
            return
        if not self.session.answered:
            self.terminate(
                SqlState.CONNECTION_FAILURE, "the backend closed the connection without an answer (backend.hosts)"
            )
            return
        self._close()

    # --- effects: what goes on ---

    def send_to_backend(self, data: bytes) -> None:
        self.backend.write(data)

    def send_to_client(self, data: bytes) -> None:
        self.client.write(data)

    def send_to_client_soon(self, data: bytes) -> None:
        self.client.write_soon(data)

    def inject(self, data: bytes) -> None:
        self.backend.write(data)

    def flush_backend(self) -> None:
        self.backend.write(messages.FLUSH)

    def pause_client(self) -> None:
        self.client.pause(True)

    def resume_client(self) -> None:
        self.client.pause(False)
        if self.client.has_ended:
            self.backend.end_writing()

    def pause_backend(self) -> None:
        self.backend.pause(True)

    def resume_backend(self) -> None:
        self.backend.pause(False)

    def continue_later(self) -> None:
        self._loop.call_soon(self.guarded, self.interpreter.resume_client)

    # --- effects: the log ---

    def record(self, events: list[Event]) -> None:
        self._runtime.journal.append(events, wait=False)

    def commit_attempts(self, step: Step) -> None:
        self._runtime.metrics.attempts.inc(len(step.commit))
        try:
            self._runtime.journal.commit(step.commit, self)
        except LogUnavailableError:
            self.interpreter.refuse(taken=False)
            self.client.pause(True)
            self._loop.call_soon(self.guarded, self.interpreter.proceed)

    def settled(self, fault: str | None) -> None:
        """Handles the journal's answer: it has the attempts, or did not get them. The relay waits for it."""
        try:
            if fault is None:
                self.interpreter.attempts_committed()
            else:
                self.interpreter.refuse(taken=True)
                self.interpreter.proceed()
        except (Exception, asyncio.CancelledError) as error:
            self.terminate_by_error(error)

    def refused(self, events: list[Event], attempts: int) -> None:
        self._runtime.metrics.refused.inc(attempts)
        self._runtime.journal.append(events, wait=False)

    def commit_testimony(self, step: Step) -> None:
        self.count_testified(step.commit)
        future = self._runtime.journal.keep(step.commit)
        self._held_since = time.monotonic()
        self._hold_timer = self._loop.call_later(self._runtime.settings.limits.hold_timeout, self._hold_timed_out)
        future.add_done_callback(lambda done: self.guarded(lambda: self._testimony_done(done)))

    def _testimony_done(self, done: asyncio.Future[None]) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        failed = done.cancelled() or done.exception() is not None
        if self._is_over or failed:
            return
        self._runtime.metrics.hold.observe(time.monotonic() - self._held_since)
        self.interpreter.testimony_committed()
        if self.backend.has_ended:
            self.backend_ended()

    def count_testified(self, events: list[Event]) -> None:
        """Counts calls that no attempt announced, and forgeries; logs the first of these with its likely cause."""
        if self._runtime.metrics.count_testified(events) and not self._forged:
            self._forged = True
            self._runtime.spawn(self._runtime.proofs.tell_forgery(self.session, self.client.session_id))

    def _hold_timed_out(self) -> None:
        if not self._is_over:
            log.error(
                "session ended: the access log did not take a call in time",
                session=self.client.session_id,
                setting="limits.hold_timeout",
            )
            self.terminate(SqlState.IO_ERROR, _LOG_LOST, hint=_LOG_LOST_HINT)

    # --- effects: verdicts and the catalog ---

    def parse(self, text: bytes, codec: str, strings: int) -> None:
        self._runtime.spawn(self.attend(self._parse(text, codec, strings)))

    async def _parse(self, text: bytes, codec: str, strings: int) -> None:
        detector = self.session.detector
        known = detector.monitored
        verdict = await self._runtime.parsers.verdict(detector, text, codec, strings, self._parsing)
        if detector.monitored is known:
            detector.store(text, codec, verdict, strings)
        self.interpreter.parsed(text, verdict)

    def unannounced(self) -> None:
        self._runtime.catalogs.unannounced(self.session)

    def defined(self) -> None:
        self._runtime.catalogs.changed(self.session)
        self._runtime.proofs.changed(self.session)

    # --- effects: the login ---

    def login_may_proceed(self) -> bool:
        session = self.session
        if session.login_refusal:
            self._note_refusal(session)
            session.login_refusal = ""
        if session.phase is Phase.LOGIN:
            return True
        if session.cancel_key:
            self._runtime.cancels.learn(session.cancel_key, self._target, self.client.session_id)
        hosts = self._runtime.hosts
        kind = Kind.reported(session.parameters) if hosts.watching and hosts.attrs != "prefer-standby" else None
        if kind is None or kind.suits(hosts.attrs):
            return True
        hosts.doubt()
        log.warning(
            "a server is not what it was a moment ago",
            session=self.client.session_id,
            server=str(self._target),
            state=str(kind),
        )
        self.terminate(
            SqlState.CANNOT_CONNECT_NOW,
            f"{self._target}: {kind}, and no longer what backend.target_session_attrs = {hosts.attrs} asks for",
            hint="Connect again: the servers are looked at anew.",
        )
        return False

    def _note_refusal(self, session: Session) -> None:
        """Counts a login that the backend refused for its user's sake, and says so."""
        runtime, sqlstate = self._runtime, session.login_refusal
        if sqlstate not in (SqlState.INVALID_PASSWORD, SqlState.INVALID_AUTHORIZATION_SPECIFICATION):
            return
        runtime.metrics.failed_logins.inc()
        # The proxy does not know whether this user exists: the name may be anything.
        name = runtime.mask.masked(name_bytes(session.identity.db_user or ""))
        source = self.client.source.decode()
        log.warning("login failed", session=self.client.session_id, user=name, client=source, cause=sqlstate)
        tls_to_tls = self.client.secured and runtime.backend_tls.context is not None
        if sqlstate == SqlState.INVALID_AUTHORIZATION_SPECIFICATION and tls_to_tls:
            log.warning(
                "a login with channel binding cannot be relayed from TLS to TLS",
                session=self.client.session_id,
                setting="auth.mode",
            )

    def owns_process(self) -> bool:
        process = (str(self._target), self.session.backend_pid, self.session.backend_start)
        if not self._runtime.processes.take(process, self):
            return False
        self._process = process
        return True

    def ready(self) -> None:
        self.life = _READY
        if self._runtime.settings.log.sessions:
            self._say_login()
        self._runtime.catalogs.join(self.session)
        self._runtime.proofs.join(self.session)
        if self._login_timer is not None:
            self._login_timer.cancel()

    def _say_login(self) -> None:
        self._logged_in_at = time.monotonic()
        identity, mask = self.session.identity, self._runtime.mask
        log.info(
            "session",
            session=self.client.session_id,
            user=mask(identity.db_user),
            database=mask(identity.database),
            client=self.client.text,
            backend=str(self._target),
        )

    def _login_timed_out(self) -> None:
        client = self.client
        self._admission.refused("listen.login_timeout", session=client.session_id, client=client.text)
        self.terminate(SqlState.CONNECTION_FAILURE, "login took too long (listen.login_timeout)")

    # --- effects: violations ---

    def end_by_client(self, violation: ProtocolViolationError) -> None:
        self.terminate(violation.sqlstate, str(violation))

    def end_by_backend(self, violation: ProtocolViolationError) -> None:
        """Ends the session: nothing more of the backend's goes on."""
        ruled_by = {} if violation.setting is None else {"setting": violation.setting}
        log.error("session ended", session=self.client.session_id, cause=str(violation), **ruled_by)
        self.terminate(violation.sqlstate, str(violation), detail=violation.detail)

    def unreadable_backend(self, violation: ProtocolViolationError) -> None:
        log.error(_NO_PROTOCOL, session=self.client.session_id, cause=str(violation), setting="backend.hosts")
        if self._is_over:
            return
        text = f"{_NO_PROTOCOL} (backend.hosts)"
        self.client.write(messages.error_response("FATAL", SqlState.PROTOCOL_VIOLATION, text))
        self.backend.abort()
        self._close(cancel=True, read_on=False)

    # --- the end ---

    def terminate(self, sqlstate: str, text: str, hint: str | None = None, detail: str | None = None) -> None:
        """Ends the session with a FATAL error to the client; the backend rolls back and ends."""
        if not self._is_over:
            self._say_last(messages.error_response("FATAL", sqlstate, text, hint=hint, detail=detail))
            self._close(cancel=True)

    def _say_last(self, last_word: bytes) -> None:
        """Sends the session's last message, where the client is not in the middle of another one."""
        if not self.interpreter.backend_is_free or not self.session.answer_is_cut:
            self.client.write(last_word)

    def shut_down(self) -> None:
        if self._is_over:
            return
        self._say_last(messages.error_response("FATAL", SqlState.ADMIN_SHUTDOWN, SHUTTING_DOWN))
        if self.session.quiet:
            self.backend.write(messages.TERMINATE)
        self._close(cancel=True)

    def abort(self) -> None:
        self._close(cancel=True)
        if self._orphan is not None:
            self._orphan.abort()

    def _close(self, *, cancel: bool = False, read_on: bool = True) -> None:
        """Ends the client's side. Where the backend may still run something, it is read to its end unless it is
        beyond reading; `cancel`: what it runs is cancelled at once, not at its next output."""
        if self._is_over:
            return
        was_ready = self.life is _READY
        self.life = _ORPHANED
        for timer in (self._login_timer, self._hold_timer):
            if timer is not None:
                timer.cancel()
        self.guarded(self.interpreter.lose_client)
        if self._process is not None:
            self._runtime.processes.release(self._process, self)
        if was_ready and not self.client.has_ended:
            self.client.close_after_peer()
        else:
            self.client.close()
        session, backend = self.session, self.backend
        was_read = backend.has_ended and self.interpreter.backend_is_read
        if not read_on or was_read or session.quiet or not session.authenticated:
            self._backend_done()
            return
        orphan = self._orphan = Orphan(
            self._runtime,
            backend,
            session,
            self.interpreter,
            self.client.session_id,
            self.count_testified,
            self._backend_done,
        )
        orphan.begin(cancel=cancel)

    def _backend_done(self) -> None:
        """Ends the session after the backend's last byte: unfinished statements are lost."""
        runtime, session = self._runtime, self.session
        self.life = _OVER
        runtime.catalogs.leave(session)
        runtime.proofs.leave(session)
        runtime.cancels.forget(session.cancel_key, self._target)
        self.guarded(self._record_lost)
        self.backend.close()
        self._admission.closed(self.client)
        if self._logged_in_at:
            seconds = round(time.monotonic() - self._logged_in_at, 3)
            log.info("session ends", session=self.client.session_id, seconds=seconds)
            self._logged_in_at = 0.0

    def _record_lost(self) -> None:
        self.interpreter.stop()
        events = self.session.lost(broke=self.backend.broke)
        if events:
            self.record(events)
