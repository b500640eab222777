"""`secretproxy audit events`: what is unusual in itself, whatever secret it was about."""

from __future__ import annotations

from pathlib import Path

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.listing import COLUMNS, IN_A_TERMINAL, Listing, chosen
from secretproxy.cli.audit.showing import Column, rows_to_output, safe, say_more, tell_more, tell_place
from secretproxy.config import ConfigError, review_database

KINDS = ("definition", "table", "refusal", "forgery", "direct")
EVENT_COLUMNS = COLUMNS | {
    "event": Column("event", lambda row: row["event"]),
    "function": Column("function", lambda row: safe(row["function"]) or "-", least=14),
    "how": Column("event", lambda row: row["event"]),
}
DEFAULT = ("at", "event", "user", "application", "function", "via", "from", "session")
SPARE = ("via", "application", "from")


def events(
    kind: str | None = typer.Option(None, "--kind", metavar="KINDS", help=
        "Of definition, table, refusal, forgery, direct; default: the first four."),
    since: str | None = opt.SINCE, until: str | None = opt.UNTIL, user: str | None = opt.USER,
    function: str | None = opt.FUNCTION,
    client: str | None = opt.CLIENT, application: str | None = opt.APPLICATION, session: str | None = opt.SESSION,
    limit: int | None = opt.LIMIT,
    columns: str | None = typer.Option(None, "--columns", metavar="NAMES", help=
        "Columns as for `audit list`, and event."),
    as_json: bool = opt.JSON_LINES, as_csv: bool = opt.CSV, raw: bool = opt.RAW, dsn: str | None = opt.DSN,
    config: Path | None = opt.CONFIG,
) -> None:  # fmt: skip
    """List forgeries, refusals, definitions and use of the table.

    A definition is a statement that creates a view, function, trigger or the like over a secret function. Use of the
    table is any that does not go through the functions.
    """
    # Long because its options are declared here, one a line.
    from secretproxy.audit import filters, review

    wanted = opt.filtered(
        since=since, until=until, user=user, function=function, client=client, application=application, session=session
    )
    kinds = (
        review.UNUSUAL
        if kind is None
        else tuple(filters.one_of("--kind", one.strip(), KINDS) for one in kind.split(","))
    )
    if as_json and as_csv:
        raise ConfigError("--json and --csv: give one of them")
    names = chosen(columns, DEFAULT, EVENT_COLUMNS)
    machine = as_json or as_csv
    most = opt.limit_of(limit, IN_A_TERMINAL, machine)
    table = Listing(names, EVENT_COLUMNS, () if columns else SPARE)

    database = review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as connection:
            found = await review.resolved(connection, wanted)
            if machine:
                write = rows_to_output(as_csv, raw)
                async for row in review.events(connection, found, kinds, most):
                    write(row)
                await tell_place(connection)
                return
            cut = await table.show(review.events(connection, found, kinds, None if most is None else most + 1), most)
            if not table.shown:
                print("the log is empty" if await review.is_empty(connection) else "no such event")
            table.end()
            await tell_place(connection)
            if cut:
                count = await review.how_many_events(connection, found, kinds, table.shown + 1)
                say_more(tell_more(count, table.shown, "newest events are"))

    opt.run(work())
