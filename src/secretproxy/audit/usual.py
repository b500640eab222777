"""Finds what is unusual for a login, compared with its own last thirty days: many secrets in a minute, and unusual
hours.

A login's usual is what it did in the thirty days before the time that is looked at. So a nightly job is not unusual at
night, and a migration that always reads hundreds of secrets is not a burst. May import asyncpg."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from secretproxy.audit.counting import Accesses, Table, settle, stretch
from secretproxy.audit.filters import EQUAL, Filter
from secretproxy.audit.review import Count

BASELINE = timedelta(days=30)
# Secrets in a minute below which nothing is a burst, and those that are one for a login without a past.
FEW, MANY_AT_FIRST = 5, 10
# Days on which a login must have used secrets before its hours are known.
DAYS = 5


async def bursts(connection: Any, since: datetime, limit: int) -> Table:
    """Gives the minutes since then in which a login used more different secrets than in any minute of the thirty days
    before.

    Of a login that used none in these days there is nothing to compare with: ten in a minute are a burst of it, and
    `usual` is None."""
    source = Accesses(Filter(since=since - BASELINE))
    async with connection.transaction(isolation="repeatable_read"):
        await settle(connection, source)
        asked = source.query(
            f"a.db_user, {stretch(60)} AS minute, a.owner_id, a.secret_names, pg_catalog.min(a.at) AS first,"
            " pg_catalog.max(a.at) AS last",
            group=" GROUP BY 1, 2, 3, 4",
            kind="any",
        )
        number = len(asked.values) + 1
        query = f"""
        WITH m AS MATERIALIZED (
                 SELECT d.db_user, d.minute, pg_catalog.count(*) AS secrets, pg_catalog.min(d.first) AS at,
                     pg_catalog.max(d.last) AS until
                   FROM ({asked.sql}) d GROUP BY 1, 2),
             usual AS (SELECT db_user, pg_catalog.max(secrets) AS secrets FROM m
                 WHERE at OPERATOR(pg_catalog.<) ${number} GROUP BY 1)
        SELECT m.at, m.until, m.db_user, m.secrets, u.secrets AS usual, pg_catalog.count(*) OVER () AS found
          FROM m LEFT JOIN usual u ON u.db_user {EQUAL} m.db_user
         WHERE m.at OPERATOR(pg_catalog.>=) ${number} AND m.secrets OPERATOR(pg_catalog.>=) {FEW}
           AND CASE WHEN u.secrets IS NULL THEN m.secrets OPERATOR(pg_catalog.>=) {MANY_AT_FIRST}
                    ELSE m.secrets OPERATOR(pg_catalog.>) u.secrets END
         ORDER BY m.secrets DESC, m.at, m.db_user LIMIT {limit:d}
        """  # noqa: S608 - columns of ours
        rows = [dict(row) for row in await connection.fetch(query, *asked.values, since)]
    count = rows[0]["found"] if rows else 0
    for row in rows:
        del row["found"]
    return Table(rows, Count(count))


@dataclass(slots=True)
class Hour:
    """An hour in which a login used secrets."""

    db_user: str | None
    at: datetime
    until: datetime
    n: int


async def hours(connection: Any, since: datetime, limit: int) -> Table:
    """Gives the hours since then at a time of day at which the login used no secret in the thirty days before; the
    newest first."""
    source = Accesses(Filter(since=since - BASELINE))
    async with connection.transaction(isolation="repeatable_read"):
        await settle(connection, source)
        asked = source.query(
            f"a.db_user, {stretch(3600)} AS hour, pg_catalog.count(*) AS n, pg_catalog.min(a.at) AS first,"
            " pg_catalog.max(a.at) AS last",
            group=" GROUP BY 1, 2",
            kind="any",
        )
        rows = await connection.fetch(asked.sql, *asked.values)
    found = unusual_hours((Hour(row["db_user"], row["first"], row["last"], row["n"]) for row in rows), since)
    return Table(found[:limit], Count(len(found)))


def unusual_hours(used: Iterable[Hour], since: datetime) -> list[dict[str, Any]]:
    """Gives the hours since then that are unusual for their login: neither this hour of the day (UTC) nor one beside it
    is one of its past.

    A login that used secrets on fewer than five days before has no usual hours yet.
    """
    known: Mapping[str | None, set[int]] = defaultdict(set)
    days: Mapping[str | None, set[Any]] = defaultdict(set)
    later: list[Hour] = []
    for hour in used:
        if hour.at >= since:
            later.append(hour)
            continue
        at = hour.at.astimezone(UTC)
        known[hour.db_user].add(at.hour)
        days[hour.db_user].add(at.date())
    found = []
    for hour in later:
        near = {(hour.at.astimezone(UTC).hour + distance) % 24 for distance in (-1, 0, 1)}
        if len(days[hour.db_user]) >= DAYS and not near & known[hour.db_user]:
            usual = ", ".join(f"{one:02}" for one in sorted(known[hour.db_user]))
            found.append({"at": hour.at, "until": hour.until, "db_user": hour.db_user, "n": hour.n, "usual": usual})
    return sorted(found, key=lambda row: (row["at"], str(row["db_user"])), reverse=True)
