"""`secretproxy audit show`: one session, from its first event to its last."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import typer

from secretproxy.audit.records import pairs
from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.showing import (
    console_of,
    ellipsis,
    in_full,
    names_of,
    quoted,
    record_of,
    safe,
    tell_place,
    zone,
)
from secretproxy.config import review_database
from secretproxy.wire.types import SqlState


def show(
    session: str = typer.Argument(..., metavar="SESSION", help="Session id, or a unique prefix of it."),
    dsn: str | None = opt.DSN,
    config: Path | None = opt.CONFIG,
    as_json: bool = opt.JSON_LINES,
) -> None:
    """Show one session's story."""
    from secretproxy.audit import filters, review

    filters.uuid_range("SESSION", session)
    console = console_of()
    terminal = sys.stdout.isatty()

    database = review_database(dsn, config)

    async def work() -> int:
        count = 0
        async with review.reading(database) as connection:
            wanted = await review.whole_uuid(connection, "session_id", "SESSION", session)
            async for row in review.story(connection, wanted):
                if as_json:
                    print(json.dumps(record_of(row)))
                else:
                    if not count:
                        _head(row, console)
                    print(_line(row, console.width, terminal))
                count += 1
            if not as_json:
                await tell_place(connection)
        return count

    if not opt.run(work()):
        if not as_json:
            console.print("no such session in the log")
        raise typer.Exit(1)


def _head(row: Any, console: Any) -> None:
    """Prints who the session is."""
    address = "a Unix socket" if row["client_addr"] is None else f"{row['client_addr']} port {row['client_port']}"
    for name, text in {
        "session": str(row["session_id"]), "login": f"{safe(row['db_user'])}, database {safe(row['database'])}",
        "application": safe(row["application_name"]) or "-", "from": f"{address}, {'TLS' if row['tls'] else 'no TLS'}",
        "times": zone(),
    }.items():  # fmt: skip
        console.print(f"{name:<12} {text}", soft_wrap=True)
    console.print()


def _line(row: Any, width: int, terminal: bool) -> str:
    text = _ended(row) if row["event"] == "outcome" else _done(row, short=terminal and width < 130)
    if row["event"] == "access":
        text += f", {_ended(row).strip()}"
    line = f"{in_full(row['at'])} #{row['statement_no'] or '-':<4} {text}"
    if not terminal:
        return line
    return "\n".join(textwrap.wrap(line, width, subsequent_indent=" " * 26, break_on_hyphens=False))


def _ended(row: Any) -> str:
    """Tells how a statement ended."""
    seconds = "" if row["duration"] is None else f" after {row['duration'] * 1000:.1f} ms"
    state = row["sqlstate"]
    ran = "no function testified" if row["calls"] is None else f"ran {row['calls']} times"
    return (
        f"  {row['outcome']}{' ' + state if state and state != SqlState.SUCCESSFUL_COMPLETION else ''}{seconds}, {ran}"
    )


def _done(row: Any, *, short: bool) -> str:
    """Describes any other event: the function, the owner of the secrets, the path and the user."""
    owner = str(row["owner_id"] or "?")
    function = safe(row["function"])
    if row["event"] == "review":
        return (
            f"review {function} "
            f"{', '.join(f'{safe(name)}: {quoted(value)}' for name, value in pairs(row['via']).items())}"
        )
    if short:
        owner = owner if len(owner) < 9 else owner[:8] + ellipsis()
        function = function.partition("(")[0].removeprefix("encrypted_secrets.")
    names = "" if row["secret_names"] is None and row["owner_id"] is None else f" {names_of(row)} of {owner}"
    text = f"{row['event']} {function}{names}"
    if row["via"]:
        text += f" via {', '.join(map(safe, row['via']))}"
    if row["accessed_by"]:
        text += f" for {row['accessed_by']}"
    return text
