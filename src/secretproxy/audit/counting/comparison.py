"""Two spans or applications side by side."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from secretproxy.audit.counting.accesses import Accesses, Table, cut, looked_at, settle
from secretproxy.audit.counting.outcomes import count_ended
from secretproxy.audit.filters import Filter
from secretproxy.audit.review import (
    ACCESS_EVENTS,
    LOG,
    SHOWN_BY_CALL,
    VAGUE,
    conditions_of,
)
from secretproxy.config import ConfigError

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
        return [((group.outcome,), group.n) for group in await count_ended(connection, source)]
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
    return cut(rows, limit)
