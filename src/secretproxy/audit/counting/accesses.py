"""The accesses of a filter as the source of a count, and how the server is to count them. Prints nothing; may import
asyncpg."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from secretproxy.audit.filters import EQUAL, Filter, local_zone
from secretproxy.audit.review import (
    ACCESS_EVENTS,
    OUTCOME_OF,
    SET_BACK,
    SHOWN_BY_CALL,
    VAGUE,
    Count,
    Question,
    conditions_of,
    ways,
)

# More rows than this are joined by hashing and read by several processes.
MANY = 50_000
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
# Nearly all name one secret, and a text is quicker to group than an array: grouped are the first name, and all of them
# where there are others. No names at all have an array here that no first name goes with but NULL.
NAMES_FIRST = "a.secret_names[1]"
NAMES_NONE = "ARRAY['', '']::pg_catalog.text[]"
NAMES_ALL = f"""CASE WHEN pg_catalog.cardinality(a.secret_names) {EQUAL} 1 THEN NULL
    ELSE coalesce(a.secret_names, {NAMES_NONE}) END"""
# Sums are kept by quarters of an hour: every zone of today is a multiple of one away from UTC.
QUARTER = 900
Progress = Callable[[str], None]


def stretch(seconds: float) -> str:
    """Gives SQL for the number of the stretch of so many seconds that an access is in, counted from 1970."""
    return (
        "pg_catalog.floor(pg_catalog.date_part('epoch', a.at) OPERATOR(pg_catalog./)"
        f" '{seconds!r}'::pg_catalog.float8)::bigint"
    )


def ignore(text: str) -> None:
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


def uuids(values: list[Any]) -> str:
    """Uuids as a constant, which the planner can count."""
    return f"ARRAY[{', '.join(repr(str(uuid.UUID(str(value)))) for value in values)}]::pg_catalog.uuid[]"


def cut(rows: list[dict[str, Any]], limit: int | None) -> Table:
    return Table(rows if limit is None else rows[:limit], Count(len(rows)))
