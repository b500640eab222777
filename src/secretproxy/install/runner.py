"""Deploys, verifies and reverts the sqitch project, a change a transaction, under a lock against a second installer.

May import asyncpg. Never shows a DSN's password or a server's DETAIL.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import asyncpg

from secretproxy.connections import ConnectError, Conninfo, broke, broken, connect, held, refusal
from secretproxy.install.attached import ALL, accept, unaccepted
from secretproxy.install.errors import InstallError, LostError, RefusedError
from secretproxy.install.keyfile import create_key_file, load_key_file
from secretproxy.install.project import Change, changes, function_bodies, maker
from secretproxy.install.rights import SCHEMAS, borrowed, lacking
from secretproxy.wire.types import SqlState

_LOCK = 0x5EC2E7
_MOST_OLD = 140000


# Keys are parameters of statements here: a server that logs statements must not log these. Only a superuser may say so
# of the former.
_KEEP_PARAMETERS = """
SELECT pg_catalog.set_config(s.name, '0', false) FROM pg_catalog.pg_settings s, pg_catalog.pg_roles r
 WHERE r.rolname OPERATOR(pg_catalog.=) current_user
   AND (s.name OPERATOR(pg_catalog.=) 'log_parameter_max_length_on_error'
        OR s.name OPERATOR(pg_catalog.=) ANY (ARRAY['log_parameter_max_length',
        'auto_explain.log_parameter_max_length']) AND r.rolsuper)
"""


_FUNCTIONS = """
SELECT n.nspname, p.proname, p.oid::pg_catalog.regprocedure::pg_catalog.text AS signature, p.prosrc
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
 WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['secretproxy', 'encrypted_secrets', 'secrets_schema', 'jwt_public'])
"""


_CLASSIC_VIEW = """
CREATE OR REPLACE VIEW public.secret_access_log AS
    SELECT id, owner_id, secret_name, accessed_at, accessed_by FROM secretproxy.secret_access_log;
ALTER VIEW public.secret_access_log OWNER TO secretproxy_owner;
REVOKE ALL ON public.secret_access_log FROM PUBLIC;
GRANT SELECT ON public.secret_access_log TO secretproxy_auditor;
"""
_RECORD_CLASSIC_VIEW = """
DELETE FROM secretproxy.installed
 WHERE object OPERATOR(pg_catalog.=) ANY (ARRAY['public.secret_access_log', 'secret_access_log'])
     OR object OPERATOR(pg_catalog.~~) 'public.secret_access_log.%'
     OR object OPERATOR(pg_catalog.~~) 'secret_access_log.%';
INSERT INTO secretproxy.installed SELECT * FROM secretproxy.facts()
 WHERE object OPERATOR(pg_catalog.=) ANY (ARRAY['public.secret_access_log', 'secret_access_log'])
     OR object OPERATOR(pg_catalog.~~) 'public.secret_access_log.%'
     OR object OPERATOR(pg_catalog.~~) 'secret_access_log.%';
"""


# The ending of a finding that is reported once, whichever of the two comparisons finds it.
REPLACED = "its body was replaced"
NEW = "was not there when it was installed"

Progress = Callable[[str, str], None]
# Is given the words for the database, server and login, once connected.
Looked = Callable[[str], None]


def _silent(change: str, state: str) -> None:
    del change, state


def nowhere(place: str) -> None:
    """Does nothing: for callers that tell nobody where they looked."""
    del place


async def install(
    dsn: str | None,
    key_file: Path,
    progress: Progress = _silent,
    record: bool = False,
    *,
    again: bool = False,
    classic_view: bool | None = None,
    direct_calls: str | None = None,
    accepting: Collection[str] = (),
    owner: str | None = None,
    looked: Looked = nowhere,
) -> list[str]:
    """Deploys what is missing or has changed, makes the key file if it is missing and stores its keys.

    A change whose functions are not what it made is deployed again: another version of the original module may have
    replaced them. What everything looks like then is written down for verify, where something new was deployed, and
    with `record` in any case. With `again` every change is deployed once more, over whatever was altered.
    `classic_view`: makes or drops public.secret_access_log. `direct_calls` (log, refuse) is set where it is given;
    where not, a new installation refuses them, one over the original modules logs them, and one that is there keeps
    what it has. `accepting` names code of others on the table that may stay ("all": whatever is there); any other is a
    refusal before anything is done. `owner` is a role that is granted what an owner of the original modules can do;
    those that owned them before are in any case. `looked` gets the database's place. Gives the names of the changes
    that were deployed. Raises InstallError, KeyFileError."""
    # Long because it is the order of an installation, one step after the other.
    deployed = []
    async with session(dsn, looked=looked) as connection:
        await _check_server(connection)
        if (
            owner is not None
            and await connection.fetchval("SELECT pg_catalog.to_regrole(pg_catalog.quote_ident($1))", owner) is None
        ):
            raise InstallError(f"there is no role {owner} (--owner): CREATE ROLE first")
        async with borrowed(connection, keep=False):
            taken = await _accepting(connection, accepting)
            known = await _known(connection)
            altered = await _altered(connection, known)
        # Before anything is done: a file that cannot be used would leave functions that testify with a key of nobody.
        keys = _key_file(key_file)
        for change in changes():
            if known.get(change.name) == change.digest and not again and change.name not in altered:
                progress(change.name, "is there")
                continue
            await _deploy(connection, change, new=known.get(change.name) != change.digest)
            deployed.append(change.name)
            progress(
                change.name,
                "deployed again: a function of it had been replaced" if change.name in altered else "deployed",
            )
        if owner is not None:
            async with borrowed(connection):
                await connection.execute("SELECT secretproxy.keep_owner_rights($1)", owner)
        if deployed or owner is not None:
            await _tell_grants(connection, progress)
        if classic_view is not None:
            await _classic_view(connection, classic_view, progress)
        async with borrowed(connection):
            # What another deployment of the same did not put right must go on to differ.
            if record or any(known.get(change.name) != change.digest for change in changes()):
                await connection.execute("SELECT secretproxy.record_facts()")
                await _set_digest(connection, changes()[-1].name, changes()[-1].digest)
            if taken:
                await accept(connection, taken)
            if direct_calls is not None:
                await connection.execute("UPDATE secretproxy.settings SET direct_calls = $1", direct_calls)
            if deployed:
                said = await connection.fetchval("SELECT s.direct_calls FROM secretproxy.settings s")
                progress("direct_calls", "log: calls past the proxy are let through" if said == "log" else "refuse")
        async with borrowed(connection):
            await _store_keys(connection, keys)
    return deployed


async def _tell_grants(connection: Any, progress: Progress) -> None:
    """Says which grants roles that owned the original modules get, and which rights they lose."""
    async with borrowed(connection, keep=False):
        rows = await connection.fetch("SELECT g.grantee, g.kind, g.object, g.privilege FROM secretproxy.kept_grants g")
    kept: dict[str, dict[str, set[str]]] = {}
    functions: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "function":
            functions[row["grantee"]] = functions.get(row["grantee"], 0) + 1
        kept.setdefault(row["grantee"], {}).setdefault(f"{row['kind']} {row['object']}", set()).add(row["privilege"])
    for role, objects in sorted(kept.items()):
        words = [
            f"{', '.join(sorted(what))} on {name}"
            for name, what in sorted(objects.items())
            if not name.startswith("function ")
        ]
        if role in functions:
            words.append(f"EXECUTE on {functions[role]} functions")
        progress(
            role,
            f"keeps {'; '.join(words)}, by grants; what it owned it owns no more, nor has it TRIGGER and REFERENCES "
            "there",
        )


async def _classic_view(connection: Any, wanted: bool, progress: Progress) -> None:
    """Makes or drops the short view in schema public; a relation of that name that is not ours is left alone."""
    name = "public.secret_access_log"
    owner = await connection.fetchval(
        "SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c"
        " WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1::pg_catalog.text)::pg_catalog.oid",
        name,
    )
    if owner not in (None, "secretproxy_owner"):
        progress(
            name, f"is there already, of {owner}, and is left alone: the short view is secretproxy.secret_access_log"
        )
        return
    async with borrowed(connection, create=("public",)):
        await connection.execute(_CLASSIC_VIEW if wanted else f"DROP VIEW IF EXISTS {name}")
        # A requested change is not an alteration: it, and nothing else, is recorded again.
        await connection.execute(_RECORD_CLASSIC_VIEW)
    progress(name, "made" if wanted else "not there")


async def _altered(connection: Any, known: dict[str, str]) -> set[str]:
    """Lists the deployed and unchanged changes whose functions are missing or have other bodies or attributes."""
    functions = []
    for row in await connection.fetch(_FUNCTIONS):
        functions.append((row["nspname"], row["proname"], hashlib.sha256(row["prosrc"].encode()).hexdigest()))
    names = {(schema, name) for schema, name, _ in functions}
    bodies = function_bodies()
    damaged = {name for name in bodies if name not in names}
    damaged |= {
        (schema, name) for schema, name, digest in functions if digest not in bodies.get((schema, name), {digest})
    }
    if "installed" in known and ("secretproxy", "facts") not in damaged:
        rows = await connection.fetch(
            """SELECT DISTINCT pg_catalog.split_part(pg_catalog.split_part(i.object, '(', 1), '.', 1) AS schema,
            pg_catalog.split_part(pg_catalog.split_part(i.object, '(', 1), '.', 2) AS name
                 FROM secretproxy.installed i LEFT JOIN secretproxy.facts() f
                   ON i.kind OPERATOR(pg_catalog.=) f.kind AND i.object OPERATOR(pg_catalog.=) f.object
                       AND i.fact OPERATOR(pg_catalog.=) f.fact
                WHERE i.kind OPERATOR(pg_catalog.=) 'function' AND i.fact OPERATOR(pg_catalog.!~~) 'grant %'
                  AND (i.value OPERATOR(pg_catalog.=) f.value) IS NOT TRUE
                  AND (i.value IS NOT NULL OR f.value IS NOT NULL)
                  AND NOT EXISTS (SELECT FROM secretproxy.installed v
                                   WHERE v.kind OPERATOR(pg_catalog.=) 'server'
                                       AND v.value OPERATOR(pg_catalog.<>) (pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog./) 10000)::pg_catalog.text)"""
        )
        damaged |= {(row["schema"], row["name"]) for row in rows}
    whole = {change.name for change in changes() if known.get(change.name) == change.digest}
    return whole & {change for change in (maker(*function) for function in damaged) if change is not None}


async def _accepting(connection: Any, accepting: Collection[str]) -> list[str]:
    """Lists what is attached to the table and may stay. Raises InstallError, which names what may not."""
    left = await unaccepted(connection)
    refused = [] if ALL in accepting else [name for name in left if name not in accepting]
    if refused:
        raise InstallError(
            "code of others is attached to secrets_schema.secrets_table and runs whenever it is read or written, from "
            "now on as "
            f"secretproxy_tables: {'; '.join(refused)}. Look at it, then run install with --accept for each ("
            + " ".join(f"--accept {name!r}" for name in refused) + ") or --accept all"
        )  # fmt: skip
    return left


def _key_file(path: Path) -> dict[int, bytes]:
    return load_key_file(path) if path.exists() or path.is_symlink() else create_key_file(path)


# They make nothing in an application's schema; two of them look at what is granted there.
_MAKE_IN: dict[str, tuple[str, ...]] = dict.fromkeys(("roles", "adoption", "schemas", "kept_grants"), ())
_MAKE_IN["access_log_views"] = ("secretproxy", "public")  # a short view in public is created again


# The digest of the last change, which makes the record for verify, from the first new change on until all is recorded:
# an installation that is broken off in between goes on to differ, and the next one records it.
_UNRECORDED = "not recorded yet"


async def _set_digest(connection: Any, change: str, digest: str) -> None:
    await connection.execute(
        "UPDATE secretproxy.changes SET digest = $2 WHERE change OPERATOR(pg_catalog.=) $1", change, digest
    )


async def _deploy(connection: Any, change: Change, *, new: bool) -> None:
    """Deploys a change. `new`: it is not what is deployed already. Raises InstallError."""
    try:
        async with borrowed(connection, make=True, create=_MAKE_IN.get(change.name, SCHEMAS)):
            await connection.execute(change.statements("deploy"))
            await _set_digest(connection, change.name, change.digest)
            if new:
                await _set_digest(connection, changes()[-1].name, _UNRECORDED)
    except asyncpg.PostgresError as error:
        raise InstallError(
            f"change {change.name} failed and left nothing behind: {server_message(error)}; {connection.where}"
            f"{_elsewhere(error)}"
        ) from None


async def _store_keys(connection: Any, keys: dict[int, bytes]) -> None:
    async with connection.transaction():
        for version, key in keys.items():
            stored = await connection.fetchval(
                "SELECT key FROM secretproxy.testimony_key WHERE version OPERATOR(pg_catalog.=) $1", version
            )
            if stored is not None and bytes(stored) != key:
                raise InstallError(
                    f"testimony.key_file: version {version} is another key than the database's; use the file that was "
                    "made for this database, or add the new key under a higher version"
                )
            await connection.execute(
                "INSERT INTO secretproxy.testimony_key (version, key) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                version,
                key,
            )
        # Drawn for the time before the proxy's key was known; nobody has it.
        await connection.execute(
            "UPDATE secretproxy.testimony_key SET retired_at = pg_catalog.clock_timestamp() WHERE version "
            "OPERATOR(pg_catalog.=) 0 AND retired_at IS NULL"
        )


_GONE = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidSchemaNameError,
)


async def verify(dsn: str | Conninfo | None, key_file: Path | None = None, looked: Looked = nowhere) -> list[str]:
    """Lists what differs from the installation, a line each; nothing if all is well. Raises InstallError."""
    findings: list[str] = []
    async with session(dsn, looked=looked) as connection:
        try:
            async with borrowed(connection, keep=False):
                await _compare(connection, key_file, findings)
        except _GONE as error:
            findings.append(f"something that install made and verify reads is missing: {refusal(error)}")
    return findings


async def _compare(connection: Any, key_file: Path | None, findings: list[str]) -> None:
    known = await _known(connection)
    for change in changes():
        if change.name not in known:
            findings.append(f"change {change.name} is not deployed: run `secretproxy install`")
            continue
        if known[change.name] not in (change.digest, "0" * 64):
            findings.append(f"change {change.name} was deployed by another version: run `secretproxy install`")
        if change.name == "installed":
            continue  # for sqitch, its script says whether something differs; the code below says what
        attempt = connection.transaction()  # its settings end with it: the names below are written under the session's
        await attempt.start()
        try:
            await connection.execute(change.statements("verify"))
        except asyncpg.PostgresError as error:
            findings.append(f"change {change.name}: {_meaning(error)}")
        finally:
            await attempt.rollback()
    findings += [
        f"code of others on secrets_schema.secrets_table that was not accepted: {name}"
        for name in await unaccepted(connection)
    ]
    bodies = await _bodies(connection)
    facts = await _facts(connection) if "installed" in known else []
    findings += [line for line in bodies if f"{line.partition(':')[0]} {NEW}" not in facts]
    findings += [line for line in facts if f"{line.partition(':')[0]}: {REPLACED}" not in bodies]
    if key_file is not None and not findings:
        findings += await _keys(connection, key_file)


_INSTALL_MENDS = re.compile(r"change \S+ (?:is not|was) deployed|function .*(?:: (?!has a |lost its )| is missing$)")


def remedy(findings: list[str]) -> str:
    """Names the command that puts right what `verify` found."""
    particular = [line for line in findings if not re.match(r"change \S+: ", line)]
    if particular and all(_INSTALL_MENDS.match(line) for line in particular):
        return "run `secretproxy install`: it deploys again what differs"
    return (
        "run `secretproxy install --again`: it deploys every change once more; what stays different was added or "
        "taken away by somebody: "
        "undo it, or take it for right with `secretproxy install --record`"
    )


async def _bodies(connection: Any) -> list[str]:
    """Functions that are missing, and bodies that are none of the package's: whoever edits what was written down cannot
    edit these."""
    findings = []
    rows = await connection.fetch(_FUNCTIONS)
    seen = {(row["nspname"], row["proname"]) for row in rows}
    for name, digests in function_bodies().items():
        if name not in seen:
            findings.append(f"function {name[0]}.{name[1]} is missing")
        findings += [
            f"function {row['signature']}: {REPLACED}"
            for row in rows
            if (row["nspname"], row["proname"]) == name
            and hashlib.sha256(row["prosrc"].encode()).hexdigest() not in digests
        ]
    return findings


# Facts whose values say nothing that may not be told.
_PLAIN = ("owner", "security definer", "volatility", "settings", "parallel", "leakproof", "enabled", "not null", "type",
    "validated", "login",
          "superuser", "persistence", "row security")  # fmt: skip


async def _facts(connection: Any) -> list[str]:
    """Lists what differs from what the installation recorded."""
    rows = await connection.fetch(
        """SELECT kind, object, fact, was, now, recorded, found,
                  pg_catalog.bool_or(recorded) OVER whole AS known, pg_catalog.bool_or(found) OVER whole AS present
             FROM (SELECT coalesce(i.kind, f.kind) AS kind, coalesce(i.object, f.object) AS object,
                 coalesce(i.fact, f.fact) AS fact,
                          i.value AS was, f.value AS now, i.recorded, f.found
                     FROM (SELECT *, true AS recorded FROM secretproxy.installed) i
                     FULL JOIN (SELECT *, true AS found FROM secretproxy.facts()) f
                       ON i.kind OPERATOR(pg_catalog.=) f.kind AND i.object OPERATOR(pg_catalog.=) f.object
                           AND i.fact OPERATOR(pg_catalog.=) f.fact) w
           WINDOW whole AS (PARTITION BY kind, object) ORDER BY kind, object, fact"""
    )
    findings: dict[str, None] = {}
    for row in rows:
        if row["was"] == row["now"] and row["recorded"] == row["found"]:
            continue
        kind, name, fact = row["kind"], f"{row['kind']} {row['object']}", row["fact"]
        if kind == "server":
            return [
                f"installed on PostgreSQL {row['was']}, running on {row['now']}: `secretproxy install --record` "
                "writes down what is there"
            ]
        if not row["present"]:
            findings[f"{name} is missing"] = None
        elif not row["known"]:
            findings[f"{name} {NEW}"] = None
        elif not row["recorded"]:
            findings[f"{name}: has a {fact} since it was installed"] = None
        elif not row["found"]:
            findings[f"{name}: lost its {fact}"] = None
        elif fact in _PLAIN:
            findings[f"{name}: {fact} is {row['now']}, was {row['was']}"] = None
        else:
            findings[f"{name}: its {fact} was changed"] = None
    return list(findings) + await _partitions(connection)


async def _partitions(connection: Any) -> list[str]:
    """Partitions of the log that are more open than the log: they are made and dropped as months pass, so nothing is
    written down of them."""
    rows = await connection.fetch(
        """SELECT c.oid::pg_catalog.regclass::pg_catalog.text AS name, pg_catalog.pg_get_userbyid(c.relowner) AS owner,
        c.relacl IS NOT NULL AND EXISTS (
                      SELECT FROM pg_catalog.aclexplode(c.relacl) x
                          WHERE x.grantee OPERATOR(pg_catalog.<>) c.relowner) AS granted,
                  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid
                      AND t.tgenabled OPERATOR(pg_catalog.=) ANY (ARRAY['O', 'A'])
                      AND t.tgfoid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure('secretproxy.access_log_is_append_only()')) AS guards
             FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
                 WHERE i.inhparent OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secretproxy.access_log') ORDER BY 1"""
    )
    findings = []
    for row in rows:
        if row["owner"] != "secretproxy_owner":
            findings.append(f"partition {row['name']}: owned by {row['owner']}")
        if row["granted"]:
            findings.append(f"partition {row['name']}: has grants of its own")
        if row["guards"] < 2:
            findings.append(f"partition {row['name']}: not append-only")
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


async def revert(dsn: str | None, progress: Progress = _silent, looked: Looked = nowhere) -> list[str]:
    """Takes back every change that is deployed, newest first. Raises InstallError."""
    reverted = []
    async with session(dsn, looked=looked) as connection:
        async with borrowed(connection, keep=False):
            known = await _known(connection)
        for change in reversed(changes()):
            if change.name not in known:
                continue
            try:
                async with borrowed(connection, create=SCHEMAS):
                    await connection.execute(change.statements("revert"))
            except asyncpg.PostgresError as error:
                raise InstallError(
                    f"change {change.name} was not reverted: {server_message(error)}; {connection.where}"
                    f"{_elsewhere(error)}"
                ) from None
            reverted.append(change.name)
            progress(change.name, "reverted")
    return reverted


@contextlib.asynccontextmanager
async def session(dsn: str | Conninfo | None, lock: bool = True, looked: Looked = nowhere) -> AsyncIterator[Any]:
    """Opens a connection, by default under the installers' lock. Raises InstallError if it fails, breaks or is
    refused; every InstallError of the block names the place."""
    try:
        connection = await connect(dsn, "secretproxy install", timeout=15, settings={"row_security": "off"})
    except ConnectError as error:
        raise InstallError(not_connected(error)) from None
    looked(connection.where)
    async with held(connection, explained):
        await connection.execute(_KEEP_PARAMETERS)
        if lock:
            await _lock(connection)
        try:
            yield connection
        except InstallError as error:
            if connection.where in str(error):
                raise
            raise type(error)(f"{error} ({connection.where})") from None


_LOCK_HOLDER = """
SELECT l.pid FROM pg_catalog.pg_locks l
 WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted
   AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                                           WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
   AND l.classid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND l.objid OPERATOR(pg_catalog.=) $1::pg_catalog.oid
   AND l.objsubid OPERATOR(pg_catalog.=) 1
"""


async def _lock(connection: Any) -> None:
    """Takes the installers' lock; whoever waits for it long is told which server process has it."""
    if await connection.fetchval(f"SELECT pg_catalog.pg_try_advisory_lock({_LOCK})"):
        return
    holder = await connection.fetchval(_LOCK_HOLDER, _LOCK)
    connection.waits_for = f"the end of another install, revert, verify or keys there (server process {holder or '?'})"
    await connection.execute(f"SELECT pg_catalog.pg_advisory_lock({_LOCK})")
    connection.waits_for = None


def not_connected(error: ConnectError) -> str:
    """Explains what to do about a failed connection."""
    if error.sqlstate == SqlState.QUERY_CANCELED:
        return f"{error}; give a longer statement_timeout in the options of the DSN or in PGOPTIONS"
    if error.sqlstate in (SqlState.CANNOT_CONNECT_NOW, SqlState.TOO_MANY_CONNECTIONS):
        return f"{error}; try again once it takes connections, or name another with --dsn"
    if error.sqlstate == SqlState.INVALID_PASSWORD:
        return f"{error}; give the password with --dsn, PGPASSWORD or ~/.pgpass"
    return f"{error}; name the database with --dsn or libpq's PG* variables"


def _elsewhere(error: Exception) -> str:
    """Says where to go, if the server does not write."""
    if getattr(error, "sqlstate", None) == SqlState.READ_ONLY_SQL_TRANSACTION:
        return "; this server only reads: name the primary with --dsn"
    return ""


async def explained(connection: Any, error: Exception) -> Exception:
    """Explains what to do about a failed statement."""
    if broken(connection, error):
        return LostError(
            f"{broke(connection)}; each step is a transaction, so nothing is half done: run the command again"
        )
    said = refusal(error)
    if getattr(error, "sqlstate", None) != SqlState.INSUFFICIENT_PRIVILEGE:
        return InstallError(f"{connection.where} refuses: {said}{_elsewhere(error)}")
    return RefusedError(
        f"{connection.where} refuses: {said}; connect as a superuser or as the role that installed (--dsn)"
    )


async def _check_server(connection: Any) -> None:
    version = int(await connection.fetchval("SELECT pg_catalog.current_setting('server_version_num')"))
    if version < _MOST_OLD:
        raise InstallError(f"PostgreSQL {version // 10000} is too old: 14 or newer is needed")
    needed = await lacking(connection)
    if needed:
        raise InstallError(
            "this role is no superuser and lacks what install needs; as one who may (a superuser, the provider's "
            "administrator) run " + "; ".join(needed) + "; or connect as a superuser (--dsn)"
        )


async def _known(connection: Any) -> dict[str, str]:
    """Gives the deployed changes and their digests."""
    if await connection.fetchval("SELECT pg_catalog.to_regclass('secretproxy.changes')") is None:
        return {}
    return {
        row["change"]: row["digest"] for row in await connection.fetch("SELECT change, digest FROM secretproxy.changes")
    }


def server_message(error: asyncpg.PostgresError) -> str:
    """Gives a server's message without DETAIL and CONTEXT, which can contain rows."""
    return f"{getattr(error, 'message', None) or type(error).__name__} (SQLSTATE {error.sqlstate})"


def _meaning(error: asyncpg.PostgresError) -> str:
    if error.sqlstate == SqlState.DIVISION_BY_ZERO:
        return "something it made is missing or was changed"
    return server_message(error)
