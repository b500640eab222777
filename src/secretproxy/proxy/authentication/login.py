"""Logins in mode scram: the proxy authenticates the client, then logs in at the backend with the keys that the client's
proof gave away.

The client meets the same exchange as PostgreSQL's (src/backend/libpq/auth.c, auth-sasl.c), also where the user is
unknown. Only a client that asks for something that the backend's answer to the startup packet decides (a protocol above
3.0, `_pq_.` options) has its backend connection opened before it is authenticated. Must never put a key, a proof or an
unknown user's name into a log or an error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import structlog

from secretproxy.audit.masking import NameMask
from secretproxy.config import AuthSettings, BackendSettings
from secretproxy.proxy.authentication.throttle import LoginThrottle
from secretproxy.proxy.authentication.verifiers import LookupFailedError, Users
from secretproxy.proxy.backend.connect import (
    AddressUnreachableError,
    BackendUnreachableError,
    NoAnswerError,
    Target,
    reach,
)
from secretproxy.proxy.backend.hosts import Hosts, Kind
from secretproxy.proxy.backend.tls import BackendTls
from secretproxy.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ClientExchange,
    LoginKeys,
    NotTheBackendError,
    OtherVerifierError,
    ServerExchange,
    WrongPasswordError,
    mock,
)
from secretproxy.scram.binding import end_point_of_der
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.types import SqlState

log: Any = structlog.get_logger("secretproxy.auth")

# NAMEDATALEN - 1.
_NAME_MOST = 63
# Bytes of a backend's answers up to its ReadyForQuery.
_ANSWER_MOST = 1_048_576


class LoginRefusedError(Exception):
    """The client is not let in; `answer` is the error that it gets."""

    def __init__(self, sqlstate: str, text: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(text)
        self.answer = messages.error_response("FATAL", sqlstate, text, detail=detail, hint=hint)


class RefusedByBackendError(LoginRefusedError):
    """The backend does not let the client in; the client gets the backend's error."""

    def __init__(self, answer: bytes) -> None:
        Exception.__init__(self, "refused by the backend")
        self.answer = answer
        self.sqlstate = messages.field(answer, 0, len(answer), 0x43)


class OutdatedVerifierError(LoginRefusedError):
    """The client's verifier at the proxy is not the backend's."""


class Conversation(Protocol):
    """The client's end, as a login needs it."""

    binding: bytes | None

    @property
    def source(self) -> bytes:
        """Whence it comes, as failures are counted: an address, or a local user."""

    @property
    def session_id(self) -> str: ...

    def write(self, data: bytes) -> None: ...

    async def read_sasl(self) -> bytes:
        """Reads the body of the client's next SASL message. Raises ProtocolViolationError, ConnectionError."""


class BackendLogin(asyncio.Protocol):
    """A backend's connection up to its first ReadyForQuery."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self.transport: asyncio.Transport
        self.negotiation = b""
        self.parameters: dict[str, str] = {}
        self.lost = False
        self._buffer = bytearray()
        self._said = bytearray()
        self._first = b""
        # Bytes of the messages that were read.
        self._read = 0
        self._more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def eof_received(self) -> bool:
        self.lost = True
        self._more.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._more.set()

    async def _message(self) -> bytes:
        """Reads the next message. Raises ProtocolViolationError, ConnectionError."""
        buffer = self._buffer
        while True:
            if len(buffer) >= 5:
                length = 1 + int.from_bytes(buffer[1:5], "big")
                if not 5 <= length <= _ANSWER_MOST:
                    raise ProtocolViolationError("a message of an impossible length")
                if len(buffer) >= length:
                    self._read += length
                    if self._read > _ANSWER_MOST:
                        raise ProtocolViolationError("no end of messages at the login")
                    message = bytes(buffer[:length])
                    del buffer[:length]
                    return message
            if self.lost:
                raise ConnectionResetError
            self._more.clear()
            await self._more.wait()

    async def open(self, packet: bytes) -> None:
        """Sends the startup packet and waits for what the backend asks first."""
        self.transport.write(packet)
        while True:
            message = await self._message()
            if message[:1] == b"v":
                self.negotiation = message
            elif message[:1] == b"N":
                self._said += message
            else:
                self._first = message
                return

    async def _asked(self) -> tuple[int, bytes]:
        """Reads the next Authentication message. Raises RefusedByBackendError."""
        message, self._first = self._first or await self._message(), b""
        if message[:1] == b"E":
            raise RefusedByBackendError(message)
        if message[:1] != b"R":
            raise ProtocolViolationError("something else than an Authentication message")
        code, data = messages.read_authentication(message[5:])
        if code == messages.AUTHENTICATION_OK:
            self._said += message
        return code, data

    async def log_in(self, keys: LoginKeys) -> None:
        """Answers for the client until the backend is ready.

        Raises LoginRefusedError, ProtocolViolationError, OtherVerifierError, NotTheBackendError.
        """
        code, data = await self._asked()
        if code == messages.AUTHENTICATION_SASL:
            secured = self.transport.get_extra_info("ssl_object")
            binding = end_point_of_der(secured.getpeercert(binary_form=True)) if secured is not None else None
            exchange = ClientExchange(keys, data.split(b"\0"), secured=secured is not None, binding=binding)
            self.transport.write(messages.sasl_initial_response(exchange.mechanism, exchange.first()))
            code, data = await self._asked()
            self._expect(code, messages.AUTHENTICATION_SASL_CONTINUE)
            self.transport.write(messages.sasl_response(exchange.final(data)))
            code, data = await self._asked()
            self._expect(code, messages.AUTHENTICATION_SASL_FINAL)
            exchange.finish(data)
            code, data = await self._asked()
        self._expect(code, messages.AUTHENTICATION_OK)
        await self._settle()

    def _expect(self, code: int, wanted: int) -> None:
        if code == wanted:
            return
        asked = {3: "a password in clear", 5: "an MD5 password", 7: "GSSAPI", 9: "SSPI"}.get(code, "something else")
        log.error(
            "the backend does not log clients in by SCRAM",
            session=self._session_id,
            asks_for=asked,
            setting="auth.mode, pg_hba.conf of the backend",
        )
        raise LoginRefusedError(
            SqlState.INVALID_AUTHORIZATION_SPECIFICATION,
            f"the backend asks for {asked}, which auth.mode = scram of secretproxy cannot answer",
            hint="Let pg_hba.conf of the backend say scram-sha-256 for the proxy's address.",
        )

    async def _settle(self) -> None:
        while True:
            message = await self._message()
            if message[:1] == b"E":
                raise RefusedByBackendError(message)
            if message[:1] == b"S":
                name, pos = messages.cstring(message, 5, len(message))
                value, _ = messages.cstring(message, pos, len(message))
                self.parameters[name.decode("ascii", "surrogateescape")] = value.decode("utf-8", "replace")
            self._said += message
            if message[:1] == b"Z":
                return

    def hand_over(self, protocol: asyncio.Protocol) -> bytes:
        """Gives the connection to `protocol`, and what was said from AuthenticationOk on to the caller."""
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        return bytes(self._said + self._buffer)

    def leave(self) -> None:
        self.transport.write(messages.TERMINATE)
        self.transport.close()


class Logins:
    """The means to log clients in, for one process."""

    def __init__(
        self,
        auth: AuthSettings,
        backend: BackendSettings,
        users: Users,
        hosts: Hosts,
        failures: LoginThrottle,
        key: bytes,
        mask: NameMask,
        failed: Callable[[], None],
        refused: Callable[..., None],
        count: Callable[..., None],
    ) -> None:
        """Takes `key`, from which unknown users' salts are derived.

        Calls `failed` at every failed login, `refused` when a limit refuses one, `count` for a line that many logins
        can cause at once.
        """
        self.refused = refused
        self.count = count
        self.users = users
        self.hosts = hosts
        self.failures = failures
        self.backend = backend
        self.mask = mask
        self.failed = failed
        self._delay = auth.failure_delay
        self._key = key

    async def enter(
        self, client: Conversation, packet: bytes, startup: messages.Startup, tls: BackendTls
    ) -> tuple[BackendLogin, Target]:
        """Gives a backend's connection that is logged in as this client.

        Raises LoginRefusedError, BackendUnreachableError, ProtocolViolationError, ConnectionError.
        """
        backends = _Backends(self, packet, tls, client.session_id)
        # PostgreSQL cuts names there.
        user = startup.parameters.get("user", "").encode("utf-8", "surrogateescape")[:_NAME_MOST]
        try:
            if startup.code != messages.PROTOCOL_3_0 or any(name.startswith("_pq_.") for name in startup.parameters):
                client.write(await backends.open_early())
            keys = await self._authenticate(client, user)
            try:
                return await backends.log_in(keys)
            except OutdatedVerifierError:
                self.users.forget(user.decode("utf-8", "ignore"))
                raise
            finally:
                keys.wipe()
        except BaseException:
            backends.abandon()
            raise

    async def _authenticate(self, client: Conversation, user: bytes) -> LoginKeys:
        if not user:
            raise LoginRefusedError(
                SqlState.INVALID_AUTHORIZATION_SPECIFICATION, "no PostgreSQL user name specified in startup packet"
            )
        name = user.decode("utf-8", "ignore")
        self._check_rate(client, user)
        mechanisms = [MECHANISM_PLUS, MECHANISM] if client.binding is not None else [MECHANISM]
        client.write(messages.authentication_sasl(mechanisms))
        mechanism, first = messages.read_sasl_initial_response(await client.read_sasl())
        exchange = ServerExchange(mechanism, client.binding)
        if first is None:
            client.write(messages.authentication(messages.AUTHENTICATION_SASL_CONTINUE))
            first = await client.read_sasl()
        exchange.first(first)
        try:
            found = await self.users.find(name)
        except LookupFailedError as error:
            setting = "auth.lookup_dsn, auth.lookup_query"
            self.count("users cannot be looked up", setting, log.error, session=client.session_id, cause=str(error))
            raise LoginRefusedError(
                SqlState.CANNOT_CONNECT_NOW,
                "the proxy cannot look up its users now",
                hint="See auth.lookup_dsn of secretproxy, and its log for the cause.",
            ) from None
        stand_in = mock(self._key, user, self.users.iterations)
        challenge = exchange.challenge(found or stand_in, doomed=found is None)
        client.write(messages.authentication(messages.AUTHENTICATION_SASL_CONTINUE, challenge))
        final = await client.read_sasl()
        # Whoever tries many at a time is counted before each one is judged.
        self._check_rate(client, user)
        try:
            signature, keys = exchange.final(final)
        except WrongPasswordError:
            self.failures.failed(client.source, user)
            self.users.forget(name)
            self._note(client, user, known=found is not None)
            await asyncio.sleep(self._delay)
            raise LoginRefusedError(
                SqlState.INVALID_PASSWORD, f'password authentication failed for user "{name}"'
            ) from None
        self.failures.succeeded(client.source, user)
        client.write(messages.authentication(messages.AUTHENTICATION_SASL_FINAL, signature))
        return keys

    def _note(self, client: Conversation, user: bytes, *, known: bool) -> None:
        """Logs a failed login. A name that no user has may be a password typed into the wrong field."""
        shown = self.mask(user.decode("utf-8", "surrogateescape")) if known else self.mask.masked(user)
        self.failed()
        log.warning(
            "login failed",
            session=client.session_id,
            user=shown,
            client=client.source.decode(),
            cause="wrong password" if known else "unknown user",
        )

    def _check_rate(self, client: Conversation, user: bytes) -> None:
        wait, setting = self.failures.wait_by(client.source, user)
        if wait > 0:
            self.refused(setting, session=client.session_id, client=client.source.decode())
            raise LoginRefusedError(
                SqlState.INVALID_AUTHORIZATION_SPECIFICATION,
                "too many failed logins; try again later",
                hint=f"In {wait:.0f} seconds. See auth.failures_per_address and auth.failures_per_user of secretproxy.",
            )


class _Backends:
    """The servers that one login may go to, one after the other, as libpq goes through its hosts."""

    def __init__(self, logins: Logins, packet: bytes, tls: BackendTls, session_id: str) -> None:
        self._session_id = session_id
        self._logins = logins
        self._packet = packet
        self._tls = tls
        self._queue: list[Target] | None = None
        self._causes: list[str] = []
        self._current: BackendLogin | None = None
        self._opened: tuple[BackendLogin, Target] | None = None
        self._negotiation: bytes | None = None

    async def open_early(self) -> bytes:
        """Opens the first connection and gives the backend's answer about the protocol, which the client gets now."""
        self._opened = await self._open_next()
        self._negotiation = self._opened[0].negotiation
        return self._negotiation

    def abandon(self) -> None:
        if self._current is not None:
            self._current.transport.abort()
            self._current = None

    async def _open_next(self) -> tuple[BackendLogin, Target]:
        """Opens the next server that answers the startup packet. Raises BackendUnreachableError."""
        if self._queue is None:
            self._queue, self._causes = await self._logins.hosts.addresses()
        timeout = self._logins.backend.connect_timeout
        while self._queue:
            target = self._queue.pop(0)
            try:
                login = self._current = await reach(lambda: BackendLogin(self._session_id), target, timeout, self._tls)
                async with asyncio.timeout(timeout):
                    await login.open(self._packet)
            except AddressUnreachableError as error:
                self._causes.append(str(error))
                if isinstance(error, NoAnswerError):
                    self._logins.hosts.silent(target)
            except TimeoutError:
                self._logins.hosts.silent(target)
                self._causes.append(f"{target}: no answer within {timeout:g} s")
            except ConnectionError:
                self._causes.append(f"{target}: closed the connection")
            else:
                return login, target
            self.abandon()
        raise BackendUnreachableError("; ".join(self._causes))

    async def log_in(self, keys: LoginKeys) -> tuple[BackendLogin, Target]:
        """Raises LoginRefusedError, BackendUnreachableError, ProtocolViolationError."""
        attrs = self._logins.hosts.attrs
        try:
            return await self._first_suitable(keys, attrs)
        except BackendUnreachableError:
            if attrs != "prefer-standby":
                raise
        self._queue = None
        return await self._first_suitable(keys, "any")

    async def _first_suitable(self, keys: LoginKeys, attrs: str) -> tuple[BackendLogin, Target]:
        while True:
            login, target = self._opened or await self._open_next()
            self._opened = None
            cause = await self._try(login, target, keys, attrs)
            if cause is None:
                return login, target
            self._causes.append(cause)

    async def _try(self, login: BackendLogin, target: Target, keys: LoginKeys, attrs: str) -> str | None:
        """Gives None if this server lets the client in and suits, else the reason to try another."""
        # Long because it follows the messages of one login in their order.
        try:
            async with asyncio.timeout(self._logins.backend.connect_timeout):
                await login.log_in(keys)
        except RefusedByBackendError as error:
            if error.sqlstate != SqlState.CANNOT_CONNECT_NOW.encode():
                raise
            self.abandon()
            return f"{target}: it cannot take connections now"
        except (TimeoutError, ConnectionError):
            self.abandon()
            return f"{target}: closed the connection or did not answer at the login"
        except OtherVerifierError:
            log.error(
                "the backend has another verifier for a user than the proxy",
                session=self._session_id,
                backend=str(target),
                setting="auth.users_file or auth.lookup_dsn",
            )
            raise OutdatedVerifierError(
                SqlState.INVALID_AUTHORIZATION_SPECIFICATION,
                "the backend holds another password for this user than secretproxy does",
                hint="auth.users_file or auth.lookup_dsn of secretproxy must give the backend's own rolpassword, salt "
                "and iterations included.",
            ) from None
        except NotTheBackendError:
            log.error(
                "the backend could not prove that it knows the user",
                session=self._session_id,
                backend=str(target),
                setting="backend.hosts",
            )
            raise LoginRefusedError(
                SqlState.CONNECTION_FAILURE, "the backend could not prove that it knows the user (backend.hosts)"
            ) from None
        except ProtocolViolationError as error:
            log.error(
                "the login at the backend failed",
                session=self._session_id,
                backend=str(target),
                cause=str(error),
                setting="backend.hosts",
            )
            raise LoginRefusedError(
                SqlState.PROTOCOL_VIOLATION,
                f"the login at the backend failed: {error}",
                hint="See backend.hosts of secretproxy.",
            ) from None
        reason = self._unsuitable(login, target, attrs)
        if reason is not None:
            with contextlib.suppress(OSError):
                login.leave()
        return reason

    def _unsuitable(self, login: BackendLogin, target: Target, attrs: str) -> str | None:
        """Gives the reason why a server that let the client in does not suit, None if it does."""
        if self._negotiation is not None and login.negotiation != self._negotiation:
            return f"{target}: it speaks another version of the protocol than the server before it"
        kind = Kind.reported(login.parameters)
        if kind is not None and not kind.suits(attrs):
            return f"{target}: {kind} (backend.target_session_attrs = {attrs})"
        return None
