"""`secretproxy audit stats`, `bursts` and `compare`: accesses counted, and what is unusual among them."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit.options import (
    APPLICATION,
    CLIENT,
    CONFIG,
    DSN,
    FUNCTION,
    JSON,
    JWT,
    LINES,
    OPERATION,
    OUTCOME,
    OWNER,
    SECRET,
    SESSION,
    SINCE,
    UNTIL,
    USER,
    filtered,
    limit_of,
    run,
)
from secretproxy.cli.audit.progress import CountProgress
from secretproxy.cli.audit.showing import (
    Column,
    Layout,
    console_of,
    in_full,
    mark,
    names_of,
    plain,
    print_line,
    safe,
    tell_place,
    zone,
)
from secretproxy.config import review_database

IN_A_TERMINAL = 10
# Cells of the longest bar, in a terminal of at least so many columns; half as many in a narrower one.
BAR, WIDE = 20, 100


def stats(
    since: str | None = SINCE, until: str | None = UNTIL, owner: str | None = OWNER, secret: str | None = SECRET,
    user: str | None = USER, jwt_user: str | None = JWT, function: str | None = FUNCTION,
    operation: str | None = OPERATION,
    outcome: list[str] | None = OUTCOME, client: str | None = CLIENT, application: str | None = APPLICATION,
    session: str | None = SESSION, limit: int | None = LINES,
    evening: int = typer.Option(22, "--evening", metavar="HOUR", min=0, max=24,
                                help="Hour from which a read is unusual."),
    morning: int = typer.Option(6, "--morning", metavar="HOUR", min=0, max=24,
                                help="Hour before which a read is unusual."),
    recount: bool = typer.Option(False, "--recount", help="Count every row, without the sums that the log keeps."),
    as_json: bool = JSON, dsn: str | None = DSN, config: Path | None = CONFIG,
) -> None:  # fmt: skip
    """Count accesses, and show what is unusual."""
    # Long because its options are declared here, one a line.
    from secretproxy.audit import counting, review

    wanted = filtered(
        since=since, until=until, owner=owner, secret=secret, user=user, jwt_user=jwt_user, function=function,
        operation=operation,
        outcome=outcome, client=client, application=application, session=session,
    )  # fmt: skip
    console = console_of()
    most = limit_of(limit, IN_A_TERMINAL, as_json)
    titles = {
        "secrets": "by secret", "users": "by user", "hours": f"by hour ({zone()})", "outcomes": "by outcome",
        "first_time": "first use of a secret by a login", "at_night":
            f"reads between {evening}:00 and {morning}:00 ({zone()})",
        "many_verifies": "five or more verifies of a secret in a row",
    }  # fmt: skip

    database = review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as connection:
            with CountProgress() as progress:
                answers = await counting.stats(
                    connection,
                    await review.resolved(connection, wanted),
                    limit=most,
                    evening=evening,
                    morning=morning,
                    progress=progress,
                    another=lambda: review.connect(database),
                    recount=recount,
                )
            if as_json:
                print(json.dumps({name: [_record(row) for row in table.rows] for name, table in answers.items()}))
                await tell_place(connection)
                _tell_kept(answers.kept_upto)
                return
            if not answers["outcomes"].rows:
                print("the log is empty" if await review.is_empty(connection) else "no access matches")
            for name, title in titles.items():
                print_counts(console, title, answers[name])
            await tell_place(connection)
            _tell_kept(answers.kept_upto)

    run(work())


def _tell_kept(upto: datetime | None) -> None:
    """Says in the last line that sums were used which the log keeps."""
    if upto is not None:
        print(
            f"rows before {in_full(upto)} were counted from kept sums, which have as many rows as the log:"
            " --recount counts every row",
            file=sys.stderr,
        )


def bursts(
    since: str | None = SINCE, until: str | None = UNTIL, owner: str | None = OWNER, user: str | None = USER,
    function: str | None = FUNCTION, operation: str | None = OPERATION, client: str | None = CLIENT,
    application: str | None = APPLICATION, session: str | None = SESSION,
    window: str = typer.Option("10m", "--window", metavar="TIME", help="Length of the time window: 30s, 10m, 2h."),
    at_least: int = typer.Option(20, "--at-least", metavar="N", min=2, help="Different secrets that make a burst."),
    limit: int | None = LINES, as_json: bool = JSON, dsn: str | None = DSN, config: Path | None = CONFIG,
) -> None:  # fmt: skip
    """Find where a login used many different secrets in a short time."""
    from secretproxy.audit import counting, filters, review

    wanted = filtered(
        since=since, until=until, owner=owner, user=user, function=function, operation=operation, client=client,
        application=application, session=session,
    )  # fmt: skip
    length = filters.duration("--window", window)
    most = limit_of(limit, IN_A_TERMINAL, as_json)

    database = review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as connection:
            with CountProgress() as progress:
                table = await counting.bursts(
                    connection, await review.resolved(connection, wanted), window=length, at_least=at_least, limit=most,
                    progress=progress,
                )  # fmt: skip
            if as_json:
                print(json.dumps([_record(row) for row in table.rows]))
                await tell_place(connection)
                return
            if not table.rows:
                print(f"no login used {at_least} different secrets within {window}")
            title = f"logins that used {at_least} or more different secrets within {window} (times of {zone()})"
            print_counts(console_of(), title, table)
            await tell_place(connection)

    run(work())


def compare(
    by: str = typer.Option("secret", "--by", metavar="WHAT", help=
        "secret, user, application, client, function, operation, outcome or database."),
    since: str | None = SINCE, until: str | None = UNTIL,
    with_since: str | None = typer.Option(None, "--with-since", metavar="TIME", help=
        "The other time span: from this time on."),
    with_until: str | None = typer.Option(None, "--with-until", metavar="TIME", help=
        "The other time span: before this time."),
    application: str | None = APPLICATION,
    with_application: str | None = typer.Option(None, "--with-application", metavar="NAME", help=
        "The other application."),
    user: str | None = USER,
    with_user: str | None = typer.Option(None, "--with-user", metavar="NAME", help="The other login."),
    owner: str | None = OWNER, secret: str | None = SECRET, operation: str | None = OPERATION,
    client: str | None = CLIENT,
    limit: int | None = LINES, as_json: bool = JSON, dsn: str | None = DSN, config: Path | None = CONFIG,
) -> None:  # fmt: skip
    """Compare the accesses of two spans, applications or logins."""
    # Long because its options are declared here, one a line.
    from secretproxy.audit import counting, review
    from secretproxy.config import ConfigError

    if not any((with_since, with_until, with_application, with_user)):
        raise ConfigError("nothing to compare with: give --with-since, --with-until, --with-application or --with-user")
    same = {"owner": owner, "secret": secret, "operation": operation, "client": client}
    spans = (with_since or with_until) is not None
    one = filtered(since=since, until=until, application=application, user=user, **same)
    other = filtered(
        since=with_since if spans else since, until=with_until if spans else until,
        application=with_application or application,
        user=with_user or user, **same,
    )  # fmt: skip
    most = limit_of(limit, IN_A_TERMINAL, as_json)

    database = review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as connection:
            with CountProgress() as progress:
                progress("accesses of both")
                table = await counting.compare(
                    connection,
                    await review.resolved(connection, one),
                    await review.resolved(connection, other),
                    by,
                    most,
                )
            if as_json:
                print(json.dumps([_record(row) for row in table.rows]))
                await tell_place(connection)
                return
            if not table.rows:
                print("no access matches either")
            print_counts(
                console_of(), f"accesses by {by}: the first, the other, and how many more the other has", table
            )
            await tell_place(connection)

    run(work())


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """Converts a line of a table to JSON types: names as a list, and as one text for reading."""
    record = {name: plain(value) for name, value in row.items()}
    if "secret_names" in row:
        record["secret"] = (
            None
            if row["secret_names"] is None
            else ", ".join("(null)" if n is None else n for n in row["secret_names"])
        )
    return record


def _cell(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return in_full(value)
    if name == "secret_names":
        return names_of({"secret_names": value})
    if name == "failed":
        return f"{value} failed"
    if name == "hour":
        return f"{value:02}:00"
    if isinstance(value, int | float):
        return f"{value:,}"
    return safe(value) or "-"


_SHRINK = {
    "owner_id": 9,
    "secret_names": 10,
    "db_user": 8,
    "role": 6,
    "accessed_by": 9,
    "function": 14,
    "application_name": 7,
}
_HEADS = {
    "owner_id": "owner", "secret_names": "secret", "db_user": "user", "accessed_by": "jwt user", "n": "accesses",
    "application_name": "application", "client_addr": "client",
}  # fmt: skip


def print_counts(console: Any, title: str, table: Any) -> None:
    """Prints a table under its title; the last line says what is left out."""
    if not table.rows:
        return
    print_line(console, title, "bold")
    terminal = sys.stdout.isatty()
    most = max((row["n"] for row in table.rows if "n" in row), default=0)

    def column(name: str) -> Column:
        number = isinstance(table.rows[0][name], int | float) and name not in ("hour", "failed")
        return Column(_HEADS.get(name, name), lambda row: _cell(name, row[name]), _SHRINK.get(name, 0), number)

    columns = [column(name) for name in table.rows[0]]
    if most:
        # A bar is never shortened: then it would be as long as another.
        full = mark("█", "#")
        bar = BAR if not terminal or console.width >= WIDE else BAR // 2
        columns.append(Column("", lambda row: full * max(1, round(bar * row["n"] / most))))
    layout = Layout(columns, console.width if terminal else None)
    cells = layout.take(table.rows)
    print_line(console, layout.heading(), "dim")
    for line in cells:
        print_line(console, layout.line(line))
    more = table.count.less(len(table.rows))
    if more.number:
        print_line(console, f"{more} more: --limit 0 shows all")
    console.print()
