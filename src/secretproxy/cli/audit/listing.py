"""`secretproxy audit list`: accesses of secrets, from the log or from a spool."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.showing import (
    CHUNK,
    Column,
    Layout,
    console_of,
    how_ended,
    in_full,
    names_of,
    origin,
    print_line,
    rows_to_output,
    safe,
    say_more,
    tell_more,
    tell_place,
    who,
    zone,
)
from secretproxy.config import ConfigError, review_database

IN_A_TERMINAL = 100
COLUMNS = {
    "user": Column("user", who, least=8),
    "jwt": Column("jwt user", lambda row: "" if row["accessed_by"] is None else str(row["accessed_by"]), least=9),
    "application": Column("application", lambda row: safe(row["application_name"]), least=7),
    "op": Column("op", lambda row: row["operation"] or "?"),
    "owner": Column("owner", lambda row: "?" if row["owner_id"] is None else str(row["owner_id"]), least=9),
    "secret": Column("secret", names_of, least=10),
    "outcome": Column("outcome", how_ended),
    "from": Column("from", origin, least=9),
    "session": Column("session", lambda row: "-" if row["session_id"] is None else str(row["session_id"]), least=9),
    "how": Column("how", lambda row: row["how"]),
    "calls": Column("calls", lambda row: "" if row["calls"] is None else str(row["calls"]), right=True),
    "ms": Column("ms", lambda row: "" if row["duration"] is None else f"{row['duration'] * 1000:.1f}", right=True),
    "function": Column("function", lambda row: safe(row["function"]), least=14),
    "database": Column("database", lambda row: safe(row["database"]), least=6),
    "role": Column("role", lambda row: safe(row["role"]), least=6),
    "statement": Column(
        "statement", lambda row: "" if row["statement_no"] is None else str(row["statement_no"]), right=True
    ),
    "protocol": Column("protocol", lambda row: row["protocol"] or ""),
    "encoding": Column("encoding", lambda row: row["encoding"] or ""),
    "fingerprint": Column("fingerprint", lambda row: row["fingerprint"] or ""),
    "via": Column("via", lambda row: ", ".join(map(safe, row["via"] or ())), least=12),
    "port": Column("port", lambda row: "" if row["client_port"] is None else str(row["client_port"]), right=True),
    "id": Column("id", lambda row: str(row["id"]), least=9),
    "instance": Column("instance", lambda row: "" if row["instance"] is None else str(row["instance"]), least=9),
    "seq": Column("seq", lambda row: "" if row["seq"] is None else str(row["seq"]), right=True),
}
DEFAULT = ("at", "user", "jwt", "application", "op", "owner", "secret", "outcome", "from", "session")
# If there is no room, the last of these is dropped first.
SPARE = ("session", "application", "from", "jwt user")
COLOURS = {"ok": None, "unknown": "yellow", "cancelled": "yellow", "lost": "yellow"}


def chosen(columns: str | None, default: tuple[str, ...], known: dict[str, Column]) -> tuple[str, ...]:
    """Parses the names of columns. Raises ConfigError."""
    if columns is None:
        return default
    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    names = tuple("jwt" if name in ("jwt user", "jwt_user", "accessed_by") else name for name in names)
    if not names or any(name != "at" and name not in known for name in names):
        raise ConfigError(f"--columns: a list separated by commas of: at, {', '.join(known)}")
    return names


def times(rows: list[Any], width: int | None) -> Column:
    """Makes the column of times, in this machine's zone.

    Its heading names the zone, and the year if the rows omit it.
    """
    years = {row["at"].astimezone().year for row in rows}
    if width is None or width >= 130 or len(years) != 1:
        return Column(f"at ({zone()})", lambda row: in_full(row["at"]))
    return Column(f"at {years.pop()}", lambda row: row["at"].astimezone().strftime("%m-%d %H:%M:%S"))


class Listing:
    """Prints rows as a table: a page in a terminal, or any number of rows, by chunks, in a pipe."""

    def __init__(self, names: tuple[str, ...], known: dict[str, Column], spare: tuple[str, ...]) -> None:
        self._console = console_of()
        self._width: int | None = self._console.width if sys.stdout.isatty() else None
        self._names = names
        self._known = known
        self._spare = spare
        self._layout: Layout | None = None
        self.shown = 0

    def add(self, rows: list[Any]) -> None:
        first = self._layout is None
        if self._layout is None:
            columns = [times(rows, self._width) if name == "at" else self._known[name] for name in self._names]
            self._layout = Layout(columns, self._width, self._spare)
        cells = self._layout.take(rows)
        if first:
            print_line(self._console, self._layout.heading(), "bold")
        for line, row in zip(cells, rows, strict=True):
            print_line(self._console, self._layout.line(line), COLOURS.get(row.get("outcome"), "red"))
        self.shown += len(rows)

    async def show(self, rows: AsyncIterator[Any], most: int | None) -> bool:
        """Prints rows, oldest first, of which there may be one more than `most`; returns whether there is."""
        waiting: list[Any] = []
        async for row in rows:
            waiting.append(row)
            if most is None and self._width is None and len(waiting) == CHUNK:
                self.add(waiting)
                waiting = []
        cut = most is not None and len(waiting) > most
        if cut:
            del waiting[0]
        if waiting:
            self.add(waiting)
        return cut

    def end(self) -> None:
        """Says what the table leaves out."""
        if self._layout is None or self._width is None:
            return
        short = "" if "at" not in self._names or self._width >= 130 else f"times are of {zone()}"
        left = ", ".join(reversed(self._layout.left_out))
        if left:
            left = f"no room for {left}: see --columns"
        if short or left:
            print_line(self._console, "; ".join(part for part in (short, left) if part), "dim")


@opt.with_more_filters
def list_(
    since: str | None = opt.SINCE, until: str | None = opt.UNTIL, owner: str | None = opt.OWNER,
    secret: str | None = opt.SECRET,
    user: str | None = opt.USER, jwt_user: str | None = opt.JWT, function: str | None = opt.FUNCTION,
    operation: str | None = opt.OPERATION,
    outcome: list[str] | None = opt.OUTCOME, client: str | None = opt.CLIENT, application: str | None = opt.APPLICATION,
    session: str | None = opt.SESSION, limit: int | None = opt.LIMIT,
    columns: str | None = typer.Option(None, "--columns", metavar="NAMES", help=
        f"Columns to show: at, {', '.join(COLUMNS)}."),
    as_json: bool = opt.JSON_LINES, as_csv: bool = opt.CSV, raw: bool = opt.RAW,
    spool: Path | None = typer.Option(None, "--spool", metavar="DIR", help=
        "Read the events that wait in a spool instead of the log."),
    dsn: str | None = opt.DSN, config: Path | None = opt.CONFIG, **more: str | None,
) -> None:  # fmt: skip
    """List accesses of secrets, oldest first."""
    # Long because its options are declared here, one a line.
    from secretproxy.audit import review

    wanted = opt.filtered(
        since=since, until=until, owner=owner, secret=secret, user=user, jwt_user=jwt_user, function=function,
        operation=operation,
        outcome=outcome, client=client, application=application, session=session, **more,
    )  # fmt: skip
    if as_json and as_csv:
        raise ConfigError("--json and --csv: give one of them")
    names = chosen(columns, DEFAULT, COLUMNS)
    machine = as_json or as_csv
    most = opt.limit_of(limit, IN_A_TERMINAL, machine)
    table = Listing(names, COLUMNS, () if columns else SPARE)

    database = None if spool is not None else review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as connection:
            found = await review.resolved(connection, wanted, now=True)
            if machine:
                rows = review.accesses(connection, found, most)
                write = rows_to_output(as_csv, raw)
                async for row in rows:
                    write(row)
                await tell_place(connection)
                return
            cut = await table.show(review.accesses(connection, found, None if most is None else most + 1), most)
            if not table.shown:
                print("the log is empty" if await review.is_empty(connection) else "no access matches")
            table.end()
            await tell_place(connection)
            if cut:
                count = await review.how_many_accesses(connection, found, table.shown + 1)
                say_more(tell_more(count, table.shown, "newest accesses are"))

    if spool is None:
        opt.run(work())
        return
    # What reads a spool imports the parser.
    from secretproxy.audit import spool_review

    found = spool_review.accesses(spool, wanted, None)
    waiting = found if most is None else found[-most:]
    if machine:
        write = rows_to_output(as_csv, raw)
        for row in waiting:
            write(row)
        return
    _print_waiting(table, waiting)
    say_more(tell_more(review.Count(len(found)), len(waiting), "newest accesses are"))


def _print_waiting(table: Listing, waiting: list[Any]) -> None:
    """Prints what waits in a spool."""
    size = len(waiting) if sys.stdout.isatty() else CHUNK
    for start in range(0, len(waiting), size or 1):
        table.add(waiting[start : start + size])
    if not waiting:
        print("no event in the spool matches")
    table.end()
