"""Accesses a page at a time, newest first: a page goes on exactly where the one before it ended, however many rows came
meanwhile.

The place between two pages is a row's time, number and id, not a count of rows, so that every page costs the same. May
import asyncpg."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from secretproxy.audit.filters import Filter
from secretproxy.audit.review import access_of, in_order, outcomes, page, questions
from secretproxy.config import ConfigError

# A transaction can make any number of direct calls at one time; more than this at one are not paged through.
MOST_AT_ONE_TIME = 200_000
_WRITTEN = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})_(\d{1,19}|-)_([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the order of accesses: that of the row with these."""

    at: datetime
    seq: int | None
    id: uuid.UUID

    @classmethod
    def of(cls, row: Any) -> Cursor:
        return cls(row["at"], row["seq"], row["id"])

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Parses what `str` made of a cursor. Raises ConfigError."""
        found = _WRITTEN.fullmatch(text)
        try:
            if found is not None:
                at = datetime.fromisoformat(f"{found[1]}+00:00")
                return cls(at, None if found[2] == "-" else int(found[2]), uuid.UUID(found[3]))
        except ValueError:
            pass
        raise ConfigError("before: not the end of a page")

    def __str__(self) -> str:
        at = self.at.isoformat(timespec="microseconds").removesuffix("+00:00")
        return f"{at}_{'-' if self.seq is None else self.seq}_{self.id}"

    @property
    def place(self) -> tuple[Any, ...]:
        return in_order({"at": self.at, "seq": self.seq, "id": self.id})


@dataclass(slots=True)
class Page:
    """Accesses, newest first, and the cursor at which the next page begins; None: there is none."""

    rows: list[dict[str, Any]]
    next: Cursor | None


async def newest(connection: Any, wanted: Filter, size: int, before: Cursor | None = None) -> Page:
    """Gives the newest `size` accesses of a filter, or the newest of those before a cursor. Raises ConfigError."""
    bounded = wanted
    if before is not None:
        until = before.at + timedelta(microseconds=1)
        bounded = wanted.but(until=until if wanted.until is None else min(until, wanted.until))
    ask = size + 10
    while True:
        found: dict[Any, Any] = {}
        edge: tuple[Any, ...] | None = None
        for part in questions(bounded, ask):
            rows = sorted(await page(connection, part, bounded, ask), key=in_order)
            if len(rows) >= ask:
                # Of rows with the time and number of the last one there can be more.
                last = in_order(rows[0])[:3]
                edge = last if edge is None else max(edge, last)
            found |= {row["id"]: row for row in rows}
        fitting = sorted(found.values(), key=in_order)
        if edge is not None:
            fitting = [row for row in fitting if in_order(row)[:3] > edge]
        if before is not None:
            fitting = [row for row in fitting if in_order(row) < before.place]
        if edge is None or len(fitting) > size:
            break
        if ask > MOST_AT_ONE_TIME:
            raise ConfigError(f"more than {MOST_AT_ONE_TIME:,} accesses have one time: narrow the filter down")
        ask *= 4
    shown = fitting[-size:]
    ended = await outcomes(connection, shown)
    following = Cursor.of(shown[0]) if len(fitting) > size else None
    return Page([access_of(row, ended) for row in reversed(shown)], following)
