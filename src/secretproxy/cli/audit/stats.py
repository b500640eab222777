"""`secretproxy audit stats`: accesses counted, and what is unusual among them."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

import typer

from secretproxy.cli.audit.options import CLIENT, DSN, JSON, OPERATION, OWNER, SECRET, SINCE, UNTIL, USER, filtered, run
from secretproxy.cli.audit.showing import console_of, plain, print_table, safe


def stats(
    since: str | None = SINCE, until: str | None = UNTIL, owner: str | None = OWNER, secret: str | None = SECRET,
    user: str | None = USER, operation: str | None = OPERATION, client: str | None = CLIENT,
    limit: int = typer.Option(10, "--limit", "-n", min=1, max=1000, help="Lines of each table."),
    evening: int = typer.Option(22, "--evening", min=0, max=24, help="Hour from which a read is unusual."),
    morning: int = typer.Option(6, "--morning", min=0, max=24, help="Hour until which a read is unusual."),
    as_json: bool = JSON, dsn: str | None = DSN,
) -> None:  # fmt: skip
    """Count accesses, and show what is unusual."""
    from rich.table import Table

    from secretproxy.audit import review

    wanted = filtered(since=since, until=until, owner=owner, secret=secret, user=user, operation=operation, client=client)

    async def work() -> dict[str, list[dict[str, Any]]]:
        connection = await review.connect(dsn)
        try:
            answers = await review.stats(connection, wanted, limit=limit, evening=evening, morning=morning)
            if not answers["outcomes"] and not as_json:
                some = await connection.fetchval("SELECT EXISTS (SELECT FROM secretproxy.access_log)")
                print("no access fits" if some else "the log is empty")
            return answers
        finally:
            await connection.close()

    answers = run(work())
    if as_json:
        print(json.dumps({name: [{k: plain(v) for k, v in row.items()} for row in found] for name, found in answers.items()}))
        return
    console = console_of()
    if not answers["outcomes"]:
        return
    zone = review.local_zone()[0]
    titles = {
        "secrets": "by secret", "users": "by user", "hours": f"by hour ({zone})", "outcomes": "by outcome",
        "first_time": "first use of a secret by a user", "at_night": f"reads between {evening}:00 and {morning}:00 ({zone})",
        "many_verifies": "five or more verifies of a secret in a row",
    }  # fmt: skip
    for name, found in answers.items():
        if not found:
            continue
        console.print(titles[name], style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        most = max((row["n"] for row in found if "n" in row), default=1)
        for row in found:
            cells = []
            for key, value in row.items():
                if key == "n":
                    cells += [f"{value:>8}", "█" * max(1, round(20 * value / most))]
                elif isinstance(value, datetime):
                    cells.append(f"{value.astimezone():%m-%d %H:%M}")
                elif isinstance(value, uuid.UUID):
                    cells.append(str(value) if console.width >= 130 else str(value)[:8] + "…")
                elif key == "failed":
                    cells.append(f"{value} failed")
                elif key == "hour":
                    cells.append(f"{value:02}:00")
                else:
                    cells.append(safe(value) or "-")
            table.add_row(*cells)
        print_table(console, table, no_wrap=True, overflow="ellipsis")
        console.print()
