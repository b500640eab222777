"""Finds a user's verifier for mode scram: in a file, or by a query on a connection of the proxy's own.

Neither a verifier nor a line of the file nor an error of the database's own words may leave this module but as a
Verifier."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from secretproxy.config import AuthSettings, ConfigError
from secretproxy.connections import FAILURES, ConnectError, cause_of, connect
from secretproxy.files import check_readable
from secretproxy.scram import NotAVerifierError, Verifier
from secretproxy.scram.verifier import ITERATIONS

_LINE = re.compile(r'"((?:[^"]|"")*)"\s+"((?:[^"]|"")*)"(?:\s.*)?')
_KNOWN, _UNKNOWN = 10_000, 1_000
# An answer out of memory must not come sooner than one that was looked up: who has logged in lately is nobody's
# business.
_FLOOR_MOST = 0.05


class LookupFailedError(Exception):
    """The users cannot be looked up now; the text names the cause by its SQLSTATE or class."""


class Users(Protocol):
    iterations: int

    async def find(self, user: str) -> Verifier | None:
        """Finds the user's verifier; None if there is none that allows a login. Raises LookupFailedError."""

    def forget(self, user: str) -> None:
        """Forgets a verifier after a proof that did not match: it may be an old one."""

    def reload(self) -> None:
        """Raises ConfigError, and the old users stay."""


def users_of(settings: AuthSettings, timeout: float) -> Users:
    """Raises ConfigError."""
    if settings.users_file is not None:
        return UsersFile(settings.users_file)
    assert settings.lookup_dsn is not None
    return Lookup(settings, timeout)


class UsersFile:
    """Lines of `"user" "verifier"`, as pgbouncer's auth_file has them; `;` and `#` begin a comment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users: dict[str, Verifier] = {}
        self.iterations = ITERATIONS
        self.reload()

    def reload(self) -> None:
        users = dict(self._read())
        self._users = users
        if users:
            # Unknown users must not stand out by another number.
            self.iterations = Counter(verifier.iterations for verifier in users.values()).most_common(1)[0][0]

    def _read(self) -> list[tuple[str, Verifier]]:
        try:
            check_readable(self._path)
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"auth.users_file {self._path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}"
            ) from None
        found = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip()[0] in ";#":
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ConfigError(f'auth.users_file {self._path}, line {number}: is not `"user" "SCRAM-SHA-256$..."`')
            try:
                found.append((match[1].replace('""', '"'), Verifier.parse(match[2])))
            except NotAVerifierError as error:
                raise ConfigError(
                    f"auth.users_file {self._path}, line {number}: {error}; take the user's rolpassword from pg_authid"
                ) from None
        return found

    async def find(self, user: str) -> Verifier | None:
        return self._users.get(user)

    def forget(self, user: str) -> None:
        """Does nothing: the file stays the same until SIGHUP."""


class Lookup:
    """auth.lookup_query on one connection, with what it found remembered for a few seconds."""

    def __init__(self, settings: AuthSettings, timeout: float) -> None:
        assert settings.lookup_dsn is not None
        self._dsn = settings.lookup_dsn.get_secret_value()
        self._query = settings.lookup_query
        self._seconds = settings.lookup_cache
        self._timeout = timeout
        self.iterations = ITERATIONS
        self._connection: Any = None
        self._connecting = asyncio.Lock()
        self._known: OrderedDict[str, tuple[float, Verifier | None]] = OrderedDict()
        self._unknown: OrderedDict[str, tuple[float, Verifier | None]] = OrderedDict()
        self._asked: dict[str, asyncio.Task[Verifier | None]] = {}
        self._floor = 0.0

    async def find(self, user: str) -> Verifier | None:
        began = time.monotonic()
        for cache in (self._known, self._unknown):
            kept = cache.get(user)
            if kept is not None and began - kept[0] < self._seconds:
                verifier = kept[1]
                break
        else:
            verifier = await self._ask_once(user)
            took = time.monotonic() - began
            self._floor = min(_FLOOR_MOST, max(took, self._floor * 0.99))
        await asyncio.sleep(max(0.0, began + self._floor - time.monotonic()))
        return verifier

    async def _ask_once(self, user: str) -> Verifier | None:
        """Asks once for many simultaneous logins of one user."""
        task = self._asked.get(user)
        if task is None:
            task = self._asked[user] = asyncio.create_task(self._ask(user))
            task.add_done_callback(lambda done: self._answered(user, done))
        try:
            return await asyncio.shield(task)
        except FAILURES as error:
            raise LookupFailedError(cause_of(error)) from None

    def _answered(self, user: str, task: asyncio.Task[Verifier | None]) -> None:
        self._asked.pop(user, None)
        if not task.cancelled():
            # Whoever asked may have left; the failure is nobody's surprise then.
            task.exception()

    async def _ask(self, user: str) -> Verifier | None:
        async with self._connecting:
            try:
                row = await self._fetch(user)
            except ConnectError:
                raise
            except (
                OSError,
                asyncpg.InterfaceError,
                asyncpg.PostgresConnectionError,
                asyncpg.OperatorInterventionError,
            ):
                # The connection was an old one: ask once more on a new one.
                self._connection = None
                row = await self._fetch(user)
        verifier = self._verifier(row)
        cache, most = (self._known, _KNOWN) if verifier is not None else (self._unknown, _UNKNOWN)
        self._known.pop(user, None)
        self._unknown.pop(user, None)
        cache[user] = (time.monotonic(), verifier)
        if len(cache) > most:
            cache.popitem(last=False)
        return verifier

    async def _fetch(self, user: str) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._dsn, "secretproxy lookup", timeout=self._timeout, command_timeout=self._timeout
            )
            # A setting of PostgreSQL 16 and later.
            found = await self._connection.fetchval("SELECT pg_catalog.current_setting('scram_iterations', true)")
            self.iterations = int(found) if found else ITERATIONS
        try:
            return await self._connection.fetchrow(self._query, user)
        except UnicodeEncodeError:
            return None

    @staticmethod
    def _verifier(row: Any) -> Verifier | None:
        if row is None or len(row) < 2 or not isinstance(row[1], str):
            return None
        try:
            return Verifier.parse(row[1])
        except NotAVerifierError:
            return None

    def forget(self, user: str) -> None:
        self._known.pop(user, None)

    def reload(self) -> None:
        self._known.clear()
        self._unknown.clear()
