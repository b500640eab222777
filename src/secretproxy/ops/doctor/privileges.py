"""Reports logins and grants that bypass the functions.

grants, memberships and attributes of roles. May use an asyncpg connection; changes nothing.
"""

from __future__ import annotations

from typing import Any

from secretproxy.detect.functions import NAMES
from secretproxy.ops.doctor.findings import Finding
from secretproxy.ops.doctor.logging import identifier

# Relations that only their owner may touch.
_CLOSED = ("secrets_schema.secrets_table", "secretproxy.keyring", "secretproxy.testimony_key")
# Privileges on the log that its writer and its auditors have.
_OF_THE_LOG = (("secretproxy_writer", "INSERT"), ("secretproxy_auditor", "SELECT"))
# Who is what by being a member of one of the roles that own what is ours.
_OWNERS = {
    "secretproxy_owner": "the owner changes the log's table and the settings, and can put functions in the place of "
    "others",
    "secretproxy_api": "the role of the API can have every value opened without testimony",
    "secretproxy_keys": "the role of the keys reads them, and can have every value opened without testimony",
    "secretproxy_tables": "the table's owner reads and changes what is stored, past the functions",
}
_SCHEMAS = ("secretproxy", "encrypted_secrets", "secrets_schema", "jwt_public")
_EVERYTHING = {
    "pg_read_all_data": "reads every table, those of values and keys included, past the functions",
    "pg_write_all_data": "changes every table, those of values and keys included, past the functions",
    "pg_read_server_files": "reads the server's files, tables and its log included",
    "pg_write_server_files": "writes the server's files, and so becomes superuser",
    "pg_execute_server_program": "runs programs as the server, and so becomes superuser",
}


def _grantee(name: str) -> str:
    return name if name == "PUBLIC" else identifier(name)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def grants(connection: Any) -> list[Finding]:
    """Privileges on tables and columns, on schemas, and of everybody on the functions."""
    looks = (_of_tables, _of_log, _of_schemas, _of_everybody, _kept)
    return [finding for look in looks for finding in await look(connection)]


async def _of_tables(connection: Any) -> list[Finding]:
    """Gives the privileges on the closed tables and their columns."""
    found = []
    for row in await connection.fetch(
        """SELECT r.name, coalesce(g.rolname, 'PUBLIC') AS grantee,
        pg_catalog.string_agg(DISTINCT a.privilege_type, ', ') AS what
             FROM pg_catalog.unnest($1::pg_catalog.text[]) AS r (name) JOIN pg_catalog.pg_class c
                 ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(r.name)
            CROSS JOIN LATERAL (SELECT * FROM pg_catalog.aclexplode(c.relacl)
                                UNION ALL SELECT x.* FROM pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) x
                                    WHERE t.attrelid OPERATOR(pg_catalog.=) c.oid) a
             LEFT JOIN pg_catalog.pg_roles g ON g.oid OPERATOR(pg_catalog.=) a.grantee
            WHERE a.grantee OPERATOR(pg_catalog.<>) c.relowner GROUP BY 1, 2 ORDER BY 1, 2""",
        list(_CLOSED),
    ):
        found.append(
            Finding(
                "table_grant", "error", f"{row['grantee']} has {row['what']} on {row['name']}",
                "the table can be read or changed past the functions, and only statements that name it are seen",
                f"REVOKE ALL ON {row['name']} FROM {_grantee(row['grantee'])} CASCADE",
            )
        )  # fmt: skip
    return found


async def _of_log(connection: Any) -> list[Finding]:
    """Gives the privileges to write the log past the journal."""
    found = []
    for row in await connection.fetch(
        """SELECT c.oid::pg_catalog.regclass::pg_catalog.text AS name, coalesce(g.rolname, 'PUBLIC') AS grantee,
        pg_catalog.string_agg(DISTINCT a.privilege_type, ', ') AS what
             FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a LEFT
                 JOIN pg_catalog.pg_roles g ON g.oid OPERATOR(pg_catalog.=) a.grantee
            WHERE (c.oid OPERATOR(pg_catalog.=) ANY (ARRAY[pg_catalog.to_regclass('secretproxy.access_log'),
                pg_catalog.to_regclass('secretproxy.checkpoints')])
                   OR c.oid OPERATOR(pg_catalog.=) ANY (SELECT inhrelid FROM pg_catalog.pg_inherits
                   WHERE inhparent OPERATOR(pg_catalog.=) pg_catalog.to_regclass('secretproxy.access_log')))
              AND a.grantee OPERATOR(pg_catalog.<>) c.relowner AND a.privilege_type OPERATOR(pg_catalog.<>) 'SELECT'
              AND (coalesce(g.rolname, ''), a.privilege_type) OPERATOR(pg_catalog.<>) ALL (SELECT * FROM ROWS
              FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]))) GROUP BY 1, 2
                  ORDER BY 1, 2""",
        [role for role, _ in _OF_THE_LOG], [what for _, what in _OF_THE_LOG],
    ):  # fmt: skip
        found.append(
            Finding(
                "log_grant", "error", f"{row['grantee']} has {row['what']} on {row['name']}",
                "whoever writes past the journal makes rows that no process vouches for",
                    f"REVOKE {row['what']} ON {row['name']} FROM {_grantee(row['grantee'])} CASCADE",
            )
        )  # fmt: skip
    return found


async def _of_schemas(connection: Any) -> list[Finding]:
    """Gives who may create something in the schemas."""
    found = []
    for row in await connection.fetch(
        """SELECT n.nspname, coalesce(g.rolname, 'PUBLIC') AS grantee FROM pg_catalog.pg_namespace n CROSS
        JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
             LEFT JOIN pg_catalog.pg_roles g ON g.oid OPERATOR(pg_catalog.=) a.grantee
            WHERE n.nspname OPERATOR(pg_catalog.=) ANY ($1) AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
                AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner ORDER BY 1, 2""",
        list(_SCHEMAS),
    ):
        found.append(
            Finding(
                "schema_create", "error", f"{row['grantee']} may create in schema {row['nspname']}",
                "functions and tables of theirs can stand before those that were installed",
                f"REVOKE CREATE ON SCHEMA {row['nspname']} FROM {_grantee(row['grantee'])} CASCADE",
            )
        )  # fmt: skip
    return found


async def _of_everybody(connection: Any) -> list[Finding]:
    """Gives the functions that everybody may execute."""
    found = []
    for row in await connection.fetch(
        """SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text AS function FROM pg_catalog.pg_proc p,
        pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
            WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('encrypted_secrets')
                AND a.grantee OPERATOR(pg_catalog.=) 0
              AND p.proname OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.name[]) ORDER BY 1""",
        sorted(NAMES),
    ):
        found.append(
            Finding(
                "public_execute", "error", f"everybody may execute {row['function']}",
                "every login of this database can use secrets",
                    f"REVOKE EXECUTE ON FUNCTION {row['function']} FROM PUBLIC",
            )
        )  # fmt: skip
    return found


async def _kept(connection: Any) -> list[Finding]:
    """Reports the grants of roles that owned the original modules, or that `install --owner` named."""
    if await connection.fetchval("SELECT pg_catalog.to_regclass('secretproxy.kept_grants')") is None:
        return []
    return [
        Finding(
            "owner_rights", "info", f"{row['grantee']} has {row['what']} in the place of an owner's rights",
            "it owned the original modules, or could call them by PUBLIC's right, or install --owner named it; a "
            "revert takes these grants back",
            f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA encrypted_secrets FROM {identifier(row['grantee'])}; "
            f"REVOKE ALL ON secrets_schema.secrets_table FROM {identifier(row['grantee'])} CASCADE; "
            f"REVOKE ALL ON SCHEMA encrypted_secrets, secrets_schema FROM {identifier(row['grantee'])} CASCADE; "
            f"DELETE FROM secretproxy.kept_grants WHERE grantee OPERATOR(pg_catalog.=) {_literal(row['grantee'])} -- "
            "where it needs none of this",
        )
        for row in await connection.fetch(
            """SELECT k.grantee, pg_catalog.string_agg(k.what, '; ' ORDER BY k.what) AS what
                 FROM (SELECT g.grantee, pg_catalog.concat(pg_catalog.string_agg(g.privilege, ', '
                     ORDER BY g.privilege), ' on ', g.kind, ' ', g.object) AS what
                         FROM secretproxy.kept_grants g WHERE g.kind OPERATOR(pg_catalog.<>) 'function'
                             GROUP BY g.grantee, g.kind, g.object
                       UNION ALL
                       SELECT g.grantee, pg_catalog.concat('EXECUTE on ', pg_catalog.count(*), ' functions')
                         FROM secretproxy.kept_grants g WHERE g.kind OPERATOR(pg_catalog.=) 'function'
                             GROUP BY g.grantee) k
                GROUP BY k.grantee ORDER BY k.grantee"""
        )
    ]  # fmt: skip


async def roles(connection: Any) -> list[Finding]:
    """Reports memberships and attributes with which a login that is not a superuser can bypass the functions."""
    found = []
    version = connection.get_server_version().major
    for role, why in _OWNERS.items():
        found += await _members(connection, role, "owner_member", "error", why)
    for role, why in _EVERYTHING.items():
        found += await _members(connection, role, "reads_everything", "error", f"{role} {why}")
    for row in await connection.fetch(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolreplication AND NOT rolsuper AND rolcanlogin ORDER BY 1"
    ):
        found.append(
            Finding(
                "replication_role", "warning", f"{row['rolname']} may replicate",
                "it can copy the whole cluster, the tables of values and keys included; reads of a copy are not seen",
                f"ALTER ROLE {identifier(row['rolname'])} NOREPLICATION -- where it serves no standby or backup",
            )
        )  # fmt: skip
    if version < 16:
        for row in await connection.fetch(
            "SELECT rolname FROM pg_catalog.pg_roles WHERE rolcreaterole AND NOT rolsuper AND rolcanlogin ORDER BY 1"
        ):
            found.append(
                Finding(
                    "createrole", "error", f"{row['rolname']} has CREATEROLE, and can make itself a member of "
                                           "secretproxy_owner",
                    "before PostgreSQL 16 that attribute reaches every role that is no superuser",
                    f"ALTER ROLE {identifier(row['rolname'])} NOCREATEROLE",
                )
            )  # fmt: skip
    for row in await connection.fetch(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin AND oid OPERATOR(pg_catalog.<>) 10 "
        "ORDER BY 1"
    ):
        found.append(
            Finding(
                "superusers", "info", f"{row['rolname']} is a superuser that may log in",
                "a superuser reads the keys and the table, and can switch off triggers; the chain shows changes of "
                "the log, not such reads",
                f"ALTER ROLE {identifier(row['rolname'])} NOSUPERUSER -- where it needs it no longer",
            )
        )  # fmt: skip
    return found


async def _members(connection: Any, role: str, name: str, severity: str, why: str) -> list[Finding]:
    """Lists who can become `role` or has its rights, and through which direct member: that member's grant is the one to
    revoke.
    """
    newer = connection.get_server_version().major >= 16
    # Since 16 a membership may carry neither its rights nor SET ROLE nor ADMIN.
    usable = "(m.inherit_option OR m.set_option OR m.admin_option)" if newer else "true"
    rows = await connection.fetch(
        f"""SELECT d.rolname AS direct, pg_catalog.pg_get_userbyid(m.grantor) AS grantor,
                   pg_catalog.array_agg(l.rolname::pg_catalog.text ORDER BY l.rolname) AS logins
              FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles d ON d.oid OPERATOR(pg_catalog.=) m.member
              JOIN pg_catalog.pg_roles l ON l.rolcanlogin AND NOT l.rolsuper
                  AND (l.oid OPERATOR(pg_catalog.=) d.oid OR pg_catalog.pg_has_role(l.oid, d.oid, 'MEMBER'))
             WHERE m.roleid OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_roles
                 WHERE rolname OPERATOR(pg_catalog.=) $1) AND {usable}
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles s WHERE s.oid OPERATOR(pg_catalog.=) d.oid
               AND s.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['pg_monitor', 'secretproxy_owner', 'secretproxy_keys']))
             GROUP BY 1, 2 ORDER BY 1""",
        role,
    )
    found = []
    for row in rows:
        through = "" if row["logins"] == [row["direct"]] else f", by way of {row['direct']}"
        by = f" GRANTED BY {identifier(row['grantor'])}" if newer else ""
        found.append(
            Finding(
                name, severity, f"{', '.join(row['logins'])} can become {role}{through}", why,
                f"REVOKE {role} FROM {identifier(row['direct'])}{by} CASCADE",
            )
        )  # fmt: skip
    return found
