"""Accesses by secret, and which a login used for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from secretproxy.audit.counting.accesses import NAMES_ALL, NAMES_FIRST, NAMES_NONE, Accesses, Table
from secretproxy.audit.counting.kept import ADDED_UP, Kept, groups_of_secrets, verified_owners
from secretproxy.audit.counting.verifies import MOST_LEFT
from secretproxy.audit.filters import EQUAL, Filter
from secretproxy.audit.review import (
    LOG,
    Count,
    Question,
    conditions_of,
    renumbered,
)

# The names of such a group `x`.
_NAMES_AGAIN = f"""CASE WHEN x.names IS NULL THEN ARRAY[x.name]
    WHEN x.name IS NULL AND x.names {EQUAL} {NAMES_NONE} THEN NULL ELSE x.names END"""

# What an earlier group `e` has alike with a group `x` of the same secret and login. All but the last is hashed.
_SAME_GROUP = f"""e.owner_id {EQUAL} x.owner_id AND e.db_user {EQUAL} x.db_user
    AND coalesce(e.name, '') {EQUAL} coalesce(x.name, '') AND (e.name IS NULL) {EQUAL} (x.name IS NULL)
    AND (e.names {EQUAL} x.names OR (e.names IS NULL AND x.names IS NULL))"""


# Of so few rows, earlier uses of their secrets are looked up one by one; all earlier rows are read where that takes too
# long, as for an owner of millions of rows.
_FEW, _LOOKING_UP_MS = 5000, 1000


async def count_secrets(connection: Any, source: Accesses, limit: int | None) -> tuple[Table, Table, list[Any] | None]:
    """Accesses by secret, and secrets that a user used for the first time, as far as the log goes back.

    Gives also the owners of the secrets that a user may have verified often, None if they are not known.
    """
    if source.wanted.since is None or source.rows > _FEW:
        asked = _of_secrets(source, limit, looked_up=False)
        rows = await connection.fetch(asked.sql, *asked.values)
        owners = [row["owner_id"] for row in rows if row["part"] == 5]
        return *_secret_tables(rows), owners if source.many and len(owners) <= MOST_LEFT else None
    before = await connection.fetchval("SELECT pg_catalog.current_setting('statement_timeout')")
    try:
        async with connection.transaction():
            await connection.execute(
                "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"
                f" SET LOCAL statement_timeout = {_LOOKING_UP_MS:d}"
            )
            asked = _of_secrets(source, limit, looked_up=True)
            tables = _secret_tables(await connection.fetch(asked.sql, *asked.values))
            await connection.execute("SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on")
            await connection.execute(f"SET LOCAL statement_timeout = '{before}'")
            return *tables, None
    except asyncpg.QueryCanceledError:
        asked = _of_secrets(source, limit, looked_up=False)
        return *_secret_tables(await connection.fetch(asked.sql, *asked.values)), None


async def count_secrets_kept(
    connection: Any, kept: Kept, newer: Accesses, older: Accesses, limit: int | None
) -> tuple[Table, Table, list[Any] | None]:
    """Gives the same of the whole log, of sums that are kept: `newer` are the accesses behind them, `older` those
    before that had not ended."""
    parts = [kept.groups]
    if kept.open:
        parts.append(groups_of_secrets(older, verified=False, only=kept.only_open()))
    asked = _of_secrets(newer, limit, looked_up=False, summed=parts)
    tables = _secret_tables(await connection.fetch(asked.sql, *asked.values))
    return *tables, await verified_owners(connection, kept, newer, older)


def _of_secrets(source: Accesses, limit: int | None, *, looked_up: bool, summed: Sequence[Question] = ()) -> Question:
    """Gives the query for the lines of both tables: earlier uses are looked up one by one, or all of them read.

    `summed` gives groups of all that is earlier, so that nothing earlier is looked for.
    """
    # Long because it is one statement of SQL.
    asked = groups_of_secrets(source, verified=source.many and not looked_up and not summed)
    groups, values = asked.sql, list(asked.values)
    for part in summed:
        groups += f" UNION ALL {renumbered(part.sql, len(values))}"
        values += part.values
    if summed:
        groups = ADDED_UP.format(parts=groups)
    earlier = ""
    if source.wanted.since is not None and not summed:
        values.append(source.wanted.since)
        # Of the keys of a group nothing may be narrowed down but by what the groups themselves have.
        wanted = source.wanted
        keys = Filter(owner=wanted.owner, secret=wanted.secret, user=wanted.user, encoding=wanted.encoding)
        where, more = conditions_of(keys.conditions(), len(values))
        since = f"${len(values)}"
        values += more
        earlier = f"""SELECT a.owner_id, {NAMES_FIRST} AS name, {NAMES_ALL} AS names, a.db_user FROM {LOG}
            WHERE a.event {EQUAL} ANY (ARRAY['attempt', 'access', 'call', 'direct']::pg_catalog.text[])
              AND a.owner_id IS NOT NULL
              AND a.secret_names IS NOT NULL
              AND a.at OPERATOR(pg_catalog.<) {since}{where}"""  # noqa: S608
    same = _SAME_GROUP
    if looked_up:
        same = f"a.owner_id {EQUAL} x.owner_id AND a.db_user {EQUAL} x.db_user"
        same += f" AND a.secret_names {EQUAL} {_NAMES_AGAIN}"
    used = f" AND NOT EXISTS (SELECT FROM earlier e WHERE {same})"
    if looked_up:
        used = f" AND NOT EXISTS ({earlier} AND {same})"
    named = f"(x.names IS NULL OR x.name IS NOT NULL OR x.names OPERATOR(pg_catalog.<>) {NAMES_NONE})"
    new = f"x.owner_id IS NOT NULL AND {named}{used if earlier else ''}"
    before = f", earlier AS MATERIALIZED ({earlier} GROUP BY 1, 2, 3, 4)" if earlier and not looked_up else ""
    # What several ways to the rows have found is put together.
    first_of = "SELECT x.owner_id, x.name, x.names, x.db_user, x.n, x.first"
    if " UNION ALL " in groups and not summed:
        first_of = (
            "SELECT x.owner_id, x.name, x.names, x.db_user, pg_catalog.sum(x.n)::bigint AS n,"
            " pg_catalog.min(x.first) AS first"
        )
        new += " GROUP BY 1, 2, 3, 4"
    limited = "" if limit is None else f" LIMIT {limit:d}"
    query = f"""
    WITH g AS MATERIALIZED (SELECT s.* FROM ({groups}) s){before},
         secrets AS MATERIALIZED (SELECT g.owner_id, g.name, g.names, pg_catalog.sum(g.n)::bigint AS n,
             pg_catalog.max(g.latest) AS latest
                                   FROM g GROUP BY 1, 2, 3),
         new AS MATERIALIZED ({first_of} FROM g x WHERE {new})
    (SELECT 1 AS part, x.owner_id, {_NAMES_AGAIN} AS secret_names, NULL AS db_user, x.n, x.latest AS at
       FROM secrets x ORDER BY n DESC, secret_names, owner_id{limited})
    UNION ALL (SELECT 2, x.owner_id, {_NAMES_AGAIN} AS secret_names, x.db_user, x.n, x.first
       FROM new x ORDER BY first DESC, db_user, secret_names{limited})
    UNION ALL (SELECT 3, NULL, NULL, NULL, pg_catalog.count(*), NULL FROM secrets)
    UNION ALL (SELECT 4, NULL, NULL, NULL, pg_catalog.count(*), NULL FROM new)
    UNION ALL (SELECT DISTINCT 5, v.owner_id, NULL::pg_catalog.text[], NULL, '0'::bigint, NULL::pg_catalog.timestamptz
       FROM (SELECT g.owner_id, pg_catalog.sum(g.verifies) AS n, pg_catalog.bit_or(g.of_59) AS of_59,
                    pg_catalog.bit_or(g.of_61) AS of_61, pg_catalog.bit_or(g.of_63) AS of_63
               FROM g WHERE g.verifies OPERATOR(pg_catalog.>) 0 GROUP BY g.owner_id, g.name, g.names, g.db_user) v
      WHERE v.n OPERATOR(pg_catalog.>=) 5
        AND (pg_catalog.bit_count(v.of_59::pg_catalog.bit(64)) OPERATOR(pg_catalog.+) 3) OPERATOR(pg_catalog.<=) v.n
        AND (pg_catalog.bit_count(v.of_61::pg_catalog.bit(64)) OPERATOR(pg_catalog.+) 3) OPERATOR(pg_catalog.<=) v.n
        AND (pg_catalog.bit_count(v.of_63::pg_catalog.bit(64)) OPERATOR(pg_catalog.+) 3) OPERATOR(pg_catalog.<=) v.n
      LIMIT {MOST_LEFT + 1:d})
    """  # noqa: S608 - columns of ours
    return Question(query, values)


def _secret_tables(rows: list[Any]) -> tuple[Table, Table]:
    secrets = [
        {"owner_id": row["owner_id"], "secret_names": row["secret_names"], "n": row["n"], "latest": row["at"]}
        for row in rows
        if row["part"] == 1
    ]
    first = [
        {
            "at": row["at"],
            "db_user": row["db_user"],
            "owner_id": row["owner_id"],
            "secret_names": row["secret_names"],
            "n": row["n"],
        }
        for row in rows
        if row["part"] == 2
    ]
    counts = {row["part"]: Count(row["n"]) for row in rows if row["part"] > 2}
    return Table(secrets, counts[3]), Table(first, counts[4])
