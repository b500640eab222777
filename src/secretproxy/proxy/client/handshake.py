"""A client from its first byte to the moment when its session is open: startup packet, TLS, CancelRequest, login.

What is said from then on goes to the relay, which the handshake makes and hands the client's endpoint to.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from enum import Enum
from typing import Any, Final, cast

import structlog

from secretproxy.proxy.authentication.login import LoginRefusedError, Logins
from secretproxy.proxy.backend.connect import BackendUnreachableError, Target, connect
from secretproxy.proxy.backend.itself import SETTING, SQLSTATE
from secretproxy.proxy.client import tls
from secretproxy.proxy.client.endpoint import BackendEndpoint, ClientEndpoint
from secretproxy.proxy.client.relay import Relay
from secretproxy.proxy.client.stage import SHUTTING_DOWN, ClientStage
from secretproxy.proxy.runtime import Runtime
from secretproxy.proxy.transport.secured import ALPN, Secured
from secretproxy.session.session import Session, new_identity
from secretproxy.wire import messages
from secretproxy.wire.errors import MalformedError, ProtocolViolationError
from secretproxy.wire.types import FrontendMessage, SqlState

log: Any = structlog.get_logger("secretproxy.session")

# PG_MAX_SASL_MESSAGE_LENGTH of src/include/libpq/sasl.h, and the names around it.
_MOST_SASL: Final = 1_100


class Progress(Enum):
    """The progress of a handshake."""

    # The client's next packet is waited for.
    STARTUP = "startup"
    # A task of its own sees to TLS, to the login, to a cancel request.
    TASK = "task"
    HANDED_OVER = "handed over"
    OVER = "over"


_STARTUP: Final = Progress.STARTUP
_TASK: Final = Progress.TASK
_HANDED_OVER: Final = Progress.HANDED_OVER
_OVER: Final = Progress.OVER


class Handshake(ClientStage):
    """A client that has just connected. To a login it is the client's end of the conversation (login.py)."""

    def __init__(self, runtime: Runtime, client: ClientEndpoint, client_tls: tls.ClientTls) -> None:
        super().__init__(client)
        self.progress = _STARTUP
        # What a SCRAM login is bound to here; None outside TLS.
        self.binding: bytes | None = None
        self._runtime: Final = runtime
        self._tls: Final = client_tls
        self._loop: Final = asyncio.get_running_loop()
        # What the client has said and nobody has read yet.
        self._unread: Final = bytearray()
        self._asked: Final[set[int]] = set()
        self._heard: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._relay: Relay | None = None
        client.attach(self, self._received)

    # --- what the endpoint says ---

    def opened(self) -> None:
        admission = self._runtime.admission
        if not admission.opened(self.client):
            self._refused("listen.max_connections")
            self.terminate(SqlState.TOO_MANY_CONNECTIONS, "sorry, too many clients already (listen.max_connections)")
            return
        self._timer = self._loop.call_later(self._runtime.settings.listen.login_timeout, self._timed_out)

    def _received(self, data: bytes) -> None:
        if self.progress is _OVER:
            return
        self._unread.extend(data)
        if self.progress is _STARTUP:
            self._read_startup()
            return
        if len(self._unread) > 4 * messages.MAX_STARTUP_PACKET:
            self.client.pause(True)
        self._wake()

    def ended(self) -> bool:
        self._close()
        return False

    def lost(self) -> None:
        self._close()
        self._runtime.admission.gone(self.client)

    def congested(self, full: bool) -> None:
        """Does nothing: nobody is written to for the client yet."""

    def _refused(self, setting: str) -> None:
        """Takes note that this becomes no session because of a setting."""
        client = self.client
        self._runtime.admission.refused(setting, session=client.session_id, client=client.text)

    def _timed_out(self) -> None:
        self._refused("listen.login_timeout")
        if self._heard is None:
            # A connection that never said who it is gets no answer, as from PostgreSQL.
            self._close()
        else:
            self.terminate(SqlState.CONNECTION_FAILURE, "login took too long (listen.login_timeout)")

    # --- startup packets ---

    def _read_startup(self) -> None:
        buffer = self._unread
        try:
            unasked = buffer[0] == tls.CLIENT_HELLO and not self._asked
            if unasked and not self.client.secured and self._tls.context is not None:
                begun = bytes(buffer)
                buffer.clear()
                self._start(self._secure(begun))
                return
            while self.progress is _STARTUP and len(buffer) >= 4:
                length = messages.startup_length(bytes(buffer[:4]))
                if len(buffer) < length:
                    return
                packet = bytes(buffer[:length])
                del buffer[:length]
                self._take_packet(packet, messages.read_startup(packet))
        except MalformedError as malformed:
            # As from PostgreSQL: whoever says such things gets no answer.
            log.info(
                "malformed startup packet",
                session=self.client.session_id,
                cause=str(malformed),
                client=self.client.text,
            )
            self._close()
        except ProtocolViolationError as error:
            self.terminate(error.sqlstate, str(error))

    def _take_packet(self, packet: bytes, startup: messages.Startup) -> None:
        """Does what a startup packet asks for. Raises ProtocolViolationError."""
        client = self.client
        if startup.code == messages.SSL_REQUEST and self._tls.context is not None and not client.secured:
            if self._unread:
                # Nobody may inject bytes that would later count as encrypted (CVE-2021-23214).
                raise ProtocolViolationError("received unencrypted data after SSL request")
            self._start(self._secure(None))
        elif startup.code in (messages.SSL_REQUEST, messages.GSSENC_REQUEST):
            if client.secured or startup.code in self._asked:
                raise messages.unsupported(startup.code)
            client.write(b"N")
            self._asked.add(startup.code)
        elif startup.code == messages.CANCEL_REQUEST:
            client.pause(True)
            self._start(self._cancel(packet))
        elif self._runtime.settings.listen.tls == "require" and not client.secured:
            self._refused("listen.tls")
            self.terminate(
                SqlState.INVALID_AUTHORIZATION_SPECIFICATION,
                "this connection must use TLS (listen.tls of secretproxy)",
                hint="Use sslmode=require.",
            )
        else:
            client.pause(True)
            self._start(self._begin(packet, startup))

    def _start(self, work: Any) -> None:
        self.progress = _TASK
        self._runtime.spawn(self.attend(work))

    async def _secure(self, begun: bytes | None) -> None:
        """Performs the TLS handshake: after an SSLRequest (None), or with the beginning of a direct ClientHello."""
        client, transport = self.client, self.client.transport
        context, binding = self._tls.context, self._tls.binding
        assert context is not None
        assert transport is not None
        timeout = self._runtime.settings.listen.login_timeout
        protocol = cast(asyncio.Protocol, client)
        try:
            if begun is None:
                transport.pause_reading()
                transport.write(b"S")
                secured = await self._loop.start_tls(
                    transport, protocol, context, server_side=True, ssl_handshake_timeout=timeout
                )
            else:
                secured = await tls.accept_direct(transport, protocol, context, begun, timeout)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            log.info("TLS handshake failed", session=client.session_id, client=client.text, reason=reason)
            client.abort()
            self._close()
            return
        if secured is None or self.progress is _OVER:
            self._close()
            return
        if context is self._tls.context and context.session_stats()["number"]:
            # OpenSSL remembers a session of TLS 1.2, and Python has no way to forbid it.
            self._tls.renew(asked=False)
        client.use(Secured(transport, secured))
        client.secured = True
        self.binding = binding
        self.progress = _STARTUP
        if begun is not None:
            found = secured.get_extra_info("ssl_object")
            if found is None or found.selected_alpn_protocol() != ALPN:
                self.terminate(
                    SqlState.PROTOCOL_VIOLATION,
                    "received direct SSL connection request without ALPN protocol negotiation extension",
                )
                return
        if self._unread:
            self._read_startup()

    async def _cancel(self, packet: bytes) -> None:
        """Hands a CancelRequest on; like PostgreSQL, answers nothing and closes when the backend has closed."""
        async with self._runtime.cancelling:
            await self._runtime.cancels.send(packet, self.client.session_id)
        self._close()

    # --- login ---

    async def _begin(self, packet: bytes, startup: messages.Startup) -> None:
        runtime = self._runtime
        admission = runtime.admission
        if admission.draining:
            self._refused("listen.drain_timeout")
            self.terminate(SqlState.CANNOT_CONNECT_NOW, "the proxy is shutting down")
            return
        mark = startup.parameters.get(SETTING)
        if mark is not None and runtime.keys.knows(mark):
            self._refused("backend.hosts")
            self.terminate(
                SQLSTATE,
                "secretproxy is its own backend (backend.hosts)",
                hint="Name PostgreSQL's own address there.",
            )
            return
        if not admission.admit(self.client):
            self._refused("listen.max_sessions")
            self.terminate(SqlState.TOO_MANY_CONNECTIONS, "sorry, too many clients already (listen.max_sessions)")
            return
        try:
            if runtime.logins is not None:
                await self._log_in(runtime.logins, packet, startup)
            else:
                await self._relay_login(packet, startup)
        except BackendUnreachableError as error:
            runtime.metrics.backend_failures.inc()
            runtime.backend_failed()
            session = self.client.session_id
            admission.count("backend unreachable", "backend.hosts", log.error, session=session, tried=str(error))
            self.terminate(
                SqlState.SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
                f"the backend cannot be reached: {error}",
                hint="See backend.hosts of secretproxy.",
            )

    async def _relay_login(self, packet: bytes, startup: messages.Startup) -> None:
        """Lets the backend authenticate the client. Raises BackendUnreachableError."""
        hosts = self._runtime.hosts
        reached: tuple[BackendEndpoint, Target] | None = None
        try:
            reached = await self._reach()
        except BackendUnreachableError:
            if not hosts.watching:
                raise
        if reached is None:
            # What is known of the servers was old.
            await hosts.look_again()
            reached = await self._reach()
        backend, target = reached
        if self.progress is _OVER:
            backend.abort()
            return
        self._hand_over(backend, target, startup)
        backend.write(packet)
        self.client.pause(False)
        self._hand_unread()

    async def _reach(self) -> tuple[BackendEndpoint, Target]:
        """Connects to a server that will do. Raises BackendUnreachableError."""
        hosts, backend = self._runtime.hosts, self._runtime.settings.backend
        targets = await hosts.candidates()
        return await connect(
            lambda: cast(Any, BackendEndpoint(backend)),
            targets,
            backend.connect_timeout,
            self._runtime.backend_tls,
            hosts.silent,
        )

    async def _log_in(self, logins: Logins, packet: bytes, startup: messages.Startup) -> None:
        """Authenticates the client, and logs in at the backend for it.

        The session takes over after the backend's AuthenticationOk. Raises BackendUnreachableError.
        """
        try:
            login, target = await logins.enter(self, packet, startup, self._runtime.backend_tls)
        except LoginRefusedError as refused:
            self.client.write(refused.answer)
            self._close()
            return
        except ProtocolViolationError as error:
            self.terminate(error.sqlstate, str(error), detail=error.detail)
            return
        except ConnectionError:
            self._close()
            return
        if self.progress is _OVER:
            login.transport.abort()
            return
        backend = BackendEndpoint(self._runtime.settings.backend)
        self._hand_over(backend, target, startup)
        said = login.hand_over(cast(asyncio.Protocol, backend))
        self.client.pause(False)
        backend.data_received(said)
        if login.lost:
            backend.connection_lost(None)
        self._hand_unread()

    def _hand_over(self, backend: BackendEndpoint, target: Target, startup: messages.Startup) -> None:
        """Opens the session and gives the client's endpoint to its relay."""
        client, runtime, parameters = self.client, self._runtime, startup.parameters
        identity = new_identity(parameters.get("user"), parameters.get("database"), parameters.get("application_name"))
        address, port = client.peer()
        identity = replace(identity, session_id=client.id, client_addr=address, client_port=port, tls=client.secured)
        session = Session(
            identity,
            runtime.keys,
            runtime.detector,
            runtime.limits,
            parameters.get("replication"),
            runtime.journal.state,
        )
        deadline = None
        if self._timer is not None:
            deadline = self._timer.when()
            self._timer.cancel()
        self._relay = Relay(runtime, client, backend, session, target, deadline)
        self.progress = _HANDED_OVER
        log.debug("session begins", session=client.session_id, backend=str(target))

    def _hand_unread(self) -> None:
        """Hands over what the client sent while its backend was connected to."""
        rest = bytes(self._unread)
        self._unread.clear()
        if rest:
            self.client.data_received(rest)

    # --- the client's end of a conversation about its login ---

    @property
    def source(self) -> bytes:
        return self.client.source

    @property
    def session_id(self) -> str:
        return self.client.session_id

    def write(self, data: bytes) -> None:
        self.client.write(data)

    async def read_sasl(self) -> bytes:
        """Reads the body of the client's next SASL message. Raises ProtocolViolationError, ConnectionError."""
        buffer = self._unread
        while True:
            if self.progress is _OVER:
                raise ConnectionResetError
            if len(buffer) >= 5:
                if buffer[0] != FrontendMessage.PASSWORD:
                    raise ProtocolViolationError(f"expected SASL response, got message type {buffer[0]}")
                length = 1 + int.from_bytes(buffer[1:5], "big")
                if not 5 <= length <= _MOST_SASL:
                    raise ProtocolViolationError("invalid message length")
                if len(buffer) >= length:
                    body = bytes(buffer[5:length])
                    del buffer[:length]
                    return body
            self._heard = self._loop.create_future()
            self.client.pause(False)
            await self._heard

    def _wake(self) -> None:
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(None)

    # --- the end ---

    @property
    def idle(self) -> bool:
        return True

    def terminate(self, sqlstate: str, text: str, hint: str | None = None, detail: str | None = None) -> None:
        if self._relay is not None:
            self._relay.terminate(sqlstate, text, hint, detail)
        elif self.progress is not _OVER:
            self.client.write(messages.error_response("FATAL", sqlstate, text, hint=hint, detail=detail))
            self._close()

    def shut_down(self) -> None:
        self.terminate(SqlState.ADMIN_SHUTDOWN, SHUTTING_DOWN)

    def abort(self) -> None:
        self._close()

    def _close(self) -> None:
        if self.progress is _OVER or self.progress is _HANDED_OVER:
            return
        self.progress = _OVER
        if self._timer is not None:
            self._timer.cancel()
        self.client.close()
        self._runtime.admission.closed(self.client, lingers=not self.client.is_lost)
        self._wake()
