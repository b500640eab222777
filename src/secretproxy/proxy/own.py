"""Connections that the proxy opens for itself, on asyncpg: the journal's, the look-up of users', the questions to servers.

An error's own text can quote what a server was told: `trouble` says what there is to say instead.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from secretproxy.config import Settings

# What comes of a connection that cannot be made or breaks. The last: none of a DSN's hosts is of the kind it asks for.
FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def trouble(error: BaseException) -> str:
    """What went wrong, without a server's words."""
    if isinstance(error, asyncpg.PostgresError):
        return f"SQLSTATE {getattr(error, 'sqlstate', None) or '?'} ({type(error).__name__})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return type(error).__name__


def places(dsn: str | None) -> list[dict[str, Any]]:
    """The hosts of a DSN that lists several, as arguments of asyncpg's; one empty entry where asyncpg is to see to it."""
    parts = urlsplit(dsn or "")
    hosts = parts.netloc.rpartition("@")[2].split(",")
    query = parse_qs(parts.query)
    if len(hosts) < 2 or "host" in query or query.get("target_session_attrs") == ["prefer-standby"]:
        return [{}]
    found = []
    for host in hosts:
        name, _, port = host.partition("]:") if host.startswith("[") else host.partition(":")
        found.append({"host": name.strip("[]"), "port": int(port or 5432)})
    return found


async def connect_own(dsn: str | None, application_name: str, timeout: float, **arguments: Any) -> Any:
    """Connects to the first of the DSN's hosts that will do, each with the whole of `timeout`."""
    server_settings = {"application_name": application_name} | arguments.pop("server_settings", {})
    tried = places(dsn) if "host" not in arguments else [{}]
    for place in tried:
        try:
            return await asyncpg.connect(
                dsn, timeout=timeout, command_timeout=timeout, server_settings=server_settings, **(arguments | place)
            )
        except FAILURES:
            if place is tried[-1]:
                raise
    raise AssertionError("a DSN names at least one place")


async def connect_log(settings: Settings) -> Any:
    """The journal's connection: as the role that may insert and nothing else, every commit durable."""
    dsn = settings.audit.dsn
    timeout = settings.audit.timeout
    arguments: list[dict[str, Any]] = [{}]
    if dsn is None:
        arguments = [{"host": host.host, "port": host.port} for host in settings.backend.addresses]
        if len(arguments) > 1:
            # The log is written where writing is possible.
            arguments = [one | {"target_session_attrs": "read-write"} for one in arguments]
    for one in arguments:
        try:
            connection = await connect_own(
                dsn.get_secret_value() if dsn is not None else None,
                "secretproxy journal",
                timeout,
                server_settings={"synchronous_commit": "on"},
                **one,
            )
            break
        except FAILURES:
            if one is arguments[-1]:
                raise
    try:
        await connection.execute("SET ROLE secretproxy_writer")
    except BaseException:
        connection.terminate()
        raise
    return connection
