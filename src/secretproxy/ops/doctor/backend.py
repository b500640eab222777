"""What is read of a backend, and the findings on everything but its logging. May use an asyncpg connection; changes nothing."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

from secretproxy.ops.doctor.findings import Finding
from secretproxy.ops.doctor.logging import NAMES, Setting, identifier

_TABLE = "secrets_schema.secrets_table"
MOST_SKEW = 2.0


async def settings(connection: Any) -> list[Setting]:
    """Settings as a session of this database has them, and those of other roles in it."""
    rows = await connection.fetch("SELECT name, setting, source FROM pg_settings WHERE name = ANY ($1)", list(NAMES))
    database = await connection.fetchval("SELECT current_database()")
    user = await connection.fetchval("SELECT session_user")
    found = []
    for row in rows:
        from_database = "database" in row["source"]
        from_user = "user" in row["source"]
        found.append(
            Setting(row["name"], row["setting"], row["source"], database if from_database else None, user if from_user else None)
        )
    overrides = await connection.fetch(
        """SELECT d.datname, r.rolname, split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value
             FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
                  unnest(s.setconfig) c
            WHERE s.setdatabase = 0 OR d.datname = current_database()"""
    )
    known = {(setting.name, setting.database, setting.role) for setting in found}
    for row in overrides:
        if row["name"] in NAMES and (row["name"], row["datname"], row["rolname"]) not in known:
            found.append(Setting(row["name"], row["value"], "override", row["datname"], row["rolname"]))
    return found


async def replication(connection: Any) -> list[Finding]:
    """Ways by which the secrets table leaves the server row by row."""
    found = []
    for row in await connection.fetch(
        f"""SELECT pubname, puballtables,
                   EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = to_regclass('{_TABLE}')) AS named
              FROM pg_publication p
             WHERE EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = p.pubname AND t.schemaname = 'secrets_schema'
                                                                   AND t.tablename = 'secrets_table')"""
    ):
        name = identifier(row["pubname"])
        mend = (
            f"ALTER PUBLICATION {name} DROP TABLE {_TABLE}"
            if row["named"]
            else f"DROP PUBLICATION {name}, and make it again with a list of tables"
        )
        found.append(
            Finding(
                "publication", "error", f"publication {row['pubname']} carries {_TABLE}",
                "its subscribers hold every stored value and get every change; reads there are not seen here", mend,
            )
        )  # fmt: skip
    for row in await connection.fetch(
        "SELECT slot_name, plugin FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database()"
    ):
        found.append(
            Finding(
                "logical_slot", "warning", f"logical replication slot {row['slot_name']} ({row['plugin']}) decodes this database",
                f"whoever reads it gets the rows of {_TABLE} as they are stored, past the functions",
                f"SELECT pg_drop_replication_slot('{row['slot_name']}'), if nobody needs it",
            )
        )  # fmt: skip
    return found


async def privileges(connection: Any) -> list[Finding]:
    """Grants and roles that reach past the functions."""
    found = []
    for row in await connection.fetch(
        f"""SELECT coalesce(r.rolname, 'PUBLIC') AS grantee, string_agg(a.privilege_type, ', ' ORDER BY 1) AS what
              FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
             WHERE c.oid = to_regclass('{_TABLE}') AND a.grantee <> c.relowner GROUP BY 1"""
    ):
        who = row["grantee"] if row["grantee"] == "PUBLIC" else identifier(row["grantee"])
        found.append(
            Finding(
                "table_grant", "error", f"{row['grantee']} has {row['what']} on {_TABLE}",
                "the table can be read or changed past the functions, and only statements that name it are seen",
                f"REVOKE ALL ON {_TABLE} FROM {who}",
            )
        )  # fmt: skip
    for row in await connection.fetch(
        """SELECT p.oid::regprocedure::text AS function FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            WHERE p.pronamespace = to_regnamespace('encrypted_secrets') AND a.grantee = 0
              AND p.proname IN ('secrets_getter', 'secrets_upsert', 'secrets_verify', 'secrets_delete') ORDER BY 1"""
    ):
        found.append(
            Finding(
                "public_execute", "error", f"everybody may execute {row['function']}",
                "every login of this database can use secrets", f"REVOKE EXECUTE ON FUNCTION {row['function']} FROM PUBLIC",
            )
        )  # fmt: skip
    for row in await connection.fetch(
        """SELECT rolname FROM pg_roles r WHERE rolcanlogin AND NOT rolsuper
              AND pg_has_role(r.oid, (SELECT oid FROM pg_roles WHERE rolname = 'secretproxy_owner'), 'MEMBER') ORDER BY 1"""
    ):
        found.append(
            Finding(
                "owner_member", "error", f"{row['rolname']} can become secretproxy_owner",
                "the owner reads the keys and the table, and can replace the functions", f"REVOKE secretproxy_owner FROM {identifier(row['rolname'])}",
            )
        )  # fmt: skip
    supers = [
        row["rolname"]
        for row in await connection.fetch("SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin AND oid <> 10 ORDER BY 1")
    ]
    if supers:
        found.append(
            Finding(
                "superusers", "info", f"superusers that may log in: {', '.join(supers)}",
                "a superuser reads the keys and the table, and can switch off triggers; the chain shows changes of the log, not such reads",
                "ALTER ROLE name NOSUPERUSER for whoever needs it no longer",
            )
        )  # fmt: skip
    return found


async def installed(connection: Any) -> list[Finding]:
    """The backend half: how it treats direct calls, how old the values are, who came past the proxy."""
    found = []
    if await connection.fetchval("SELECT direct_calls FROM secretproxy.settings") == "log":
        found.append(
            Finding(
                "direct_calls", "info", "direct_calls is log: calls that come by no proxy are let through",
                "the row that such a call leaves goes away with its transaction where that is rolled back",
                "UPDATE secretproxy.settings SET direct_calls = 'refuse', once every DSN points at the proxy",
            )
        )  # fmt: skip
    old = await connection.fetchval(
        'SELECT sum("values") FROM secretproxy.stored_formats() AS s (encoding, format, key_version, "values") WHERE format = 1'
    )
    if old:
        found.append(
            Finding(
                "format_1", "warning", f"{old} values are stored in format 1, as the original module wrote them",
                "their key is the owner's uuid: whoever has a dump and the log can decrypt them",
                "secretproxy keys reencrypt (passwords are converted when they verify)",
            )
        )  # fmt: skip
    row = await connection.fetchrow(
        """SELECT count(*) AS n, string_agg(DISTINCT db_user, ', ') AS users, max(at)::timestamptz(0)::text AS latest
             FROM secretproxy.access_log WHERE event = 'direct' AND at > now() - interval '7 days'"""
    )
    if row["n"]:
        found.append(
            Finding(
                "direct_seen", "warning", f"{row['n']} direct calls in the last 7 days, by {row['users']}, the latest at {row['latest']}",
                "they came past the proxy: they stand outside the chains, and rolled back ones left nothing",
                "point those DSNs at the proxy; secretproxy audit list --json shows where they come from",
            )
        )  # fmt: skip
    forged = await connection.fetchval(
        "SELECT count(*) FROM secretproxy.access_log WHERE event = 'forgery' AND at > now() - interval '7 days'"
    )
    if forged:
        found.append(
            Finding(
                "forgeries", "warning", f"{forged} forged testimonies in the last 7 days",
                "somebody imitates the functions' testimony, or the proxy lacks a key that they sign with",
                "SELECT * FROM secretproxy.access_log WHERE event = 'forgery'; compare `secretproxy keys status` with testimony.key_file",
            )
        )  # fmt: skip
    sessions = await connection.fetch(
        """WITH proxies AS (SELECT DISTINCT client_addr FROM pg_stat_activity WHERE application_name = 'secretproxy journal')
           SELECT usename, client_addr::text AS address, count(*) AS n FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND datname = current_database() AND client_addr IS NOT NULL
              AND pg_has_role(usesysid, 'authenticated', 'MEMBER') AND NOT (SELECT rolsuper FROM pg_roles WHERE oid = usesysid)
              AND EXISTS (SELECT FROM proxies) AND client_addr NOT IN (SELECT client_addr FROM proxies WHERE client_addr IS NOT NULL)
            GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5"""
    )
    for session in sessions:
        found.append(
            Finding(
                "direct_session", "warning", f"{session['n']} sessions of {session['usename']} from {session['address']}, where no proxy is",
                "they may use secrets, and come past the proxy", "point their DSN at the proxy, and let pg_hba.conf admit them from there alone",
            )
        )  # fmt: skip
    return found


async def clock(connection: Any) -> list[Finding]:
    before = time.time()
    theirs = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
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


def unreadable(topic: str, error: asyncpg.PostgresError) -> Finding:
    """What a login without rights could not look at."""
    if error.sqlstate in ("42P01", "42883", "3F000", "42703"):
        return Finding(
            "not_installed", "error", f"{topic}: the backend half is missing here, or is older",
            "nothing can be said of what is not installed", "secretproxy install --dsn DSN",
        )  # fmt: skip
    return Finding(
        "not_looked_at", "warning", f"{topic}: this login may not look (SQLSTATE {error.sqlstate})",
        "what was not looked at may be wrong", "run doctor as a superuser, or as a member of secretproxy_owner and pg_monitor",
    )  # fmt: skip
