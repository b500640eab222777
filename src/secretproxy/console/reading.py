"""Connections to the log as the person who signed in, a few for each, opened when a page needs one and closed with the
session.

May import asyncpg. A password is in the Conninfo that these connections are opened with, and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import structlog

from secretproxy.audit.reading import AS_AUDITOR, connect, explained_on
from secretproxy.config import ConfigError
from secretproxy.connections import FAILURES, READING, ConnectError, Conninfo, cause_of
from secretproxy.connections import connect as service_connection
from secretproxy.wire.types import SqlState

log: Any = structlog.get_logger("secretproxy.console")

# Connections that one person may have at once, live pages among them; what is more waits.
MOST_CONNECTIONS = 6
# Those that are kept open between two pages.
KEPT = 2
APPLICATION = "secretproxy console"
# A page that takes longer than this is not worth waiting for.
PAGE_SECONDS = 60
# A server that sends nothing for this long while a page waits has gone without a word: longer than it works on one.
SILENT_SECONDS = PAGE_SECONDS + 15.0
# What a kept connection may take to answer before a page gets another one.
ANSWER_SECONDS = 5.0
# How long the server has to cancel what nobody waits for.
_CANCEL_SECONDS = 5
_TIMES = {"statement_timeout": f"{PAGE_SECONDS}s", "idle_in_transaction_session_timeout": "15min"}
# What a server says of a wrong password: invalid_password, invalid_authorization_specification.
_WRONG_PASSWORD = (SqlState.INVALID_PASSWORD, SqlState.INVALID_AUTHORIZATION_SPECIFICATION)
_ONE_ROW = "SELECT 1 FROM secretproxy.access_log LIMIT 1"
_MAY_READ = (
    "SELECT pg_catalog.has_table_privilege('secretproxy.access_log'::pg_catalog.text, 'SELECT'::pg_catalog.text)"
)


class UnavailableError(Exception):
    """The log cannot be read now; the text says why."""


class SignInError(Exception):
    """This login does not let anybody in; the text says why, to whoever tries. `known`: the reason is the login's."""

    def __init__(self, text: str, *, known: bool = True) -> None:
        super().__init__(text)
        self.known = known


async def prove(conninfo: Conninfo, user: str, password: str) -> LogReader:
    """Signs somebody in: the server has checked their password, and they may read the log. Raises SignInError.

    A server that asks for no password (trust, peer, a certificate or ticket of this process) would let everybody in as
    anybody. So a second login with a password that nobody has must fail."""
    reader = LogReader(conninfo.with_login(user, password))
    try:
        async with reader.connection() as connection:
            if not await connection.fetchval(_MAY_READ):
                raise SignInError("this login may not read the log; it needs: GRANT secretproxy_auditor TO it")
    except SignInError:
        reader.close()
        raise
    except (UnavailableError, ConfigError, *FAILURES) as error:
        reader.close()
        if reader.refused:
            raise SignInError("name or password is wrong") from None
        # An error before sign-in names no server and no address.
        log.warning("the log cannot be read for a sign-in", reason=cause_of(error.__context__ or error))
        raise SignInError(
            "the log cannot be read now, or there is none; the console's own log says why", known=False
        ) from None
    try:
        stranger = await service_connection(
            conninfo.with_login(user, secrets.token_urlsafe(24)), APPLICATION, timeout=15, settings=READING
        )
    except ConnectError as error:
        if error.sqlstate in _WRONG_PASSWORD:
            return reader
        reader.close()
        log.warning("a sign-in could not be checked", reason=cause_of(error))
        raise SignInError("could not find out whether the server checks passwords; try again", known=False) from None
    stranger.terminate()
    reader.close()
    raise SignInError(
        "the server lets this login in with any password (pg_hba.conf: trust, peer, cert or the like), so that a "
        "sign-in proves nothing; "
        "it has to ask the console for a password: scram-sha-256"
    )


# Who may be read as, at every use of a connection: an auditor who may still log in, and no role with wider rights.
_STANDS = """SELECT r.rolcanlogin AND NOT (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
           OR r.rolbypassrls) AND pg_catalog.pg_has_role(r.oid, a.oid, 'MEMBER')
           AND pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER') AND NOT s.rolsuper
           AND NOT pg_catalog.pg_has_role(session_user, r.oid, 'USAGE')
  FROM pg_catalog.pg_roles r, pg_catalog.pg_roles a, pg_catalog.pg_roles s
 WHERE r.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND s.rolname OPERATOR(pg_catalog.=) session_user
   AND a.rolname OPERATOR(pg_catalog.=) 'secretproxy_auditor'::pg_catalog.name"""
_BECOME = "SELECT pg_catalog.set_config('role', $1::pg_catalog.text, false)"


async def assume(conninfo: Conninfo, person: str) -> LogReader:
    """Gives the connections of somebody whom a provider has vouched for: of the console's login, in the role of theirs.

    Raises SignInError.
    """
    reader = LogReader(conninfo, person)
    try:
        await reader.reach()
    except NotAuditorError as error:
        reader.close()
        raise SignInError(str(error)) from None
    except (UnavailableError, ConfigError, *FAILURES) as error:
        reader.close()
        log.warning("the log cannot be read for a sign-in", reason=cause_of(error.__context__ or error))
        raise SignInError("the log cannot be read now; the console's own log says why", known=False) from None
    return reader


class Watch:
    """Ends a connection whose server sends nothing: nobody else would, where a cable is cut.

    Watches from `begin` until `end`, or until its block ends.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._ends: asyncio.TimerHandle | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def begin(self, seconds: float | None = None) -> None:
        """Gives the server that long from now on."""
        self.end()
        loop = asyncio.get_running_loop()
        self._ends = loop.call_later(SILENT_SECONDS if seconds is None else seconds, self._connection.terminate)

    def end(self) -> None:
        """Lets the connection wait as long as it likes."""
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None


class NotAuditorError(UnavailableError):
    """A login is not, or no longer, one that the console may read as."""


class LogReader:
    """The connections of one person; with `person`, those of another login in the role of this one."""

    def __init__(self, conninfo: Conninfo, person: str | None = None) -> None:
        self.conninfo = conninfo
        self.person = person
        # Whether the server has turned the login away.
        self.refused = False
        self._idle: list[Any] = []
        self._free = asyncio.Semaphore(MOST_CONNECTIONS)
        self._closed = False
        self._abandoned: set[asyncio.Task[None]] = set()

    async def _open(self) -> Any:
        try:
            made = await connect(self.conninfo, APPLICATION, _TIMES)
        except ConfigError as error:
            cause = error.__context__
            self.refused = isinstance(cause, ConnectError) and cause.sqlstate in _WRONG_PASSWORD
            raise UnavailableError(str(error)) from cause
        return made

    async def _become(self, connection: Any) -> None:
        """Takes the person's role, if that is still one to read as. Raises NotAuditorError."""
        if self.person is None:
            return
        if not await connection.fetchval(_STANDS, self.person):
            raise NotAuditorError(
                f"the console may not read as {self.person}: that has to be a login, a member of secretproxy_auditor "
                "and no superuser or the like, granted to the login of console.oidc_dsn, which has to be NOINHERIT"
            )
        await connection.fetchval(_BECOME, self.person)
        await connection.execute(AS_AUDITOR)

    @contextlib.asynccontextmanager
    async def connection(self, *, keep: bool = True) -> AsyncIterator[Any]:
        """Opens a connection for one page; without `keep`, for this use alone, which watches over it by itself.

        Raises UnavailableError.
        """
        async with self._free:
            if self._closed:
                raise UnavailableError("the session has ended")
            found = None
            while keep and self._idle and found is None:
                found = await self._answering(self._idle.pop())
            if found is None:
                found = await self._open()
            try:
                with Watch(found) as watch:
                    watch.begin()
                    await self._become(found)
                    if not keep:
                        watch.end()
                    yield found
            except (ConfigError, NotAuditorError, asyncpg.QueryCanceledError, asyncpg.DataError):
                self._take_back(found, keep)
                raise
            except FAILURES as error:
                told = await explained_on(found, error)
                self._take_back(found, keep)
                raise UnavailableError(str(told)) from None
            except BaseException:
                # The reader left. It may be in the middle of something, which the server is told to cancel.
                self._abandon(found)
                raise
            self._take_back(found, keep)

    async def _answering(self, connection: Any) -> Any:
        """Gives a connection that was kept, if the server still answers on it; None if not."""
        try:
            with Watch(connection) as watch:
                watch.begin(ANSWER_SECONDS)
                await connection.fetchval("SELECT 1")
        except FAILURES:
            connection.terminate()
            return None
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def reach(self) -> None:
        """Reads one row, or raises UnavailableError, which says why none can be read."""
        async with self.connection() as connection:
            await connection.fetchval(_ONE_ROW)

    def _take_back(self, connection: Any, keep: bool) -> None:
        usable = not connection.is_closed() and not connection.is_in_transaction()
        if keep and usable and not self._closed and len(self._idle) < KEPT:
            self._idle.append(connection)
        else:
            connection.terminate()

    def _abandon(self, connection: Any) -> None:
        """Closes a connection, and before that cancels what the server is doing for it: of a socket that is gone the
        server knows only when it has an answer."""

        async def close() -> None:
            with contextlib.suppress(*FAILURES):
                await connection.close(timeout=_CANCEL_SECONDS)
            connection.terminate()

        task = asyncio.get_running_loop().create_task(close())
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

    def close_idle(self) -> None:
        """Closes what no page uses now."""
        while self._idle:
            self._idle.pop().terminate()

    def close(self) -> None:
        """Closes what is idle; what is in use is closed when it is done."""
        self._closed = True
        self.close_idle()
