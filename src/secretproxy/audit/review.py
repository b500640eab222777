"""Questions to the access log: accesses by filter, one session's story, unusual events, and where the log lies.

Every answer is made of the rows of secretproxy.access_log; an access is an attempt, call, direct call or refusal with
its outcome, or an event `access`, which has its own, as in the view secretproxy.secret_access. Functions take a
connection and a Filter and give rows; they print nothing. May import asyncpg."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import asyncpg

from secretproxy.audit.columns import NAMES
from secretproxy.audit.filters import (
    ACCESSED_BY,
    AT_LEAST,
    BELOW,
    EARLIEST,
    EQUAL,
    FIRST_NAME,
    LATER_NAME,
    OUTCOME,
    OWN_OUTCOME,
    ROLE,
    STATEMENT,
    UUIDS,
    Condition,
    Filter,
    joined,
    local_zone,
    moment,
    uuid_range,
)
from secretproxy.audit.reading import UnreachedError, connect, explained, reading
from secretproxy.config import ConfigError

# A statement's rows of another month are looked for in later months only; a clock that was set back is allowed for.
SET_BACK = timedelta(days=1)
ACCESS_COLUMNS = f"""
SELECT a.at, a.db_user, {ROLE} AS role, {ACCESSED_BY} AS accessed_by,
       a.operation, a.function, a.owner_id, a.secret_names, {OUTCOME} AS outcome,
       coalesce(o.sqlstate, a.sqlstate) AS sqlstate,
       CASE WHEN a.event {EQUAL} ANY (ARRAY['call', 'direct']::pg_catalog.text[]) THEN 1
            WHEN a.event {EQUAL} 'access' THEN a.calls ELSE o.calls END AS calls,
       a.client_addr, a.client_port, a.application_name, a.database,
       a.encoding, a.via, a.event AS how, coalesce(o.duration, a.duration) AS duration, a.session_id, a.statement_no,
       a.protocol, a.fingerprint, a.id,
       a.instance, a.seq
"""
# Their names, in this order.
ACCESS_NAMES = (
    "at", "db_user", "role", "accessed_by", "operation", "function", "owner_id", "secret_names", "outcome", "sqlstate",
    "calls", "client_addr", "client_port", "application_name", "database", "encoding", "via", "how", "duration",
    "session_id", "statement_no", "protocol", "fingerprint", "id", "instance", "seq",
)  # fmt: skip
# What is looked up by the time of it walks the index of times, row by row: so all outcomes that fit are taken, of which
# a call may have several.
OUTCOME_OF = f" LEFT JOIN secretproxy.access_log o ON {OWN_OUTCOME}"
ACCESS_EVENTS = f"a.event {EQUAL} ANY (ARRAY['attempt', 'access', 'call', 'direct', 'refusal']::pg_catalog.text[])"
# An attempt whose owner or name the text did not show.
VAGUE = f"(a.event {EQUAL} 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL))"
# The row of the call, which testimony showed, replaces it.
SHOWN_BY_CALL = f"""EXISTS (
        SELECT FROM secretproxy.access_log c
         WHERE {{vague}}c.session_id {EQUAL} a.session_id AND c.statement_no {EQUAL} a.statement_no
             AND c.event {EQUAL} 'call'
           AND {EARLIEST.format("c")}
           AND pg_catalog.split_part(c.function, '(', 1) {EQUAL} pg_catalog.split_part(a.function, '(', 1))"""
# No call stands for the row: as a join of all, and looked for where it can be one.
_NONE_STANDS = f"NOT {SHOWN_BY_CALL.format(vague=f'{VAGUE} AND ')}"
_NONE_STANDS_FOR_FEW = f"NOT ({VAGUE} AND {SHOWN_BY_CALL.format(vague='')})"
IS_ACCESS = f"{ACCESS_EVENTS} AND {_NONE_STANDS_FOR_FEW}"
_FAILED = ("error", "cancelled", "lost", "refused")
UNUSUAL = ("definition", "table", "refusal", "forgery")
NEWEST = "ORDER BY a.at DESC, a.seq DESC"
# How far `how_many` counts, and how long.
COUNTED = 20_000
COUNTING_MS = 1500
# Accesses up to which a page is put together here; more come by a cursor.
PAGE = 10_000
LOG = "secretproxy.access_log a"


# Columns of uuids that no index is of.
_UNINDEXED = ("accessed_by", "id")


async def resolved(connection: Any, wanted: Filter, *, now: bool = False) -> Filter:
    """Resolves a filter for this log: its encoding, and each prefix of a uuid. `now`: it is asked about the rows that
    there are, and about none that come later, so that it may be noted that nothing matches.

    Raises ConfigError if a prefix is ambiguous.
    """
    wanted = wanted.but(encoding=connection.get_settings().server_encoding)
    for option, column in UUIDS.items():
        text = getattr(wanted, option)
        if text is not None:
            named = f"--{option.replace('_', '-')}"
            found = await _only_uuid(connection, column, named, text)
            wanted = wanted.but(**{option: str(found or uuid_range(named, text)[0])})
            if now and found is None:
                wanted = wanted.but(absent=True)
    return wanted


async def whole_uuid(connection: Any, column: str, option: str, text: str) -> uuid.UUID:
    """Gives the one uuid of that column with this prefix; the lowest possible one if there is none. Raises
    ConfigError."""
    return await _only_uuid(connection, column, option, text) or uuid_range(option, text)[0]


async def _only_uuid(connection: Any, column: str, option: str, text: str) -> uuid.UUID | None:
    """Gives the one uuid of that column with this prefix; None if there is none. A whole uuid is not looked for.
    Raises ConfigError."""
    first, last = uuid_range(option, text)
    if first == last:
        return first
    within = f"{column} OPERATOR(pg_catalog.>=) $1 AND {column} OPERATOR(pg_catalog.<=) $2"
    if column in _UNINDEXED:
        # All rows are read, so once for all uuids that begin so.
        several = f"SELECT {column} FROM secretproxy.access_log WHERE {within} GROUP BY {column} LIMIT 2"  # noqa: S608
        known = [row[column] for row in await quick(connection, Question(several, [first, last]))]
        if len(known) > 1:
            raise _ambiguous(option, text, known[0], known[1])
        return uuid.UUID(str(known[0])) if known else None
    one = f"SELECT {column} FROM secretproxy.access_log WHERE {within} LIMIT 1"  # noqa: S608 - a column of UUIDS
    found = await connection.fetchval(one, first, last)
    if found is None:
        return None
    for low, high in (
        (first, uuid.UUID(int=found.int - 1) if found.int else None),
        (uuid.UUID(int=min(found.int + 1, last.int)), last),
    ):
        other = await connection.fetchval(one, low, high) if high is not None and low <= high else None
        if other is not None and other != found:
            raise _ambiguous(option, text, found, other)
    return uuid.UUID(str(found))


def _ambiguous(option: str, text: str, one: Any, other: Any) -> ConfigError:
    return ConfigError(f"{option} {text}: several begin so, such as {one} and {other}; give more of it")


@dataclass(frozen=True, slots=True)
class Question:
    """A query with its parameters."""

    sql: str
    values: list[Any]
    # Whether it is quicker to read the log once than to look each row's outcome up.
    hashed: bool = False
    # Whether to read rows backwards from the newest until enough match, because each is examined closely.
    walked: bool = False
    # How few rows may match, of which no index goes by the time: see `page`.
    sparse: Literal["no", "maybe", "sure"] = "no"
    # Without the order, the limit, and the condition that leaves out what a call stands for, which is `shown`.
    every: str = ""
    shown: str = ""


def ways(wanted: Filter, walked: bool) -> list[tuple[str, list[Condition]]]:
    """Sources and conditions whose rows together are the accesses that are looked for, each once; `a` is the access.

    Each has an index to go by. `walked`: from the newest access back, until enough of them fit.
    """
    names = (FIRST_NAME, LATER_NAME) if wanted.secret is not None else ("",)
    found = []
    for name in names:
        plain = wanted.but(outcome=(), jwt_user=None, role=None).conditions(name)
        for source, of_outcome in _outcomes(wanted, walked):
            for of_user, users in _users(wanted):
                found += [
                    (source + of_user + of_role, [*plain, *of_outcome, *users, *roles])
                    for of_role, roles in _roles(wanted)
                ]
    return found


_WITHOUT_OUTCOME = f"NOT EXISTS (SELECT FROM secretproxy.access_log o WHERE {STATEMENT} AND {EARLIEST.format('o')})"
# Most statements end well: found by looking each one's outcome up, which the planner would not do if it could join.
_ENDED_WELL = (
    f"coalesce((SELECT pg_catalog.max(o.outcome) FROM secretproxy.access_log o WHERE {STATEMENT}), a.outcome)"  # noqa: S608
    f" {EQUAL} 'ok'"
)
# An access has an outcome of its own, which one of its statement replaces.
_ACCESS_ENDED_WELL = f"a.event {EQUAL} 'access' AND a.outcome {EQUAL} 'ok'"


def _ended(kinds: list[str], column: str = "o.outcome") -> str:
    # As constants, so that the index of failed outcomes can be seen to fit.
    array = ", ".join(f"'{kind}'" for kind in kinds)
    return f"{column} {EQUAL} ANY (ARRAY[{array}]::pg_catalog.text[])"


def _outcomes(wanted: Filter, walked: bool) -> list[tuple[str, list[Condition]]]:
    if not wanted.outcome and wanted.sqlstate is None:
        return [(LOG, [])]
    # A statement that ended well has no SQLSTATE, and what failed has an index.
    kinds = sorted(set(wanted.outcome or _FAILED))
    failed = [kind for kind in kinds if kind in _FAILED]
    not_direct = f"NOT (a.event {EQUAL} 'direct')"
    ways: list[list[str]] = []
    for some in (failed, ["ok"] if "ok" in kinds else []):
        if some == ["ok"] and walked:
            ways.append([_ENDED_WELL, not_direct])
        elif some:
            since = "" if wanted.since is None else " AND o.at OPERATOR(pg_catalog.>=) ?"
            ways.append(
                [
                    f"EXISTS (SELECT FROM secretproxy.access_log o WHERE {STATEMENT} AND {_ended(some)}{since})",
                    not_direct,
                ]
            )
            if some == ["ok"]:
                ways.append([_ACCESS_ENDED_WELL, _WITHOUT_OUTCOME])
    if failed:
        ways.append([_ended(failed, "a.outcome"), not_direct, _WITHOUT_OUTCOME])
    if "ok" in kinds:
        ways.append([f"a.event {EQUAL} 'direct'"])
    if "unknown" in kinds:
        ways.append([f"a.outcome IS NULL AND {not_direct}", _WITHOUT_OUTCOME])
    return [(LOG, [Condition(text, wanted.since and wanted.since - SET_BACK) for text in texts]) for texts in ways]


def _users(wanted: Filter) -> list[tuple[str, list[Condition]]]:
    if wanted.jwt_user is None:
        return [("", [])]
    first, last = uuid_range("--jwt-user", wanted.jwt_user)

    def within(column: str) -> list[Condition]:
        return [
            Condition(f"{column} OPERATOR(pg_catalog.>=) ?", first),
            Condition(f"{column} OPERATOR(pg_catalog.<=) ?", last),
        ]

    attempt = f"a.event {EQUAL} 'attempt'"
    join = f" JOIN secretproxy.access_log u ON {OWN_OUTCOME.replace('o.', 'u.')}"
    return [
        ("", [*within("a.accessed_by"), _plain(f"NOT ({attempt})")]),
        (join, [*within("u.accessed_by"), _plain(attempt)]),
    ]


def _roles(wanted: Filter) -> list[tuple[str, list[Condition]]]:
    if wanted.role is None:
        return [("", [])]
    attempt = f"a.event {EQUAL} 'attempt'"
    join = f" JOIN secretproxy.access_log r ON {OWN_OUTCOME.replace('o.', 'r.')}"
    return [
        ("", [wanted.of_role("a.role"), _plain(f"NOT ({attempt})")]),
        (join, [wanted.of_role("r.role"), _plain(attempt)]),
    ]


def _plain(text: str) -> Condition:
    return Condition(text, None)


def conditions_of(conditions: list[Condition], given: int) -> tuple[str, list[Any]]:
    """Works like `joined`, for conditions some of which have no value."""
    with_value = [condition for condition in conditions if "?" in condition.text]
    texts, values = joined(with_value, given)
    return "".join(f" AND {condition.text}" for condition in conditions if "?" not in condition.text) + texts, values


def questions(wanted: Filter, limit: int | None, columns: str = "a.*", *, few: bool = False) -> list[Question]:
    """Queries for the newest `limit` accesses (None: all) without their outcomes, one a way. Raises ConfigError.

    `few`: not all of them are read, however many there are."""
    few = few or limit is not None
    shown = _NONE_STANDS_FOR_FEW if few else _NONE_STANDS
    limited = "" if limit is None else f" {NEWEST} LIMIT {limit:d}"
    found = []
    for source, conditions in ways(wanted, few):
        where, values = conditions_of(conditions, 0)
        every = f"SELECT {columns} FROM {source} WHERE {ACCESS_EVENTS}{where}"  # noqa: S608
        found.append(
            Question(
                f"{every} AND {shown}{limited}", values,
                hashed=_WITHOUT_OUTCOME in where and ("a.outcome IS NULL" in where or _ACCESS_ENDED_WELL in where),
                walked=_ENDED_WELL in where and wanted.secret is None,
                sparse="no" if limit is None else _sparse(wanted, source, where),
                every=every, shown=shown,
            )
        )  # fmt: skip
    return found


# A filter of these has an index, which goes by the time too or has few rows of each value.
_INDEXED = ("owner", "secret", "user", "session")


def _sparse(wanted: Filter, source: str, where: str) -> Literal["no", "maybe", "sure"]:
    """Says whether few rows may match of which no index goes by the time."""
    if "a.secret_names OPERATOR(pg_catalog.@>)" in where or "a.secret_names OPERATOR(pg_catalog.&&)" in where:
        return "sure"
    if _WITHOUT_OUTCOME in where and "a.outcome IS NULL" in where:
        return "sure"
    plain = wanted.but(since=None, until=None, encoding=Filter().encoding)
    if source != LOG or plain == Filter() or plain.before_its_end() != plain.but(jwt_user=None):
        return "no"
    return "no" if any(getattr(wanted, name) is not None for name in _INDEXED) else "maybe"


def question(wanted: Filter, limit: int | None, columns: str = "a.*", *, few: bool = False) -> Question:
    """Gives the same as one query."""
    parts: list[str] = []
    values: list[Any] = []
    for part in questions(wanted, limit, columns, few=few):
        parts.append(f"({renumbered(part.sql, len(values))})")
        values += part.values
    return Question(" UNION ALL ".join(parts), values)


def renumbered(sql: str, given: int) -> str:
    """Gives the query with its parameters after `given` others."""
    return re.sub(r"\$(\d+)", lambda found: f"${int(found[1]) + given}", sql)


async def accesses(connection: Any, wanted: Filter, limit: int | None = None) -> AsyncIterator[Any]:
    """Accesses, the newest `limit` of them (None: all), oldest first. Raises ConfigError."""
    if wanted.absent:
        return
    if limit is None or limit > PAGE:
        found = question(wanted, limit)
        newest = "" if limit is None else f" {NEWEST} LIMIT {limit:d}"
        query = (
            f"{ACCESS_COLUMNS} FROM (SELECT * FROM ({found.sql}) a{newest}) a{OUTCOME_OF} ORDER BY a.at, a.seq, a.id"  # noqa: S608
        )
        last = None
        async for row in connection.each(query, *found.values):
            if row["id"] != last:
                yield row
            last = row["id"]
        return
    rows: list[Any] = []
    for part in questions(wanted, limit):
        rows += await page(connection, part, wanted, limit)
    rows.sort(key=in_order)
    rows = rows[-limit:]
    ended = await outcomes(connection, rows)
    for row in rows:
        yield access_of(row, ended)


def in_order(row: Any) -> tuple[Any, ...]:
    """Gives the sort key of accesses: direct ones have no number."""
    return row["at"], row["seq"] is None, row["seq"] or 0, str(row["id"])


Outcomes = dict[tuple[Any, Any], list[Any]]


def outcome_of(row: Any, event: str, ended: Outcomes) -> Any:
    """Gives the outcome of a row among those of its statement; an empty one if there is none. Works like
    OWN_OUTCOME."""
    for end in reversed(ended.get((row["session_id"], row["statement_no"]), [])):
        if end["function"] is None or event != "attempt":
            return end
        if all(end[name] == row[name] for name in ("function", "owner_id", "secret_names")):
            return end
    return {}


def access_of(row: Any, ended: Outcomes) -> dict[str, Any]:
    """Makes an access, with the columns of secretproxy.secret_access, of its row and the outcomes of its statement."""
    event = row["event"]
    end = outcome_of(row, event, ended)
    who = end if event == "attempt" else row
    return {
        "at": row["at"], "db_user": row["db_user"], "role": who.get("role"), "accessed_by": who.get("accessed_by"),
        "operation": row["operation"], "function": row["function"], "owner_id": row["owner_id"],
        "secret_names": row["secret_names"],
        "outcome": "ok" if event == "direct" else end.get("outcome") or row["outcome"] or "unknown",
        "sqlstate": end.get("sqlstate") or row["sqlstate"],
        "calls": 1 if event in ("call", "direct") else row["calls"] if event == "access" else end.get("calls"),
        "client_addr": row["client_addr"], "client_port": row["client_port"],
        "application_name": row["application_name"],
        "database": row["database"], "encoding": row["encoding"], "via": row["via"], "how": event,
        "duration": end.get("duration") if end else row["duration"],
        "session_id": row["session_id"], "statement_no": row["statement_no"], "protocol": row["protocol"],
        "fingerprint": row["fingerprint"], "id": row["id"], "instance": row["instance"], "seq": row["seq"],
    }  # fmt: skip


def with_outcome(access: dict[str, Any], ended: Outcomes) -> dict[str, Any] | None:
    """Gives an access that has ended since it was read; None if it has not."""
    end = outcome_of(access, access["how"], ended)
    if not end:
        return None
    who = end if access["how"] == "attempt" else access
    return access | {
        "role": who["role"], "accessed_by": who["accessed_by"], "outcome": end["outcome"],
        "sqlstate": end["sqlstate"] or access["sqlstate"], "duration": end["duration"],
        "calls": access["calls"] if access["how"] in ("access", "call", "direct") else end["calls"],
    }  # fmt: skip


_ENDS = f"""
SELECT o.session_id, o.statement_no, o.function, o.owner_id, o.secret_names, o.outcome, o.sqlstate, o.calls,
    o.duration, o.role, o.accessed_by
  FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.uuid[]), pg_catalog.unnest($2::bigint[])) AS a (session_id,
      statement_no)
  JOIN secretproxy.access_log o ON {STATEMENT}
 ORDER BY o.at, o.seq
"""  # noqa: S608 - constant text


async def outcomes(connection: Any, rows: Iterable[Any]) -> Outcomes:
    """Gives the outcomes of the rows' statements, as far as these have ended."""
    statements = {(row["session_id"], row["statement_no"]) for row in rows}
    wanted = sorted({statement for statement in statements if None not in statement}, key=str)
    found: Outcomes = {}
    if wanted:
        for end in await quick(connection, Question(_ENDS, [[one for one, _ in wanted], [two for _, two in wanted]])):
            found.setdefault((end["session_id"], end["statement_no"]), []).append(end)
    return found


async def quick(connection: Any, asked: Question) -> list[Any]:
    """Fetches the rows of a page; looks up what belongs to a row by its index, unless the query is hashed."""
    other = "nestloop" if asked.hashed else "hashjoin"
    walk = "; SET LOCAL enable_sort = off" if asked.walked else ""
    async with connection.transaction():
        await connection.execute(
            "SET LOCAL jit = off; SET LOCAL work_mem = '128MB'; SET LOCAL enable_mergejoin = off; SET LOCAL "
            f"enable_{other} = off{walk}"
        )
        return list(await connection.fetch(asked.sql, *asked.values))


# So many of the newest rows are looked through first, whatever they are, and then stretches of time that grow by a
# factor; the rest at once, where it is not so many times as long.
NEAREST, _GROWTH, _REST = 50_000, 8, 100


async def page(connection: Any, asked: Question, wanted: Filter, limit: int) -> list[Any]:
    """Fetches the newest `limit` rows of a question for a page, in no order that is promised.

    To find few rows among many the planner walks the index of times row by row to its end, where it takes them for
    many: of a condition that it has no statistics of, such as one of a function's name. So a filter without an index
    is answered from the newest rows, and what these do not have from older ones, of which all that match are read
    before they are sorted: a part of the log is read by several processes then, and only once."""
    if asked.sparse == "no":
        return await quick(connection, asked)
    if asked.sparse == "sure":
        return await quick(connection, _gathered(asked, limit))
    where, values = conditions_of(Filter(since=wanted.since, until=wanted.until).conditions(), 0)
    times = f"SELECT a.at FROM {LOG} WHERE true{where} ORDER BY a.at"  # noqa: S608 - constant text
    spans = await connection.fetchrow(
        f"SELECT ({times} DESC LIMIT 1) AS newest, ({times} LIMIT 1) AS oldest,"
        f" ({times} DESC OFFSET {NEAREST:d} LIMIT 1) AS edge",
        *values,
    )
    edge = spans["edge"]
    if edge is None:
        return await quick(connection, asked)
    rows = await quick(connection, _between(asked, edge, None, limit, gathered=False))
    # All of them can have one time: the direct calls of a transaction have.
    width = max(spans["newest"] - edge, timedelta(seconds=1))
    while len(rows) < limit and edge is not None:
        width *= _GROWTH
        begin = None if edge - spans["oldest"] <= width * _REST / _GROWTH else edge - width
        rows += await quick(connection, _between(asked, begin, edge, limit - len(rows), gathered=True))
        edge = begin
    return rows


def _gathered(asked: Question, limit: int) -> Question:
    """Gives the question as one whose rows are all found before they are sorted, so that no index is walked for the
    order. Whether a call stands for a row is asked of what was found: several processes cannot ask it."""
    text = f"SELECT a.* FROM ({asked.every} OFFSET '0'::bigint) a WHERE {asked.shown} {NEWEST} LIMIT {limit:d}"  # noqa: S608
    return replace(asked, sql=text)


def _between(
    asked: Question, since: datetime | None, until: datetime | None, limit: int, *, gathered: bool
) -> Question:
    """Narrows a question for a page down to a stretch of time."""
    every, values = asked.every, list(asked.values)
    for bound, operator in ((since, AT_LEAST), (until, BELOW)):
        if bound is not None:
            values.append(bound)
            every += f" AND a.at {operator} ${len(values)}"
    text = f"{every} AND {asked.shown} {NEWEST} LIMIT {limit:d}"
    narrow = replace(asked, sql=text, every=every, values=values)
    return _gathered(narrow, limit) if gathered else narrow


@dataclass(frozen=True, slots=True)
class Count:
    """A number, or what it is at least."""

    number: int
    exact: bool = True

    def less(self, shown: int) -> Count:
        return Count(max(0, self.number - shown), self.exact)

    def __str__(self) -> str:
        return f"{self.number:,}" if self.exact else f"at least {self.number:,}"


async def how_many(connection: Any, question: Question, known: int) -> Count:
    """Counts the rows of a query, of which `known` are sure: exactly, or as many as can be counted quickly."""
    try:
        async with connection.transaction():
            await connection.execute(
                f"SET LOCAL jit = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"
                f" SET LOCAL statement_timeout = {COUNTING_MS}"
            )
            counted = await connection.fetchval(
                f"SELECT pg_catalog.count(*) FROM (SELECT FROM ({question.sql}) a LIMIT {COUNTED}) c",  # noqa: S608
                *question.values,
            )
    except asyncpg.QueryCanceledError:
        return Count(known, exact=False)
    return Count(max(counted, known), counted < COUNTED)


async def how_many_accesses(connection: Any, wanted: Filter, known: int) -> Count:
    """Counts the accesses, of which `known` are sure."""
    return await how_many(connection, question(wanted, None, columns="1", few=True), known)


async def story(connection: Any, session: uuid.UUID) -> AsyncIterator[Any]:
    """Gives every row of one session, in order."""
    async for row in connection.each(
        f"SELECT * FROM secretproxy.access_log WHERE session_id {EQUAL} $1 ORDER BY instance, seq, at",  # noqa: S608
        session,
    ):
        yield row


def _events(wanted: Filter, kinds: tuple[str, ...]) -> Question:
    if wanted.needs_outcome:
        raise ConfigError(
            "events have no outcome of their own: filter by time, user, function, client, application or session"
        )
    where, values = conditions_of(wanted.conditions(), 0)
    array = ", ".join(f"'{kind}'" for kind in kinds)
    text = f"SELECT a.* FROM {LOG} WHERE a.event {EQUAL} ANY (ARRAY[{array}]::pg_catalog.text[]){where}"  # noqa: S608
    return Question(text, values)


async def events(
    connection: Any, wanted: Filter, kinds: tuple[str, ...] = UNUSUAL, limit: int | None = None
) -> AsyncIterator[Any]:
    """Gives unusual events, oldest first: definitions over secret functions, direct use of the table, refusals,
    forgeries.
    """
    found = _events(wanted, kinds)
    if limit is None:
        async for row in connection.each(f"{found.sql} ORDER BY a.at, a.seq", *found.values):
            yield row
        return
    for row in reversed(await quick(connection, Question(f"{found.sql} {NEWEST} LIMIT {limit:d}", found.values))):
        yield row


def forgery_cause(row: Any) -> str:
    """Gives the likely causes of a forgery, by what its row says."""
    if row["function"] is None:
        return (
            "Its signature is wrong: somebody imitated testimony, or the proxy has another key than the database "
            "(secretproxy keys status) or is of an older version."
        )
    return (
        "Its signature is right, but this backend did not make it then: somebody played back what another call said, "
        "or the server's clock was set back."
    )


async def how_many_events(connection: Any, wanted: Filter, kinds: tuple[str, ...], known: int) -> Count:
    return await how_many(connection, _events(wanted, kinds), known)


def _whole_rows(wanted: Filter) -> Question:
    where, values = conditions_of(wanted.conditions(), 0)
    return Question(f"SELECT a.* FROM {LOG} WHERE true{where}", values)  # noqa: S608 - constant text


async def rows(connection: Any, *wanted: Filter) -> AsyncIterator[Any]:
    """Gives the log's rows that match any of these filters, with every column, in the order in which they are verified.

    A filter that a row alone does not show gives the accesses that match, each with the outcomes that say so. Raises
    ConfigError."""
    columns = ", ".join(f"a.{name}" for name in NAMES)
    parts: list[str] = []
    values: list[Any] = []
    for one in wanted:
        found = await resolved(connection, one)
        asked = question(found, None) if found.needs_outcome else _whole_rows(found)
        text = renumbered(asked.sql, len(values))
        if found.needs_outcome:
            # A row of the log may come twice: an outcome is that of each access of its statement.
            text = f"""WITH w AS MATERIALIZED ({text})
SELECT a.* FROM w AS a UNION ALL
SELECT o.* FROM w AS a JOIN secretproxy.access_log AS o ON {OWN_OUTCOME}"""  # noqa: S608 - constant text
        parts.append(f"({text})")
        values += asked.values
    several = len(parts) > 1 or any(one.needs_outcome for one in wanted)
    once = "DISTINCT ON (a.instance, a.seq, a.at, a.id) a.*"
    source = f"(SELECT {once} FROM ({' UNION ALL '.join(parts)}) AS a)" if several else parts[0]  # noqa: S608
    async for row in connection.each(
        f"SELECT {columns} FROM {source} AS a ORDER BY a.instance, a.seq, a.at", *values  # noqa: S608 - constant text
    ):  # fmt: skip
        yield row


async def expected(connection: Any, wanted: Filter) -> int:
    """Says how many rows a count of these accesses has to read, as the planner expects. Raises ConfigError."""
    where, values = conditions_of(wanted.but(outcome=(), jwt_user=None).conditions(), 0)
    return int(await connection.expected(f"SELECT FROM {LOG} WHERE true{where}", *values))


async def is_empty(connection: Any) -> bool:
    return not await connection.fetchval("SELECT EXISTS (SELECT FROM secretproxy.access_log)")


# Each step asks the index for the next login.
_LOGINS = f"""
WITH RECURSIVE known (login) AS (
    SELECT pg_catalog.min(a.db_user) FROM {LOG} WHERE a.event OPERATOR(pg_catalog.<>) 'outcome'
    UNION ALL
    SELECT (SELECT pg_catalog.min(a.db_user) FROM {LOG}
             WHERE a.event OPERATOR(pg_catalog.<>) 'outcome' AND a.db_user OPERATOR(pg_catalog.>) k.login)
      FROM known k WHERE k.login IS NOT NULL)
SELECT k.login FROM known k WHERE pg_catalog.lower(k.login) {EQUAL} pg_catalog.lower($1::pg_catalog.text)
   AND k.login OPERATOR(pg_catalog.<>) $2::pg_catalog.text LIMIT 10
"""  # noqa: S608 - constant text


async def logins_like(connection: Any, login: str) -> list[str]:
    """Gives the logins of the log that are written like this one but for case or quotes: other logins."""
    bare = login[1:-1].replace('""', '"') if len(login) > 2 and login[0] == login[-1] == '"' else login
    return [row["login"] for row in await connection.fetch(_LOGINS, bare, login)]


async def knows_login(connection: Any, login: str) -> bool:
    """Tells whether the log has any access by that login."""
    async for _ in accesses(connection, await resolved(connection, Filter(user=login)), 1):
        return True
    return False


@dataclass(frozen=True, slots=True)
class LogPlace:
    """The place of a review: the log's database, and other databases whose accesses are in it."""

    user: str
    database: str
    address: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        return f"the log in database {self.database} at {self.address}, read as {self.user}"


_RECENT = f"""
SELECT DISTINCT r.database FROM (
    SELECT a.database FROM {LOG} WHERE a.instance IS NOT NULL ORDER BY a.at DESC LIMIT 2000) r
 WHERE r.database OPERATOR(pg_catalog.<>) pg_catalog.current_database()::pg_catalog.text ORDER BY 1
"""  # noqa: S608 - constant text


async def place(connection: Any) -> LogPlace:
    """Says which database was read. Direct calls are in the databases in which they were made."""
    row = await connection.fetchrow(
        "SELECT session_user::pg_catalog.text AS login, pg_catalog.current_database()::pg_catalog.text AS database,"
        " pg_catalog.inet_server_addr() AS address, pg_catalog.inet_server_port() AS port"
    )
    others = await connection.fetch(_RECENT)
    address = "a Unix socket" if row["address"] is None else f"{row['address']}:{row['port']}"
    return LogPlace(row["login"], row["database"], address, tuple(other["database"] for other in others))


__all__ = [
    "Count", "Filter", "LogPlace", "UnreachedError", "accesses", "connect", "events", "explained", "how_many_accesses",
        "how_many_events",
    "local_zone", "moment", "place", "reading", "resolved", "rows", "story", "whole_uuid",
]  # fmt: skip
