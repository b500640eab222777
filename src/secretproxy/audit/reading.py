"""The connection that a review reads the log with: read-only, row security off, and every text that the log can hold
comes through.

In a database whose encoding is SQL_ASCII a name may be any bytes. There, texts are shown with each byte that is no
UTF-8 as `\\xff` and each backslash as `\\\\`, and texts that are looked for are taken in the same form. May import
asyncpg; prints nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

import asyncpg

from secretproxy.audit.intact import altered
from secretproxy.audit.visible import given, shown
from secretproxy.config import ConfigError
from secretproxy.connections import (
    FAILURES,
    READING,
    ConnectError,
    Conninfo,
    ServiceConnection,
    broke,
    broken,
    held,
    refusal,
    words,
)
from secretproxy.connections import connect as service_connection
from secretproxy.wire.types import SqlState


class LogConnection(ServiceConnection):
    """An asyncpg connection.

    `raw` says that the database's encoding is SQL_ASCII, so that texts are bytes of any kind.
    """

    raw = False
    _asking = False

    async def fetch(self, query: str, *values: Any, **options: Any) -> list[Any]:
        found = await self._told(super().fetch(query, *self._given(values), **options))
        return [shown_row(row) for row in found] if self.raw else found

    async def fetchrow(self, query: str, *values: Any, **options: Any) -> Any:
        found = await self._told(super().fetchrow(query, *self._given(values), **options))
        return shown_row(found) if self.raw and found is not None else found

    async def fetchval(self, query: str, *values: Any, **options: Any) -> Any:
        found = await self._told(super().fetchval(query, *self._given(values), **options))
        return _shown_value(found) if self.raw else found

    async def expected(self, query: str, *values: Any) -> int:
        """Gives how many rows the planner expects of a query."""
        plan = await self._told(super().fetchval(f"EXPLAIN (FORMAT JSON) {query}", *self._given(values)))
        return int(json.loads(plan)[0]["Plan"]["Plan Rows"])

    async def each(self, query: str, *values: Any) -> Any:
        """Yields rows one by one, in a transaction, for any number of rows. Plans for all of them, not for the
        first."""
        try:
            async with self.transaction():
                await self.execute(
                    "SET LOCAL cursor_tuple_fraction = 1; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'"
                )
                async for row in self.cursor(query, *self._given(values), prefetch=1000):
                    yield shown_row(row) if self.raw else row
        except asyncpg.InsufficientPrivilegeError:
            await self._tell_altered()
            raise

    async def _told(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except asyncpg.InsufficientPrivilegeError:
            await self._tell_altered()
            raise

    async def _tell_altered(self) -> None:
        """Raises ConfigError if a login that was granted the log is refused because of what somebody made of the
        log."""
        if self._asking:
            return
        self._asking = True
        try:
            if self.is_in_transaction():
                # It has failed and answers nothing; whoever began it ends it once more, which does nothing.
                await self.execute("ROLLBACK")
            if not await self.fetchval(_MAY_READ):
                return
            found = await altered(self)
        except asyncpg.PostgresError:
            return
        finally:
            self._asking = False
        if found:
            raise ConfigError(
                "this login may read the log, but the log was altered, so that rows could be hidden: "
                f"{'; '.join(found)}. "
                "Undo this as a superuser or the log's owner, and run `secretproxy audit verify`"
            ) from None

    def _given(self, values: tuple[Any, ...]) -> list[Any]:
        return [_given_value(value) for value in values] if self.raw else list(values)


def _shown_value(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    return [_shown_value(item) for item in value] if isinstance(value, list) else value


def _given_value(value: Any) -> Any:
    if isinstance(value, str):
        return given(value)
    return [_given_value(item) for item in value] if isinstance(value, list) else value


def shown_row(row: Any) -> dict[str, Any]:
    return {name: _shown_value(value) for name, value in row.items()}


# Asks the catalog by oid: a schema without USAGE is not an error here.
_MAY_READ = """SELECT coalesce(
           pg_catalog.bool_and(pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           AND pg_catalog.has_table_privilege(c.oid, 'SELECT')), false)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name
   AND c.relname OPERATOR(pg_catalog.=) 'access_log'::pg_catalog.name"""
# A member that does not inherit: the role that a login's own settings name is pinned away.
AS_AUDITOR = """SELECT pg_catalog.set_config('role', r.rolname::pg_catalog.text, false) FROM pg_catalog.pg_roles r
 WHERE r.rolname OPERATOR(pg_catalog.=) 'secretproxy_auditor'::pg_catalog.name
   AND pg_catalog.pg_has_role(r.oid, 'MEMBER') AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE')"""


async def connect(
    dsn: str | Conninfo | None, application_name: str = "secretproxy audit", settings: Mapping[str, str] | None = None
) -> Any:
    """Opens a connection for reading, with `settings` in addition to the pinned ones. Raises ConfigError."""
    try:
        connection = await service_connection(
            dsn, application_name, timeout=15, settings={**READING, **(settings or {})}, connection_class=LogConnection
        )
    except ConnectError as error:
        raise explained(error) from None
    try:
        await connection.execute(AS_AUDITOR)
        await prepare(connection)
    except FAILURES as error:
        cause = await explained_on(connection, error)
        connection.terminate()
        raise cause from None
    return connection


@contextlib.asynccontextmanager
async def reading(dsn: str | Conninfo | None, *, as_owner: bool = False) -> AsyncIterator[Any]:
    """Opens a connection for reading in a block.

    Raises ConfigError for what is refused, UnreachedError if the connection broke.
    """
    async with held(await connect(dsn), explained_to_owner if as_owner else explained_on) as connection:
        yield connection


def is_raw(connection: Any) -> bool:
    """Says whether texts of this connection are bytes of any kind, in their visible form."""
    return getattr(connection, "raw", False) is True


async def prepare(connection: Any) -> None:
    """Makes every text readable that the log can hold."""
    if connection.get_settings().server_encoding == "SQL_ASCII":
        # Each byte is a character of it, so that nothing is refused as invalid.
        await connection.execute("SET client_encoding TO 'LATIN1'")
        connection.raw = True


class UnreachedError(ConfigError):
    """The log cannot be connected to, or its connection broke."""


def explained(error: Exception) -> UnreachedError:
    """Explains what to do if no connection could be made, or if one broke without a known reason."""
    if isinstance(error, ConnectError):
        return UnreachedError(f"{error}; {how_to_name(error)}")
    return UnreachedError(f"the connection to the log broke ({words(error)})")


def how_to_name(error: ConnectError) -> str:
    """Explains how to name the database after a failed connection."""
    if error.sqlstate == SqlState.QUERY_CANCELED:
        return "give a longer statement_timeout in the options of the DSN or in PGOPTIONS"
    if error.sqlstate in (SqlState.CANNOT_CONNECT_NOW, SqlState.TOO_MANY_CONNECTIONS):
        return "try again once it takes connections, or name another with --dsn"
    if error.sqlstate == SqlState.INVALID_PASSWORD:
        return "give the password with --dsn, audit.review_dsn, PGPASSWORD or ~/.pgpass"
    return "name the log's database with --dsn, audit.review_dsn or the PG* variables"


async def explained_on(connection: Any, error: Exception) -> Exception:
    """Explains what to do after a failed query."""
    if broken(connection, error):
        return UnreachedError(f"{broke(connection)}; nothing is missing in the log for it: run the command again")
    said = refusal(error)
    if getattr(error, "sqlstate", None) in _NOT_THERE | {SqlState.INSUFFICIENT_PRIVILEGE}:
        try:
            standing = await connection.fetchrow(_STANDING)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return ConfigError(f"{connection.where} refuses: {said}")
        if not standing["there"]:
            return ConfigError(
                f"there is no access log in {connection.where} ({said}): run `secretproxy install` there, or give "
                "another with --dsn"
            )
        if getattr(error, "sqlstate", None) in _NOT_THERE:
            return ConfigError(
                f"the access log in {connection.where} is another version's ({said}): run `secretproxy install` there"
            )
        if not standing["role"]:
            return ConfigError(f"{connection.where} has no role secretproxy_auditor: run `secretproxy install` there")
        if not standing["member"]:
            return ConfigError(
                f"this login may not read the log in {connection.where} ({said}): make it a member of "
                "secretproxy_auditor "
                f"(GRANT secretproxy_auditor TO {standing['login']}), or give another with --dsn"
            )
        if standing["hidden"]:
            return ConfigError(
                f"row security that is none of secretproxy's hides rows of the access log in {connection.where} "
                f"({said}): "
                "what is left is not the log; `secretproxy verify` names what differs, "
                f"ALTER TABLE {standing['hidden']} DISABLE ROW LEVEL SECURITY ends it"
            )
        return ConfigError(
            f"{connection.where} refuses, though this login is a member of secretproxy_auditor or a superuser "
            f"({said}): "
            "what secretproxy_auditor was granted was changed; run `secretproxy install --again`"
        )
    return ConfigError(f"{connection.where} refuses: {said}")


async def explained_to_owner(connection: Any, error: Exception) -> Exception:
    """Explains the same for a command that needs the log's owner, not an auditor."""
    if getattr(error, "sqlstate", None) == SqlState.INSUFFICIENT_PRIVILEGE and not broken(connection, error):
        return ConfigError(
            f"{connection.where} refuses: {refusal(error)}; this takes the log's owner, a member of "
            "secretproxy_owner, or a "
            "superuser: give one with --dsn"
        )
    return await explained_on(connection, error)


_NOT_THERE = {
    SqlState.UNDEFINED_TABLE,
    SqlState.UNDEFINED_COLUMN,
    SqlState.UNDEFINED_OBJECT,
    SqlState.UNDEFINED_FUNCTION,
    SqlState.INVALID_SCHEMA_NAME,
}
_STANDING = """SELECT pg_catalog.quote_ident(session_user) AS login, a.oid IS NOT NULL AS role,
       coalesce(pg_catalog.pg_has_role(session_user, a.oid, 'MEMBER'), false) AS member,
       EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
           ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name
                  AND c.relname OPERATOR(pg_catalog.=) 'access_log'::pg_catalog.name) AS there,
       (SELECT pg_catalog.min(pg_catalog.format('secretproxy.%I', c.relname))
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name AND c.relrowsecurity) AS hidden
  FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_roles a
      ON a.rolname OPERATOR(pg_catalog.=) 'secretproxy_auditor'::pg_catalog.name"""
