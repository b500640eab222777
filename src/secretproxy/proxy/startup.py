"""A client from its first byte to the moment when its session is open: startup packet, TLS, CancelRequest, login.

What is said from then on is the relay's.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import structlog

from secretproxy.proxy import tls
from secretproxy.proxy.backend import BackendUnreachable, Target, connect
from secretproxy.proxy.itself import SETTING, SQLSTATE
from secretproxy.proxy.login import BackendLogin, Logins, Refused
from secretproxy.proxy.relay import BackendSide, ClientSide
from secretproxy.session.session import Session, new_identity
from secretproxy.wire import messages
from secretproxy.wire.errors import MalformedError, ProtocolViolationError

if TYPE_CHECKING:
    from secretproxy.proxy.server import Server

log: Any = structlog.get_logger("secretproxy.session")

# PG_MAX_SASL_MESSAGE_LENGTH of src/include/libpq/sasl.h, and the names around it.
_SASL_MOST = 1_100


class Client(ClientSide):
    """A client that has just connected, and all that it becomes."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._startup = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._asked: set[int] = set()
        # What a SCRAM login is bound to here; None outside TLS.
        self.binding: bytes | None = None
        self._heard: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.server.opened(self):
            self.server.refused("listen.max_connections", session=self.session_id, client=self.client_text)
            self.fail("53300", "sorry, too many clients already (listen.max_connections)")
            return
        self._login_timer = self.server.loop.call_later(self.server.settings.listen.login_timeout, self._login_timed_out)

    def _login_timed_out(self) -> None:
        self.server.refused("listen.login_timeout", session=self.session_id, client=self.client_text)
        if self.session is None and self._heard is None:
            # A connection that never said who it is gets no answer, as from PostgreSQL.
            self._finish()
        else:
            self.fail("08006", "login took too long (listen.login_timeout)")

    def data_received(self, data: bytes) -> None:
        if self.session is not None and self.backend is not None:
            self.from_client(data)
        elif not self._over:
            self._startup += data
            if len(self._startup) > 4 * messages.MAX_STARTUP_PACKET and self._task is not None:
                self.set_busy(True)
            if self._task is None:
                self._read_startup()
            else:
                self._wake()

    def _read_startup(self) -> None:
        buffer = self._startup
        try:
            if buffer[0] == tls.CLIENT_HELLO and not self._tls and not self._asked and self.server.tls is not None:
                self._task = self.server.spawn(self._attend(self._secure(bytes(buffer))))
                buffer.clear()
                return
            while len(buffer) >= 4:
                length = messages.startup_length(bytes(buffer[:4]))
                if len(buffer) < length:
                    return
                packet = bytes(buffer[:length])
                del buffer[:length]
                startup = messages.read_startup(packet)
                if startup.code == messages.SSL_REQUEST and self.server.tls is not None and not self._tls:
                    if buffer:
                        # Nobody may slip in bytes that would be taken for encrypted ones later (CVE-2021-23214).
                        raise ProtocolViolationError("received unencrypted data after SSL request")
                    self._task = self.server.spawn(self._attend(self._secure(None)))
                    return
                if startup.code in (messages.SSL_REQUEST, messages.GSSENC_REQUEST):
                    if self._tls or startup.code in self._asked:
                        raise messages.unsupported(startup.code)
                    self.write(b"N")
                    self._asked.add(startup.code)
                    continue
                if self.server.settings.listen.tls == "require" and not self._tls and startup.code != messages.CANCEL_REQUEST:
                    self.server.refused("listen.tls", session=self.session_id, client=self.client_text)
                    self.fail("28000", "this connection must use TLS (listen.tls of secretproxy)", hint="Use sslmode=require.")
                    return
                self.set_busy(True)
                if startup.code == messages.CANCEL_REQUEST:
                    self._task = self.server.spawn(self._attend(self._cancel(packet)))
                else:
                    self._task = self.server.spawn(self._attend(self._begin(packet, startup)))
                return
        except MalformedError as malformed:
            # As from PostgreSQL: whoever says such things gets no answer.
            log.info("malformed startup packet", session=self.session_id, cause=str(malformed), client=self.client_text)
            self._finish()
        except ProtocolViolationError as error:
            self.fail(error.sqlstate, str(error))

    async def _secure(self, begun: bytes | None) -> None:
        """The TLS handshake: after an SSLRequest (None), or with the beginning of a ClientHello that came unasked."""
        context, transport, binding = self.server.tls, self.transport, self.server.tls_binding
        assert context is not None
        assert transport is not None
        timeout = self.server.settings.listen.login_timeout
        try:
            if begun is None:
                transport.pause_reading()
                transport.write(b"S")
                secured = await self.server.loop.start_tls(
                    transport, cast(asyncio.Protocol, self), context, server_side=True, ssl_handshake_timeout=timeout
                )
            else:
                secured = await tls.accept_direct(transport, cast(asyncio.Protocol, self), context, begun, timeout)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            log.info("TLS handshake failed", session=self.session_id, client=self.client_text, reason=reason)
            self.abort()
            self._finish()
            return
        if secured is None or self._over:
            self._finish()
            return
        if context is self.server.tls and context.session_stats()["number"]:
            # OpenSSL remembers a session of TLS 1.2, and Python has no way to forbid it.
            self.server.renew_tls()
        self.transport = tls.Secured(transport, secured)
        self._tls = True
        self.binding = binding
        self._task = None
        if begun is not None:
            found = secured.get_extra_info("ssl_object")
            if found is None or found.selected_alpn_protocol() != tls.ALPN:
                self.fail("08P01", "received direct SSL connection request without ALPN protocol negotiation extension")
                return
        if self._startup:
            self._read_startup()

    async def _cancel(self, packet: bytes) -> None:
        """Hands a CancelRequest on; like PostgreSQL, answers nothing and closes when the backend has closed."""
        async with self.server.cancelling:
            await self.server.cancels.send(packet, self.session_id)
        self._finish()

    async def _begin(self, packet: bytes, startup: messages.Startup) -> None:
        server = self.server
        if server.draining:
            server.refused("listen.drain_timeout", session=self.session_id, client=self.client_text)
            self.fail("57P03", "the proxy is shutting down")
            return
        mark = startup.parameters.get(SETTING)
        if mark is not None and server.keys.knows(mark):
            server.refused("backend.hosts", session=self.session_id, client=self.client_text)
            self.fail(SQLSTATE, "secretproxy is its own backend (backend.hosts)", hint="Name PostgreSQL's own address there.")
            return
        if not server.admit(self):
            server.refused("listen.max_sessions", session=self.session_id, client=self.client_text)
            self.fail("53300", "sorry, too many clients already (listen.max_sessions)")
            return
        try:
            if server.logins is not None:
                await self._begin_logged_in(server.logins, packet, startup)
            else:
                await self._begin_relayed(packet, startup)
        except BackendUnreachable as error:
            server.metrics.backend_failures.inc()
            server.probe.failed()
            log.error("backend unreachable", session=self.session_id, tried=str(error), setting="backend.hosts")
            self.fail("08001", f"the backend cannot be reached: {error}", hint="See backend.hosts of secretproxy.")

    async def _begin_relayed(self, packet: bytes, startup: messages.Startup) -> None:
        """The backend authenticates the client. Raises BackendUnreachable."""
        server = self.server
        timeout = server.settings.backend.connect_timeout

        async def reached() -> tuple[BackendSide, Target]:
            targets = await server.hosts.candidates()
            return await connect(lambda: cast(Any, BackendSide(self)), targets, timeout, server.backend_tls, server.hosts.silent)

        try:
            backend, target = await reached()
        except BackendUnreachable:
            if not server.hosts.watching:
                raise
            # What is known of the servers was old.
            await server.hosts.look_again()
            backend, target = await reached()
        if self._over:
            backend.abort()
            return
        self._open_session(backend, target, startup)
        backend.write(packet)
        self.set_busy(False)
        self._take_early()

    async def _begin_logged_in(self, logins: Logins, packet: bytes, startup: messages.Startup) -> None:
        """The proxy authenticates the client, and logs in at the backend for it. Raises BackendUnreachable."""
        try:
            login, target = await logins.enter(self, packet, startup, self.server.backend_tls)
        except Refused as refused:
            self.write(refused.answer)
            self._finish()
            return
        except ProtocolViolationError as error:
            self.fail(error.sqlstate, str(error), detail=error.detail)
            return
        except ConnectionError:
            self._finish()
            return
        if self._over:
            login.transport.abort()
            return
        self._heard = None
        self._go_on_after(login, target, startup)

    def _go_on_after(self, login: BackendLogin, target: Target, startup: messages.Startup) -> None:
        """The session takes over where the backend has said AuthenticationOk."""
        backend = BackendSide(self)
        self._open_session(backend, target, startup)
        said = login.hand_over(cast(asyncio.Protocol, backend))
        self.set_busy(False)
        self.from_backend(said)
        if login.lost:
            backend.connection_lost(None)
        self._take_early()

    def _open_session(self, backend: BackendSide, target: Target, startup: messages.Startup) -> None:
        server, parameters = self.server, startup.parameters
        identity = new_identity(parameters.get("user"), parameters.get("database"), parameters.get("application_name"))
        address, port = self._peer()
        identity = replace(identity, session_id=self.id, client_addr=address, client_port=port, tls=self._tls)
        self.session = Session(identity, server.keys, server.detector, server.limits, parameters.get("replication"))
        self.backend = backend
        self._target = target
        log.debug("session begins", session=self.session_id, backend=str(target))

    def _take_early(self) -> None:
        """What the client sent while its backend was connected to."""
        rest = bytes(self._startup)
        self._startup.clear()
        if rest:
            self.from_client(rest)

    def _finish(self, *, stop: bool = False) -> None:
        super()._finish(stop=stop)
        self._wake()

    def _wake(self) -> None:
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(None)

    async def hear(self) -> bytes:
        """The body of the client's next SASL message. Raises ProtocolViolationError, ConnectionError."""
        buffer = self._startup
        while True:
            if self._over:
                raise ConnectionResetError
            if len(buffer) >= 5:
                if buffer[0] != 0x70:
                    raise ProtocolViolationError(f"expected SASL response, got message type {buffer[0]}")
                length = 1 + int.from_bytes(buffer[1:5], "big")
                if not 5 <= length <= _SASL_MOST:
                    raise ProtocolViolationError("invalid message length")
                if len(buffer) >= length:
                    body = bytes(buffer[5:length])
                    del buffer[:length]
                    return body
            self._heard = self.server.loop.create_future()
            self.set_busy(False)
            await self._heard
