"""`secretproxy audit list`: accesses of secrets, from the log or from a spool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit.options import (
    APPLICATION,
    CLIENT,
    DSN,
    FUNCTION,
    JWT,
    OPERATION,
    OUTCOME,
    OWNER,
    SECRET,
    SESSION,
    SINCE,
    UNTIL,
    USER,
    filtered,
    run,
)
from secretproxy.cli.audit.showing import console_of, how_ended, names_of, origin, print_table, who, writer_to
from secretproxy.config import ConfigError


def _access_table(found: list[Any], width: int) -> Any:
    from rich.cells import cell_len
    from rich.table import Table

    wide = width >= 130
    piped = width >= 1000  # there nothing is cut
    gap = 2 if wide else 1
    heads = ["at", "user", "jwt user", "op", "owner", "secret", "outcome", "from"]
    most = {"user": 30 if wide else 14, "outcome": 15, "from": 40 if wide else 15}
    lines = []
    for row in found:
        owner = "?" if row["owner_id"] is None else str(row["owner_id"])
        lines.append(
            [
                row["at"].astimezone().strftime("%Y-%m-%d %H:%M:%S" if wide else "%m-%d %H:%M:%S"),
                who(row),
                "" if row["accessed_by"] is None else str(row["accessed_by"]),
                row["operation"] or "?",
                owner if wide or len(owner) < 9 else owner[:8] + "…",
                names_of(row),
                how_ended(row),
                origin(row),
            ]
        )
    widths = [
        min(max(map(cell_len, (head, *(line[place] for line in lines)))), width if piped else most.get(head, width))
        for place, head in enumerate(heads)
    ]
    shown = [place for place in range(len(heads)) if wide or heads[place] != "jwt user"]
    # The secret's name gets what the others leave.
    name = heads.index("secret")
    others = sum(widths[place] + gap for place in shown if place != name)
    widths[name] = max(8, min(widths[name], width - others))
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for place in shown:
        table.add_column(heads[place], no_wrap=True, overflow="ellipsis", width=widths[place])
    colours = {"ok": None, "unknown": "yellow", "cancelled": "yellow", "lost": "yellow"}
    for line, row in zip(lines, found, strict=True):
        table.add_row(*(line[place] for place in shown), style=colours.get(row["outcome"], "red"))
    return table


def list_(
    since: str | None = SINCE, until: str | None = UNTIL, owner: str | None = OWNER, secret: str | None = SECRET,
    user: str | None = USER, jwt_user: str | None = JWT, function: str | None = FUNCTION, operation: str | None = OPERATION,
    outcome: str | None = OUTCOME, client: str | None = CLIENT, application: str | None = APPLICATION, session: str | None = SESSION,
    limit: int = typer.Option(100, "--limit", "-n", min=0, help="The newest so many; 0: all."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, a line each."),
    as_csv: bool = typer.Option(False, "--csv", help="Print CSV."),
    spool: Path | None = typer.Option(None, "--spool", metavar="DIR", help="What waits in a spool, instead of what is in the log."),
    dsn: str | None = DSN,
) -> None:  # fmt: skip
    """List accesses of secrets, oldest first."""
    from secretproxy.audit import review, spooled

    wanted = filtered(
        since=since, until=until, owner=owner, secret=secret, user=user, jwt_user=jwt_user, function=function, operation=operation,
        outcome=outcome, client=client, application=application, session=session,
    )  # fmt: skip
    if as_json and as_csv:
        raise ConfigError("--json and --csv: give one of them")
    wanted.where()
    console = console_of()

    def show(found: list[Any], *, empty: str) -> None:
        if not found:
            console.print(empty)
            return
        print_table(console, _access_table(found, console.width))
        if limit and len(found) == limit:
            print(f"the newest {limit}; --limit 0 shows all", file=sys.stderr)

    async def work() -> None:
        connection = await review.connect(dsn)
        try:
            rows = review.accesses(connection, wanted, limit or None)
            if as_json or as_csv:
                write = writer_to(sys.stdout, as_csv)
                async for row in rows:
                    write(row)
                return
            found = [row async for row in rows]
            some = found or await connection.fetchval("SELECT EXISTS (SELECT FROM secretproxy.access_log)")
            show(found, empty="no access fits" if some else "the log is empty")
        finally:
            await connection.close()

    if spool is None:
        run(work())
        return
    waiting = spooled.accesses(spool, wanted, limit or None)
    if as_json or as_csv:
        write = writer_to(sys.stdout, as_csv)
        for row in waiting:
            write(row)
        return
    show(waiting, empty="nothing that fits waits in the spool")
