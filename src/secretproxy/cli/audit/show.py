"""`secretproxy audit show`: one session, from its first event to its last."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any

import typer

from secretproxy.cli.audit.options import DSN, JSON, run
from secretproxy.cli.audit.showing import console_of, names_of, record_of, safe


def show(
    session: str = typer.Argument(..., metavar="SESSION", help="Session id, as `audit list --json` shows it."),
    dsn: str | None = DSN,
    as_json: bool = JSON,
) -> None:
    """Show one session's story."""
    from secretproxy.audit import review

    wanted = review.as_uuid("SESSION", session)

    async def work() -> list[Any]:
        connection = await review.connect(dsn)
        try:
            return await review.story(connection, wanted)
        finally:
            await connection.close()

    found = run(work())
    if as_json:
        for row in found:
            print(json.dumps(record_of(row)))
        return
    console = console_of()
    if not found:
        console.print("no such session in the log")
        raise typer.Exit(1)
    terminal = sys.stdout.isatty()
    first = found[0]
    address = "a Unix socket" if first["client_addr"] is None else f"{first['client_addr']} port {first['client_port']}"
    console.print(f"session      {wanted}", soft_wrap=True)
    console.print(f"login        {safe(first['db_user'])}, database {safe(first['database'])}", soft_wrap=True)
    console.print(f"application  {safe(first['application_name']) or '-'}", soft_wrap=True)
    console.print(f"from         {address}, {'TLS' if first['tls'] else 'no TLS'}", soft_wrap=True)
    console.print()
    for row in found:
        what = row["event"]
        if what == "outcome":
            seconds = "" if row["duration"] is None else f" after {row['duration'] * 1000:.1f} ms"
            text = f"  {row['outcome']}{' ' + row['sqlstate'] if row['sqlstate'] else ''}{seconds}, ran {row['calls'] or 0} times"
        else:
            owner = str(row["owner_id"] or "?")
            function = safe(row["function"])
            if terminal and console.width < 130:
                owner = owner if len(owner) < 9 else owner[:8] + "…"
                function = function.partition("(")[0].removeprefix("encrypted_secrets.")
            names = "" if row["secret_names"] is None and row["owner_id"] is None else f" {names_of(row)} of {owner}"
            text = f"{what} {function}{names}"
            if row["via"]:
                text += f" via {', '.join(map(safe, row['via']))}"
            if row["accessed_by"]:
                text += f" for {row['accessed_by']}"
        line = f"{row['at'].astimezone():%Y-%m-%d %H:%M:%S} #{row['statement_no'] or '-':<4} {text}"
        print(
            "\n".join(textwrap.wrap(line, console.width, subsequent_indent=" " * 26, break_on_hyphens=False))
            if terminal
            else line
        )
