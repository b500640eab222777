"""Proves that the testimony key is the database's own, and finds secret functions that do not testify.

The database signs a number drawn here with each key that it accepts (secretproxy.key_proof); whoever has another key
sees it at once, and not by a forgery for each read. Asked at the start, at the first session in a database, as often as
its catalog is read, after something was defined, and when a testimony is forged. May import asyncpg; must never let an
asyncpg error's text through."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg
import structlog

from secretproxy.config import ConfigError, Settings, revealed
from secretproxy.connections import ConnectError, ConninfoError, cause_of, read
from secretproxy.detect.functions import NAMES
from secretproxy.install.project import testifying_bodies
from secretproxy.proxy.backend.itself import LEADS_BACK, leading_back
from secretproxy.proxy.backend.tls import BackendTls
from secretproxy.proxy.catalog.reading import connect
from secretproxy.proxy.catalog.refusal import Refusals, is_cut
from secretproxy.session.session import Session
from secretproxy.session.testimony import Keys
from secretproxy.wire.types import SqlState

log: Any = structlog.get_logger("secretproxy.testimony")

# Seconds between two proofs where the catalog's reader does not bring them along.
EVERY = 60.0
# Seconds between two proofs at least, while something keeps changing.
GAP = 0.5
# Seconds that the start waits for the first proof, where the backend does not answer.
START = 5.0
# Seconds for which a proof explains forgeries: an attacker can make as many as it likes.
FRESH = 2.0
# A database whose last session has gone is remembered so long.
LINGER = 300.0
INSTALL = "run `secretproxy install` there"
# What the functions testify by; another body of one of these may say nothing for all of them.
_TOLD_BY = ("begin_call", "own_start", "planned_session", "read_secret", "testify", "verify_secret")

PROOF = "SELECT p.version, p.signs, p.proof FROM secretproxy.key_proof($1) AS p"
FUNCTIONS = """
SELECT n.nspname AS schema, p.proname AS name,
    pg_catalog.encode(pg_catalog.sha256(pg_catalog.textsend(p.prosrc)), 'hex'::pg_catalog.text) AS body,
       pg_catalog.strpos(p.prosrc, 'secretproxy.'::pg_catalog.text) OPERATOR(pg_catalog.>) 0 AS testifies
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
 WHERE (n.nspname OPERATOR(pg_catalog.=) 'encrypted_secrets'::pg_catalog.name
     AND p.proname OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.name[]))
    OR (n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name
    AND p.proname OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.name[]))
"""
# A backend has as many at most that are looked into.
DATABASES = """
SELECT d.datname FROM pg_catalog.pg_database d
 WHERE d.datallowconn AND NOT d.datistemplate
   AND pg_catalog.has_database_privilege(d.oid, 'CONNECT'::pg_catalog.text)
 ORDER BY d.oid LIMIT 100
"""
HAS_PROOF = "SELECT pg_catalog.to_regproc('secretproxy.key_proof')"


@dataclass(frozen=True, slots=True)
class KeyProof:
    """The findings in a database. `key` and `functions` say what is wrong and what to do; None: nothing is wrong."""

    key: str | None
    functions: str | None
    # Names of secret functions of which nobody can say whether they testify.
    silent: frozenset[str]


class _Connects(Protocol):
    async def __call__(self, database: str) -> Any:
        """Opens a service connection to a database of the backend. Raises ConnectError."""


def home(settings: Settings) -> str | None:
    """Gives the database of audit.dsn; it is the backend's if the log is there."""
    dsn = settings.audit.dsn
    try:
        return read(revealed(dsn)).database
    except ConninfoError:
        return None


async def prove(connection: Any, keys: Keys, database: str) -> KeyProof:
    """Asks a database for what proves the key, and what its functions are. Raises asyncpg's errors."""
    # Parsed once a process, and in a thread.
    bodies = await asyncio.to_thread(testifying_bodies)
    rows = await connection.fetch(FUNCTIONS, sorted(NAMES), [*_TOLD_BY, "key_proof"])
    functions, silent = judge_functions(rows, bodies, database)
    key = None
    if any(row["name"] == "key_proof" for row in rows):
        nonce = secrets.token_bytes(32)
        key = judge_key(await connection.fetch(PROOF, nonce), keys, nonce, database)
    return KeyProof(key, functions, silent)


def judge_key(rows: Sequence[Any], keys: Keys, nonce: bytes, database: str) -> str | None:
    """Gives what is wrong with the key: it must make the tokens that the database accepts and read the testimony that
    it signs.
    """
    here = f"of database {database}"
    signing = next((row["version"] for row in rows if row["signs"]), None)
    if signing is None or signing == 0:
        return f"testimony.key_file: no proxy's key is stored in {here[3:]}: {INSTALL}"
    found = {row["version"]: keys.proves(row["version"], nonce, row["proof"]) for row in rows}
    if found[signing] is None:
        return (
            f"testimony.key_file: version {signing}, which the functions {here} sign with, is not in the file, so "
            "that their testimony counts "
            "as forged: use the file that `secretproxy install` made for this database or `secretproxy keys rotate "
            "--testimony` wrote last"
        )
    wrong = next((version for version in (signing, keys.version) if found.get(version) is False), None)
    if wrong is not None:
        return (
            f"testimony.key_file: version {wrong} is another key than the one {here}, so that true testimony counts "
            "as forged and every call as "
            "direct: use the file that `secretproxy install` made for this database"
        )
    if keys.version not in found:
        return (
            f"testimony.key_file: version {keys.version}, which the proxy signs its tokens with, is not known or is "
            f"retired in {here[3:]}, so that every call counts as direct: {INSTALL}, which stores the file's keys"
        )
    return None


def judge_functions(
    rows: Sequence[Any], bodies: Mapping[tuple[str, str], Collection[str]], database: str
) -> tuple[str | None, frozenset[str]]:
    """Gives what is wrong with the secret functions, and the names of those that may not testify."""
    there = {row["name"] for row in rows if row["schema"] == "encrypted_secrets"}
    half = {row["name"] for row in rows if row["schema"] == "secretproxy"}
    if not there:
        return None, frozenset()
    if "begin_call" not in half:
        return (
            f"the functions of encrypted_secrets in database {database} do not testify, the backend half is not "
            "installed: what the "
            f"proxy cannot see in a statement's text is not recorded, and `calls` is NULL: {INSTALL}"
        ), frozenset(there)
    other = {
        (row["schema"], row["name"]): bool(row["testifies"])
        for row in rows
        if row["name"] != "key_proof" and row["body"] not in bodies.get((row["schema"], row["name"]), ())
    }
    plain = sorted(
        name for (schema, name), testifies in other.items() if schema == "encrypted_secrets" and not testifies
    )
    if plain:
        return (
            f"{', '.join(plain)} of encrypted_secrets in database {database} do not testify, as after the original "
            "module was deployed over "
            f"ours: what the proxy cannot see in a statement's text is not recorded, and `calls` is NULL: {INSTALL}"
        ), frozenset(there if _helpers(other) else {name for schema, name in other if schema == "encrypted_secrets"})
    if other or "key_proof" not in half:
        names = ", ".join(sorted(f"{schema}.{name}" for schema, name in other)) or "secretproxy.key_proof"
        return (
            f"the backend half in database {database} is of another version or was altered ({names}): `calls` is NULL "
            "where nothing "
            f"testified: {INSTALL}"
        ), frozenset(there if _helpers(other) else {name for schema, name in other if schema == "encrypted_secrets"})
    return None, frozenset()


def _helpers(other: Mapping[tuple[str, str], bool]) -> bool:
    return any(schema == "secretproxy" for schema, _ in other)


class _Known:
    """One database: what was found there, and its sessions."""

    def __init__(self, database: str, every: float) -> None:
        """Takes the seconds between two proofs."""
        self.database = database
        self.refusals = Refusals(every)
        self._every = every
        self.proof: KeyProof | None = None
        self.failure: str | None = None
        # Whether the last connection was ended.
        self.cut = False
        # When it was asked last.
        self.at = 0.0
        self.urgent = True
        self.left_at = time.monotonic()
        self.sessions: set[Session] = set()
        self.wake = asyncio.Event()
        self.asking: asyncio.Task[None] | None = None

    @property
    def due(self) -> float:
        """When it is asked again, if nothing happens: later where the server refuses the login."""
        return self.at + max(self._every, self.refusals.pause)


class Proofs:
    """The proofs of every database that this process has sessions in, and of the one that audit.dsn names."""

    def __init__(
        self, settings: Settings, keys: Keys, connect: _Connects, spawn: Callable[[Any], asyncio.Task[None]]
    ) -> None:
        self._keys = keys
        self._connect = connect
        self._spawn = spawn
        self._main_database = home(settings)
        # Whether the catalog's reader brings a proof along.
        self._catalog_is_watched = settings.monitor.catalog_refresh > 0
        # Later than the reader, which is there while a database has sessions.
        self._every = min(EVERY, 1.5 * settings.monitor.catalog_refresh + 1.0) if self._catalog_is_watched else EVERY
        self._all: dict[str, _Known] = {}
        # Many databases at once are asked a few at a time.
        self._turn = asyncio.Semaphore(2)

    async def start(self) -> None:
        """Looks at the database of audit.dsn, so that what is wrong is known before a session begins, where it answers
        soon."""
        if self._main_database is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._ask(self._watch(self._main_database))), START)

    @property
    def errors(self) -> list[str]:
        """Names the databases whose key differs from the file's."""
        return [
            known.proof.key for known in self._all.values() if known.proof is not None and known.proof.key is not None
        ]

    @property
    def warnings(self) -> list[str]:
        """Names the databases in which some functions do not testify."""
        return [
            known.proof.functions
            for known in self._all.values()
            if known.proof is not None and known.proof.functions is not None
        ]

    def join(self, session: Session) -> None:
        """Notes that a session has been let into its database: until it is known which functions testify, no missing
        testimony counts.
        """
        database = session.identity.database
        if database is None or session.physical:
            return
        known = self._watch(database, urgent=not self._catalog_is_watched)
        old = not known.sessions and time.monotonic() - known.at > 2 * self._every
        known.sessions.add(session)
        session.expect_silence(NAMES if known.proof is None or old else known.proof.silent)
        if old and not self._catalog_is_watched:
            known.urgent = True
            known.wake.set()

    def leave(self, session: Session) -> None:
        """Notes that a session has ended."""
        known = self._all.get(session.identity.database or "")
        if known is not None:
            known.sessions.discard(session)
            known.left_at = time.monotonic()

    def changed(self, session: Session) -> None:
        """Notes that a session has defined something: a function may be another one now."""
        known = self._all.get(session.identity.database or "")
        if known is not None and not self._catalog_is_watched:
            known.urgent = True
            known.wake.set()

    def again(self) -> None:
        """Checks again after the keys were read again."""
        for known in self._all.values():
            known.urgent = True
            known.wake.set()

    async def bring(self, connection: Any, database: str) -> None:
        """Proves on a connection that somebody has to the database. Raises what a connection that is lost does."""
        known = self._watch(database, urgent=False)
        try:
            self._found(known, await prove(connection, self._keys, database))
        except asyncpg.PostgresError as error:
            if is_cut(error):
                raise
            self._failed(known, error)

    async def tell_forgery(self, session: Session, session_id: str) -> None:
        """Says of the first forgery of a session what is likely behind it."""
        known = self._watch(session.identity.database or "")
        if time.monotonic() - known.at > FRESH:
            await self._ask(known)
        setting: str | None = "testimony.key_file"
        if known.proof is not None and known.proof.key is not None:
            cause = known.proof.key
        elif session.pooled:
            cause = (
                "a pooler behind the proxy gives sessions to others: set its pool_mode to session, or put it in "
                "front of secretproxy"
            )
            setting = "backend.hosts"
        elif known.proof is None:
            cause = (
                f"the key could not be proven ({known.failure or 'not asked yet'}): it is wrong, or somebody "
                "imitates testimony"
            )
        else:
            cause = (
                "the key is the database's: somebody imitates testimony or plays it again, or the backend's clock "
                "was set back"
            )
            setting = None
        log.error(
            "a testimony is forged; more of this session are counted and not said",
            session=session_id, database=known.database, cause=cause, **({"setting": setting} if setting else {}),
        )  # fmt: skip

    def _watch(self, database: str, *, urgent: bool = True) -> _Known:
        known = self._all.get(database)
        if known is None:
            known = self._all[database] = _Known(database, self._every)
            known.urgent = urgent
            self._spawn(self._keep(known))
        return known

    async def _keep(self, known: _Known) -> None:
        try:
            while True:
                refused = known.at + known.refusals.pause - time.monotonic()
                if refused > 0:
                    # Whatever changes there, the server refuses the next login too.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(known.wake.wait(), refused)
                elif not known.urgent:
                    # From the last proof on, whoever made it: else the reader's last one is twice as old, and stale.
                    due = known.due - time.monotonic()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(known.wake.wait(), due if due > 0 else self._every)
                known.wake.clear()
                if time.monotonic() < known.at + known.refusals.pause:
                    continue
                wanted = known.sessions or known.database == self._main_database
                if known.urgent or (wanted and time.monotonic() >= known.due):
                    known.urgent = False
                    await self._ask(known)
                    await asyncio.sleep(GAP)
                elif not wanted and time.monotonic() - known.left_at > LINGER:
                    return
        finally:
            self._all.pop(known.database, None)

    async def _ask(self, known: _Known) -> None:
        """Asks one question at a time, whoever waits for the answer."""
        if known.asking is None or known.asking.done():
            known.asking = self._spawn(self._asked(known))
        await asyncio.shield(known.asking)

    async def _asked(self, known: _Known) -> None:
        async with self._turn:
            try:
                connection = await self._connect(known.database)
                try:
                    self._found(known, await prove(connection, self._keys, known.database))
                finally:
                    connection.terminate()
            except Exception as error:
                self._failed(known, error)

    def _failed(self, known: _Known, error: Exception) -> None:
        known.at = time.monotonic()
        refused = known.refusals.add(error)
        if refused is None and not known.cut and is_cut(error):
            # As when somebody drops the database; the second time in a row is said.
            known.cut = True
            return
        cause = refused or cause_of(error)
        if known.failure is None:
            absent = known.refusals.closed or (
                isinstance(error, ConnectError) and error.sqlstate == SqlState.INVALID_CATALOG_NAME
            )
            (log.info if absent else log.warning)(
                "the testimony key is not proven", database=known.database, cause=cause, setting="audit.dsn"
            )
        known.failure = cause

    def _found(self, known: _Known, proof: KeyProof) -> None:
        before, known.proof = known.proof, proof
        known.at = time.monotonic()
        known.failure = None
        known.cut = False
        known.refusals.clear()
        if proof.key is not None and (before is None or before.key != proof.key):
            log.error(
                "the testimony key is not the database's",
                database=known.database,
                cause=proof.key,
                setting="testimony.key_file",
            )
        elif proof.key is None and before is not None and before.key is not None:
            log.info("the testimony key is the database's", database=known.database)
        if proof.functions is not None and (before is None or before.functions != proof.functions):
            log.warning("secret functions do not testify", database=known.database, cause=proof.functions)
        elif proof.functions is None and before is not None and before.functions is not None:
            log.info("secret functions testify", database=known.database)
        for session in known.sessions:
            session.expect_silence(proof.silent)


async def _checked_elsewhere(
    settings: Settings, keys: Keys, tls: BackendTls, mark: str
) -> list[tuple[str, str | None]] | None:
    """Gives what `check` reports of the backend's databases that have the backend half; None if there is none to ask.

    One of another proxy has another key, so that the key has to be that of one of them."""
    found: dict[str, KeyProof] = {}
    try:
        connection = await connect(settings, "postgres", tls, mark)
        try:
            names = [row["datname"] for row in await connection.fetch(DATABASES)]
        finally:
            connection.terminate()
    except Exception:
        return None
    for name in names:
        with contextlib.suppress(Exception):
            connection = await connect(settings, name, tls, mark)
            try:
                if await connection.fetchval(HAS_PROOF) is not None:
                    found[name] = await prove(connection, keys, name)
            finally:
                connection.terminate()
    if not found:
        return None
    right = {name: proof for name, proof in found.items() if proof.key is None}
    if not right:
        first = next(iter(found.values())).key or ""
        return [("testimony.key_file", first.removeprefix("testimony.key_file: "))]
    functions = next((proof.functions for proof in right.values() if proof.functions is not None), None)
    return [(f"testimony.key_file (the key of database {', '.join(right)})", None), ("encrypted_secrets", functions)]


async def checked(settings: Settings, keys: Mapping[int, bytes]) -> list[tuple[str, str | None]]:
    """Gives what `check` reports of the key and of the functions, in the database of audit.dsn on the backend."""
    database = home(settings)
    name = "testimony.key_file"
    if database is None:
        return [(name, None)]
    shared = Keys(keys)
    mark = shared.mark(secrets.token_bytes(16))
    results: list[tuple[str, str | None]] = []
    try:
        tls = BackendTls.of(settings.backend)
        for host in await leading_back(settings, lambda host: connect(settings, None, tls, mark, host)):
            results.append(("backend.hosts", f"{host}: {LEADS_BACK}"))
        connection = await connect(settings, database, tls, mark)
        try:
            found = await prove(connection, shared, database)
        finally:
            connection.terminate()
    except ConfigError:
        return [(name, None)]  # said of the settings
    except Exception as error:
        if not results and isinstance(error, ConnectError) and error.sqlstate == SqlState.INVALID_CATALOG_NAME:
            # The log is on another server: the backend's databases are those that the login may look into.
            elsewhere = await _checked_elsewhere(settings, shared, tls, mark)
            if elsewhere is not None:
                return elsewhere
        # Not a fault of the key: other checks test the backend, the log and their logins, and the log may be elsewhere.
        why = "backend.hosts" if results else cause_of(error)
        return [*results, (f"{name} (not proven to be the key of database {database}: {why})", None)]
    fault = found.key and found.key.removeprefix(f"{name}: ")
    return [*results, (name, fault), ("encrypted_secrets", found.functions)]
