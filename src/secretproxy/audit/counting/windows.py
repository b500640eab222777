"""Bursts: many different secrets in a short time."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from secretproxy.audit.counting.accesses import (
    NAMES_ALL,
    NAMES_FIRST,
    Accesses,
    Progress,
    Table,
    ignore,
    looked_at,
    settle,
    stretch,
)
from secretproxy.audit.filters import EQUAL, Filter
from secretproxy.audit.review import (
    LOG,
    VAGUE,
    Count,
    Question,
    conditions_of,
    renumbered,
)
from secretproxy.config import ConfigError

# So many rows of which nearly each is a group of its own are grouped in memory by one process; more are cut into
# slices, so many at most.
SLICE, MOST_SLICES = 200_000, 64
# What tells secrets apart.
_SECRET = f"a.owner_id, {NAMES_FIRST} AS name, {NAMES_ALL} AS names"


async def _in_slices(connection: Any, source: Accesses, length: float) -> list[Filter]:
    """Gives the filter in stretches of time that begin at multiples of `length` seconds, of few enough rows to be
    hashed in memory. The first and the last have no bound that the filter does not have."""
    wanted, count = source.wanted, min(source.rows // SLICE, MOST_SLICES)
    if count < 2:
        return [wanted]
    where, values = conditions_of(Filter(since=wanted.since, until=wanted.until).conditions(), 0)
    query = f"SELECT pg_catalog.min(a.at) AS first, pg_catalog.max(a.at) AS last FROM {LOG} WHERE true{where}"  # noqa: S608
    spans = await connection.fetchrow(query, *values)
    if spans["first"] is None:
        return [wanted]
    first, last = spans["first"].timestamp(), spans["last"].timestamp()
    step = max(1, math.ceil((last - first) / count / length))
    begin = math.floor(first / length)
    edges = [
        datetime.fromtimestamp(place * length, UTC)
        for place in range(begin + step, math.floor(last / length) + 1, step)
    ]
    bounds = [wanted.since, *edges, wanted.until]
    return [wanted.but(since=since, until=until) for since, until in pairwise(bounds)]


def _together(parts: list[Question]) -> Question:
    """Gives one query for the rows of several, each of which one process answers."""
    texts: list[str] = []
    values: list[Any] = []
    for part in parts:
        texts.append(f"({renumbered(part.sql, len(values))})")
        values += part.values
    return Question(" UNION ALL ".join(texts), values)


async def bursts(
    connection: Any,
    wanted: Filter,
    *,
    window: timedelta,
    at_least: int,
    limit: int | None,
    progress: Progress = ignore,
) -> Table:
    """Stretches of `window` in which a login used `at_least` so many different secrets, with what it uses in such a
    time usually.

    Secrets are counted in halves of such a stretch first, then those that two neighbours have in common once.
    """
    half = window.total_seconds() / 2
    if wanted.needs_outcome:
        raise ConfigError("bursts are of attempts, whatever their outcome: leave out --outcome and --jwt-user")
    source = await looked_at(connection, wanted)
    async with connection.transaction(isolation="repeatable_read"):
        await settle(connection, source)
        progress("secrets by login and time")
        slices = await _in_slices(connection, source, half)
        # Names are slow to sort: groups of them are hashed. One process does all of a slice.
        await connection.execute("SET LOCAL enable_sort = off; SET LOCAL parallel_tuple_cost = 0.1")
        found = await _near_bursts(connection, slices, half, at_least, vague=False)
        # Attempts that do not show their secret are seldom: calls that stand for them are looked for if there are any.
        vague = found is None
        near, usual = found or await _near_bursts(connection, slices, half, at_least, vague=True) or ([], {})
        if not near:
            return Table([], Count(0))
        progress("what was used in such a time")
        rows = await _windows(connection, slices, near, half, at_least, vague, limit)
    count = rows[0]["found"] if rows else 0
    return Table(
        [
            {**{name: row[name] for name in ("at", "until", "db_user", "secrets", "n")}, "usual": usual[row["db_user"]]}
            for row in rows
        ],
        Count(count),
    )


def _slice(wanted: Filter, vague: bool) -> Accesses:
    source = Accesses(wanted)
    source.vague = vague
    return source


async def _near_bursts(
    connection: Any, slices: list[Filter], half: float, at_least: int, *, vague: bool
) -> tuple[list[tuple[str, int]], dict[str, float]] | None:
    """Gives logins and halves that have with the next one `at_least` so many secrets, if none is the same; each login's
    median of a half. Unless `vague`: None if there are vague attempts."""
    parts = []
    for wanted in slices:
        columns = f"a.db_user, {stretch(half)} AS bucket, {_SECRET}"
        if vague:
            asked = _slice(wanted, vague).query(f"{columns}, false AS vague", group=" GROUP BY 1, 2, 3, 4, 5")
        else:
            columns += f", pg_catalog.bool_or({VAGUE}) AS vague"
            asked = _slice(wanted, vague).query(columns, group=" GROUP BY 1, 2, 3, 4, 5", kind="any")
        text = f"""SELECT d.db_user, d.bucket, pg_catalog.count(*) AS secrets, pg_catalog.bool_or(d.vague) AS vague
                     FROM ({asked.sql}) d GROUP BY 1, 2"""  # noqa: S608 - columns of ours
        parts.append(Question(text, asked.values))
    asked = _together(parts)
    query = f"""
    WITH halves AS MATERIALIZED (SELECT h.db_user, h.bucket, h.secrets, h.vague FROM ({asked.sql}) h),
         near AS (SELECT db_user, bucket, secrets,
                         CASE WHEN pg_catalog.lead(bucket) OVER w {EQUAL} (bucket OPERATOR(pg_catalog.+) 1)
                              THEN pg_catalog.lead(secrets) OVER w ELSE 0 END AS following
                    FROM halves WINDOW w AS (PARTITION BY db_user ORDER BY bucket)),
         wanted AS MATERIALIZED (SELECT n.db_user, n.bucket FROM near n
               WHERE n.secrets OPERATOR(pg_catalog.+) n.following OPERATOR(pg_catalog.>=) {at_least:d}
                 AND n.db_user IS NOT NULL)
    SELECT w.db_user, w.bucket, NULL::pg_catalog.float8 AS usual, false AS vague FROM wanted w
    UNION ALL
    SELECT NULL, NULL, NULL, true WHERE EXISTS (SELECT FROM halves h WHERE h.vague)
    UNION ALL
    SELECT h.db_user, NULL,
           pg_catalog.round((pg_catalog.percentile_cont(0.5)
               WITHIN GROUP (ORDER BY h.secrets))::numeric, 1)::pg_catalog.float8, false
      FROM halves h WHERE h.db_user {EQUAL} ANY (SELECT db_user FROM wanted) GROUP BY 1
    """  # noqa: S608 - columns of ours
    near, usual = [], {}
    for row in await connection.fetch(query, *asked.values):
        if row["vague"]:
            return None
        if row["bucket"] is None:
            usual[row["db_user"]] = row["usual"]
        else:
            near.append((row["db_user"], row["bucket"]))
    return near, usual


async def _windows(
    connection: Any,
    slices: list[Filter],
    near: list[tuple[str, int]],
    half: float,
    at_least: int,
    vague: bool,
    limit: int | None,
) -> list[Any]:
    """Gives the bursts that begin at these logins and halves."""
    parts = []
    for wanted in slices:
        first = None if wanted.since is None else wanted.since.timestamp() / half
        last = None if wanted.until is None else wanted.until.timestamp() / half
        within = [
            one for one in near if (first is None or one[1] >= math.floor(first)) and (last is None or one[1] < last)
        ]
        if not within:
            continue
        # Of the last half of this slice the next one is in another.
        until = wanted.until if wanted is slices[-1] else wanted.until and wanted.until + timedelta(seconds=half)
        if until is not None and slices[-1].until is not None:
            until = min(until, slices[-1].until)
        asked = _slice(wanted.but(until=until), vague).query(f"a.db_user, {stretch(half)} AS bucket, {_SECRET}, a.at")
        values = [*asked.values, [user for user, _ in within] * 2, [place for _, place in within] * 2]
        values.append([place + later for later in (0, 1) for _, place in within])
        users, places, halves = (len(values) - back for back in (2, 1, 0))
        text = f"""SELECT s.db_user, s.bucket, pg_catalog.count(*) AS secrets, pg_catalog.sum(s.n)::bigint AS n,
                          pg_catalog.min(s.first) AS at, pg_catalog.max(s.last) AS until
            FROM (SELECT w.db_user, w.bucket, pg_catalog.count(*) AS n, pg_catalog.min(d.at) AS first,
                         pg_catalog.max(d.at) AS last
                    FROM ROWS FROM (pg_catalog.unnest(${users}::pg_catalog.text[]),
                                    pg_catalog.unnest(${places}::bigint[]),
                                    pg_catalog.unnest(${halves}::bigint[])) AS w (db_user, bucket, half)
                    JOIN ({asked.sql}) d ON d.db_user {EQUAL} w.db_user AND d.bucket {EQUAL} w.half
                   GROUP BY w.db_user, w.bucket, d.owner_id, d.name, d.names) s
           GROUP BY 1, 2 HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) {at_least:d}"""  # noqa: S608 - columns of ours
        parts.append(Question(text, values))
    asked = _together(parts)
    limited = "" if limit is None else f" LIMIT {limit:d}"
    query = f"""SELECT w.at, w.until, w.db_user, w.secrets, w.n, pg_catalog.count(*) OVER () AS found
                  FROM ({asked.sql}) w ORDER BY w.secrets DESC, w.at, w.db_user{limited}"""  # noqa: S608 - columns of ours
    return list(await connection.fetch(query, *asked.values))
