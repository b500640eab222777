"""Verifies of a secret in a row: whether a password was right is not logged, whoever tries many is."""

from __future__ import annotations

from typing import Any

from secretproxy.audit.counting.accesses import LOOKED_UP, Accesses, Table, settle, stretch, uuids
from secretproxy.audit.filters import EQUAL, OUTCOME
from secretproxy.audit.review import (
    Count,
)

VERIFIES = f" AND a.operation {EQUAL} 'verify'"
# Five verifies with pauses of a minute at most fall into two neighbours of such stretches, three of them at least into
# one.
STRETCH = stretch(300)
CLOSE = 3
# Five such verifies have three stretches less than there are verifies at most, and so have all verifies of that secret
# by that user: a stretch sets a bit of each of three numbers, so that of other secrets nearly none has so few bits set.
_PLACES = (59, 61, 63)
VERIFIED = f"pg_catalog.count(*) FILTER (WHERE a.operation {EQUAL} 'verify') AS verifies" + "".join(
    f""", pg_catalog.bit_or(CASE WHEN a.operation {EQUAL} 'verify' THEN '1'::bigint OPERATOR(pg_catalog.<<)
        ({STRETCH} OPERATOR(pg_catalog.%) {places})::int END) AS of_{places}"""
    for places in _PLACES
)
NOT_VERIFIED = "'0'::bigint AS verifies" + "".join(f", '0'::bigint AS of_{places}" for places in _PLACES)
# More owners than this are not told one by one.
MOST_OWNERS = 5000
# Where so many are left, verifies are counted by stretch.
MOST_LEFT = 500


async def verified_often(connection: Any, source: Accesses) -> list[Any] | None:
    """Owners of all secrets of which five verifies can follow each other closely, and of others; None if these are too
    many to tell."""
    asked = source.query("a.db_user, a.owner_id, a.at", only=VERIFIES, kind="any")
    query = f"""SELECT DISTINCT owner
FROM (SELECT a.owner_id AS owner FROM ({asked.sql}) a GROUP BY a.owner_id, a.db_user, {STRETCH}
                HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) {CLOSE}) s LIMIT {MOST_OWNERS + 1:d}"""  # noqa: S608 - constant text
    owners = [row["owner"] for row in await connection.fetch(query, *asked.values)]
    return owners if len(owners) <= MOST_OWNERS else None


def _of_owners(owners: list[Any]) -> str:
    """Gives SQL for secrets of these owners, NULL among them or not: as a constant, which the planner can count, and
    for which it can use the index of owners."""
    found = f"a.owner_id {EQUAL} ANY ({uuids([owner for owner in owners if owner is not None])})"
    return f"({found} OR a.owner_id IS NULL)" if None in owners else found


async def count_verifies(connection: Any, source: Accesses, limit: int | None, owners: list[Any] | None) -> Table:
    """Five or more verifies of a secret by a user with no pause of a minute: whether a password was right is not
    logged, whoever tries many is. `owners` are those of all such secrets, if they are known."""
    columns = f"a.id, a.at, a.seq, a.db_user, a.owner_id, a.secret_names, {OUTCOME} AS outcome"
    asked = source.query(columns, outcomes=True, only=VERIFIES)
    if source.many:
        # Outcomes are looked for only of what can be such a row of verifies: of most there are none.
        if owners is None:
            owners = await verified_often(connection, source)
        if owners == []:
            return Table([], Count(0))
        if owners is not None:
            asked = source.query(columns, outcomes=True, only=f"{VERIFIES} AND {_of_owners(owners)}")
            await connection.execute(LOOKED_UP)
    verifies = f"SELECT DISTINCT ON (x.id) x.* FROM ({asked.sql}) x"  # noqa: S608 - a call may have several outcomes
    window = "WINDOW w AS (PARTITION BY db_user, owner_id, secret_names ORDER BY at, seq)"
    limited = "" if limit is None else f" LIMIT {limit:d}"
    query = f"""
    SELECT at, until, db_user, owner_id, secret_names, failed, n, pg_catalog.count(*) OVER () AS runs FROM (
        SELECT pg_catalog.min(at) AS at, pg_catalog.max(at) AS until, db_user, owner_id, secret_names,
               pg_catalog.count(*) FILTER (WHERE outcome OPERATOR(pg_catalog.<>) 'ok') AS failed,
                   pg_catalog.count(*) AS n
          FROM (SELECT *, pg_catalog.count(*)
              FILTER (WHERE pause OPERATOR(pg_catalog.>) interval '1 minute') OVER w AS run
                  FROM (SELECT *, at OPERATOR(pg_catalog.-) pg_catalog.lag(at) OVER w AS pause
                      FROM ({verifies}) x {window}) v {window}) r
         GROUP BY db_user, owner_id, secret_names, run HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) 5) f
    ORDER BY n DESC, at{limited}
    """  # noqa: S608 - columns of ours
    rows = [dict(row) for row in await connection.fetch(query, *asked.values)]
    await settle(connection, source)
    count = rows[0]["runs"] if rows else 0
    for row in rows:
        del row["runs"]
    return Table(rows, Count(count))
