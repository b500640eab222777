"""The journal's way to the log: which server, as which role, and the trial of it that `check` makes."""

from __future__ import annotations

import contextlib
import ipaddress
import time
import uuid
from collections.abc import Iterator
from typing import Any

import asyncpg

from secretproxy.audit.durable import NotTakenError
from secretproxy.audit.errors import NotAWriterError, describe
from secretproxy.audit.housekeeping import PARTITIONS
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import INSERT, INSERT_ONE, Lines
from secretproxy.audit.unwritable import milliseconds
from secretproxy.config import Host, Settings, revealed
from secretproxy.connections import ConnectError, ConninfoError, Place, broke, broken, connect, read
from secretproxy.proxy.backend.connect import AddressUnreachableError, resolve
from secretproxy.proxy.backend.itself import Itself
from secretproxy.session.events import Event, EventKind, Identity
from secretproxy.wire.types import SqlState

__all__ = ["connect_log", "log_fault", "log_places"]

# What the statements of a trial say that is not said by their SQLSTATE alone.
_TRIAL = {
    SqlState.INSUFFICIENT_PRIVILEGE: "secretproxy_writer may not do this, or code on the table may not: "
    "run `secretproxy install --again` as a superuser",
    SqlState.READ_ONLY_SQL_TRANSACTION: "the database is read-only: audit.dsn names a standby, or a server that takes "
    "no writes",
    SqlState.RAISE_EXCEPTION: "a trigger on secretproxy.access_log raises an error",
    SqlState.QUERY_CANCELED: "the server did not take the row in time (audit.timeout), or somebody cancelled it",
    SqlState.LOCK_NOT_AVAILABLE: "somebody holds a lock on secretproxy.access_log",
}


def log_places(settings: Settings) -> list[Place] | None:
    """Gives the servers of the log if audit.dsn is unset: the backend's."""
    if settings.audit.dsn is not None:
        return None
    return [Place(host.host, None, host.port) for host in settings.backend.addresses]


async def connect_log(settings: Settings, application_name: str = "secretproxy journal") -> Any:
    """Opens the journal's connection: as the role that may only insert, every commit durable.

    Raises ConnectError, NotAWriterError, asyncpg's errors.
    """
    dsn, places = settings.audit.dsn, log_places(settings)
    timeout = settings.audit.timeout
    connection = await connect(
        revealed(dsn),
        application_name,
        timeout=timeout,
        command_timeout=timeout,
        places=places,
        # The log is written where writing is possible.
        target_session_attrs="read-write" if places is not None and len(places) > 1 else None,
    )
    try:
        await connection.execute("SET ROLE secretproxy_writer")
    except asyncpg.PostgresError as error:
        state = getattr(error, "sqlstate", None)
        if broken(connection, error):
            raise ConnectError(broke(connection), error) from None
        if state not in (SqlState.INVALID_PARAMETER_VALUE, SqlState.INSUFFICIENT_PRIVILEGE, SqlState.UNDEFINED_OBJECT):
            connection.terminate()
            raise
        login = await connection.fetchval("SELECT pg_catalog.quote_ident(session_user)")
        connection.terminate()
        raise NotAWriterError(
            f"SQLSTATE {state} (this login may not write the log: make it a member of secretproxy_writer, GRANT "
            "secretproxy_writer TO "
            f"{login})"
            if state == SqlState.INSUFFICIENT_PRIVILEGE
            else f"SQLSTATE {state} (the server has no role secretproxy_writer: run `secretproxy install` there)"
        ) from None
    except BaseException:
        connection.terminate()
        raise
    return connection


async def log_fault(settings: Settings, keys: dict[int, bytes]) -> str | None:
    """Gives what keeps the journal from writing the log, None if nothing does.

    Writes a row of each kind as the journal would, and rolls it back.
    """
    if await _leads_here(settings):
        return (
            "it leads to secretproxy itself (listen.host, listen.port): at listen.max_sessions, or while it drains, "
            "no call could be "
            "recorded; name PostgreSQL's own address"
        )
    try:
        connection = await connect_log(settings, "secretproxy check")
    except Exception as error:
        return describe(error)
    try:
        limits = settings.limits
        mask = NameMask(limits.max_name, settings.monitor.name_patterns, keys[max(keys)] if keys else bytes(32))
        mask.stored_in(connection.get_settings().server_encoding)
        await connection.execute(f"SET statement_timeout = {milliseconds(settings.audit.timeout)}")
        try:
            await connection.execute(PARTITIONS)
        except asyncpg.PostgresError as error:
            if broken(connection, error):
                raise
            return f"months of the log cannot be made: {_cause(error)}"
        try:
            await _insert(connection, Lines(mask, uuid.uuid4()))
        except asyncpg.PostgresError as error:
            if broken(connection, error):
                raise
            return f"a row cannot be written: {_cause(error)}"
    except Exception as error:
        return broke(connection) if broken(connection, error) else describe(error)
    finally:
        connection.terminate()
    return None


async def _leads_here(settings: Settings) -> bool:
    """Says whether an address of audit.dsn is one that the proxy listens on."""
    if settings.audit.dsn is None:
        return False
    itself = Itself(settings.listen)
    try:
        places = read(settings.audit.dsn.get_secret_value()).places
    except ConninfoError:
        return False
    for place in places:
        host = Host(host=place.address or place.host, port=place.port)
        with contextlib.suppress(AddressUnreachableError):
            if any(itself.why(target) for target in await resolve(host, settings.audit.timeout)):
                return True
    return False


def _cause(error: asyncpg.PostgresError) -> str:
    state = str(getattr(error, "sqlstate", None))
    if state == SqlState.CHECK_VIOLATION:
        # The error of a row without a partition differs from that of a CHECK only by the constraint.
        named = getattr(error, "constraint_name", None)
        meaning = (
            "a CHECK on secretproxy.access_log refuses it"
            if named
            else "secretproxy.access_log has no partition for this month"
        )
        return f"SQLSTATE {state} ({meaning}: run `secretproxy install --again`)"
    return f"SQLSTATE {state} ({_TRIAL[state]})" if state in _TRIAL else describe(error)


async def _insert(connection: Any, lines: Lines) -> None:
    """Writes rows by both statements of the journal. Raises NotTakenError, asyncpg's errors."""
    at = time.time_ns() // 1000
    group = [lines.add(event, at, 0.001 if event.event == "outcome" else None) for event in _events()]
    plain = [line.plain() for line in group]
    await connection.execute("BEGIN")
    # What is checked at the end of a transaction would be left out by its end.
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    insert = await connection.prepare(INSERT)
    try:
        await insert.fetch(b"\n".join([line for line in plain if line is not None]).decode())
    except (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError):
        raise NotTakenError from None
    taken = int(insert.get_statusmsg().rpartition(" ")[2])
    again = lines.add(next(_events()), at, None)
    one = await connection.execute(INSERT_ONE, *again.fields())
    await connection.execute("ROLLBACK")
    if None in plain or taken != len(group) or not str(one).endswith(" 1"):
        raise NotTakenError


def _events() -> Iterator[Event]:
    """Gives a row of each kind, with something in each column."""
    who = Identity(
        uuid.uuid4(),
        "secretproxy check",
        "secretproxy check",
        "secretproxy check",
        ipaddress.ip_address("127.0.0.1"),
        1,
        tls=False,
    )
    kinds: tuple[EventKind, ...] = ("attempt", "call", "outcome", "definition", "table", "refusal", "forgery")
    for kind in kinds:
        yield Event(
            kind, who, statement_no=1, function="encrypted_secrets.secrets_getter(uuid,text,text)", operation="read",
            owner_id=uuid.uuid4(),
            secret_names=("secretproxy check",), encoding="pgp", via=("secretproxy check",), protocol="simple", role=
                "secretproxy check",
            accessed_by=uuid.uuid4(), outcome="ok" if kind == "outcome" else None,
            calls=1 if kind == "outcome" else None,
        )  # fmt: skip
