"""Reads the backend's settings and objects, and reports the findings except those on its logging.

May use an asyncpg connection; changes nothing.
"""

from __future__ import annotations

import time
from typing import Any

from secretproxy.ops.doctor.findings import Finding
from secretproxy.ops.doctor.logging import NAMES, Setting, identifier, quoted

_TABLES = ("secrets_schema.secrets_table", "secretproxy.keyring", "secretproxy.testimony_key")
MOST_SKEW = 2.0


async def settings(connection: Any) -> list[Setting]:
    """Reads the settings of a session of this database, and those of other roles in it."""
    rows = await connection.fetch(
        "SELECT name, setting, source FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY ($1)",
        list(NAMES),
    )
    database = await connection.fetchval("SELECT pg_catalog.current_database()")
    user = await connection.fetchval("SELECT session_user")
    found = []
    for row in rows:
        from_database = "database" in row["source"]
        from_user = "user" in row["source"]
        found.append(
            Setting(
                row["name"],
                row["setting"],
                row["source"],
                database if from_database else None,
                user if from_user else None,
            )
        )
    overrides = await connection.fetch(
        """SELECT d.datname, r.rolname, pg_catalog.split_part(c, '=', 1) AS name,
        pg_catalog.substr(c, pg_catalog.strpos(c, '=') OPERATOR(pg_catalog.+) 1) AS value
             FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_database d
                 ON d.oid OPERATOR(pg_catalog.=) s.setdatabase LEFT JOIN pg_catalog.pg_roles r
                     ON r.oid OPERATOR(pg_catalog.=) s.setrole,
                  pg_catalog.unnest(s.setconfig) c
            WHERE s.setdatabase OPERATOR(pg_catalog.=) 0
                OR d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"""
    )
    known = {(setting.name, setting.database, setting.role) for setting in found}
    for row in overrides:
        if row["name"] in NAMES and (row["name"], row["datname"], row["rolname"]) not in known:
            found.append(Setting(row["name"], row["value"], "override", row["datname"], row["rolname"]))
    return found


async def replication(connection: Any) -> list[Finding]:
    """Reports replication of the tables of values and keys."""
    found = []
    by_schema = (
        "EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid OPERATOR(pg_catalog.=) p.oid"
        " AND n.pnnspid OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace(t.schemaname::pg_catalog.text))"
    )
    if connection.get_server_version().major < 15:
        by_schema = "false"
    for row in await connection.fetch(
        f"""SELECT p.pubname, p.puballtables, t.schemaname,
t.schemaname OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) t.tablename AS name, {by_schema} AS by_schema
              FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_tables t
                  ON t.pubname OPERATOR(pg_catalog.=) p.pubname
             WHERE t.schemaname OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) t.tablename
                 OPERATOR(pg_catalog.=) ANY ($1) ORDER BY 1, 4""",
        list(_TABLES),
    ):
        name = identifier(row["pubname"])
        fix = f"ALTER PUBLICATION {name} DROP TABLE {row['name']}"
        if row["by_schema"]:
            fix = f"ALTER PUBLICATION {name} DROP TABLES IN SCHEMA {row['schemaname']}"
        if row["puballtables"]:
            fix = f"DROP PUBLICATION IF EXISTS {name} -- and make it again with a list of tables"
        found.append(
            Finding(
                "publication", "error", f"publication {row['pubname']} carries {row['name']}",
                "its subscribers hold every row of it and get every change; reads there are not seen here", fix,
            )
        )  # fmt: skip
    for row in await connection.fetch(
        "SELECT slot_name, plugin FROM pg_catalog.pg_replication_slots WHERE slot_type OPERATOR(pg_catalog.=) "
        "'logical' AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()"
    ):
        found.append(
            Finding(
                "logical_slot", "warning", f"logical replication slot {row['slot_name']} ({row['plugin']}) decodes "
                                           "this database",
                f"whoever reads it gets the rows of {_TABLES[0]} as they are stored, past the functions",
                f"SELECT pg_catalog.pg_drop_replication_slot({quoted(row['slot_name'])}) -- if nobody needs it",
            )
        )  # fmt: skip
    return found


async def clock(connection: Any) -> list[Finding]:
    before = time.time()
    theirs = float(await connection.fetchval("SELECT extract(epoch FROM pg_catalog.clock_timestamp())"))
    after = time.time()
    skew = max(before - theirs, theirs - after, 0.0)
    if skew <= MOST_SKEW:
        return []
    return [
        Finding(
            "clock_skew", "warning", f"the clocks of this machine and of the backend are {skew:.1f} s apart",
            "times in the log are the proxy's, those of direct calls the backend's: their order is not to be trusted",
            "run NTP (chrony, systemd-timesyncd) on both",
        )
    ]  # fmt: skip


def not_installed(topics: list[str]) -> Finding:
    return Finding(
        "not_installed", "error", f"the backend half is missing here, or is older: {', '.join(topics)} not looked at",
        "nothing can be said of what is not installed", "secretproxy install",
    )  # fmt: skip


def not_looked_at(topics: list[str], login: str) -> Finding:
    """Reports what a login without rights could not look at."""
    return Finding(
        "not_looked_at", "warning", f"{login} may not look at {', '.join(topics)}",
        "what was not looked at may be wrong; the keys only a superuser or secretproxy_keys can compare",
        f"GRANT secretproxy_auditor, pg_read_all_stats TO {identifier(login)} -- or run doctor as a superuser",
    )  # fmt: skip
