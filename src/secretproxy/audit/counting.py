"""Accesses counted: by secret, user, hour and outcome, first uses, bursts, two spans or applications side by side.

A count reads the rows of its time once, several processes at a time where the server lets them, and joins outcomes by
hashing: looking them up one by one takes minutes for a month. Functions take a connection and a Filter and give rows;
they print nothing. May import asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg

from secretproxy.audit.filters import ACCESSED_BY, EQUAL, OPERATIONS, OUTCOME, OUTCOMES, ROLE, Filter, local_zone
from secretproxy.audit.review import (
    ACCESS_EVENTS,
    LOG,
    OUTCOME_OF,
    SET_BACK,
    SHOWN_BY_CALL,
    VAGUE,
    Count,
    Question,
    conditions_of,
    renumbered,
    ways,
)
from secretproxy.config import ConfigError
from secretproxy.connections import FAILURES

# More rows than this are joined by hashing and read by several processes.
MANY = 50_000
# So many rows of which nearly each is a group of its own are grouped in memory by one process; more are cut into
# slices, so many at most.
SLICE, MOST_SLICES = 200_000, 64
# A statement that ends later than this after the chosen time costs a second, wider query.
LATEST_END = timedelta(days=1)
# Three processes at least, where the server has them to give; groups are put together in each before they are handed
# over.
_MEMORY = """SET LOCAL work_mem = '128MB'; SET LOCAL jit = off;
SET LOCAL parallel_setup_cost = 100; SET LOCAL parallel_tuple_cost = 0.001;
SELECT pg_catalog.set_config('max_parallel_workers_per_gather',
           greatest(pg_catalog.current_setting('max_parallel_workers_per_gather')::int, 2)::pg_catalog.text, true)"""
# Of two connections that count at the same time each has half of the processes.
_SHARED = """SELECT pg_catalog.set_config(s.name, (greatest(s.reset_val::int, 2)
                               OPERATOR(pg_catalog./) 2)::pg_catalog.text, true)
  FROM pg_catalog.pg_settings s
 WHERE s.name OPERATOR(pg_catalog.=) 'max_parallel_workers_per_gather'"""
_HASHED = "SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_bitmapscan = off"
LOOKED_UP = "SET LOCAL enable_nestloop = on; SET LOCAL enable_bitmapscan = on"
# Every second row is an outcome: one comparison leaves it out, not four.
_NO_OUTCOME = "a.event OPERATOR(pg_catalog.<>) 'outcome' AND "
NAMES = "pg_catalog.array_to_string(secret_names, ', ', '(null)')"
Progress = Callable[[str], None]


def stretch(seconds: float) -> str:
    """Gives SQL for the number of the stretch of so many seconds that an access is in, counted from 1970."""
    return (
        "pg_catalog.floor(pg_catalog.date_part('epoch', a.at) OPERATOR(pg_catalog./)"
        f" '{seconds!r}'::pg_catalog.float8)::bigint"
    )


def _nothing(text: str) -> None:
    """Ignores progress reports."""


@dataclass(slots=True)
class Table:
    """Lines of one table, the first ones where it is cut, and how many there are."""

    rows: list[dict[str, Any]]
    count: Count


class Accesses:
    """The accesses of a filter as the source of a count."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.many = False
        # About how many rows of the log there are to be counted.
        self.rows = 0
        # Whether there are attempts that do not show which secret they are for.
        self.vague = False
        # Outcomes are looked for until then; None: as long as the log goes.
        self.ends_before: datetime | None = None
        # Whether another connection counts at the same time.
        self.shared = False

    def again(self) -> Accesses:
        """Gives the same accesses, before anything was found of them."""
        found = Accesses(self.wanted)
        found.many, found.rows, found.ends_before = self.many, self.rows, self.ends_before
        return found

    def query(
        self, columns: str, *, outcomes: bool = False, only: str = "", group: str = "", kind: str = ""
    ) -> Question:
        """Selects `columns` of the accesses, with their outcomes as `o`, for the `clear`, the `vague` or `any` ones;
        without `kind`, for both.

        Vague ones that a call stands for are left out, but not of `any`. Raises ConfigError.
        """
        parts: list[str] = []
        values: list[Any] = []
        for source, conditions in ways(self.wanted, walked=False):
            for one in (kind,) if kind else ("clear", "vague") if self.vague else ("clear",):
                text = f"SELECT {columns} FROM {source}"  # noqa: S608 - constant text
                if outcomes:
                    text += OUTCOME_OF
                    for bound, operator in (
                        (self.wanted.since and self.wanted.since - SET_BACK, ">="),
                        (self.ends_before, "<"),
                    ):
                        if bound is not None:
                            values.append(bound)
                            text += f" AND o.at OPERATOR(pg_catalog.{operator}) ${len(values)}"
                where, more = conditions_of(conditions, len(values))
                values += more
                text += f" WHERE {_NO_OUTCOME}{ACCESS_EVENTS}{where}{only}"
                if one == "clear":
                    text += f" AND NOT {VAGUE}"
                elif one == "vague":
                    text += f" AND {VAGUE} AND NOT {SHOWN_BY_CALL.format(vague='')}"
                parts.append(f"({text}{group})")
        return Question(" UNION ALL ".join(parts), values)


async def looked_at(connection: Any, wanted: Filter) -> Accesses:
    """Gives the accesses of a filter, and the best way to count them. Raises ConfigError."""
    source = Accesses(wanted)
    plain = Accesses(wanted.but(outcome=(), jwt_user=None)).query("1", kind="any")
    source.rows = await connection.expected(plain.sql, *plain.values)
    source.many = source.rows > MANY
    if wanted.until is not None:
        source.ends_before = wanted.until + LATEST_END
    return source


async def settle(connection: Any, source: Accesses) -> None:
    """Applies the settings for a count until the end of the transaction."""
    await connection.execute(_MEMORY + ("; " + _HASHED if source.many else ""))
    if source.shared:
        await connection.execute(_SHARED)


async def fetch_counted(connection: Any, query: str, *values: Any) -> list[Any]:
    """Fetches the rows of a count without a filter, with a count's settings."""
    async with connection.transaction():
        await connection.execute(_MEMORY)
        return list(await connection.fetch(query, *values))


async def set_zone(connection: Any) -> None:
    """Hours are those of this machine's time zone."""
    zone, offset = local_zone()
    try:
        await connection.execute(f"SET TIME ZONE '{zone}'")
    except asyncpg.PostgresError:
        await connection.execute(f"SET TIME ZONE INTERVAL '{offset}' HOUR TO MINUTE")


# What has few values as bits of a number, whoever it was as a text, both made below an OFFSET, which the planner does
# not take apart: of each of the two it expects 200, so that every process puts its own groups together. Of plain
# columns it would expect a group a row. As a bigint, for what has to be cast looks to it like a part of the rows, which
# cannot be shared out. A text is quicker to group than an array: mostly there is a login and nothing else.
_APART = "OFFSET '0'::bigint"
_HOUR = "pg_catalog.date_part('hour', a.at)::int"
_NAMED, _VAGUE, _OPERATION, _OUTCOME, _NOT_LOGIN_ALONE = 1 << 5, 1 << 6, 7, 10, 1 << 13


def _coded(text: str, kinds: tuple[str, ...], shift: int) -> str:
    """Gives SQL for the 1-based place of a text in `kinds`, shifted left by a number of bits; 0 for NULL."""
    places = " ".join(f"WHEN {text} {EQUAL} '{kind}' THEN {place << shift}" for place, kind in enumerate(kinds, 1))
    return f"CASE {places} ELSE 0 END"


_WHO = f"""CASE WHEN (g.bits OPERATOR(pg_catalog.&) {_NOT_LOGIN_ALONE}) {EQUAL} 0 THEN ARRAY[g.who]
     ELSE g.who::pg_catalog.text[] END AS who"""


def _one(alone: str, role: str, accessed_by: str, outcome: str, named: str) -> str:
    """Gives SQL for what is counted of an access: who it was, and the bits. `alone` says whether there is neither role
    nor user, `outcome` gives its bits."""
    return f"""a.id, a.at,
    CASE WHEN {alone} THEN a.db_user
         ELSE (ARRAY[a.db_user, {role}, ({accessed_by})::pg_catalog.text])::pg_catalog.text END AS who,
    {_HOUR} OPERATOR(pg_catalog.+) {named}
    OPERATOR(pg_catalog.+) CASE WHEN {alone} THEN 0 ELSE {_NOT_LOGIN_ALONE} END
    OPERATOR(pg_catalog.+) CASE WHEN (a.owner_id IS NULL OR a.secret_names IS NULL) AND a.event {EQUAL} 'attempt'
        THEN {_VAGUE} ELSE 0 END
    OPERATOR(pg_catalog.+) {_coded("a.operation", OPERATIONS, _OPERATION)}
    OPERATOR(pg_catalog.+) {outcome} AS bits"""


_ONE = _one(
    f"{ROLE} IS NULL AND {ACCESSED_BY} IS NULL", ROLE, ACCESSED_BY, _coded(OUTCOME, OUTCOMES, _OUTCOME),
    f"CASE WHEN o.function IS NULL THEN 0 ELSE {_NAMED} END",
)  # fmt: skip
_COUNTED = "pg_catalog.count(*) AS n, pg_catalog.max(g.at) AS latest"


@dataclass(frozen=True, slots=True)
class _Group:
    db_user: str | None
    role: str | None
    accessed_by: Any
    operation: str | None
    outcome: str
    hour: int
    n: int
    latest: datetime


_NEVER = datetime.min.replace(tzinfo=UTC)


def _group(row: Any) -> _Group:
    user, role, jwt = row["who"] if len(row["who"]) > 1 else (row["who"][0], None, None)
    bits = row["bits"]
    operation, outcome = (bits >> _OPERATION) & 7, OUTCOMES[((bits >> _OUTCOME) & 7) - 1]
    return _Group(
        user, role, None if jwt is None else uuid.UUID(jwt), OPERATIONS[operation - 1] if operation else None, outcome,
        bits & 31, row["n"], row["latest"],
    )  # fmt: skip


async def _cube(connection: Any, source: Accesses) -> list[_Group]:
    """Accesses by user, operation, outcome and hour, those left out that a call stands for."""
    if source.many and source.wanted.but(since=None, until=None, encoding="UTF8") == Filter():
        found = await _cube_of_sessions(connection, source)
        if found is not None:
            return found
    return await _joined_cube(connection, source)


async def _joined_cube(connection: Any, source: Accesses, some: str = "") -> list[_Group]:
    """Gives the same, of `some` accesses, by joining each with its outcome.

    The log is read once, and once more for vague attempts and for calls that several outcomes speak for, if there are
    some."""

    async def rows_of(counted: str = _COUNTED, only: str = "", **how: str) -> list[Any]:
        asked = source.query(_ONE, outcomes=True, only=some + only, **how)
        query = f"SELECT {_WHO}, g.bits, {counted} FROM ({asked.sql} {_APART}) g GROUP BY g.who, g.bits"  # noqa: S608
        return list(await connection.fetch(query, *asked.values))

    rows = await rows_of(kind="any")
    source.vague = source.vague or any(row["bits"] & _VAGUE for row in rows)
    found = [_group(row) for row in rows if not row["bits"] & (_NAMED | _VAGUE)]
    if source.vague:
        found += [_group(row) for row in await rows_of(kind="vague") if not row["bits"] & _NAMED]
    if any(row["bits"] & _NAMED for row in rows):
        once = _COUNTED.replace("count(*)", "count(DISTINCT g.id)")
        found += [_group(row) for row in await rows_of(once, only=" AND o.function IS NOT NULL")]
    if source.ends_before is not None and any(group.outcome == "unknown" for group in found):
        # A statement may have ended later than was looked for.
        source.ends_before = None
        return await _joined_cube(connection, source, some)
    return found


# A plain outcome says nothing of its statement but how it ended. In nearly every session of most logs each access has
# one and each such outcome has one access, which two sums show: the numbers of the statements, hashed, are the same on
# both sides. Such a session is counted without joining its rows, and what did not end well is corrected; every other
# session is joined. Other numbers with the same sum are as improbable as two uuids that are the same.
_PLAIN = "a.function IS NULL AND a.role IS NULL AND a.accessed_by IS NULL AND a.outcome IS NOT NULL"
_NUMBER = "pg_catalog.hashint8extended(a.statement_no, '0'::bigint)"
_OF_STATEMENT = f"a.event {EQUAL} ANY (ARRAY['outcome', 'attempt', 'call', 'refusal']::pg_catalog.text[])"
_IN_SESSION = "a.session_id IS NOT NULL AND a.statement_no IS NOT NULL"
_UNEQUAL = f"""pg_catalog.sum(CASE WHEN a.event OPERATOR(pg_catalog.<>) 'outcome'
        THEN OPERATOR(pg_catalog.-) {_NUMBER} WHEN {_PLAIN} THEN {_NUMBER} ELSE 1 END) OPERATOR(pg_catalog.<>) 0"""
# With more of the newest rows that are other outcomes, or with more sessions than this to join, everything is joined.
_LOOKED_AT, _MOST_OTHER, _MOST_SESSIONS = 1000, 0.05, 5000
# An access has its own, which another outcome of its statement replaces: then the session is joined. What nearly every
# row decides is asked first.
_ALONE = f"(a.role IS NULL AND a.accessed_by IS NULL OR a.event {EQUAL} 'attempt')"
_OWN_OUTCOME = _coded("coalesce(a.outcome, 'unknown')", OUTCOMES, _OUTCOME)
_ENDED_ALONE = f"""CASE WHEN a.event {EQUAL} 'access'
    OR NOT ({_IN_SESSION}) AND a.event OPERATOR(pg_catalog.<>) 'direct' THEN {_OWN_OUTCOME} ELSE {1 << _OUTCOME} END"""
_ONE_ALONE = _one(_ALONE, "a.role", "a.accessed_by", _ENDED_ALONE, "0")


async def _cube_of_sessions(connection: Any, source: Accesses) -> list[_Group] | None:
    """Gives the cube of all accesses of a time without joining most of them; None if too few sessions are plain."""
    where, values = conditions_of(source.wanted.conditions(), 0)
    newest = f"""SELECT pg_catalog.avg(CASE WHEN a.event {EQUAL} 'outcome' AND NOT ({_PLAIN}) THEN 1 ELSE 0 END)
                            ::pg_catalog.float8
      FROM (SELECT a.* FROM {LOG} WHERE true{where} ORDER BY a.at DESC LIMIT {_LOOKED_AT:d}) a"""  # noqa: S608 - constant text
    if (await connection.fetchval(newest, *values) or 0) > _MOST_OTHER:
        return None
    # Apart, for to come to so many earlier the planner would read the log by an index of sessions.
    unequal = f"""WITH u AS MATERIALIZED (SELECT a.session_id FROM {LOG} WHERE {_OF_STATEMENT} AND {_IN_SESSION}{where}
GROUP BY a.session_id HAVING {_UNEQUAL}) SELECT u.session_id FROM u LIMIT {_MOST_SESSIONS + 1:d}"""  # noqa: S608 - constant text
    sessions = [row["session_id"] for row in await connection.fetch(unequal, *values)]
    if len(sessions) > _MOST_SESSIONS:
        return None
    joined = f"a.session_id {EQUAL} ANY ({_uuids(sessions)})"
    # As this is written, the server hashes the sessions; NOT (...) it did not before PostgreSQL 15.
    other = f" AND ({joined}) IS NOT TRUE" if sessions else ""
    asked = source.query(_ONE_ALONE, only=other, kind="any")
    query = f"SELECT {_WHO}, g.bits, {_COUNTED} FROM ({asked.sql} {_APART}) g GROUP BY g.who, g.bits"  # noqa: S608
    rows = await connection.fetch(query, *asked.values)
    source.vague = source.vague or any(row["bits"] & _VAGUE for row in rows)
    found = [_group(row) for row in rows if not row["bits"] & _VAGUE]
    await connection.execute(LOOKED_UP)
    found = await _with_failures(connection, source, found, other)
    await settle(connection, source)
    if source.vague:
        # A call may stand for one, so that outcomes of its session were joined; if not, it has an outcome of its own.
        found += await _joined_cube(connection, source, f"{other} AND {VAGUE}")
    if sessions:
        await connection.execute(LOOKED_UP)
        found += await _joined_cube(connection, source, f" AND {joined}")
        await settle(connection, source)
    return found


async def _with_failures(connection: Any, source: Accesses, found: list[_Group], only: str) -> list[_Group]:
    """Corrects what was counted as if it had ended well."""
    failed = f" AND o.outcome OPERATOR(pg_catalog.<>) 'ok' AND NOT {VAGUE}{only}"
    asked = source.query(_ONE, outcomes=True, only=failed, kind="any")
    query = f"SELECT {_WHO}, g.bits, {_COUNTED} FROM ({asked.sql} {_APART}) g GROUP BY g.who, g.bits"  # noqa: S608
    failures = [_group(row) for row in await connection.fetch(query, *asked.values)]
    less = Counter[Any]()
    for group in failures:
        less[replace(group, outcome="ok", n=0, latest=_NEVER)] += group.n
    counted = []
    for group in found:
        n = group.n - less.pop(replace(group, n=0, latest=_NEVER), 0)
        if n:
            counted.append(replace(group, n=n))
    return counted + failures


def _summed(
    cube: list[_Group], key: Callable[[_Group], tuple[Any, ...]]
) -> dict[tuple[Any, ...], tuple[int, datetime]]:
    found: dict[tuple[Any, ...], tuple[int, datetime]] = {}
    for group in cube:
        place = key(group)
        n, latest = found.get(place, (0, group.latest))
        found[place] = (n + group.n, max(latest, group.latest))
    return found


def _cut(rows: list[dict[str, Any]], limit: int | None) -> Table:
    return Table(rows if limit is None else rows[:limit], Count(len(rows)))


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return (-row["n"], *(str(value) for name, value in row.items() if name not in ("n", "latest")))


# Opens a connection like the one that is there.
Another = Callable[[], Awaitable[Any]]
_SNAPSHOT = re.compile(r"[0-9A-F-]+")


@contextlib.asynccontextmanager
async def _beside(connection: Any, source: Accesses, another: Another) -> AsyncIterator[Any]:
    """Opens a second connection that sees the same rows, ready to count; None if there is none to be had."""
    other = None
    try:
        if not await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()"):
            snapshot = _SNAPSHOT.fullmatch(await connection.fetchval("SELECT pg_catalog.pg_export_snapshot()"))
            with contextlib.suppress(*FAILURES, ConfigError):
                found = await another()
                try:
                    await set_zone(found)
                    await found.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                    await found.execute(f"SET TRANSACTION SNAPSHOT '{snapshot[0] if snapshot else ''}'")
                    other = found
                finally:
                    if other is None:
                        found.terminate()
        yield other
    finally:
        if other is not None:
            other.terminate()


async def _cube_and_secrets(
    connection: Any, source: Accesses, limit: int | None, another: Another | None
) -> tuple[list[_Group], tuple[Table, Table, list[Any] | None]]:
    """Counts accesses and secrets, of many rows both at once: while one process puts groups together that others have
    made, these go on."""
    if another is None or not source.many or await _seems_vague(connection, source):
        cube = await _cube(connection, source)
        return cube, await _secrets(connection, source, limit)
    async with _beside(connection, source, another) as other:
        if other is None:
            cube = await _cube(connection, source)
            return cube, await _secrets(connection, source, limit)
        source.shared = True

        async def counted() -> list[_Group]:
            await settle(other, source)
            return await _cube(other, source)

        await settle(connection, source)
        beside = asyncio.ensure_future(counted())
        try:
            secrets = await _secrets(connection, source.again(), limit)
            try:
                cube = await beside
            except FAILURES:
                # The second connection was ended, which is no reason to give up.
                cube = await _cube(connection, source)
        finally:
            beside.cancel()
            with contextlib.suppress(*FAILURES, ConfigError, asyncio.CancelledError):
                await beside
    source.shared = False
    await settle(connection, source)
    # If there are vague attempts, a call may stand for one that was counted.
    return cube, await _secrets(connection, source, limit) if source.vague else secrets


async def _seems_vague(connection: Any, source: Accesses) -> bool:
    """Tells whether there are vague attempts among the newest rows."""
    where, values = conditions_of(Filter(since=source.wanted.since, until=source.wanted.until).conditions(), 0)
    query = f"""SELECT coalesce(pg_catalog.bool_or({VAGUE}), false)
      FROM (SELECT a.* FROM {LOG} WHERE true{where} ORDER BY a.at DESC LIMIT {_LOOKED_AT:d}) a"""  # noqa: S608 - constant text
    return bool(await connection.fetchval(query, *values))


async def stats(
    connection: Any,
    wanted: Filter,
    *,
    limit: int | None,
    evening: int,
    morning: int,
    progress: Progress = _nothing,
    another: Another | None = None,
) -> dict[str, Table]:
    """Counts by secret, user, hour (of this machine's time zone) and outcome, and what looks unusual; `limit` lines a
    table. `another` opens a second connection, for many rows. Raises ConfigError."""
    # Long because each table is a few lines of it.
    await set_zone(connection)
    answers: dict[str, Table] = {}
    async with connection.transaction(isolation="repeatable_read"):
        source = await looked_at(connection, wanted)
        await settle(connection, source)
        progress("accesses and secrets")
        cube, (answers["secrets"], first, verified) = await _cube_and_secrets(connection, source, limit, another)
        users = _summed(cube, lambda group: (group.db_user, group.role, group.accessed_by))
        answers["users"] = _cut(
            sorted(
                (
                    {"db_user": user, "role": role, "accessed_by": jwt, "n": n, "latest": latest}
                    for (user, role, jwt), (n, latest) in users.items()
                ),
                key=_order,
            ),
            limit,
        )
        hours = _summed(cube, lambda group: (group.hour,))
        answers["hours"] = _cut([{"hour": hour, "n": n} for (hour,), (n, _) in sorted(hours.items())], None)
        ended = _summed(cube, lambda group: (group.operation, group.outcome))
        answers["outcomes"] = _cut(
            sorted(({"operation": what, "outcome": how, "n": n} for (what, how), (n, _) in ended.items()), key=_order),
            None,
        )
        answers["first_time"] = first
        night = sum(
            group.n for group in cube if group.operation == "read" and (group.hour >= evening or group.hour < morning)
        )
        progress("reads at night")
        answers["at_night"] = await _at_night(connection, source, night, limit, evening, morning)
        verifies = any(group.operation == "verify" for group in cube)
        progress("verifies in a row")
        answers["many_verifies"] = (
            await _many_verifies(connection, source, limit, verified) if verifies else Table([], Count(0))
        )
    return answers


_VERIFIES = f" AND a.operation {EQUAL} 'verify'"
# Five verifies with pauses of a minute at most fall into two neighbours of such stretches, three of them at least into
# one.
_STRETCH = stretch(300)
# Five such verifies have three stretches less than there are verifies at most, and so have all verifies of that secret
# by that user: a stretch sets a bit of each of three numbers, so that of other secrets nearly none has so few bits set.
_PLACES = (59, 61, 63)
_VERIFIED = f"pg_catalog.count(*) FILTER (WHERE a.operation {EQUAL} 'verify') AS verifies" + "".join(
    f""", pg_catalog.bit_or(CASE WHEN a.operation {EQUAL} 'verify' THEN '1'::bigint OPERATOR(pg_catalog.<<)
        ({_STRETCH} OPERATOR(pg_catalog.%) {places})::int END) AS of_{places}"""
    for places in _PLACES
)
_NOT_VERIFIED = "'0'::bigint AS verifies" + "".join(f", '0'::bigint AS of_{places}" for places in _PLACES)
# More owners than this are not told one by one.
_MOST_OWNERS = 5000
# Where so many are left, verifies are counted by stretch.
_MOST_LEFT = 500
# Nearly all name one secret, and a text is quicker to group than an array: grouped are the first name, and all of them
# where there are others. No names at all have an array here that no first name goes with but NULL.
_FIRST = "a.secret_names[1]"
_NONE = "ARRAY['', '']::pg_catalog.text[]"
_ALL = f"""CASE WHEN pg_catalog.cardinality(a.secret_names) {EQUAL} 1 THEN NULL
    ELSE coalesce(a.secret_names, {_NONE}) END"""
# The names of such a group `x`.
_NAMES_AGAIN = f"""CASE WHEN x.names IS NULL THEN ARRAY[x.name]
    WHEN x.name IS NULL AND x.names {EQUAL} {_NONE} THEN NULL ELSE x.names END"""


# Of so few rows, earlier uses of their secrets are looked up one by one; all earlier rows are read where that takes too
# long, as for an owner of millions of rows.
_FEW, _LOOKING_UP_MS = 5000, 1000


async def _secrets(connection: Any, source: Accesses, limit: int | None) -> tuple[Table, Table, list[Any] | None]:
    """Accesses by secret, and secrets that a user used for the first time, as far as the log goes back.

    Gives also the owners of the secrets that a user may have verified often, None if they are not known.
    """
    if source.wanted.since is None or source.rows > _FEW:
        asked = _of_secrets(source, limit, looked_up=False)
        rows = await connection.fetch(asked.sql, *asked.values)
        owners = [row["owner_id"] for row in rows if row["part"] == 5]
        return *_secret_tables(rows), owners if source.many and len(owners) <= _MOST_LEFT else None
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


def _of_secrets(source: Accesses, limit: int | None, *, looked_up: bool) -> Question:
    """Gives the query for the lines of both tables: earlier uses are looked up one by one, or all of them read."""
    # Long because it is one statement of SQL.
    columns = (
        f"a.owner_id, {_FIRST} AS name, {_ALL} AS names, a.db_user,"
        " pg_catalog.count(*) AS n, pg_catalog.max(a.at) AS latest, pg_catalog.min(a.at) AS first"
        f", {_NOT_VERIFIED if looked_up or not source.many else _VERIFIED}"
    )
    # Without vague ones there is nothing to leave out, and only the beginning of other rows has to be read.
    asked = source.query(columns, group=" GROUP BY 1, 2, 3, 4", kind="" if source.vague else "any")
    groups, values = asked.sql, list(asked.values)
    earlier = ""
    if source.wanted.since is not None:
        values.append(source.wanted.since)
        # Of the keys of a group nothing may be narrowed down but by what the groups themselves have.
        wanted = source.wanted
        keys = Filter(owner=wanted.owner, secret=wanted.secret, user=wanted.user, encoding=wanted.encoding)
        where, more = conditions_of(keys.conditions(), len(values))
        since = f"${len(values)}"
        values += more
        earlier = f"""SELECT a.owner_id, a.secret_names, a.db_user FROM {LOG}
            WHERE a.event {EQUAL} ANY (ARRAY['attempt', 'access', 'call', 'direct']::pg_catalog.text[])
              AND a.owner_id IS NOT NULL
              AND a.secret_names IS NOT NULL
              AND a.at OPERATOR(pg_catalog.<) {since}{where}"""  # noqa: S608
    of = "a" if looked_up else "e"
    same = f"{of}.owner_id {EQUAL} x.owner_id AND {of}.db_user {EQUAL} x.db_user"
    same += f" AND {of}.secret_names {EQUAL} {_NAMES_AGAIN}"
    used = f" AND NOT EXISTS (SELECT FROM earlier e WHERE {same})"
    if looked_up:
        used = f" AND NOT EXISTS ({earlier} AND {same})"
    named = f"(x.names IS NULL OR x.name IS NOT NULL OR x.names OPERATOR(pg_catalog.<>) {_NONE})"
    new = f"x.owner_id IS NOT NULL AND {named}{used if earlier else ''}"
    before = f", earlier AS MATERIALIZED ({earlier} GROUP BY 1, 2, 3)" if earlier and not looked_up else ""
    # What several ways to the rows have found is put together.
    first_of = "SELECT x.owner_id, x.name, x.names, x.db_user, x.n, x.first"
    if " UNION ALL " in groups:
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
      LIMIT {_MOST_LEFT + 1:d})
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


async def _at_night(
    connection: Any, source: Accesses, count: int, limit: int | None, evening: int, morning: int
) -> Table:
    if not count:
        return Table([], Count(0))
    only = (
        f" AND a.operation {EQUAL} 'read' AND ({_HOUR} OPERATOR(pg_catalog.>=) {evening:d} OR {_HOUR} "
        f"OPERATOR(pg_catalog.<) {morning:d})"
    )
    columns = "a.at, a.seq, a.db_user, a.owner_id, a.secret_names"
    limited = "" if limit is None else f" LIMIT {limit:d}"
    # The newest are at the end of the index of times.
    await connection.execute(LOOKED_UP)
    asked = source.query(columns, only=only)
    query = f"SELECT at, db_user, owner_id, secret_names FROM ({asked.sql}) a ORDER BY at DESC, seq DESC{limited}"  # noqa: S608
    rows = [dict(row) for row in await connection.fetch(query, *asked.values)]
    await settle(connection, source)
    return Table(rows, Count(count))


async def _verified_often(connection: Any, source: Accesses) -> list[Any] | None:
    """Owners of all secrets of which five verifies can follow each other closely, and of others; None if these are too
    many to tell."""
    asked = source.query("a.db_user, a.owner_id, a.at", only=_VERIFIES, kind="any")
    query = f"""SELECT DISTINCT owner
FROM (SELECT a.owner_id AS owner FROM ({asked.sql}) a GROUP BY a.owner_id, a.db_user, {_STRETCH}
                HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) 3) s LIMIT {_MOST_OWNERS + 1:d}"""  # noqa: S608 - constant text
    owners = [row["owner"] for row in await connection.fetch(query, *asked.values)]
    return owners if len(owners) <= _MOST_OWNERS else None


def _uuids(values: list[Any]) -> str:
    """Uuids as a constant, which the planner can count."""
    return f"ARRAY[{', '.join(repr(str(uuid.UUID(str(value)))) for value in values)}]::pg_catalog.uuid[]"


def _of_owners(owners: list[Any]) -> str:
    """Gives SQL for secrets of these owners, NULL among them or not: as a constant, which the planner can count, and
    for which it can use the index of owners."""
    found = f"a.owner_id {EQUAL} ANY ({_uuids([owner for owner in owners if owner is not None])})"
    return f"({found} OR a.owner_id IS NULL)" if None in owners else found


async def _many_verifies(connection: Any, source: Accesses, limit: int | None, owners: list[Any] | None) -> Table:
    """Five or more verifies of a secret by a user with no pause of a minute: whether a password was right is not
    logged, whoever tries many is. `owners` are those of all such secrets, if they are known."""
    columns = f"a.id, a.at, a.seq, a.db_user, a.owner_id, a.secret_names, {OUTCOME} AS outcome"
    asked = source.query(columns, outcomes=True, only=_VERIFIES)
    if source.many:
        # Outcomes are looked for only of what can be such a row of verifies: of most there are none.
        if owners is None:
            owners = await _verified_often(connection, source)
        if owners == []:
            return Table([], Count(0))
        if owners is not None:
            asked = source.query(columns, outcomes=True, only=f"{_VERIFIES} AND {_of_owners(owners)}")
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
    progress: Progress = _nothing,
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
        # Where there are none, they are not looked for in each slice.
        asked = source.query("1", kind="any", only=f" AND {VAGUE}")
        vague = await connection.fetchval(f"SELECT EXISTS ({asked.sql})", *asked.values)
        slices = await _in_slices(connection, source, half)
        # Names are slow to sort: groups of them are hashed. One process does all of a slice.
        await connection.execute("SET LOCAL enable_sort = off; SET LOCAL parallel_tuple_cost = 0.1")
        near, usual = await _near_bursts(connection, slices, half, at_least, vague)
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
    connection: Any, slices: list[Filter], half: float, at_least: int, vague: bool
) -> tuple[list[tuple[str, int]], dict[str, float]]:
    """Gives logins and halves that have with the next one `at_least` so many secrets, if none is the same; each login's
    median of a half."""
    parts = []
    for wanted in slices:
        asked = _slice(wanted, vague).query(
            f"a.db_user, {stretch(half)} AS bucket, a.owner_id, a.secret_names", group=" GROUP BY 1, 2, 3, 4"
        )
        text = f"SELECT d.db_user, d.bucket, pg_catalog.count(*) AS secrets FROM ({asked.sql}) d GROUP BY 1, 2"  # noqa: S608
        parts.append(Question(text, asked.values))
    asked = _together(parts)
    query = f"""
    WITH halves AS MATERIALIZED (SELECT h.db_user, h.bucket, h.secrets FROM ({asked.sql}) h),
         near AS (SELECT db_user, bucket, secrets,
                         CASE WHEN pg_catalog.lead(bucket) OVER w {EQUAL} (bucket OPERATOR(pg_catalog.+) 1)
                              THEN pg_catalog.lead(secrets) OVER w ELSE 0 END AS following
                    FROM halves WINDOW w AS (PARTITION BY db_user ORDER BY bucket)),
         wanted AS MATERIALIZED (SELECT n.db_user, n.bucket FROM near n
               WHERE n.secrets OPERATOR(pg_catalog.+) n.following OPERATOR(pg_catalog.>=) {at_least:d}
                 AND n.db_user IS NOT NULL)
    SELECT w.db_user, w.bucket, NULL::pg_catalog.float8 AS usual FROM wanted w
    UNION ALL
    SELECT h.db_user, NULL,
           pg_catalog.round((pg_catalog.percentile_cont(0.5)
               WITHIN GROUP (ORDER BY h.secrets))::numeric, 1)::pg_catalog.float8
      FROM halves h WHERE h.db_user {EQUAL} ANY (SELECT db_user FROM wanted) GROUP BY 1
    """  # noqa: S608 - columns of ours
    near, usual = [], {}
    for row in await connection.fetch(query, *asked.values):
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
        asked = _slice(wanted.but(until=until), vague).query(
            f"a.db_user, {stretch(half)} AS bucket, a.owner_id, a.secret_names, a.at"
        )
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
                   GROUP BY w.db_user, w.bucket, d.owner_id, d.secret_names) s
           GROUP BY 1, 2 HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) {at_least:d}"""  # noqa: S608 - columns of ours
        parts.append(Question(text, values))
    asked = _together(parts)
    limited = "" if limit is None else f" LIMIT {limit:d}"
    query = f"""SELECT w.at, w.until, w.db_user, w.secrets, w.n, pg_catalog.count(*) OVER () AS found
                  FROM ({asked.sql}) w ORDER BY w.secrets DESC, w.at, w.db_user{limited}"""  # noqa: S608 - columns of ours
    return list(await connection.fetch(query, *asked.values))


# What two sets of accesses are compared by.
KEYS = {
    "secret": "a.owner_id, a.secret_names", "user": "a.db_user", "application": "a.application_name", "client":
        "a.client_addr",
    "function": "a.function", "operation": "a.operation", "outcome": "o.outcome", "database": "a.database",
}  # fmt: skip


def _key(row: Any, names: list[str]) -> tuple[Any, ...]:
    return tuple(tuple(row[name]) if isinstance(row[name], list) else row[name] for name in names)


async def _counted_by(
    connection: Any, source: Accesses, by: str, names: list[str]
) -> list[tuple[tuple[Any, ...], int]]:
    """Counts the accesses of one filter by the columns to compare."""
    if by == "outcome":
        return [((group.outcome,), group.n) for group in await _cube(connection, source)]
    source.vague = True
    group = ", ".join(str(place) for place in range(1, len(names) + 1))
    asked = source.query(f"{KEYS[by]}, pg_catalog.count(*) AS n", group=f" GROUP BY {group}")
    return [(_key(row, names), row["n"]) for row in await connection.fetch(asked.sql, *asked.values)]


async def _both(connection: Any, one: Filter, other: Filter, keys: str) -> list[Any]:
    """Counts the accesses of two filters by `keys` in one reading of the log, and in a second one if there are vague
    attempts.
    """
    first, values = conditions_of(one.conditions(), 0)
    second, more = conditions_of(other.conditions(), len(values))
    values += more
    within = [f"(true{where})" for where in (first, second)]
    counts = ", ".join(
        f"pg_catalog.count(*) FILTER (WHERE {where}) AS {name}"
        for name, where in zip(("one", "other"), within, strict=True)
    )

    async def rows_of(only: str) -> list[Any]:
        query = f"""SELECT {keys}, {VAGUE} AS vague, {counts} FROM {LOG} WHERE {ACCESS_EVENTS}
AND ({" OR ".join(within)}){only}
                     GROUP BY {keys}, {VAGUE}"""  # noqa: S608 - columns of ours
        return list(await connection.fetch(query, *values))

    rows = await rows_of("")
    if any(row["vague"] for row in rows):
        rows = [row for row in rows if not row["vague"]]
        rows += await rows_of(f" AND {VAGUE} AND NOT {SHOWN_BY_CALL.format(vague='')}")
    return rows


async def compare(connection: Any, one: Filter, other: Filter, by: str, limit: int | None) -> Table:
    """Accesses of two filters side by side, where they differ most first."""
    if by not in KEYS:
        raise ConfigError(f"--by: one of {', '.join(KEYS)}")
    names = [part.rpartition(".")[2].strip() for part in KEYS[by].split(",")]
    found: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    async with connection.transaction(isolation="repeatable_read"):
        sources = [await looked_at(connection, wanted) for wanted in (one, other)]
        await settle(connection, max(sources, key=lambda source: source.many))
        if (
            any(source.many for source in sources)
            and by != "outcome"
            and not (one.needs_outcome or other.needs_outcome)
        ):
            for row in await _both(connection, one, other, KEYS[by]):
                sides = found[_key(row, names)]
                sides[0] += row["one"]
                sides[1] += row["other"]
        else:
            for side, source in enumerate(sources):
                for key, n in await _counted_by(connection, source, by, names):
                    found[key][side] += n
    rows: list[dict[str, Any]] = [
        {
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name, value in zip(names, key, strict=True)
            },
            "one": first, "other": second, "difference": second - first,
        }
        for key, (first, second) in found.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: (-abs(row["difference"]), -row["one"], *(str(row[name]) for name in names)))
    return _cut(rows, limit)


__all__ = ["KEYS", "LOOKED_UP", "Accesses", "Table", "bursts", "compare", "fetch_counted", "stats"]
