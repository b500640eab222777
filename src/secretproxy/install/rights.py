"""Gives a role that is not a superuser the privileges for a change, and revokes them in the same transaction.

The installing role is a member of the roles that own what is ours only inside these transactions: nothing that runs as
it later can read a key. May use an asyncpg connection. A superuser needs nothing of this."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

import asyncpg

from secretproxy.install.errors import RefusedError

OWNERS = ("secretproxy_owner", "secretproxy_api", "secretproxy_keys", "secretproxy_tables")
SCHEMAS = ("secretproxy", "encrypted_secrets", "secrets_schema", "jwt_public")
# Who must see the start and the kind of sessions that other roles opened.
STATISTICS = ("secretproxy_owner", "secretproxy_keys")
# From this version on whoever makes a role administers it, without being a member of it.
_GRANT_OPTIONS = 160000

_SUPERUSER = "SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user"
_VERSION = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4"
_MISSING = "SELECT n FROM pg_catalog.unnest($1::pg_catalog.text[]) n WHERE pg_catalog.to_regrole(n) IS NULL"
_MAKE_ROLE = "CREATE ROLE {role} NOLOGIN"
_NOT_MEMBER = """
SELECT r.rolname FROM pg_catalog.pg_roles r
 WHERE r.rolname OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.name[]) AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE')
 ORDER BY 1
"""
_SCHEMAS = """
SELECT pg_catalog.quote_ident(n.nspname) AS schema, pg_catalog.quote_ident(r.rolname) AS role
  FROM pg_catalog.pg_namespace n, pg_catalog.pg_roles r
 WHERE n.nspname OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.name[]) AND pg_catalog.pg_has_role(n.nspowner, 'USAGE')
   AND (r.rolname OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.name[]) OR r.rolname OPERATOR(pg_catalog.=) current_user)
   AND NOT pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')
 ORDER BY 1, 2
"""
_STILL = """
SELECT n.nspowner OPERATOR(pg_catalog.<>) pg_catalog.to_regrole($2)::pg_catalog.oid
  FROM pg_catalog.pg_namespace n WHERE n.oid OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace($1)::pg_catalog.oid
"""


@contextlib.asynccontextmanager
async def borrowed(
    connection: Any, *, make: bool = False, create: Collection[str] = (), keep: bool = True
) -> AsyncIterator[None]:
    """Runs its block in a transaction, as a member of the roles that own what is ours.

    `make` makes the roles that are missing. `create` names schemas in which those roles may make objects: whoever
    becomes the owner of something must be able to. Without `keep` the transaction is rolled back at its end. What is
    borrowed is nobody's outside the transaction."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        given = await _take(connection, make=make, create=create)
        yield
        if keep:
            await _give_back(connection, given)
    except BaseException:
        await transaction.rollback()
        raise
    if keep:
        await transaction.commit()
    else:
        await transaction.rollback()


async def _take(connection: Any, *, make: bool, create: Collection[str]) -> list[tuple[str, str, str]]:
    """Gives what was granted: the words before and after the role, and the role."""
    given: list[tuple[str, str, str]] = []
    if await connection.fetchval(_SUPERUSER):
        return given
    if make:
        for row in await connection.fetch(_MISSING, list(OWNERS)):
            await connection.execute(_MAKE_ROLE.format(role=row["n"]))
    options = " WITH INHERIT TRUE, SET TRUE" if await connection.fetchval(_VERSION) >= _GRANT_OPTIONS else ""
    for row in await connection.fetch(_NOT_MEMBER, list(OWNERS)):
        try:
            await connection.execute(f"GRANT {row['rolname']} TO CURRENT_USER{options}")
        except asyncpg.PostgresError:
            raise RefusedError(
                f"this role may not act as {row['rolname']}: connect as a superuser or as the role that installed "
                "(--dsn)"
            ) from None
        given.append((row["rolname"], "", ""))
    if create:
        for row in await connection.fetch(_SCHEMAS, list(create), list(OWNERS)):
            await connection.execute(f"GRANT CREATE ON SCHEMA {row['schema']} TO {row['role']}")
            given.append(("", row["schema"], row["role"]))
    return given


async def _give_back(connection: Any, given: list[tuple[str, str, str]]) -> None:
    """Takes the grants away again, the memberships last."""
    for owner, schema, role in reversed(given):
        if owner:
            await connection.execute(f"REVOKE {owner} FROM CURRENT_USER")
        elif await connection.fetchval(_STILL, schema, role):
            # A role that has become the schema's owner since has the right as such.
            await connection.execute(f"REVOKE CREATE ON SCHEMA {schema} FROM {role}")


_LACKING = """
WITH me (oid, name, createrole, superuser) AS (
    SELECT r.oid, pg_catalog.quote_ident(r.rolname), r.rolcreaterole, r.rolsuper
      FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user
), version (number) AS (
    SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4
)
SELECT l.what FROM me, version, LATERAL (
    SELECT 1 AS place, pg_catalog.concat('ALTER ROLE ', me.name, ' CREATEROLE') AS what
     WHERE NOT me.createrole AND EXISTS (SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]) n
         WHERE pg_catalog.to_regrole(n) IS NULL)
    UNION ALL
    SELECT 2, pg_catalog.concat('GRANT CREATE ON DATABASE ', pg_catalog.quote_ident(pg_catalog.current_database()),
        ' TO ', me.name)
     WHERE NOT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
    UNION ALL
    SELECT 3, pg_catalog.concat('GRANT ', pg_catalog.quote_ident(r.rolname), ' TO ', me.name,
                                CASE WHEN version.number OPERATOR(pg_catalog.<) 160000 THEN ' WITH ADMIN OPTION'
                                     ELSE ' WITH ADMIN TRUE, INHERIT FALSE, SET FALSE' END)
      FROM pg_catalog.pg_roles r
     WHERE r.rolname OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.name[])
       AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE') AND NOT pg_catalog.pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
       AND NOT (version.number OPERATOR(pg_catalog.<) 160000 AND me.createrole)
    UNION ALL
    SELECT 4, pg_catalog.concat('GRANT pg_read_all_stats TO ', me.name, ' WITH ADMIN OPTION')
     WHERE NOT pg_catalog.pg_has_role('pg_read_all_stats', 'MEMBER WITH ADMIN OPTION')
       AND NOT (version.number OPERATOR(pg_catalog.<) 160000 AND me.createrole)
       AND EXISTS (SELECT FROM pg_catalog.unnest($3::pg_catalog.name[]) n
                    WHERE pg_catalog.to_regrole(n::pg_catalog.text) IS NULL
                       OR NOT pg_catalog.pg_has_role(pg_catalog.to_regrole(n::pg_catalog.text)::pg_catalog.oid,
                       'pg_read_all_stats', 'USAGE'))
    UNION ALL
    SELECT 5, pg_catalog.concat('GRANT ', pg_catalog.quote_ident(o.owner), ' TO ', me.name)
      FROM pg_catalog.pg_namespace n, LATERAL (
            SELECT pg_catalog.pg_get_userbyid(n.nspowner) AS owner
                WHERE n.nspname OPERATOR(pg_catalog.<>) 'jwt_public'::pg_catalog.name
            UNION SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c
             WHERE c.relnamespace OPERATOR(pg_catalog.=) n.oid
                 AND c.relname OPERATOR(pg_catalog.=) 'secrets_table'::pg_catalog.name
            UNION SELECT pg_catalog.pg_get_userbyid(p.proowner) FROM pg_catalog.pg_proc p
             WHERE p.pronamespace OPERATOR(pg_catalog.=) n.oid
               AND (n.nspname OPERATOR(pg_catalog.<>) 'jwt_public'::pg_catalog.name
                    OR p.proname OPERATOR(pg_catalog.=) 'current_user_id'::pg_catalog.name)) o
     WHERE n.nspname OPERATOR(pg_catalog.=) ANY (ARRAY['encrypted_secrets', 'secrets_schema',
         'jwt_public']::pg_catalog.name[])
       AND NOT o.owner OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.name[])
       AND NOT pg_catalog.pg_has_role(o.owner, 'USAGE')
     GROUP BY o.owner, me.name
    UNION ALL
    SELECT 6, 'CREATE EXTENSION pgcrypto'
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension e
         WHERE e.extname OPERATOR(pg_catalog.=) 'pgcrypto'::pg_catalog.name)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_available_extension_versions v
                        WHERE v.name OPERATOR(pg_catalog.=) 'pgcrypto'::pg_catalog.name AND v.trusted)
    UNION ALL
    SELECT 7, pg_catalog.concat('GRANT USAGE ON SCHEMA ', pg_catalog.quote_ident(n.nspname), ' TO ', me.name)
      FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_extension e
           ON e.extname OPERATOR(pg_catalog.=) 'pgcrypto'::pg_catalog.name
     WHERE (n.oid OPERATOR(pg_catalog.=) e.extnamespace
            OR e.oid IS NULL AND n.nspname OPERATOR(pg_catalog.=) 'public'::pg_catalog.name)
       AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE'::pg_catalog.text)
) l WHERE NOT me.superuser ORDER BY l.place, l.what
"""
ROLES = (*OWNERS, "secretproxy_writer", "secretproxy_auditor", "anonymous", "authenticated", "administrator")


async def lacking(connection: Any) -> list[str]:
    """Gives the statements that somebody else has to run before this role can install; nothing if it can."""
    return [row["what"] for row in await connection.fetch(_LACKING, list(ROLES), list(OWNERS), list(STATISTICS))]
