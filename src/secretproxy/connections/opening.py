"""Opens service connections on asyncpg: each server of a connection string in turn, with everything pinned, and
failures told in words.

May import asyncpg. A password is in no error's text; a server's own words are only in those of failed logins, which
hold no rows."""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from weakref import WeakSet

import asyncpg

from secretproxy.connections import pinned
from secretproxy.connections.conninfo import Conninfo, ConninfoError, Place, read
from secretproxy.wire.types import SqlState

# What libpq asks a server before it takes it (fe-connect.c, CONNECTION_CHECK_TARGET). A login's or database's own
# default for transactions is pinned later and says nothing of the server.
KIND = """SELECT pg_catalog.pg_is_in_recovery(), s.setting OPERATOR(pg_catalog.=) 'on'::pg_catalog.text
   AND s.source OPERATOR(pg_catalog.<>) ALL (ARRAY['database', 'user', 'database user']::pg_catalog.text[])
  FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'default_transaction_read_only'::pg_catalog.text"""
_NO_FILE = "/dev/null/no password file"
_CLOSED = "the connection was closed before it answered"
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class ConnectError(ConnectionError):
    """A connection could not be made; the text names server, user, database and the cause in the server's own words."""

    def __init__(self, text: str, cause: BaseException) -> None:
        super().__init__(text)
        self.cause = cause
        self.sqlstate: str | None = getattr(cause, "sqlstate", None)


# The server refuses the login until somebody changes something, and writes a FATAL into its log each time.
_REFUSED = (
    SqlState.INVALID_AUTHORIZATION_SPECIFICATION,
    SqlState.INVALID_PASSWORD,
    SqlState.INSUFFICIENT_PRIVILEGE,
    SqlState.INVALID_CATALOG_NAME,
    SqlState.OBJECT_NOT_IN_PREREQUISITE_STATE,
)


def login_refused(error: BaseException) -> bool:
    """Says whether the server refused the login itself: a connection that is made at once again is refused too."""
    return isinstance(error, ConnectError) and error.sqlstate in _REFUSED


# What comes of a connection that cannot be made or that breaks.
FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class ServiceConnection(asyncpg.Connection):  # type: ignore[misc]
    """An asyncpg connection that knows where it leads: `where` names database, server and user.

    `server`: its address or socket directory, and port. `patience`: seconds that a new connection to it may take.
    `given_up`: why it was ended by this side, where it was. `waits_for`: what its statement waits for, where that is
    known."""

    where = "the database"
    server = ("", 0)
    patience = 15.0
    given_up: str | None = None
    waits_for: str | None = None


# Those of this process that may be open.
open_connections: WeakSet[ServiceConnection] = WeakSet()


def cause_of(error: BaseException) -> str:
    """Describes an error without a server's words: those about a statement can quote its text."""
    if isinstance(error, ConnectError):
        return str(error) if isinstance(error.cause, ConninfoError | _UnsuitableError) else cause_of(error.cause)
    if isinstance(error, asyncpg.PostgresError):
        return f"SQLSTATE {getattr(error, 'sqlstate', None) or '?'} ({type(error).__name__})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return _system(error).lower()
    return type(error).__name__


def words(error: BaseException) -> str:
    """Gives a server's message for a failed login: without DETAIL, and as one printable line."""
    if isinstance(error, asyncpg.PostgresConnectionError) and not getattr(error, "message", None):
        # The driver's word for it, not the server's.
        return _CLOSED
    if isinstance(error, asyncpg.PostgresError):
        message = getattr(error, "message", None) or type(error).__name__
        state = getattr(error, "sqlstate", None)
        return _printable(message) + (f" (SQLSTATE {state})" if state else "")
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | ConninfoError):
        return _printable(str(error).partition("\n")[0])
    return type(error).__name__


def _system(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate does not verify: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or type(error).__name__})"
    if "rejected SSL upgrade" in str(error):
        return "the server does not offer TLS, and sslmode asks for it"
    if isinstance(error, socket.gaierror):
        return f"the host's name does not resolve ({error.strerror})"
    # asyncio tells of several addresses at once.
    number = error.errno or next((int(found) for found in re.findall(r"\[Errno (\d+)\]", str(error))), 0)
    return os.strerror(number) if number else _CLOSED if isinstance(error, ConnectionError) else type(error).__name__


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:500]


class _UnsuitableError(Exception):
    """A server is not of the kind that target_session_attrs asks for."""


async def connect(
    conninfo: str | Conninfo | None,
    application_name: str,
    *,
    timeout: float,
    command_timeout: float | None = None,
    settings: Mapping[str, str | None] | None = None,
    places: Sequence[Place] | None = None,
    database: str | None = None,
    tls: Any = None,
    target_session_attrs: str | None = None,
    connection_class: type[ServiceConnection] = ServiceConnection,
) -> Any:
    """Connects to the first of the servers that will do. Raises ConnectError.

    `timeout`: seconds that a server may take, where `connect_timeout` does not say. `settings`: beside or instead of
    the pinned ones; None leaves the server's own. `places`, `database`, `tls` (asyncpg's `ssl`) and
    `target_session_attrs` come before what the string says."""
    # Long because each way to fail has its own words.
    try:
        known = conninfo if isinstance(conninfo, Conninfo) else read(conninfo)
        user, database = known.user, database or known.database
        servers = list(places if places is not None else known.places)
    except ConninfoError as error:
        raise ConnectError(f"the connection string cannot be used: {error}", error) from None
    if known.get("load_balance_hosts") == "random":
        random.shuffle(servers)
    attrs = target_session_attrs or known.get("target_session_attrs") or "any"
    failures: dict[str, BaseException] = {}
    for wanted in ("standby", "any") if attrs == "prefer-standby" else (attrs,):
        for place in servers:
            try:
                return await _one(
                    known,
                    place,
                    user,
                    database,
                    application_name,
                    timeout,
                    command_timeout,
                    settings or {},
                    tls,
                    wanted,
                    connection_class,
                )
            except ConninfoError as error:
                failures[str(place)] = known.with_variable(error)
            except Exception as error:
                failures[str(place)] = error
    by_default = (
        known.places == servers and known.get("host") is None and known.get("hostaddr") is None and places is None
    )
    raise _failed(known, user, database, failures, by_default) from None


def _failed(
    known: Conninfo, user: str, database: str, failures: dict[str, BaseException], by_default: bool
) -> ConnectError:
    """Gives the error that tells why each server did not do. `by_default`: several sockets were tried, as nobody named
    one."""
    cause = list(failures.values())[-1]
    if by_default:
        # Sockets that are not there say nothing where another was: libpq has one default, here there are several.
        failures = {name: one for name, one in failures.items() if not isinstance(one, FileNotFoundError)} or failures
        cause = next(iter(failures.values()))
    with_variable: dict[str, list[str]] = {}
    for name, one in failures.items():
        with_variable.setdefault(words(one) if not isinstance(one, _UnsuitableError) else str(one), []).append(name)
    ways = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in with_variable.items())
    text = f"cannot connect as user {_printable(user)} to database {_printable(database)} at {ways}"
    ignored = known.ignored_password_file
    if ignored is not None:
        text += f"; {ignored} was not read, as others may read it: chmod 600 {ignored}"
    return ConnectError(text, cause)


def _of_driver(known: Conninfo, place: Place, tls: Any) -> dict[str, Any]:
    """Gives the driver's arguments for a server, but for the login and times."""
    arguments: dict[str, Any] = {
        "host": place.address or place.host, "port": place.port, "target_session_attrs": "any",
        # The driver reads no password file: `known` has, and says which one others may read.
        "passfile": _NO_FILE, "krbsrvname": known.get("krbsrvname"), "gsslib": known.get("gsslib"),
        # A statement that is kept under a name could be another by the time it is named again: whatever code runs in
        # the session may DEALLOCATE and PREPARE.
        "statement_cache_size": 0,
    }  # fmt: skip
    if place.host.startswith("/"):
        arguments["ssl"] = False
        return arguments
    arguments |= {"ssl": tls} if tls is not None else _tls(known, place)
    if known.get("sslnegotiation") is not None:
        arguments["direct_tls"] = known.get("sslnegotiation") == "direct"
    return arguments


async def _one(
    known: Conninfo, place: Place, user: str, database: str, application_name: str, timeout: float,
    command_timeout: float | None,
    settings: Mapping[str, str | None], tls: Any, attrs: str, connection_class: Any,
) -> Any:  # fmt: skip
    """Opens a connection to one server."""
    seconds = known.connect_timeout or timeout
    left = frozenset(known.option_names() & pinned.TIMEOUTS)
    extra = {"application_name": application_name}
    options = known.get("options")
    if options is not None:
        extra["options"] = options
    arguments: dict[str, Any] = {
        "user": user, "password": known.password(place), "database": database, "timeout": seconds,
        "command_timeout": command_timeout, "connection_class": connection_class, **_of_driver(known, place, tls),
    }  # fmt: skip
    statement = pinned.statement(settings, left)

    async def opened(**sent: str) -> Any:
        made = await asyncpg.connect(server_settings=sent | extra, **arguments)
        try:
            if attrs != "any":
                await _check_kind(made, attrs, seconds)
            await made.execute(statement, timeout=seconds)
        except BaseException:
            made.terminate()
            raise
        return made

    sent = pinned.startup(settings, left)
    try:
        connection = await opened(**sent)
    except FAILURES as error:
        if _refuses_parameters(error):
            connection = await opened()
        elif "transaction_timeout" not in left and _is_broken_off(error):
            try:
                connection = await opened(**sent, transaction_timeout="0")
            except FAILURES as second:
                raise (error if _refuses_parameters(second) else second) from None
        else:
            raise
    connection.where = f"database {_printable(database)} at {place} as user {_printable(user)}"
    connection.server = (place.address or place.host, place.port)
    connection.patience = seconds
    open_connections.add(connection)
    return connection


def _refuses_parameters(error: BaseException) -> bool:
    """Tells whether a pooler or an older server did not take the startup packet."""
    return getattr(error, "sqlstate", None) in (
        SqlState.PROTOCOL_VIOLATION,
        SqlState.FEATURE_NOT_SUPPORTED,
        SqlState.INVALID_PARAMETER_VALUE,
        SqlState.INSUFFICIENT_PRIVILEGE,
        SqlState.UNDEFINED_OBJECT,
    )


def _is_broken_off(error: BaseException) -> bool:
    """Tells whether a server ended a connection that it had taken.

    A login's own transaction_timeout, of PostgreSQL 17 and later, does that, if it is too short for the login or for
    the statement that pins the settings. Only the startup packet keeps it away, and an older server refuses one that
    names it."""
    ended = (
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        ConnectionResetError,
        BrokenPipeError,
    )
    return isinstance(error, ended) or getattr(error, "sqlstate", None) == SqlState.TRANSACTION_TIMEOUT


async def _check_kind(connection: Any, attrs: str, timeout: float) -> None:
    """Raises _UnsuitableError."""
    standby, read_only = await connection.fetchrow(KIND, timeout=timeout)
    writable = not standby and not read_only
    suits = {"read-write": writable, "read-only": not writable, "primary": not standby, "standby": standby}[attrs]
    if not suits:
        kind = "it is a standby" if standby else "it is read-only" if read_only else "it is a primary"
        raise _UnsuitableError(f"{kind} (target_session_attrs={attrs})")


class _NamedContext(ssl.SSLContext):
    """Checks a server by its name where the connection is made to an address."""

    server_name: str | None = None

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return super().wrap_bio(
            *arguments, **(named | {"server_hostname": self.server_name or named.get("server_hostname")})
        )


def _tls(known: Conninfo, place: Place) -> dict[str, Any]:
    """asyncpg's arguments for sslmode and what belongs to it. Raises ConninfoError."""
    root = known.get("sslrootcert")
    mode = known.get("sslmode") or ("verify-full" if root == "system" else "prefer")
    if mode == "disable":
        return {"ssl": False}
    if mode in ("allow", "prefer"):
        names = ("sslcert", "sslkey", "sslpassword", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version")
        query = {name: value for name in names if (value := known.get(name)) is not None} | {"sslmode": mode}
        return {"dsn": f"postgresql://?{urlencode(query)}"}
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    if place.address is not None and place.host:
        context.server_name = place.host
    context.minimum_version = _VERSIONS.get(known.get("ssl_min_protocol_version") or "TLSv1.2", ssl.TLSVersion.TLSv1_2)
    newest = known.get("ssl_max_protocol_version")
    if newest in _VERSIONS:
        context.maximum_version = _VERSIONS[newest]
    context.set_alpn_protocols(["postgresql"])
    context.check_hostname = mode == "verify-full"
    home = _postgresql_directory()
    try:
        if root == "system":
            if mode != "verify-full":
                raise ConninfoError("sslrootcert=system needs sslmode=verify-full")
            context.load_default_certs()
        elif root is not None or (home is not None and (home / "root.crt").is_file()):
            context.load_verify_locations(root or str(home and home / "root.crt"))
        elif mode == "require":
            context.verify_mode = ssl.CERT_NONE
        else:
            raise ConninfoError(f"sslmode={mode} needs sslrootcert, or the file ~/.postgresql/root.crt")
        revoked = known.get("sslcrl")
        if revoked is not None:
            context.load_verify_locations(revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    except OSError as error:
        raise ConninfoError(f"sslrootcert, sslcrl: {error.strerror or 'no PEM certificates'}") from None
    cert = known.get("sslcert") or (
        str(home / "postgresql.crt") if home is not None and (home / "postgresql.crt").is_file() else None
    )
    if cert is not None:
        key = known.get("sslkey") or str(Path(cert).with_suffix(".key"))
        phrase = known.get("sslpassword") or ""
        try:
            context.load_cert_chain(cert, key, password=lambda: phrase)
        except (OSError, ValueError) as error:
            raise ConninfoError(
                f"sslcert, sslkey: {getattr(error, 'strerror', None) or 'not a PEM certificate and its key'}"
            ) from None
    return {"ssl": context}


def _postgresql_directory() -> Path | None:
    try:
        return Path.home() / ".postgresql"
    except RuntimeError:
        return None
