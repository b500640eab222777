"""The relay: owns a client's endpoint, a backend's endpoint and the session between them, from login to the end.

It joins them: a chunk goes from one endpoint to the session's interpreter, and from there to the other endpoint,
without the relay. The relay does what is rare (the Effects) and rules the life of the session. Backpressure goes both
ways: a side whose peer does not read is not read from. Must not look into a message itself.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import Any, Final

import structlog

from secretproxy.audit.masking import name_bytes
from secretproxy.proxy.backend.connect import Target
from secretproxy.proxy.backend.hosts import Kind
from secretproxy.proxy.client.endpoint import BackendEndpoint, ClientEndpoint, Receiver
from secretproxy.proxy.client.orphan import Orphan
from secretproxy.proxy.client.session_log import SessionLog
from secretproxy.proxy.client.stage import SHUTTING_DOWN, ClientStage
from secretproxy.proxy.parsing.pool import Account
from secretproxy.proxy.runtime import Process, Runtime
from secretproxy.session.interpreter import Effects, Interpreter
from secretproxy.session.session import Session
from secretproxy.session.states import Phase
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.types import SqlState

log: Any = structlog.get_logger("secretproxy.session")

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

    def failed(self, error: BaseException) -> None:
        self._relay.terminate_by_error(error)

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
        self._log: Final = SessionLog(runtime, self, session)
        self.interpreter: Final = Interpreter(session, client, backend, self._log, self)
        self.life = _LOGIN
        self._runtime: Final = runtime
        self._admission: Final = runtime.admission
        self._loop: Final = asyncio.get_running_loop()
        self._target: Final = target
        self._parsing: Final = Account(client.session_id, session.identity.db_user or "")
        self._login_timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            self._login_timer = self._loop.call_at(deadline, self._login_timed_out)
        self._logged_in_at = 0.0
        # The backend process behind a pooler that this session has for itself.
        self._process: Process | None = None
        self._orphan: Orphan | None = None
        client.join(self, self.interpreter)
        backend.join(_FromBackend(self), self.interpreter)
        if self._admission.draining:
            self.interpreter.report_idle()

    @property
    def idle(self) -> bool:
        return self.session.idle and self.interpreter.client_is_free

    @property
    def _is_over(self) -> bool:
        return self.life is _ORPHANED or self.life is _OVER

    # --- what the client's endpoint says ---

    def ended(self) -> bool:
        if self._is_over:
            return False
        if self.life is not _READY and not self.session.waiting_bytes:
            self._close()
            return False
        self.interpreter.end_client()
        # The backend still answers what it was sent; its end closes the session.
        return True

    def lost(self) -> None:
        self._close()
        self._admission.gone(self.client)

    def congested(self, full: bool) -> None:
        if not full or not self._is_over:
            self.backend.slow_down(full)

    # --- what the backend's endpoint says ---

    def backend_ended(self) -> None:
        """Handles the end of the backend's output."""
        if self._is_over or not self.interpreter.backend_is_free:
            # Something is held for the log: it goes to the client first, or the session ends by then.
            return
        if self.session.keeps_answer and self.interpreter.unseal():
            return
        if not self.session.answered:
            self.terminate(
                SqlState.CONNECTION_FAILURE, "the backend closed the connection without an answer (backend.hosts)"
            )
            return
        self._close()

    def answer_sent(self) -> None:
        """Handles the end of the backend's output, if that came while the answer was held."""
        if self.backend.has_ended:
            self.backend_ended()

    # --- effects: messages of the proxy's own, and turns ---

    def inject(self, data: bytes) -> None:
        self.backend.write(data)

    def flush_backend(self) -> None:
        self.backend.write(messages.FLUSH)

    def end_backend_input(self) -> None:
        self.backend.end_writing()

    def continue_later(self) -> None:
        self._loop.call_soon(self.guarded, self.interpreter.resume_client)

    # --- effects: verdicts and the catalog ---

    def parse(self, text: bytes, codec: str, conforming_strings: int) -> None:
        self._runtime.spawn(self.attend(self._parse(text, codec, conforming_strings)))

    async def _parse(self, text: bytes, codec: str, conforming_strings: int) -> None:
        detector = self.session.detector
        verdict = await self._runtime.parsers.verdict(detector, text, codec, conforming_strings, self._parsing)
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
            self._log_refusal(session)
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

    def _log_refusal(self, session: Session) -> None:
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
        reading = self._runtime.reading
        if reading is not None:
            self.client.read_directly(reading)
            self.backend.read_directly(reading)
            self.client.join_directly(self.backend)
            self.backend.join_directly(self.client)
        if self._runtime.settings.log.sessions:
            self._log_login()
        self._runtime.catalogs.join(self.session)
        self._runtime.proofs.join(self.session)
        if self._login_timer is not None:
            self._login_timer.cancel()

    def _log_login(self) -> None:
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
            self._send_last(messages.error_response("FATAL", sqlstate, text, hint=hint, detail=detail))
            self._close(cancel=True)

    def _send_last(self, last_word: bytes) -> None:
        """Sends the session's last message, where the client is not in the middle of another one."""
        if not self.interpreter.backend_is_free or not self.session.answer_is_cut:
            self.client.write(last_word)

    def drain(self) -> None:
        super().drain()
        self.interpreter.report_idle()

    def idle_reported(self) -> None:
        self.shut_down()

    def shut_down(self) -> None:
        if self._is_over:
            return
        self._send_last(messages.error_response("FATAL", SqlState.ADMIN_SHUTDOWN, SHUTTING_DOWN))
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
        if self._login_timer is not None:
            self._login_timer.cancel()
        self._log.close()
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
            self._log.count_testified,
            self._backend_done,
        )
        orphan.begin(cancel=cancel)

    def _backend_done(self) -> None:
        """Ends the session after the backend's last byte: unfinished statements are lost."""
        runtime, session = self._runtime, self.session
        self.life = _OVER
        runtime.catalogs.leave(session)
        runtime.proofs.leave(session)
        runtime.cancels.forget(self.client.session_id)
        self.guarded(self._record_lost)
        self.backend.close()
        self._admission.closed(self.client, lingers=not self.client.is_lost)
        if self._logged_in_at:
            seconds = round(time.monotonic() - self._logged_in_at, 3)
            log.info("session ends", session=self.client.session_id, seconds=seconds)
            self._logged_in_at = 0.0

    def _record_lost(self) -> None:
        self.interpreter.stop()
        events = self.session.lost(broke=self.backend.broke)
        if events:
            self._log.record(events)
