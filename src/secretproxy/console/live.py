"""Live rows: new accesses as server-sent events, each a row that the server has rendered, through any loss of the log's
connection.

A row that comes while nobody listens, between a page and its stream or between two streams, is looked up when the
stream begins. Where more came than are sent again, the page is told to be loaded anew, so that no gap looks like none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from secretproxy.audit import review
from secretproxy.audit.filters import Filter
from secretproxy.audit.follower import Endings, Follower
from secretproxy.audit.paging import newest
from secretproxy.audit.review import UnreachedError
from secretproxy.audit.wake import Wake, arrivals
from secretproxy.config import ConfigError
from secretproxy.console.app import Visit
from secretproxy.console.query import filter_of, query_of
from secretproxy.console.reading import UnavailableError, Watch

# Live pages of one person.
MOST_TAILS = 3
# Rows that are sent again at most when a stream begins.
MOST_AGAIN = 500
# How long an access that has not ended is waited for before it is shown as running.
WAIT = 2.0
# Rows that are committed late have an earlier time than ones that were seen.
LATE = timedelta(seconds=30)
# Seconds without an answer of the log's server after which the page is told that it is lost.
SILENT = 15.0
# Seconds of silence after which the browser gets a sign of life.
QUIET = 10.0


async def live(visit: Visit) -> Response:
    """Makes the stream of a filter; `known`: the time up to which the page has everything. Raises ConfigError."""
    wanted = filter_of(query_of(visit.query))
    if wanted.until is not None:
        raise ConfigError("until: what is to come has no end")
    known = visit.request.headers.get("last-event-id") or visit.query.get("known", "")
    try:
        since = datetime.fromisoformat(known).astimezone(UTC) - LATE
    except ValueError:
        raise ConfigError("known: not a time") from None
    if visit.session.tails >= MOST_TAILS:
        raise HTTPException(429, f"{MOST_TAILS} live pages are open. Close one of them.")
    async with visit.reader.connection() as connection:
        wanted = await review.resolved(connection, wanted)

    async def stream() -> AsyncIterator[bytes]:
        visit.session.tails += 1
        try:
            async for part in _stream(visit, wanted, since):
                yield part
        finally:
            visit.session.tails -= 1

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _stream(visit: Visit, wanted: Filter, since: datetime) -> AsyncIterator[bytes]:
    sessions = visit.console.sessions
    clock = asyncio.get_running_loop().time
    follower, endings = Follower(), Endings(wanted, WAIT)
    first, lost = True, False
    told_at = clock()
    yield b"retry: 2000\n\n"
    while not sessions.over(visit.session):
        try:
            async with visit.reader.connection(keep=False) as connection:
                with Watch(connection) as watch:
                    watch.begin()
                    wake = await Wake.of(connection)
                    await follower.begin(connection)
                    if first:
                        page = await newest(connection, wanted.but(since=max(since, wanted.since or since)), MOST_AGAIN)
                        if page.next is not None:
                            yield event("gap", "")
                        for row in reversed(page.rows):
                            yield _row(visit, row)
                        first = False
                    yield event("there", "")
                    lost = False
                    # The log is asked each second, whether something is told or not.
                    watch.begin(SILENT)
                    async for rows in arrivals(
                        connection, wake, follower, endings, lambda: sessions.over(visit.session)
                    ):
                        watch.begin(SILENT)
                        for row in rows:
                            yield _row(visit, row)
                            told_at = clock()
                        if clock() - told_at > QUIET:
                            yield b": nothing new\n\n"
                            told_at = clock()
        except (UnavailableError, UnreachedError):
            if not lost:
                yield event("lost", "")
                lost = True
            await asyncio.sleep(1)
            # Also so that a stream whose browser is gone ends.
            yield b": no log\n\n"
    yield event("over", "")


def _row(visit: Visit, row: Any) -> bytes:
    return event("row", visit.console.render("row.html", row=row), row["at"].isoformat())


def event(kind: str, data: str, number: str = "") -> bytes:
    """Makes one server-sent event. Its data may have any lines; `kind` and `number` are the console's."""
    lines = [
        f"event: {kind}",
        *([f"id: {number}"] if number else []),
        *(f"data: {line}" for line in data.splitlines() or [""]),
    ]
    return ("\n".join(lines) + "\n\n").encode()
