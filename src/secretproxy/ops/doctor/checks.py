"""Runs every check of the doctor in order, over one connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg

from secretproxy.config import Settings
from secretproxy.connections import READING, ConnectError, Conninfo, connect, held, unkept
from secretproxy.install import InstallError, KeyFileError, load_key_file
from secretproxy.install import verify as verify_installed
from secretproxy.install.errors import RefusedError
from secretproxy.install.runner import explained, not_connected
from secretproxy.ops.doctor import backend, calls, local, logging, privileges
from secretproxy.ops.doctor.findings import SEVERITIES, Finding

_PLACE = """
SELECT session_user::pg_catalog.text AS login, pg_catalog.current_database()::pg_catalog.text AS database,
       pg_catalog.inet_server_addr() AS address, pg_catalog.inet_server_port() AS port
"""


async def examine(
    dsn: str | Conninfo | None,
    settings: Settings,
    config: Path | None,
    tell: Callable[[str], None] = lambda place: None,
) -> list[Finding]:
    """Gives every finding, the most severe first. Tells which database it looks in, and as whom.

    Raises InstallError if the backend cannot be reached.
    """
    found = local.examine(settings, config)
    try:
        connection = await connect(dsn, "secretproxy doctor", timeout=15, settings=READING)
    except ConnectError as error:
        raise InstallError(not_connected(error)) from None
    missing: list[str] = []
    hidden: list[str] = []
    async with held(connection, explained):
        for topic, check in _CHECKS.items():
            try:
                async with unkept(connection):
                    found += await check(connection)
            except (
                asyncpg.UndefinedTableError,
                asyncpg.UndefinedFunctionError,
                asyncpg.UndefinedColumnError,
                asyncpg.InvalidSchemaNameError,
            ):
                missing.append(topic)
            except (asyncpg.InsufficientPrivilegeError, calls.MayNotLookError):
                hidden.append(topic)
        row = await connection.fetchrow(_PLACE)
    login = row["login"]
    address = "a Unix socket" if row["address"] is None else f"{row['address']}:{row['port']}"
    tell(f"database {row['database']} at {address}, as {login}")
    if missing:
        found.append(backend.not_installed(missing))
    else:
        try:
            found += await _installation(dsn, settings)
        except RefusedError:
            hidden.append("the installation")
    if hidden:
        found.append(backend.not_looked_at(hidden, login))
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


async def _logging(connection: Any) -> list[Finding]:
    return logging.examine(await backend.settings(connection))


_CHECKS: dict[str, Callable[[Any], Awaitable[list[Finding]]]] = {
    "settings": _logging,
    "replication": backend.replication,
    "grants": privileges.grants,
    "roles": privileges.roles,
    "direct calls": calls.direct_calls,
    "stored formats": calls.formats,
    "the log": calls.logged,
    "sessions": calls.sessions,
    "the clock": backend.clock,
}


async def _installation(dsn: str | Conninfo | None, settings: Settings) -> list[Finding]:
    key_file = settings.testimony.key_file
    why = "calls that a changed object serves may be neither seen nor safe"
    try:
        load_key_file(key_file)
    except KeyFileError:
        # The checks of this machine report it.
        known = None
    else:
        known = key_file
    differing = await verify_installed(dsn, known)
    return [Finding("installation", "error", text, why, "secretproxy install --again") for text in differing]
