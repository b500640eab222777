"""Deploys, verifies and reverts the sqitch project, a change a transaction, under a lock against a second installer.

May import asyncpg. Never shows a DSN's password or a server's DETAIL.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg

from secretproxy.install.keyfile import create_key_file, load_key_file
from secretproxy.install.project import Change, changes, function_bodies

_LOCK = 0x5EC2E7
_MOST_OLD = 140000


class InstallError(Exception):
    """Install, verify or revert cannot go on; the text says why and what to do."""


Progress = Callable[[str, str], None]


def _silent(change: str, state: str) -> None:
    del change, state


async def install(dsn: str | None, key_file: Path, progress: Progress = _silent) -> list[str]:
    """Deploys what is missing or has changed, makes the key file if it is missing and stores its keys.

    Gives the names of the changes that were deployed. Raises InstallError, KeyFileError.
    """
    deployed = []
    async with session(dsn) as connection:
        await _check_server(connection)
        known = await _known(connection)
        for change in changes():
            if known.get(change.name) == change.digest:
                progress(change.name, "is there")
                continue
            await _deploy(connection, change)
            deployed.append(change.name)
            progress(change.name, "deployed")
        keys = _key_file(key_file)
        await _store_keys(connection, keys)
    return deployed


def _key_file(path: Path) -> dict[int, bytes]:
    return load_key_file(path) if path.exists() else create_key_file(path)


async def _deploy(connection: Any, change: Change) -> None:
    try:
        async with connection.transaction():
            await connection.execute(change.statements("deploy"))
            await connection.execute("UPDATE secretproxy.changes SET digest = $2 WHERE change = $1", change.name, change.digest)
    except asyncpg.PostgresError as error:
        raise InstallError(f"change {change.name} failed and left nothing behind: {told(error)}") from None


async def _store_keys(connection: Any, keys: dict[int, bytes]) -> None:
    async with connection.transaction():
        for version, key in keys.items():
            stored = await connection.fetchval("SELECT key FROM secretproxy.testimony_key WHERE version = $1", version)
            if stored is not None and bytes(stored) != key:
                raise InstallError(
                    f"testimony.key_file: version {version} is another key than the database's; use the file that was "
                    "made for this database, or add the new key under a higher version"
                )
            await connection.execute(
                "INSERT INTO secretproxy.testimony_key (version, key) VALUES ($1, $2) ON CONFLICT DO NOTHING", version, key
            )
        # Drawn for the time before the proxy's key was known; nobody has it.
        await connection.execute(
            "UPDATE secretproxy.testimony_key SET retired_at = clock_timestamp() WHERE version = 0 AND retired_at IS NULL"
        )


async def verify(dsn: str | None, key_file: Path | None = None) -> list[str]:
    """What differs from what was installed, a line each; nothing where all is well. Raises InstallError."""
    findings: list[str] = []
    async with session(dsn) as connection:
        known = await _known(connection)
        for change in changes():
            if change.name not in known:
                findings.append(f"change {change.name} is not deployed: run `secretproxy install`")
                continue
            if known[change.name] not in (change.digest, "0" * 64):
                findings.append(f"change {change.name} was deployed by another version: run `secretproxy install`")
            try:
                async with connection.transaction():
                    await connection.execute(change.statements("verify"))
            except asyncpg.PostgresError as error:
                findings.append(f"change {change.name}: {_meaning(error)}")
        findings += await _functions(connection)
        if key_file is not None and not findings:
            findings += await _keys(connection, key_file)
    return findings


async def _functions(connection: Any) -> list[str]:
    """Functions whose body is missing, replaced or no longer the owner's."""
    findings = []
    rows = await connection.fetch(
        """SELECT n.nspname, p.proname, p.oid::regprocedure::text AS signature, p.prosrc,
                  pg_get_userbyid(p.proowner) AS owner, p.proconfig
             FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public')"""
    )
    seen = {(row["nspname"], row["proname"]) for row in rows}
    for name, digests in function_bodies().items():
        if name not in seen:
            findings.append(f"function {name[0]}.{name[1]} is missing")
            continue
        for row in rows:
            if (row["nspname"], row["proname"]) != name:
                continue
            if hashlib.sha256(row["prosrc"].encode()).hexdigest() not in digests:
                findings.append(f"function {row['signature']}: its body was replaced")
            if row["owner"] != "secretproxy_owner":
                findings.append(f"function {row['signature']}: owned by {row['owner']}, not by secretproxy_owner")
    return findings


async def _keys(connection: Any, key_file: Path) -> list[str]:
    keys = load_key_file(key_file)
    rows = await connection.fetch("SELECT version, key FROM secretproxy.testimony_key WHERE retired_at IS NULL")
    stored = {row["version"]: bytes(row["key"]) for row in rows}
    return [
        f"testimony.key_file: version {version} is not the database's key: run `secretproxy install`"
        for version, key in keys.items()
        if stored.get(version) != key
    ]


async def revert(dsn: str | None, progress: Progress = _silent) -> list[str]:
    """Takes back every change that is deployed, newest first. Raises InstallError."""
    reverted = []
    async with session(dsn) as connection:
        known = await _known(connection)
        for change in reversed(changes()):
            if change.name not in known:
                continue
            try:
                async with connection.transaction():
                    await connection.execute(change.statements("revert"))
            except asyncpg.PostgresError as error:
                raise InstallError(f"change {change.name} was not reverted: {told(error)}") from None
            reverted.append(change.name)
            progress(change.name, "reverted")
    return reverted


@contextlib.asynccontextmanager
async def session(dsn: str | None, lock: bool = True) -> AsyncIterator[Any]:
    """A connection, by default under the installers' lock. Raises InstallError where there is none."""
    try:
        connection = await asyncpg.connect(dsn, timeout=15, server_settings={"application_name": "secretproxy install"})
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        why = told(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
        raise InstallError(f"cannot connect: {why}; name the database with --dsn or libpq's PG* variables") from None
    try:
        if lock:
            await connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
        yield connection
    finally:
        await connection.close()


async def _check_server(connection: Any) -> None:
    version = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
    if version < _MOST_OLD:
        raise InstallError(f"PostgreSQL {version // 10000} is too old: 14 or newer is needed")
    if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        raise InstallError("install makes roles and an extension: connect as a superuser (--dsn)")


async def _known(connection: Any) -> dict[str, str]:
    """Deployed changes and their digests."""
    if await connection.fetchval("SELECT to_regclass('secretproxy.changes')") is None:
        return {}
    return {row["change"]: row["digest"] for row in await connection.fetch("SELECT change, digest FROM secretproxy.changes")}


def told(error: asyncpg.PostgresError) -> str:
    """A server's message without DETAIL and CONTEXT, which can hold rows."""
    return f"{getattr(error, 'message', None) or type(error).__name__} (SQLSTATE {error.sqlstate})"


def _meaning(error: asyncpg.PostgresError) -> str:
    if error.sqlstate == "22012":
        return "something it made is missing or was changed"
    return told(error)
