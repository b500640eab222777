"""`secretproxy audit tail`: accesses as they happen, with how they ended, through any loss of the connection."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.showing import how_ended, in_full, names_of, origin, record_of, safe, tell_place, who, zone
from secretproxy.config import review_database


@opt.with_more_filters
def tail(
    owner: str | None = opt.OWNER, secret: str | None = opt.SECRET, user: str | None = opt.USER,
    jwt_user: str | None = opt.JWT,
    function: str | None = opt.FUNCTION, operation: str | None = opt.OPERATION, outcome: list[str] | None = opt.OUTCOME,
    client: str | None = opt.CLIENT, application: str | None = opt.APPLICATION, session: str | None = opt.SESSION,
    wait: float = typer.Option(
        2.0, "--wait", metavar="SECONDS", min=0.0,
        help="Seconds before an unfinished access is shown as running; it is shown again when it has ended.",
    ),
    as_json: bool = opt.JSON_LINES, dsn: str | None = opt.DSN, config: Path | None = opt.CONFIG, **more: str | None,
) -> None:  # fmt: skip
    """Follow accesses as they happen."""
    # Long because its options are declared here, one a line.
    from secretproxy.audit import review
    from secretproxy.audit.follower import Endings, Follower
    from secretproxy.audit.wake import Wake, arrivals

    wanted = opt.filtered(
        owner=owner, secret=secret, user=user, jwt_user=jwt_user, function=function, operation=operation,
        outcome=outcome,
        client=client, application=application, session=session, **more,
    )  # fmt: skip

    database = review_database(dsn, config)

    async def work() -> None:
        follower = Follower()
        found = wanted
        endings: Any = None
        first = True
        connected = False
        while True:
            try:
                async with review.reading(database) as connection:
                    wake = await Wake.of(connection)
                    if first:
                        found = await review.resolved(connection, wanted)
                        endings = Endings(found, wait)
                    await follower.begin(connection)
                    if first:
                        await tell_place(connection, f"following {{}}, times are of {zone()}")
                    else:
                        print("connected again", file=sys.stderr, flush=True)
                    first, connected = False, True
                    async for rows in arrivals(connection, wake, follower, endings):
                        for row in rows:
                            _print_row(row, as_json)
                        sys.stdout.flush()
            except review.UnreachedError:
                if first:
                    raise
            if connected:
                print("connection lost, connecting again", file=sys.stderr, flush=True)
            await asyncio.sleep(0.2 if connected else 1.0)
            connected = False

    opt.run(work())


def _print_row(row: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(record_of(row)))
        return
    owner = "?" if row["owner_id"] is None else str(row["owner_id"])
    ended = "running" if row["outcome"] == "unknown" else how_ended(row)
    application = f" {safe(row['application_name'])}" if row["application_name"] else ""
    session = "" if row["session_id"] is None else f"  session {row['session_id']}"
    print(
        f"{in_full(row['at'])}  {who(row)}{application}  {row['operation'] or '?'}  {names_of(row)} of {owner}  "
        f"{ended}  {origin(row)}{session}"
    )
