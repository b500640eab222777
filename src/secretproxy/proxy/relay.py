"""One client, one backend, and what the session decides between them.

Two asyncio protocols that hand their chunks to the session and carry out its steps: write, wait for the log, refuse, end.
Backpressure goes both ways: a side whose peer does not read is not read from. Must not look into a message itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from secretproxy.audit.journal import LogUnavailableError
from secretproxy.audit.masking import name_bytes
from secretproxy.proxy.aftermath import Aftermath
from secretproxy.proxy.backend import Target
from secretproxy.proxy.hosts import Kind
from secretproxy.proxy.parsers import Account
from secretproxy.proxy.sides import Side
from secretproxy.proxy.unread import unread
from secretproxy.session.events import Event
from secretproxy.session.session import Session, Step
from secretproxy.session.states import Phase
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError

if TYPE_CHECKING:
    from secretproxy.proxy.server import Server

log: Any = structlog.get_logger("secretproxy.session")

_LOG_LOST = "session ended: a call of a secret function could not be written to the access log"
_LOG_LOST_HINT = "An open transaction is rolled back. See audit.dsn and limits.hold_timeout of secretproxy."


# Bytes that a client may send ahead of its login's end before it is no longer read from.
_EARLY_MOST = 65_536
_WRONG_PASSWORD = ("28P01", "28000")


class BackendSide(Side):
    """The backend's end of a session."""

    def __init__(self, client: ClientSide) -> None:
        super().__init__(client.server.settings.backend)
        self.client: ClientSide | Aftermath = client
        # Whether its connection broke: some of what it said may never have come.
        self.broke = False

    @property
    def finished(self) -> bool:
        """Whether there is nothing left of it to be read."""
        return self.ended and not self.backlog

    def data_received(self, data: bytes) -> None:
        self.client.from_backend(data)

    def pause_writing(self) -> None:
        self.client.set_peer_full(True)

    def resume_writing(self) -> None:
        self.client.set_peer_full(False)

    def eof_received(self) -> bool:
        self.ended = True
        self.client.backend_ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.broke = exc is not None and not self.ended
        if self.broke and self.transport is not None and not self.transport.get_extra_info("ssl_object"):
            for data in unread(self.transport):
                self.client.from_backend(data)
        self.gone()
        self.ended = True
        self.client.backend_ended()


class ClientSide(Side):
    """The client's end of a session, and the session itself, once it is open."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.settings.listen)
        self.server = server
        self.id = uuid.uuid4()
        self.session: Session | None = None
        self.backend: BackendSide | None = None
        self._login_timer: asyncio.TimerHandle | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._held_record: list[Event] = []
        self._parsing = Account(str(self.id))
        self._held_since = 0.0
        self._logged_in_at = 0.0
        self._aftermath: Aftermath | None = None
        self._over = False
        # Busy because many answers are due.
        self._crowded = False
        # Whether it was said that a testimony of this session was forged.
        self._forged = False
        self._logged_in = False
        self._tls = False
        self._target: Target | None = None
        # The backend process behind a pooler that this session has for itself.
        self._process: tuple[str, int, int | None] | None = None

    async def _attend(self, work: Coroutine[Any, Any, None]) -> None:
        """Does a part of the session's work that waits; where it breaks off, the session ends."""
        try:
            await work
        except Exception as error:
            self.broken(error)
        except BaseException:
            self.fail("57P01", "terminating connection: the proxy is shutting down")
            raise

    @property
    def source(self) -> bytes:
        """Whence the client comes, as failed logins are counted: an address, a network of IPv6, a local user."""
        address, _ = self._peer()
        if isinstance(address, ipaddress.IPv6Address):
            # Who has one address of a /64 has them all.
            return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64))).encode()
        if address is not None:
            return str(address).encode()
        sock = self.transport.get_extra_info("socket") if self.transport is not None else None
        if sock is None or sock.family != socket.AF_UNIX:
            return b"unknown"
        return b"uid %d" % struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]

    @property
    def session_id(self) -> str:
        """What the log's lines of this session have in common with its rows of the access log."""
        return str(self.id)

    @property
    def client_text(self) -> str:
        """The client's address, as the log shows it."""
        return str(self._peer()[0] or "local")

    def _peer(self) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address | None, int | None]:
        assert self.transport is not None
        peer = self.transport.get_extra_info("peername")
        if not isinstance(peer, tuple) or len(peer) < 2:
            return None, None
        try:
            address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
        except ValueError:
            return None, None
        mapped = getattr(address, "ipv4_mapped", None)
        return mapped or address, int(peer[1])

    # --- client to backend -------------------------------------------------------------------------------------

    def from_client(self, data: bytes) -> None:
        if self.busy:
            self.keep(data)
            return
        session, backend = self.session, self.backend
        if session is None or backend is None or self._over:
            return
        try:
            out = session.from_client(data)
            if type(out) is bytes:
                if out:
                    backend.write(out)
                elif not self._logged_in and session.waiting_bytes > _EARLY_MOST:
                    self.set_busy(True)
            else:
                assert isinstance(out, Step)
                self._carry_out_client(session, backend, out)
            if session.above_high_water and not self.busy:
                # Answers may lie in the backend's buffer until a Flush or a Sync, and the client's is not read before they come.
                backend.write(messages.FLUSH)
                self._crowded = True
                self.set_busy(True)
        except ProtocolViolationError as violation:
            self.fail(violation.sqlstate, str(violation))
        except Exception as error:
            self.broken(error)

    def _carry_out_client(self, session: Session, backend: BackendSide, step: Step) -> None:
        backend.write(step.forward)
        if step.record:
            self.server.journal.append(step.record, wait=False)
        if step.commit:
            self._commit_attempts(session, backend, step)
        else:
            self._go_on_behind(session, step)

    def _go_on_behind(self, session: Session, step: Step) -> None:
        """What a step says of what stands behind it, once all that goes before has gone on: a verdict found sooner would let its
        statement overtake those that waited for the log."""
        if self._over:
            return
        if step.parse is not None:
            self.set_busy(True)
            self.server.spawn(self._attend(self._parse(session, *step.parse)))
        elif step.violation is not None:
            self.fail(step.violation.sqlstate, str(step.violation))
        elif step.again and not session.above_high_water:
            self.busy = True
            self.server.loop.call_soon(self._guarded, self._client_goes_on)
        elif step.commit:
            self._client_goes_on()

    def _commit_attempts(self, session: Session, backend: BackendSide, step: Step) -> None:
        self.server.metrics.attempts.inc(len(step.commit))
        try:
            future = self.server.journal.append(step.commit, wait=True)
        except LogUnavailableError:
            self._refuse(session, backend, step, taken=False)
            self.set_busy(True)
            self.server.loop.call_soon(self._guarded, lambda: self._go_on_behind(session, step))
            return
        assert future is not None
        self.busy = True
        future.add_done_callback(lambda done: self._guarded(lambda: self._committed(done, session, backend, step)))

    def _committed(self, done: asyncio.Future[None], session: Session, backend: BackendSide, step: Step) -> None:
        # Asked for first: the event loop complains of a failure that nobody has looked at, and a client that has left does not.
        failed = done.cancelled() or done.exception() is not None
        if self._over:
            return
        if failed:
            self._refuse(session, backend, step, taken=True)
        else:
            backend.write(b"".join(held.data for held in step.held))
        self._go_on_behind(session, step)

    def _guarded(self, work: Callable[[], object]) -> None:
        """For what the event loop calls, and for what must not break off its caller: an error ends the session, which would else stand."""
        try:
            work()
        except (Exception, asyncio.CancelledError) as error:
            self.broken(error)

    def _refuse(self, session: Session, backend: BackendSide, step: Step, *, taken: bool) -> None:
        data, events = session.refuse(step, taken=taken)
        self.server.metrics.refused.inc(sum(held.running is not None for held in step.held))
        self.server.journal.append(events, wait=False)
        backend.write(data)

    async def _parse(self, session: Session, text: bytes, encoding: str, strings: int) -> None:
        detector = session.detector
        known = detector.monitored
        verdict = await self.server.parsers.verdict(detector, text, encoding, strings, self._parsing)
        if detector.monitored is known:
            detector.store(text, encoding, verdict, strings)
        session.parsed(text, verdict)
        self._client_goes_on()

    def _client_goes_on(self) -> None:
        """What waited has gone on: first what the client had sent meanwhile, then the client is read from again. Not before: it
        would send more in each turn of the event loop than is looked at in one."""
        if self._over:
            return
        self.busy = False
        self.from_client(b"")
        while self.backlog and not self.busy:
            self.from_client(self.backlog.popleft())
        self._read_or_not()
        if self.ended and not self.busy and self.backend is not None:
            self.backend.write_eof()

    def eof_received(self) -> bool:
        self.ended = True
        if self._over:
            return False
        session, backend = self.session, self.backend
        if session is None or backend is None or not (self._logged_in or session.waiting_bytes):
            self._finish()
            return False
        if self._logged_in and not self.busy:
            backend.write_eof()
        # The backend still answers what it was sent; its end closes the session.
        return True

    # --- backend to client -------------------------------------------------------------------------------------

    def from_backend(self, data: bytes) -> None:
        backend, session = self.backend, self.session
        if backend is None or session is None or self._over:
            return
        if backend.busy:
            backend.keep(data)
            return
        try:
            out = session.from_backend(data)
            if not self._logged_in and not self._look_at_login(session):
                return
            if type(out) is bytes:
                if out:
                    self.write(out)
            else:
                assert isinstance(out, Step)
                self._carry_out_backend(session, backend, out)
        except ProtocolViolationError as violation:
            log.error(
                "the backend does not speak PostgreSQL's protocol",
                session=self.session_id,
                cause=str(violation),
                setting="backend.hosts",
            )
            self.fail("08P01", "the backend does not speak PostgreSQL's protocol (backend.hosts)", backend_lost=True)
            return
        except (Exception, asyncio.CancelledError) as error:
            self.broken(error)
            return
        if self._crowded and session.below_low_water:
            self._crowded = False
            self._client_goes_on()
        if self.server.draining and session.idle and not self.busy and not backend.busy:
            self.dismiss()

    def _look_at_login(self, session: Session) -> bool:
        """What the backend has said so far of the login: whether it goes on."""
        if session.login_refusal:
            if session.login_refusal in _WRONG_PASSWORD:
                self.server.metrics.failed_logins.inc()
                # Whether there is such a user the proxy does not know: what stands for its name may be anything.
                name = self.server.mask.masked(name_bytes(session.identity.db_user or ""))
                log.warning(
                    "login failed", session=self.session_id, user=name, client=self.source.decode(), cause=session.login_refusal
                )
                if session.login_refusal == "28000" and self._tls and self.server.backend_tls.context is not None:
                    log.warning(
                        "a login with channel binding cannot be relayed from TLS to TLS",
                        session=self.session_id,
                        setting="auth.mode",
                    )
            session.login_refusal = ""
        if session.phase is Phase.LOGIN or self._target is None:
            return True
        hosts = self.server.hosts
        if session.cancel_key:
            self.server.cancels.learn(session.cancel_key, self._target, self.session_id)
        kind = Kind.reported(session.parameters) if hosts.watching and hosts.attrs != "prefer-standby" else None
        if kind is None or kind.suits(hosts.attrs):
            return True
        hosts.doubt()
        log.warning(
            "a server is not what it was a moment ago", session=self.session_id, server=str(self._target), state=str(kind)
        )
        self.fail(
            "57P03",
            f"{self._target}: {kind}, and no longer what backend.target_session_attrs = {hosts.attrs} asks for",
            hint="Connect again: the servers are looked at anew.",
        )
        return False

    def _carry_out_backend(self, session: Session, backend: BackendSide, step: Step) -> None:
        if step.ready and session.pooled and not self._alone(session):
            step.violation = session.pooler
        if step.violation is not None and not step.commit:
            self._end_by(step.violation)
            return
        self.write(step.forward)
        backend.write(step.inject)
        journal = self.server.journal
        if step.commit:
            self.count_testified(session, step.commit)
            future = journal.keep(step.commit)
            backend.busy = True
            self._held_since = time.monotonic()
            self._hold_timer = self.server.loop.call_later(self.server.settings.limits.hold_timeout, self._hold_timed_out)
            future.add_done_callback(lambda done: self._guarded(lambda: self._release(done, step)))
            # How a statement ended that the client has not heard of yet is not known before it has.
            self._held_record = step.record
        elif step.record:
            journal.append(step.record, wait=False)
        if step.surprised:
            self.server.catalogs.surprised(session)
        if step.defined:
            self.server.catalogs.changed(session)
            self.server.proofs.changed(session)
        if step.ready:
            self._logged_in = True
            if self.server.settings.log.sessions:
                self._say_login(session)
            self.server.catalogs.join(session)
            self.server.proofs.join(session)
            if self._login_timer is not None:
                self._login_timer.cancel()
            self._client_goes_on()

    def _say_login(self, session: Session) -> None:
        self._logged_in_at = time.monotonic()
        identity = session.identity
        log.info(
            "session",
            session=self.session_id,
            user=self.server.mask(identity.db_user),
            database=self.server.mask(identity.database),
            client=self.client_text,
            backend=str(self._target),
        )

    def count_testified(self, session: Session, events: list[Event]) -> None:
        """Counts calls that no attempt announced, and forgeries; the first of these is said, with what is likely behind it."""
        if self.server.metrics.count_testified(events) and not self._forged:
            self._forged = True
            self.server.spawn(self.server.proofs.tell_forgery(session, self.session_id))

    def _end_by(self, violation: ProtocolViolationError) -> None:
        """Nothing more of the backend's goes on."""
        ruled_by = {} if violation.setting is None else {"setting": violation.setting}
        log.error("session ended", session=self.session_id, cause=str(violation), **ruled_by)
        self.fail(violation.sqlstate, str(violation), detail=violation.detail)

    def _alone(self, session: Session) -> bool:
        """Whether no other open session has the same process behind a pooler."""
        process = (str(self._target), session.backend_pid, session.backend_start)
        other = self.server.pooled.get(process)
        if other is not None and other is not self and not other._over:
            return False
        self.server.pooled[process] = self
        self._process = process
        return True

    def _release(self, done: asyncio.Future[None], step: Step) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        failed = done.cancelled() or done.exception() is not None
        backend = self.backend
        if self._over or backend is None or failed:
            return
        self.server.metrics.hold.observe(time.monotonic() - self._held_since)
        if step.violation is not None:
            self._end_by(step.violation)
            return
        self.write(b"".join(held.data for held in step.held))
        self._record_held(lost=False)
        backend.set_busy(False)
        while backend.backlog and not backend.busy and not self._over:
            self.from_backend(backend.backlog.popleft())
        if backend.ended and not backend.busy:
            self.backend_ended()

    def _record_held(self, *, lost: bool) -> None:
        """The outcomes of what was held: it has gone on to the client, or nobody was told."""
        events, self._held_record = self._held_record, []
        for event in events:
            if lost and event.outcome == "ok":
                event.outcome = "lost"
        self._record(events)

    def _record(self, events: list[Event]) -> None:
        """Events that nobody waits for."""
        if events:
            self._guarded(lambda: self.server.journal.append(events, wait=False))

    def _hold_timed_out(self) -> None:
        if not self._over:
            log.error(
                "session ended: the access log did not take a call in time",
                session=self.session_id,
                setting="limits.hold_timeout",
            )
            self.fail("58030", _LOG_LOST, hint=_LOG_LOST_HINT)

    def pause_writing(self) -> None:
        if self.backend is not None and not self._over:
            self.backend.set_peer_full(True)

    def resume_writing(self) -> None:
        if self.backend is not None:
            self.backend.set_peer_full(False)

    def backend_ended(self) -> None:
        if self.backend is None or self.backend.busy or self._over:
            # Something is held for the log: it goes to the client first, or the session ends by then.
            return
        if self.session is not None and not self.session.answered:
            self.fail("08006", "the backend closed the connection without an answer (backend.hosts)")
            return
        self._finish()

    # --- the end -----------------------------------------------------------------------------------------------

    def fail(
        self, sqlstate: str, text: str, hint: str | None = None, *, detail: str | None = None, backend_lost: bool = False
    ) -> None:
        """Ends the session with a FATAL error to the client; the backend rolls back and ends. `backend_lost`: it is beyond reading."""
        if self._over:
            return
        last_word = messages.error_response("FATAL", sqlstate, text, hint=hint, detail=detail)
        if backend_lost and self.backend is not None:
            self.write(last_word)
            self.backend.ended = True
            self.backend.backlog.clear()
            self.backend.abort()
        else:
            self._say(last_word)
        self._finish(stop=True)

    def _say(self, last_word: bytes) -> None:
        """The session's last message, where the client is not in the middle of another one."""
        holding = self.backend is not None and self.backend.busy
        if self.session is None or holding or not self.session.answer_is_cut:
            self.write(last_word)

    def broken(self, error: BaseException) -> None:
        """Something went wrong that should not: this session ends, and only what kind of thing it was is said."""
        log.error("internal error, the session ends", session=self.session_id, kind=type(error).__name__)
        self.fail("XX000", "internal error of secretproxy")

    def dismiss(self) -> None:
        """Ends a session for the proxy's shutdown, as a backend's own shutdown would."""
        if self._over:
            return
        self._say(messages.error_response("FATAL", "57P01", "terminating connection: the proxy is shutting down"))
        if self.session is not None and self.backend is not None and self.session.quiet:
            self.backend.write(messages.TERMINATE)
        self._finish(stop=True)

    def abandon(self) -> None:
        """No time is left, not even for a backend that still runs."""
        self._finish(stop=True)
        if self._aftermath is not None:
            self._aftermath.abandon()

    def _finish(self, *, stop: bool = False) -> None:
        """The client's side ends. Where the backend may still run something, it is read to its end; `stop`: and cancelled at once."""
        if self._over:
            return
        self._over = True
        for timer in (self._login_timer, self._hold_timer):
            if timer is not None:
                timer.cancel()
        self._record_held(lost=True)
        self.backlog.clear()
        if self._logged_in and not self.ended:
            self.part()
        else:
            self.close()
        session, backend = self.session, self.backend
        if session is None or backend is None or session.quiet or not session.authenticated or backend.finished:
            self.backend_is_done()
            return
        self._aftermath = Aftermath(self, session, backend, stop=stop)
        self._aftermath.begin()

    def backend_is_done(self) -> None:
        """Nothing more comes from the backend: what had no end yet is lost, and the session is over."""
        if self.session is not None:
            self.server.catalogs.leave(self.session)
            self.server.proofs.leave(self.session)
            if self._target is not None:
                self.server.cancels.forget(self.session.cancel_key, self._target)
            self._record(self.session.lost(broke=self.backend is not None and self.backend.broke))
        if self._process is not None and self.server.pooled.get(self._process) is self:
            del self.server.pooled[self._process]
        if self.backend is not None:
            self.backend.backlog.clear()
            self.backend.close()
        self.server.closed(self)
        if self._logged_in_at:
            log.info("session ends", session=self.session_id, seconds=round(time.monotonic() - self._logged_in_at, 3))
            self._logged_in_at = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone()
        self._finish()
