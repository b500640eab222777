"""`secretproxy audit unused`: stored secrets that nobody has used for some time."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.progress import CountProgress
from secretproxy.cli.audit.showing import (
    Column,
    Layout,
    console_of,
    in_full,
    print_line,
    quoted,
    rows_to_output,
    safe,
    say_more,
    tell_place,
    zone,
)
from secretproxy.config import ConfigError, review_database

IN_A_TERMINAL = 100


def unused(
    days: int = typer.Option(90, "--days", metavar="DAYS", min=1, max=36500, help="Not used for this many days."),
    reads: bool = typer.Option(False, "--reads", help="Count only reads and verifies as use; default: writes too."),
    secrets_dsn: str | None = typer.Option(
        None, "--secrets-dsn", metavar="DSN", help="Database of the secrets, if it is not the log's."
    ),
    limit: int | None = typer.Option(
        None, "--limit", "-n", metavar="N", min=0,
        help="Number of the longest unused secrets; 0: all. Default: 100 in a terminal, all elsewhere.",
    ),
    as_json: bool = opt.JSON_LINES, as_csv: bool = opt.CSV, raw: bool = opt.RAW, dsn: str | None = opt.DSN,
    config: Path | None = opt.CONFIG,
) -> None:  # fmt: skip
    """List stored secrets that nobody has used for some time.

    The longest unused come first. Names are shown, never values.
    """
    # Long because its options are declared here, one a line.
    from secretproxy.audit import review
    from secretproxy.audit.unused import READS, USES
    from secretproxy.audit.unused import unused as unused_secrets

    if as_json and as_csv:
        raise ConfigError("--json and --csv: give one of them")
    machine = as_json or as_csv
    most = opt.limit_of(limit, IN_A_TERMINAL, machine)
    before = datetime.now(UTC) - timedelta(days=days)
    uses = READS if reads else USES

    database = review_database(dsn, config)

    async def work() -> None:
        async with review.reading(database) as log:
            with CountProgress() as progress:
                progress("the last use of each secret")
                if secrets_dsn is None:
                    found = await unused_secrets(log, log, before, uses)
                else:
                    async with review.reading(secrets_dsn) as secrets:
                        found = await unused_secrets(log, secrets, before, uses)
            rows = found.rows if most is None else found.rows[:most]
            if machine:
                write = rows_to_output(as_csv, raw)
                for row in rows:
                    write(row)
            elif rows:
                _print(rows)
            elif found.stored:
                print(f"each stored secret was used in the last {days} days")
            for line in (_counted(found, uses), *_known_of(found, before, days)):
                print(line, file=sys.stderr)
            await tell_place(log)
            if not machine and len(rows) < len(found.rows):
                say_more(
                    f"{len(rows):,} longest unused secrets are shown, {len(found.rows) - len(rows):,} more: --limit 0 "
                    "shows all"
                )

    opt.run(work())


def _print(rows: Sequence[Any]) -> None:
    """Prints the secrets as a table."""
    console = console_of()
    last_used = Column(
        f"last used ({zone()})", lambda row: "not in the log" if row["last_used"] is None else in_full(row["last_used"])
    )
    layout = Layout(
        [
            last_used,
            Column("owner", lambda row: str(row["owner_id"]), least=9),
            Column("secret", lambda row: quoted(row["secret_name"]), least=10),
        ],
        console.width if sys.stdout.isatty() else None,
    )
    cells = layout.take(rows)
    print_line(console, layout.heading(), "bold")
    for line in cells:
        print_line(console, layout.line(line))


def _counted(found: Any, uses: Sequence[str]) -> str:
    if found.stored:
        kinds = ", ".join(uses)
        return (
            f"{len(found.rows):,} of {found.stored:,} secrets in database {safe(found.database)} unused; use is {kinds}"
        )
    return (
        f"no secret is stored in database {safe(found.database)}: where they are in another, give it with --secrets-dsn"
    )


def _known_of(found: Any, before: datetime, days: int) -> Iterator[str]:
    """Tells what the answer rests on: how far back the log reaches, and calls that name no owner."""
    if found.log_since is None:
        yield "the log is empty: it cannot tell what was used"
    elif found.log_since > before:
        yield (
            f"the log begins at {in_full(found.log_since)} ({zone()}), less than {days} days ago: what was used before "
            "it is not known"
        )
    else:
        yield f"the log begins at {in_full(found.log_since)} ({zone()})"
    if found.unnamed is not None and found.unnamed >= before:
        yield f"calls that name no owner, the last at {in_full(found.unnamed)}, can have used any secret"
