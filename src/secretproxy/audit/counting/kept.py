"""Sums that the database keeps of the log: read where they fit its rows, so that only the newest rows are counted.

The database makes them (secretproxy.keep_sums). They are a copy, so nothing here believes them: the number of the rows
that they are of, and a sum of their times, is compared with the log first, and so is what they add up to. Prints
nothing; may import asyncpg."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from secretproxy.audit.counting.accesses import (
    LOOKED_UP,
    NAMES_ALL,
    NAMES_FIRST,
    QUARTER,
    Accesses,
    looked_at,
    settle,
    uuids,
)
from secretproxy.audit.counting.outcomes import BY_QUARTER, Group, joined_cube, summed
from secretproxy.audit.counting.verifies import (
    CLOSE,
    MOST_OWNERS,
    NOT_VERIFIED,
    STRETCH,
    VERIFIED,
    VERIFIES,
    verified_often,
)
from secretproxy.audit.filters import BELOW, EQUAL, Filter
from secretproxy.audit.review import LOG, SHOWN_BY_CALL, VAGUE, Question

# What the sums count and how: those of another form are left alone.
FORM = 1
# With more accesses that have not ended, these are not looked up one by one.
MOST_OPEN = 5000
# So many rows behind the sums are looked up one by one, to see whether one of them changes what was counted.
MOST_LOOKED_UP = 500_000
# The months first, then their parts.
SUMS = ("sums", "sums_users", "sums_hours", "sums_secrets", "sums_open")
# Nothing but tables of PostgreSQL's own types, as they were made.
_READABLE = """SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1::pg_catalog.text[])
       AND pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT') AND NOT c.relhasrules
           AND NOT c.relrowsecurity AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_attribute t JOIN pg_catalog.pg_type y ON y.oid OPERATOR(pg_catalog.=) t.atttypid
             JOIN pg_catalog.pg_namespace s ON s.oid OPERATOR(pg_catalog.=) y.typnamespace
            WHERE t.attrelid OPERATOR(pg_catalog.=) c.oid AND t.attnum OPERATOR(pg_catalog.>) 0 AND NOT t.attisdropped
              AND (s.nspname OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.name OR t.attgenerated
                   OPERATOR(pg_catalog.<>) ''::pg_catalog."char")))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name AND c.relkind OPERATOR(pg_catalog.=) 'r'
   AND c.relname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])"""
_MONTHS = f"""
SELECT s.month, s.upto, s.known, s.counted, s.times, s.ended, s.accesses, s.open,
       CASE WHEN s.leans THEN s.month OPERATOR(pg_catalog.-) interval '24 hours' ELSE s.month END AS begins,
       least((s.month AT TIME ZONE 'UTC' OPERATOR(pg_catalog.+) interval '1 month') AT TIME ZONE 'UTC',
             s.known) AS ends,
       s.form {EQUAL} {FORM} AND s.rewritten {EQUAL} (
           SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_updated(i.inhrelid)), '0')::bigint
             FROM pg_catalog.pg_inherits i
            WHERE i.inhparent {EQUAL} 'secretproxy.access_log'::pg_catalog.regclass::pg_catalog.oid) AS fits
  FROM ONLY secretproxy.sums s ORDER BY s.month
"""  # noqa: S608 - constant text
_EVIDENCE = """SELECT '{place}'::bigint AS place, pg_catalog.count(*) AS counted,
       coalesce(pg_catalog.bit_xor((pg_catalog.date_part('epoch', a.at)
           OPERATOR(pg_catalog.*) '1000000'::pg_catalog.float8)::bigint), '0') AS times
  FROM secretproxy.access_log a
 WHERE a.at OPERATOR(pg_catalog.>=) ${first} AND a.at OPERATOR(pg_catalog.<) ${upto}"""
_BETWEEN = """EXISTS (SELECT FROM secretproxy.access_log a
    WHERE a.at OPERATOR(pg_catalog.>=) ${first} AND a.at OPERATOR(pg_catalog.<) ${upto})"""
# Of one month, or of all.
_OF_MONTH = f"($1::pg_catalog.timestamptz IS NULL OR s.month {EQUAL} $1)"
_USERS = f"""SELECT s.db_user, s.role, s.accessed_by, pg_catalog.sum(s.n)::bigint AS n,
       pg_catalog.max(s.latest) AS latest
  FROM ONLY secretproxy.sums_users s WHERE {_OF_MONTH} GROUP BY 1, 2, 3"""  # noqa: S608 - constant text
_QUARTER = f"""pg_catalog.to_timestamp((s.quarter OPERATOR(pg_catalog.*) '{QUARTER}'::bigint)::pg_catalog.float8)"""
_HOURS = f"""SELECT s.operation, s.outcome, pg_catalog.date_part('hour', {_QUARTER})::int AS hour,
       pg_catalog.sum(s.n)::bigint AS n,
       pg_catalog.bool_and((pg_catalog.date_part('timezone', {_QUARTER})::int OPERATOR(pg_catalog.%) {QUARTER})
           {EQUAL} 0) AS whole
  FROM ONLY secretproxy.sums_hours s GROUP BY 1, 2, 3"""  # noqa: S608 - constant text
_QUARTERS = f"""SELECT s.operation, s.outcome, s.quarter, pg_catalog.sum(s.n)::bigint AS n
  FROM ONLY secretproxy.sums_hours s WHERE s.month {EQUAL} $1 GROUP BY 1, 2, 3"""  # noqa: S608 - constant text
# Parts of no sum, which would be counted and compared with nothing.
_OF_NO_SUM = """EXISTS (SELECT FROM ONLY secretproxy.{table} s WHERE NOT EXISTS (
    SELECT FROM ONLY secretproxy.sums m WHERE m.month OPERATOR(pg_catalog.=) s.month))"""
_SECRETS = """SELECT coalesce(pg_catalog.sum(s.n), '0')::bigint AS n,
       coalesce(pg_catalog.bool_or(s.owner_id IS NULL OR s.secret_names IS NULL), false) AS vague
  FROM ONLY secretproxy.sums_secrets s"""
_OPEN = f"SELECT s.id, s.at FROM ONLY secretproxy.sums_open s LIMIT {MOST_OPEN + 1:d}"  # noqa: S608 - constant text
# Rows behind the sums that say something else of what is counted in them: a second outcome, the first call of what was
# vague.
_CHANGED = f"""SELECT EXISTS (SELECT
  FROM secretproxy.access_log o
  JOIN {LOG} ON a.session_id {EQUAL} o.session_id AND a.statement_no {EQUAL} o.statement_no
 WHERE o.event {EQUAL} ANY (ARRAY['outcome', 'call']::pg_catalog.text[]) AND o.at OPERATOR(pg_catalog.>=) $1
   AND a.event {EQUAL} ANY (ARRAY['attempt', 'access', 'call', 'refusal']::pg_catalog.text[])
   AND a.at OPERATOR(pg_catalog.<) $1
   AND CASE WHEN o.event {EQUAL} 'outcome' THEN
            o.function IS NULL OR a.event OPERATOR(pg_catalog.<>) 'attempt'
            OR (o.function {EQUAL} a.function
                AND (o.owner_id {EQUAL} a.owner_id OR (o.owner_id IS NULL AND a.owner_id IS NULL))
                AND (o.secret_names {EQUAL} a.secret_names OR (o.secret_names IS NULL AND a.secret_names IS NULL)))
       ELSE {VAGUE} AND pg_catalog.split_part(o.function, '(', 1) {EQUAL} pg_catalog.split_part(a.function, '(', 1) END
   AND NOT EXISTS (SELECT FROM ONLY secretproxy.sums_open p WHERE p.id {EQUAL} a.id)
   AND NOT ({VAGUE} AND {SHOWN_BY_CALL.format(vague=f"c.at {BELOW} $1 AND ")}))"""  # noqa: S608 - constant text
# As the groups of the log's rows are made, a secret and login several times; see `groups_of_secrets`.
_SUMMED = f"""SELECT a.owner_id, {NAMES_FIRST} AS name, {NAMES_ALL} AS names, a.db_user, a.n, a.latest,
    a.earliest AS first, {NOT_VERIFIED} FROM ONLY secretproxy.sums_secrets a"""  # noqa: S608 - constant text
ADDED_UP = f"""SELECT x.owner_id, x.name, x.names, x.db_user,
    pg_catalog.sum(x.n)::bigint AS n, pg_catalog.max(x.latest) AS latest, pg_catalog.min(x.first) AS first,
    {NOT_VERIFIED} FROM ({{parts}}) x GROUP BY 1, 2, 3, 4"""  # noqa: S608 - constant text
# Owners of secrets that a login verified so often within five minutes that it may be five times in a row.
_VERIFIED = f"""SELECT DISTINCT s.owner_id FROM ONLY secretproxy.sums_secrets s
 WHERE s.verifies OPERATOR(pg_catalog.>=) {CLOSE} LIMIT {MOST_OWNERS + 1:d}"""  # noqa: S608 - constant text
# Groups of secrets that two counts do not have alike.
_UNLIKE = """SELECT pg_catalog.count(*) FROM (
    SELECT FROM (SELECT k.*, '1'::bigint AS side FROM ({kept}) k
        UNION ALL SELECT l.*, '-1'::bigint FROM ({counted}) l) x
     GROUP BY x.owner_id, x.name, x.names, x.db_user
    HAVING pg_catalog.count(*) OPERATOR(pg_catalog.<>) 2
        OR pg_catalog.sum(x.n OPERATOR(pg_catalog.*) x.side) OPERATOR(pg_catalog.<>) 0
        OR pg_catalog.min(x.latest) OPERATOR(pg_catalog.<>) pg_catalog.max(x.latest)
        OR pg_catalog.min(x.first) OPERATOR(pg_catalog.<>) pg_catalog.max(x.first)) u"""
# Secrets that a login verified often of which the sums do not say so.
_NOT_VERIFIED_OFTEN = """SELECT EXISTS (
    SELECT FROM (SELECT v.owner_id, v.secret_names, v.db_user FROM ({verified}) v
                  GROUP BY v.owner_id, v.secret_names, v.db_user, v.stretch
                 HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) {close}) a
     WHERE NOT EXISTS (SELECT FROM ONLY secretproxy.sums_secrets s
        WHERE s.verifies OPERATOR(pg_catalog.>=) {close}
          AND (s.owner_id OPERATOR(pg_catalog.=) a.owner_id OR (s.owner_id IS NULL AND a.owner_id IS NULL))
          AND (s.secret_names OPERATOR(pg_catalog.=) a.secret_names
               OR (s.secret_names IS NULL AND a.secret_names IS NULL))
          AND (s.db_user OPERATOR(pg_catalog.=) a.db_user OR (s.db_user IS NULL AND a.db_user IS NULL))))"""


@dataclass(frozen=True, slots=True)
class Kept:
    """Sums of the accesses before `upto` that had ended by then."""

    upto: datetime
    by_user: list[Group]
    by_hour: list[Group]
    # Accesses before `upto` that had not ended: their ids and times.
    open: list[tuple[Any, datetime]]
    # Whether there may be attempts among them that do not show which secret they are for.
    vague: bool

    @property
    def groups(self) -> Question:
        """Gives the query for the groups of secrets."""
        return Question(f"({_SUMMED})", [])

    def only_open(self) -> str:
        """Gives SQL that leaves of the log the accesses that had not ended."""
        times = ", ".join(f"'{at.isoformat()}'" for at in sorted({at for _, at in self.open}))
        ids = uuids([found for found, _ in self.open])
        return f" AND a.at {EQUAL} ANY (ARRAY[{times}]::pg_catalog.timestamptz[]) AND a.id {EQUAL} ANY ({ids})"


def answers(wanted: Filter) -> bool:
    """Says whether sums can answer a filter: one that leaves nothing out."""
    return wanted.but(encoding="UTF8") == Filter()


async def kept_sums(connection: Any, wanted: Filter) -> Kept | None:
    """Gives the sums that the database keeps, if they answer the filter and fit the log's rows; else None.

    Wants a transaction that sees the same rows throughout.
    """
    if not answers(wanted) or not await connection.fetchval(_READABLE, list(SUMS)):
        return None
    months = await connection.fetch(_MONTHS)
    if not months or not _whole(months) or not await _fit(connection, months):
        return None
    upto = months[-1]["known"]
    found = await _added_up(connection, months, upto)
    if found is None or await _changed(connection, upto):
        return None
    return found


def _whole(months: list[Any]) -> bool:
    """Says whether each month is counted to its end, the last one as far as the log was known, and none twice."""
    known = {month["known"] for month in months}
    apart = all(one["upto"] <= other["month"] for one, other in pairwise(months))
    return len(known) == 1 and apart and all(month["fits"] and month["upto"] == month["ends"] for month in months)


async def _fit(connection: Any, months: list[Any]) -> bool:
    """Says whether the log has the rows that the sums are of, and no other before their end."""
    values: list[Any] = []
    parts = []
    for place, month in enumerate(months):
        values += [month["begins"], month["upto"]]
        parts.append(_EVIDENCE.format(place=place, first=len(values) - 1, upto=len(values)))
    for row in await connection.fetch(" UNION ALL ".join(parts), *values):
        month = months[row["place"]]
        if (row["counted"], row["times"]) != (month["counted"], month["times"]):
            return False
    gaps: list[tuple[Any, Any]] = [(None, months[0]["month"])]
    gaps += [(one["upto"], other["month"]) for one, other in pairwise(months)]
    gaps.append((months[-1]["upto"], months[-1]["known"]))
    for first, upto in gaps:
        if first is None:
            other = f"SELECT EXISTS (SELECT FROM {LOG} WHERE a.at OPERATOR(pg_catalog.<) $1)"  # noqa: S608 - constant text
            if await connection.fetchval(other, upto):
                return False
        elif first < upto and await connection.fetchval(f"SELECT {_BETWEEN.format(first=1, upto=2)}", first, upto):
            return False
    return True


async def _added_up(connection: Any, months: list[Any], upto: datetime) -> Kept | None:
    """Gives the sums, if they add up to what was counted, and the hours of this machine's zone can be told of them."""
    users = await connection.fetch(_USERS, None)
    hours = await connection.fetch(_HOURS)
    secrets = await connection.fetchrow(_SECRETS)
    still_open = await connection.fetch(_OPEN)
    ended = sum(month["ended"] for month in months)
    if (
        sum(row["n"] for row in users) != ended
        or sum(row["n"] for row in hours) != ended
        or secrets["n"] != sum(month["accesses"] for month in months)
        or len(still_open) != sum(month["open"] for month in months)
        or len(still_open) > MOST_OPEN
        or not all(row["whole"] for row in hours)
    ):
        return None
    return Kept(
        upto,
        [
            Group(row["db_user"], row["role"], row["accessed_by"], None, "ok", 0, row["n"], row["latest"])
            for row in users
        ],
        [Group(None, None, None, row["operation"], row["outcome"], row["hour"], row["n"], upto) for row in hours],
        [(row["id"], row["at"]) for row in still_open],
        secrets["vague"],
    )


async def verified_owners(connection: Any, kept: Kept, newer: Accesses, older: Accesses) -> list[Any] | None:
    """Gives the owners of all secrets that may have been verified five times in a row, and of others; None if these
    are too many to tell. A step of the sums has all or nothing of five minutes."""
    owners = {row["owner_id"] for row in await connection.fetch(_VERIFIED)}
    found = await verified_often(connection, newer)
    if kept.open:
        asked = older.query("a.owner_id", only=f"{VERIFIES}{kept.only_open()}", kind="any")
        owners |= {row["owner_id"] for row in await connection.fetch(asked.sql, *asked.values)}
    if found is None or len(owners | set(found)) > MOST_OWNERS:
        return None
    return list(owners | set(found))


def groups_of_secrets(source: Accesses, *, verified: bool, only: str = "") -> Question:
    """Gives the query for the accesses of each secret and login."""
    columns = (
        f"a.owner_id, {NAMES_FIRST} AS name, {NAMES_ALL} AS names, a.db_user,"
        " pg_catalog.count(*) AS n, pg_catalog.max(a.at) AS latest, pg_catalog.min(a.at) AS first"
        f", {VERIFIED if verified else NOT_VERIFIED}"
    )
    # Without vague ones there is nothing to leave out, and only the beginning of other rows has to be read.
    return source.query(columns, only=only, group=" GROUP BY 1, 2, 3, 4", kind="" if source.vague else "any")


async def unlike(connection: Any) -> tuple[list[str], bool]:
    """Counts again what sums are of; gives what they have that the log has not, and whether they are used at all.

    Sums that do not fit the rows any more are nobody's fault: a row came late. Nothing uses them.
    """
    found: list[str] = []
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute("SET LOCAL timezone = 'UTC'")
        kept = await kept_sums(connection, Filter())
        if kept is None:
            return found, False
        of_no_sum = " OR ".join(_OF_NO_SUM.format(table=table) for table in SUMS[1:])
        if await connection.fetchval(f"SELECT {of_no_sum}"):
            found.append("the kept sums have parts of a month that is none of theirs")
        some = f" AND ({kept.only_open().removeprefix(' AND ')}) IS NOT TRUE" if kept.open else ""
        for month in await connection.fetch(_MONTHS):
            source = await looked_at(connection, Filter(since=month["month"], until=month["upto"]))
            await settle(connection, source)
            cube = await joined_cube(connection, source, some)
            users = {(row["db_user"], row["role"], row["accessed_by"]): (row["n"], row["latest"])
                     for row in await connection.fetch(_USERS, month["month"])}  # fmt: skip
            quarters = {(row["operation"], row["outcome"], str(row["quarter"])): row["n"]
                        for row in await connection.fetch(_QUARTERS, month["month"])}  # fmt: skip
            named = f"{month['month'].astimezone(UTC):%Y-%m}"
            if users != summed(cube, lambda group: (group.db_user, group.role, group.accessed_by)):
                found.append(f"the kept sums of {named} have other accesses by user than the log")
            cube = await joined_cube(connection, source, some, BY_QUARTER)
            by_hour = summed(cube, lambda group: (group.operation, group.outcome, group.db_user))
            if quarters != {key: n for key, (n, _) in by_hour.items()}:
                found.append(f"the kept sums of {named} have other accesses by hour and outcome than the log")
            asked = groups_of_secrets(source, verified=False, only=some)
            values = [*asked.values, month["month"]]
            of_month = ADDED_UP.format(parts=f"{_SUMMED} WHERE a.month {EQUAL} ${len(values)}")
            counted = ADDED_UP.format(parts=asked.sql)
            if await connection.fetchval(_UNLIKE.format(kept=of_month, counted=counted), *values):
                found.append(f"the kept sums of {named} have other accesses by secret than the log")
            asked = source.query(
                f"a.owner_id, a.secret_names, a.db_user, {STRETCH} AS stretch", only=f"{VERIFIES}{some}", kind="any"
            )
            if await connection.fetchval(_NOT_VERIFIED_OFTEN.format(verified=asked.sql, close=CLOSE), *asked.values):
                found.append(f"the kept sums of {named} have fewer verifies of a secret in a row than the log")
    return found, True


async def _changed(connection: Any, upto: datetime) -> bool:
    """Says whether a row behind the sums changes what is counted in them."""
    newer = Accesses(Filter(since=upto)).query("1", kind="any")
    few = await connection.expected(newer.sql, *newer.values) < MOST_LOOKED_UP
    if few:
        await connection.execute(f"{LOOKED_UP}; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
    found = bool(await connection.fetchval(_CHANGED, upto))
    if few:
        await connection.execute("SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on")
    return found
