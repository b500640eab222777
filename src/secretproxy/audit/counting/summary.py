"""All tables of `audit stats`, made of what the other modules count."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any

from secretproxy.audit.counting.accesses import (
    LOOKED_UP,
    Accesses,
    Progress,
    Table,
    cut,
    ignore,
    looked_at,
    set_zone,
    settle,
)
from secretproxy.audit.counting.kept import Kept, kept_sums
from secretproxy.audit.counting.outcomes import HOUR, LOOKED_AT, Group, count_ended, joined_cube, summed
from secretproxy.audit.counting.secrets import count_secrets, count_secrets_kept
from secretproxy.audit.counting.verifies import count_verifies
from secretproxy.audit.filters import EQUAL, Filter
from secretproxy.audit.review import (
    LOG,
    VAGUE,
    Count,
    conditions_of,
)
from secretproxy.config import ConfigError
from secretproxy.connections import FAILURES


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return (-row["n"], *(str(value) for name, value in row.items() if name not in ("n", "latest")))


class Answers(dict[str, Table]):
    """The tables of `audit stats` by their names; `kept_upto`: the time before which they were counted of kept sums."""

    kept_upto: datetime | None = None


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
) -> tuple[list[Group], tuple[Table, Table, list[Any] | None]]:
    """Counts accesses and secrets, of many rows both at once: while one process puts groups together that others have
    made, these go on."""
    if another is None or not source.many or await _seems_vague(connection, source):
        cube = await count_ended(connection, source)
        return cube, await count_secrets(connection, source, limit)
    async with _beside(connection, source, another) as other:
        if other is None:
            cube = await count_ended(connection, source)
            return cube, await count_secrets(connection, source, limit)
        source.shared = True

        async def counted() -> list[Group]:
            await settle(other, source)
            return await count_ended(other, source)

        await settle(connection, source)
        beside = asyncio.ensure_future(counted())
        try:
            secrets = await count_secrets(connection, source.again(), limit)
            try:
                cube = await beside
            except FAILURES:
                # The second connection was ended, which is no reason to give up.
                cube = await count_ended(connection, source)
        finally:
            beside.cancel()
            with contextlib.suppress(*FAILURES, ConfigError, asyncio.CancelledError):
                await beside
    source.shared = False
    await settle(connection, source)
    # If there are vague attempts, a call may stand for one that was counted.
    return cube, await count_secrets(connection, source, limit) if source.vague else secrets


async def _from_kept(
    connection: Any, source: Accesses, kept: Kept, limit: int | None
) -> tuple[list[Group], list[Group], tuple[Table, Table, list[Any] | None]]:
    """Gives the accesses of the whole log by user, by hour, and by secret: of sums, of the rows behind them, and of
    earlier accesses that had not ended."""
    await settle(connection, source)
    newer = await looked_at(connection, source.wanted.but(since=kept.upto))
    older = Accesses(source.wanted.but(until=kept.upto))
    cube = await count_ended(connection, newer)
    if kept.open:
        await connection.execute(LOOKED_UP)
        cube += await joined_cube(connection, older, kept.only_open())
        await settle(connection, source)
    source.vague = kept.vague or newer.vague or older.vague
    secrets = await count_secrets_kept(connection, kept, newer, older, limit)
    return cube + kept.by_user, cube + kept.by_hour, secrets


async def _seems_vague(connection: Any, source: Accesses) -> bool:
    """Tells whether there are vague attempts among the newest rows."""
    where, values = conditions_of(Filter(since=source.wanted.since, until=source.wanted.until).conditions(), 0)
    query = f"""SELECT coalesce(pg_catalog.bool_or({VAGUE}), false)
      FROM (SELECT a.* FROM {LOG} WHERE true{where} ORDER BY a.at DESC LIMIT {LOOKED_AT:d}) a"""  # noqa: S608 - constant text
    return bool(await connection.fetchval(query, *values))


async def stats(
    connection: Any,
    wanted: Filter,
    *,
    limit: int | None,
    evening: int,
    morning: int,
    progress: Progress = ignore,
    another: Another | None = None,
    recount: bool = False,
) -> Answers:
    """Counts by secret, user, hour (of this machine's time zone) and outcome, and what looks unusual; `limit` lines a
    table. `another` opens a second connection, for many rows; `recount` leaves sums alone that the database keeps.
    Raises ConfigError."""
    # Long because each table is a few lines of it.
    await set_zone(connection)
    answers = Answers()
    async with connection.transaction(isolation="repeatable_read"):
        source = await looked_at(connection, wanted)
        await settle(connection, source)
        progress("accesses and secrets")
        kept = await kept_sums(connection, wanted) if source.many and not recount else None
        if kept is None:
            cube, (answers["secrets"], first, verified) = await _cube_and_secrets(connection, source, limit, another)
            by_user = by_hour = cube
        else:
            by_user, by_hour, (answers["secrets"], first, verified) = await _from_kept(connection, source, kept, limit)
            answers.kept_upto = kept.upto
        users = summed(by_user, lambda group: (group.db_user, group.role, group.accessed_by))
        answers["users"] = cut(
            sorted(
                (
                    {"db_user": user, "role": role, "accessed_by": jwt, "n": n, "latest": latest}
                    for (user, role, jwt), (n, latest) in users.items()
                ),
                key=_order,
            ),
            limit,
        )
        hours = summed(by_hour, lambda group: (group.hour,))
        answers["hours"] = cut([{"hour": hour, "n": n} for (hour,), (n, _) in sorted(hours.items())], None)
        ended = summed(by_hour, lambda group: (group.operation, group.outcome))
        answers["outcomes"] = cut(
            sorted(({"operation": what, "outcome": how, "n": n} for (what, how), (n, _) in ended.items()), key=_order),
            None,
        )
        answers["first_time"] = first
        night = sum(
            group.n
            for group in by_hour
            if group.operation == "read" and (group.hour >= evening or group.hour < morning)
        )
        progress("reads at night")
        answers["at_night"] = await _at_night(connection, source, night, limit, evening, morning)
        verifies = any(group.operation == "verify" for group in by_hour)
        progress("verifies in a row")
        answers["many_verifies"] = (
            await count_verifies(connection, source, limit, verified) if verifies else Table([], Count(0))
        )
    return answers


async def _at_night(
    connection: Any, source: Accesses, count: int, limit: int | None, evening: int, morning: int
) -> Table:
    if not count:
        return Table([], Count(0))
    only = (
        f" AND a.operation {EQUAL} 'read' AND ({HOUR} OPERATOR(pg_catalog.>=) {evening:d} OR {HOUR} "
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
