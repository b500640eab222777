"""Reports calls that bypassed the proxy, or seem to, and values in old formats.

May use an asyncpg connection.
"""

from __future__ import annotations

from typing import Any

from secretproxy.ops.doctor.findings import Finding
from secretproxy.ops.doctor.logging import quoted


class MayNotLookError(Exception):
    """The server shows this login less than there is, without an error."""


async def direct_calls(connection: Any) -> list[Finding]:
    if await connection.fetchval("SELECT direct_calls FROM secretproxy.settings") != "log":
        return []
    return [
        Finding(
            "direct_calls", "warning", "direct_calls is log: calls that come by no proxy are let through",
            "the row that such a call leaves goes away where its transaction, or only the block around it, is rolled "
            "back",
            "UPDATE secretproxy.settings SET direct_calls = 'refuse' -- once every DSN points at the proxy",
        )
    ]  # fmt: skip


async def formats(connection: Any) -> list[Finding]:
    old = await connection.fetchval(
        'SELECT pg_catalog.sum("values") FROM secretproxy.stored_formats() AS s (encoding, format, key_version, '
        '"values") WHERE format OPERATOR(pg_catalog.=) 1'
    )
    if not old:
        return []
    return [
        Finding(
            "format_1", "warning", f"{old} values are stored in format 1, as the original module wrote them",
            "their key is the owner's uuid: whoever has a dump and the log can decrypt them; passwords are converted "
            "when they verify",
            "secretproxy keys reencrypt",
        )
    ]  # fmt: skip


async def logged(connection: Any) -> list[Finding]:
    """Reports the direct calls and forgeries in the log of the last seven days."""
    found = []
    row = await connection.fetchrow(
        """SELECT pg_catalog.count(*) AS n, pg_catalog.string_agg(DISTINCT db_user, ', ') AS users,
        pg_catalog.max(at)::pg_catalog.timestamptz(0)::pg_catalog.text AS latest
             FROM secretproxy.access_log WHERE event OPERATOR(pg_catalog.=) 'direct'
                 AND at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) interval '7 days')"""
    )
    if row["n"]:
        found.append(
            Finding(
                "direct_seen", "warning", f"{row['n']} direct calls in the last 7 days, by {row['users']}, the latest "
                                          f"at {row['latest']}",
                "they came past the proxy: they stand outside the chains, and rolled back ones left nothing",
                "SELECT * FROM secretproxy.direct_accesses -- shows where they come from: point those DSNs at the "
                "proxy",
            )
        )  # fmt: skip
    forged = await connection.fetchval(
        "SELECT pg_catalog.count(*) FROM secretproxy.access_log WHERE event OPERATOR(pg_catalog.=) 'forgery' AND at "
        "OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) interval '7 days')"
    )
    if forged:
        found.append(
            Finding(
                "forgeries", "warning", f"{forged} forged testimonies in the last 7 days",
                "somebody imitates the functions' testimony, or the proxy lacks a key that they sign with",
                "SELECT * FROM secretproxy.unusual_events WHERE event OPERATOR(pg_catalog.=) 'forgery' -- and compare "
                "`secretproxy keys status` with testimony.key_file",
            )
        )  # fmt: skip
    return found


async def sessions(connection: Any) -> list[Finding]:
    """Reports sessions that may use secrets and come from an address without a proxy.

    The sessions of journals that are connected here show where proxies are.
    """
    if not await connection.fetchval("SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"):
        raise MayNotLookError
    rows = await connection.fetch(
        """WITH proxies AS (SELECT DISTINCT client_addr FROM pg_catalog.pg_stat_activity
        WHERE application_name OPERATOR(pg_catalog.=) 'secretproxy journal')
           SELECT usename, coalesce(pg_catalog.host(client_addr), 'a Unix socket') AS address, pg_catalog.count(*) AS n,
                  pg_catalog.string_agg(DISTINCT application_name, ', ')
                    FILTER (WHERE application_name OPERATOR(pg_catalog.<>) '') AS applications
             FROM pg_catalog.pg_stat_activity a
            WHERE backend_type OPERATOR(pg_catalog.=) 'client backend'
                AND datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
              AND pg_catalog.pg_has_role(usesysid, 'authenticated', 'MEMBER')
              AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid OPERATOR(pg_catalog.=) usesysid)
              AND EXISTS (SELECT FROM proxies)
              AND NOT EXISTS (SELECT FROM proxies p WHERE p.client_addr OPERATOR(pg_catalog.=) a.client_addr
                              OR (p.client_addr IS NULL AND a.client_addr IS NULL))
            GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5"""
    )
    return [
        Finding(
            "direct_session", "warning",
            f"{row['n']} sessions of {row['usename']} from {row['address']}, where no proxy is" + (
                f" ({row['applications']})" if row["applications"] else ""),
            "they may use secrets, and come past the proxy: point their DSN at it, and let pg_hba.conf admit them "
            "from there alone",
            "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity"
            f" WHERE usename OPERATOR(pg_catalog.=) {quoted(row['usename'])}"
            " AND coalesce(pg_catalog.host(client_addr), 'a Unix socket') OPERATOR(pg_catalog.=) "
            f"{quoted(row['address'])}",
        )
        for row in rows
    ]  # fmt: skip
