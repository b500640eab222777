"""Accesses by user, operation, outcome and hour: each with its outcome, of which most are not looked for one by one."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from secretproxy.audit.counting.accesses import LOOKED_UP, QUARTER, Accesses, settle, stretch, uuids
from secretproxy.audit.filters import ACCESSED_BY, EQUAL, OPERATIONS, OUTCOME, OUTCOMES, ROLE, Filter
from secretproxy.audit.review import (
    LOG,
    VAGUE,
    conditions_of,
)

# What has few values as bits of a number, whoever it was as a text, both made below an OFFSET, which the planner does
# not take apart: of each of the two it expects 200, so that every process puts its own groups together. Of plain
# columns it would expect a group a row. As a bigint, for what has to be cast looks to it like a part of the rows, which
# cannot be shared out. A text is quicker to group than an array: mostly there is a login and nothing else.
_APART = "OFFSET '0'::bigint"
HOUR = "pg_catalog.date_part('hour', a.at)::int"
_NAMED, _VAGUE, _OPERATION, _OUTCOME, _NOT_LOGIN_ALONE = 1 << 5, 1 << 6, 7, 10, 1 << 13


def _coded(text: str, kinds: tuple[str, ...], shift: int) -> str:
    """Gives SQL for the 1-based place of a text in `kinds`, shifted left by a number of bits; 0 for NULL."""
    places = " ".join(f"WHEN {text} {EQUAL} '{kind}' THEN {place << shift}" for place, kind in enumerate(kinds, 1))
    return f"CASE {places} ELSE 0 END"


_WHO = f"""CASE WHEN (g.bits OPERATOR(pg_catalog.&) {_NOT_LOGIN_ALONE}) {EQUAL} 0 THEN ARRAY[g.who]
     ELSE g.who::pg_catalog.text[] END AS who"""


def _one(alone: str, role: str, accessed_by: str, outcome: str, named: str, login: str = "a.db_user") -> str:
    """Gives SQL for what is counted of an access: who it was, and the bits. `alone` says whether there is neither role
    nor user, `outcome` gives its bits."""
    return f"""a.id, a.at,
    CASE WHEN {alone} THEN {login}
         ELSE (ARRAY[a.db_user, {role}, ({accessed_by})::pg_catalog.text])::pg_catalog.text END AS who,
    {HOUR} OPERATOR(pg_catalog.+) {named}
    OPERATOR(pg_catalog.+) CASE WHEN {alone} THEN 0 ELSE {_NOT_LOGIN_ALONE} END
    OPERATOR(pg_catalog.+) CASE WHEN (a.owner_id IS NULL OR a.secret_names IS NULL) AND a.event {EQUAL} 'attempt'
        THEN {_VAGUE} ELSE 0 END
    OPERATOR(pg_catalog.+) {_coded("a.operation", OPERATIONS, _OPERATION)}
    OPERATOR(pg_catalog.+) {outcome} AS bits"""


_ONE = _one(
    f"{ROLE} IS NULL AND {ACCESSED_BY} IS NULL", ROLE, ACCESSED_BY, _coded(OUTCOME, OUTCOMES, _OUTCOME),
    f"CASE WHEN o.function IS NULL THEN 0 ELSE {_NAMED} END",
)  # fmt: skip
# Whenever it was: instead of a login, the quarter of an hour since 1970.
BY_QUARTER = _one(
    "true", ROLE, ACCESSED_BY, _coded(OUTCOME, OUTCOMES, _OUTCOME),
    f"CASE WHEN o.function IS NULL THEN 0 ELSE {_NAMED} END", f"({stretch(QUARTER)}::bigint)::pg_catalog.text",
)  # fmt: skip
_COUNTED = "pg_catalog.count(*) AS n, pg_catalog.max(g.at) AS latest"


@dataclass(frozen=True, slots=True)
class Group:
    db_user: str | None
    role: str | None
    accessed_by: Any
    operation: str | None
    outcome: str
    hour: int
    n: int
    latest: datetime


_NEVER = datetime.min.replace(tzinfo=UTC)


def _group(row: Any) -> Group:
    user, role, jwt = row["who"] if len(row["who"]) > 1 else (row["who"][0], None, None)
    bits = row["bits"]
    operation, outcome = (bits >> _OPERATION) & 7, OUTCOMES[((bits >> _OUTCOME) & 7) - 1]
    return Group(
        user, role, None if jwt is None else uuid.UUID(jwt), OPERATIONS[operation - 1] if operation else None, outcome,
        bits & 31, row["n"], row["latest"],
    )  # fmt: skip


async def count_ended(connection: Any, source: Accesses) -> list[Group]:
    """Accesses by user, operation, outcome and hour, those left out that a call stands for."""
    if source.many and source.wanted.but(since=None, until=None, encoding="UTF8") == Filter():
        found = await _cube_of_sessions(connection, source)
        if found is not None:
            return found
    return await joined_cube(connection, source)


async def joined_cube(connection: Any, source: Accesses, some: str = "", one: str = _ONE) -> list[Group]:
    """Gives the same, of `some` accesses, by joining each with its outcome; `one` says what is counted of each.

    The log is read once, and once more for vague attempts and for calls that several outcomes speak for, if there are
    some."""

    async def rows_of(counted: str = _COUNTED, only: str = "", **how: str) -> list[Any]:
        asked = source.query(one, outcomes=True, only=some + only, **how)
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
        return await joined_cube(connection, source, some, one)
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
LOOKED_AT, _MOST_OTHER, _MOST_SESSIONS = 1000, 0.05, 5000
# An access has its own, which another outcome of its statement replaces: then the session is joined. What nearly every
# row decides is asked first.
_ALONE = f"(a.role IS NULL AND a.accessed_by IS NULL OR a.event {EQUAL} 'attempt')"
_OWN_OUTCOME = _coded("coalesce(a.outcome, 'unknown')", OUTCOMES, _OUTCOME)
_ENDED_ALONE = f"""CASE WHEN a.event {EQUAL} 'access'
    OR NOT ({_IN_SESSION}) AND a.event OPERATOR(pg_catalog.<>) 'direct' THEN {_OWN_OUTCOME} ELSE {1 << _OUTCOME} END"""
_ONE_ALONE = _one(_ALONE, "a.role", "a.accessed_by", _ENDED_ALONE, "0")


async def _cube_of_sessions(connection: Any, source: Accesses) -> list[Group] | None:
    """Gives the cube of all accesses of a time without joining most of them; None if too few sessions are plain."""
    where, values = conditions_of(source.wanted.conditions(), 0)
    newest = f"""SELECT pg_catalog.avg(CASE WHEN a.event {EQUAL} 'outcome' AND NOT ({_PLAIN}) THEN 1 ELSE 0 END)
                            ::pg_catalog.float8
      FROM (SELECT a.* FROM {LOG} WHERE true{where} ORDER BY a.at DESC LIMIT {LOOKED_AT:d}) a"""  # noqa: S608 - constant text
    if (await connection.fetchval(newest, *values) or 0) > _MOST_OTHER:
        return None
    # Apart, for to come to so many earlier the planner would read the log by an index of sessions.
    unequal = f"""WITH u AS MATERIALIZED (SELECT a.session_id FROM {LOG} WHERE {_OF_STATEMENT} AND {_IN_SESSION}{where}
GROUP BY a.session_id HAVING {_UNEQUAL}) SELECT u.session_id FROM u LIMIT {_MOST_SESSIONS + 1:d}"""  # noqa: S608 - constant text
    sessions = [row["session_id"] for row in await connection.fetch(unequal, *values)]
    if len(sessions) > _MOST_SESSIONS:
        return None
    joined = f"a.session_id {EQUAL} ANY ({uuids(sessions)})"
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
        found += await joined_cube(connection, source, f"{other} AND {VAGUE}")
    if sessions:
        await connection.execute(LOOKED_UP)
        found += await joined_cube(connection, source, f" AND {joined}")
        await settle(connection, source)
    return found


async def _with_failures(connection: Any, source: Accesses, found: list[Group], only: str) -> list[Group]:
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


def summed(cube: list[Group], key: Callable[[Group], tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[int, datetime]]:
    found: dict[tuple[Any, ...], tuple[int, datetime]] = {}
    for group in cube:
        place = key(group)
        n, latest = found.get(place, (0, group.latest))
        found[place] = (n + group.n, max(latest, group.latest))
    return found
