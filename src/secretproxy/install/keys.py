"""The keys of a database: ring keys and what they sealed, a new one, values sealed again; testimony keys and their
exchange.

May import asyncpg. Values are opened and sealed inside the backend; only counts come out.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from secretproxy.install.errors import InstallError
from secretproxy.install.keyfile import KEY_BYTES, load_key_file, write_key_file
from secretproxy.install.rights import borrowed
from secretproxy.install.runner import Looked, nowhere, server_message, session
from secretproxy.wire.types import SqlState

BATCH = 500


@dataclass(frozen=True, slots=True)
class RingKey:
    """A version of the ring key, without the key."""

    version: int
    created_at: datetime
    retired_at: datetime | None
    values: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The number of values stored alike. `format` 0: unencrypted; `key_version` None: no ring key."""

    encoding: str | None
    format: int
    key_version: int | None
    values: int


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """The result of a run: values sealed again, values that cannot be opened and stay as they are."""

    done: int
    failed: int


Progress = Callable[[int, int], None]


async def status(dsn: str | None, looked: Looked = nowhere) -> tuple[list[RingKey], list[Stored]]:
    """Counts ring keys by version, and rows by encoding, format and key version. Raises InstallError."""
    async with session(dsn, lock=False, looked=looked) as connection, borrowed(connection, keep=False):
        try:
            stored = [Stored(*row) for row in await connection.fetch("SELECT * FROM secretproxy.stored_formats()")]
            rows = await connection.fetch(
                "SELECT version, created_at, retired_at FROM secretproxy.keyring ORDER BY version"
            )
        except asyncpg.PostgresError as error:
            raise _explained(error) from None
    sealed = {item.key_version: item.values for item in stored if item.key_version is not None}
    ring = [
        RingKey(row["version"], row["created_at"], row["retired_at"], sealed.get(row["version"], 0)) for row in rows
    ]
    return ring, stored


async def rotate(dsn: str | None, looked: Looked = nowhere) -> int:
    """Draws a new ring key, which seals from now on, and gives its version. Raises InstallError."""
    async with session(dsn, looked=looked) as connection, borrowed(connection):
        try:
            return int(await connection.fetchval("SELECT secretproxy.rotate_keyring()"))
        except asyncpg.PostgresError as error:
            raise _explained(error) from None


async def reencrypt(dsn: str | None, progress: Progress, batch: int = BATCH, looked: Looked = nowhere) -> Reencrypted:
    """Seals every value again that the newest ring key did not seal, `batch` rows a transaction.

    May be killed and run again at any point; rows that others hold are left for a second pass, which waits for them.
    `progress` gets (values examined, values found at the start). Raises InstallError.
    """
    done = failed = looked_at = 0
    async with session(dsn, lock=False, looked=looked) as connection:
        try:
            async with borrowed(connection, keep=False):
                total = await connection.fetchval("SELECT secretproxy.values_to_seal()")
            for wait in (False, True):
                after, failed = uuid.UUID(int=0), 0
                while True:
                    async with borrowed(connection, create=("secretproxy",)):
                        row = await _contained(connection, after, batch, wait)
                    done, failed, looked_at = done + row["done"], failed + row["failed"], looked_at + row["done"]
                    progress(min(looked_at, total), total)
                    if row["last"] is None:
                        break
                    after = row["last"]
        except asyncpg.PostgresError as error:
            raise _explained(error) from None
    return Reencrypted(done, failed)


async def _contained(connection: asyncpg.Connection, after: uuid.UUID, batch: int, wait: bool) -> asyncpg.Record:
    """One batch, in what PostgreSQL calls a security-restricted operation.

    Whatever is attached to the table of secrets runs meanwhile, as the table's owner. There it cannot leave anything
    for the commit (a deferred trigger, a cursor WITH HOLD), which would run as whoever rotates."""
    await connection.execute(
        "CREATE MATERIALIZED VIEW secretproxy.contained AS"  # noqa: S608 - a uuid, a number, a boolean
        f" SELECT r.done, r.failed, r.last FROM secretproxy.reencrypt('{after}', {batch:d}, {str(wait).lower()}) AS r"
    )
    row = await connection.fetchrow("SELECT c.done, c.failed, c.last FROM secretproxy.contained AS c")
    await connection.execute("DROP MATERIALIZED VIEW secretproxy.contained")
    return row


@dataclass(frozen=True, slots=True)
class TestimonyKey:
    """A version of the testimony key, without the key. `state`: staged (accepted, does not sign yet), active or
    retired."""

    version: int
    created_at: datetime
    state: str


_STATE = "CASE WHEN retired_at IS NOT NULL THEN 'retired' WHEN active THEN 'active' ELSE 'staged' END"


async def testimony_status(dsn: str | None) -> list[TestimonyKey]:
    """Counts testimony keys by version. Raises InstallError."""
    async with session(dsn, lock=False) as connection, borrowed(connection, keep=False):
        try:
            rows = await connection.fetch(
                f"SELECT version, created_at, {_STATE} FROM secretproxy.testimony_key"  # noqa: S608
                " WHERE version OPERATOR(pg_catalog.>) 0 ORDER BY version"
            )
        except asyncpg.PostgresError as error:
            raise _explained(error) from None
    return [TestimonyKey(*row) for row in rows]


async def stage_testimony(dsn: str | None, key_file: Path, looked: Looked = nowhere) -> int:
    """Makes a new testimony key that is accepted but signs nothing yet, in the database first and then in the file.
    Gives its version.

    Run again after a kill it goes on with the key that was staged. Raises InstallError, KeyFileError.
    """
    keys = load_key_file(key_file)
    async with session(dsn, looked=looked) as connection:
        try:
            async with borrowed(connection):
                known = await connection.fetch(
                    "SELECT version, key FROM secretproxy.testimony_key WHERE NOT active AND retired_at IS NULL"
                )
                if known:
                    version, key = known[-1]["version"], bytes(known[-1]["key"])
                else:
                    newest = await connection.fetchval("SELECT pg_catalog.max(version) FROM secretproxy.testimony_key")
                    version, key = max(newest, *keys) + 1, secrets.token_bytes(KEY_BYTES)
                    await connection.execute(
                        "INSERT INTO secretproxy.testimony_key (version, key, active) VALUES ($1, $2, false)",
                        version,
                        key,
                    )
        except asyncpg.PostgresError as error:
            raise _explained(error) from None
        if keys.get(version) != key:
            write_key_file(key_file, keys | {version: key})
    return int(version)


async def activate_testimony(dsn: str | None, key_file: Path, looked: Looked = nowhere) -> int:
    """Lets the functions sign with the newest key, which must be in the file. Gives its version. Raises InstallError,
    KeyFileError."""
    keys = load_key_file(key_file)
    async with session(dsn, looked=looked) as connection:
        try:
            async with borrowed(connection):
                row = await connection.fetchrow(
                    "SELECT version, key FROM secretproxy.testimony_key WHERE retired_at IS NULL ORDER BY version "
                    "DESC LIMIT 1"
                )
                if row is None or keys.get(row["version"]) != bytes(row["key"]):
                    raise InstallError(
                        "testimony.key_file: the newest key of the database is not in it; use the file that was staged"
                    )
                await connection.execute(
                    "UPDATE secretproxy.testimony_key SET active = true WHERE version OPERATOR(pg_catalog.=) $1",
                    row["version"],
                )
        except asyncpg.PostgresError as error:
            raise _explained(error) from None
    return int(row["version"])


# Looks, and seconds between them.
_LOOKS = 30
_PAUSE = 0.1
# Backends with a snapshot that may be older than the row by which functions sign: a transaction keeps it to its end
# where it is REPEATABLE READ.
_OLDER = """
SELECT pg_catalog.string_agg(a.pid::pg_catalog.text, ', ' ORDER BY a.pid)
  FROM pg_catalog.pg_stat_activity a, secretproxy.context c
 WHERE a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
     AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
   AND a.backend_type OPERATOR(pg_catalog.=) 'client backend'
   AND pg_catalog.age(a.backend_xmin) OPERATOR(pg_catalog.>=) pg_catalog.age(c.xmin)
"""


async def _older(connection: asyncpg.Connection) -> str | None:
    """Waits for them, as long as a statement usually runs; names the processes of those that stay."""
    for _ in range(_LOOKS):
        pids: str | None = await connection.fetchval(_OLDER)
        if pids is None:
            return None
        await asyncio.sleep(_PAUSE)
    return pids


async def retire_testimony(dsn: str | None, key_file: Path, looked: Looked = nowhere) -> list[int]:
    """Ends every key but the one that signs, in the database and then in the file. Gives the versions. Raises
    InstallError, KeyFileError."""
    keys = load_key_file(key_file)
    async with session(dsn, looked=looked) as connection, borrowed(connection):
        try:
            if older := await _older(connection):
                raise InstallError(
                    f"transactions are open that may have begun before the newest key signed (process {older}): their "
                    "calls would go on to "
                    "be signed with a key that no proxy knows any more. Nothing was retired; try again when they have "
                    "ended"
                )
            rows = await connection.fetch(
                """UPDATE secretproxy.testimony_key SET retired_at = pg_catalog.clock_timestamp()
                    WHERE retired_at IS NULL AND version OPERATOR(pg_catalog.<) (SELECT testimony_version
                        FROM secretproxy.context) RETURNING version"""
            )
            signing = await connection.fetchval("SELECT testimony_version FROM secretproxy.context")
        except asyncpg.PostgresError as error:
            raise _explained(error) from None
    write_key_file(key_file, {version: key for version, key in keys.items() if version >= signing})
    return sorted(row["version"] for row in rows)


# What can stop any statement; the session tells of it, with the place.
_ANYWHERE = ("08", "25", "40", "53", "55", "57")


def _explained(error: Exception) -> Exception:
    assert isinstance(error, asyncpg.PostgresError)
    state = str(error.sqlstate)
    if state[:2] in _ANYWHERE:
        raise error
    if error.sqlstate in (SqlState.UNDEFINED_TABLE, SqlState.UNDEFINED_FUNCTION, SqlState.INVALID_SCHEMA_NAME):
        return InstallError(
            f"the backend half is not installed here, or is older ({server_message(error)}): name another database "
            "with --dsn, or run `secretproxy install`"
        )
    if error.sqlstate == SqlState.INSUFFICIENT_PRIVILEGE:
        return InstallError(
            f"keys are for their owner ({server_message(error)}): connect as a superuser or a member of secretproxy_keys (--dsn)"
        )
    return InstallError(server_message(error))
