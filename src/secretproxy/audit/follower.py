"""Follows the log: finds new rows, whichever process wrote them, however late they were committed.

The rows of an instance are committed in the order of their numbers, so its last number that was seen is all there is to
remember, and times are never compared. Direct calls have no number, and commit when their transaction does: they are
looked for from the time on at which the oldest transaction that may still bring one began to write. May import asyncpg;
prints nothing.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from secretproxy.audit.filters import EQUAL, Filter
from secretproxy.audit.review import ACCESS_COLUMNS, IS_ACCESS, LOG, OUTCOME_OF, outcomes, with_outcome

PAGE = 1000
# Seconds after which an instance that wrote nothing is read only now and then, and how often.
QUIET_AFTER = 600.0
EVERYTHING_EVERY = 30.0
# A row's time is taken just before its transaction has a number.
_MARGIN = timedelta(seconds=10)
_OPEN_BEFORE = timedelta(hours=1)

# A loose index scan: a step an instance, not one a row.
INSTANCES = """
WITH RECURSIVE i (instance) AS (
    (SELECT instance FROM secretproxy.access_log WHERE instance IS NOT NULL ORDER BY instance LIMIT 1)
    UNION ALL
    SELECT (SELECT a.instance FROM secretproxy.access_log a WHERE a.instance OPERATOR(pg_catalog.>) i.instance
        ORDER BY a.instance LIMIT 1)
      FROM i WHERE i.instance IS NOT NULL)
SELECT i.instance,
       (SELECT a.seq FROM secretproxy.access_log a WHERE a.instance OPERATOR(pg_catalog.=) i.instance
           ORDER BY a.seq DESC LIMIT 1) AS seq
  FROM i WHERE i.instance IS NOT NULL
"""
_NEWS = f"""
{ACCESS_COLUMNS}, {IS_ACCESS} AS is_access
  FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.uuid[]), pg_catalog.unnest($2::bigint[])) AS s (instance, after)
 CROSS JOIN LATERAL (SELECT * FROM secretproxy.access_log l
                      WHERE l.instance {EQUAL} s.instance AND l.seq OPERATOR(pg_catalog.>) s.after ORDER BY l.seq
                          LIMIT {PAGE}) a
 {OUTCOME_OF} ORDER BY a.instance, a.seq
"""  # noqa: S608 - constant text
_DIRECT = f"""{ACCESS_COLUMNS} FROM {LOG} {OUTCOME_OF}
 WHERE a.event {EQUAL} 'direct' AND a.instance IS NULL AND a.at OPERATOR(pg_catalog.>=) $1"""
_MARK = """
SELECT pg_catalog.clock_timestamp() AS now,
    pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.text::bigint AS oldest,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text::bigint AS next
"""


class Follower:
    """Give it a connection, first to `begin`; after a lost one it goes on where it was."""

    def __init__(self) -> None:
        self._seen: dict[uuid.UUID, int] = {}
        self._writing: dict[uuid.UUID, float] = {}
        self._everything_due = 0.0
        # (a time, the number that the next transaction would have had then)
        self._marks: deque[tuple[datetime, int]] = deque()
        self._floor: datetime | None = None
        self._direct: dict[uuid.UUID, datetime] = {}

    async def begin(self, connection: Any) -> None:
        """Marks everything that the log has by now as old."""
        if self._floor is None:
            await self._mark(connection)
            for row in await connection.fetch(INSTANCES):
                self._seen[row["instance"]] = row["seq"]
            await self._new_direct(connection)
        self._everything_due = 0.0

    async def new_accesses(
        self, connection: Any, instances: Iterable[uuid.UUID] = (), *, everywhere: bool = True
    ) -> list[Any]:
        """Gives the new accesses in time order, with their outcomes as far as they are known.

        Only those of these `instances`, or of all with `everywhere`.
        """
        looked_at = set(instances)
        if not everywhere:
            return _sorted(await self._new_of(connection, looked_at))
        now = time.monotonic()
        looked_at.update(instance for instance, at in self._writing.items() if now - at < QUIET_AFTER)
        if now >= self._everything_due:
            self._everything_due = now + EVERYTHING_EVERY
            for row in await connection.fetch(INSTANCES):
                if row["seq"] > self._seen.get(row["instance"], 0):
                    looked_at.add(row["instance"])
        found = await self._new_of(connection, looked_at)
        await self._mark(connection)
        return _sorted(found + await self._new_direct(connection))

    async def _new_of(self, connection: Any, instances: Iterable[uuid.UUID]) -> list[Any]:
        found = []
        left = list(instances)
        while left:
            rows = await connection.fetch(_NEWS, left, [self._seen.get(instance, 0) for instance in left])
            counts = dict.fromkeys(left, 0)
            last = None
            for row in rows:
                instance = row["instance"]
                # A call may have several outcomes.
                counts[instance] += row["id"] != last
                self._seen[instance] = max(self._seen.get(instance, 0), row["seq"])
                self._writing[instance] = time.monotonic()
                if row["is_access"] and row["id"] != last:
                    found.append(row)
                last = row["id"]
            left = [instance for instance, count in counts.items() if count == PAGE]
        return found

    async def _mark(self, connection: Any) -> None:
        """Moves the floor up to where every transaction that began to write before it has ended."""
        mark = await connection.fetchrow(_MARK)
        if self._floor is None:
            self._floor = mark["now"] - _OPEN_BEFORE
        while self._marks and self._marks[0][1] <= mark["oldest"]:
            self._floor = max(self._floor, self._marks.popleft()[0])
        if not self._marks or self._marks[-1][1] != mark["next"]:
            self._marks.append((mark["now"], mark["next"]))

    async def _new_direct(self, connection: Any) -> list[Any]:
        assert self._floor is not None
        since = self._floor - _MARGIN
        self._direct = {row_id: at for row_id, at in self._direct.items() if at >= since}
        found = [row for row in await connection.fetch(_DIRECT, since) if row["id"] not in self._direct]
        for row in found:
            self._direct[row["id"]] = row["at"]
        return found


def _sorted(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: row["at"])


class Endings:
    """Puts off what is followed until it has ended, for as long as `wait` seconds.

    What takes longer comes once as it is and once as it ended.
    """

    # Accesses that are waited for; the oldest of more are not.
    MOST = 20_000

    def __init__(self, wanted: Filter, wait: float) -> None:
        self._wanted = wanted
        # Of an access alone: what its outcome has to tell comes later.
        self._before = wanted.before_its_end()
        self._wait = wait
        self._waiting: dict[Any, tuple[dict[str, Any], float]] = {}
        self._running: dict[Any, dict[str, Any]] = {}

    def due(self) -> float | None:
        """Gives the seconds until something has been waited for long enough; None if nothing waits."""
        if not self._waiting:
            return None
        return max(0.01, min(due for _, due in self._waiting.values()) - time.monotonic())

    async def of(self, connection: Any, news: Iterable[Any]) -> list[dict[str, Any]]:
        """Accesses to show now, in the order of their time: of `news`, and of what was waited for."""
        ready = []
        now = time.monotonic()
        for row in news:
            access = dict(row)
            if not self._before.fits(access):
                continue
            if access["outcome"] != "unknown" or None in (access["session_id"], access["statement_no"]):
                ready.append(access)
            else:
                self._waiting[access["id"]] = (access, now + self._wait)
        open_ones = {row_id: access for row_id, (access, _) in self._waiting.items()} | self._running
        ended = await outcomes(connection, open_ones.values())
        for row_id, access in open_ones.items():
            finished = with_outcome(access, ended)
            if finished is not None:
                self._waiting.pop(row_id, None)
                self._running.pop(row_id, None)
                ready.append(finished)
        for row_id, (access, due) in list(self._waiting.items()):
            if due <= now or len(self._waiting) > self.MOST:
                del self._waiting[row_id]
                self._running[row_id] = access
                ready.append(access)
        while len(self._running) > self.MOST:
            del self._running[next(iter(self._running))]
        return _sorted([access for access in ready if self._wanted.fits(access)])
