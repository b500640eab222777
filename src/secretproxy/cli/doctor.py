"""`secretproxy doctor`: what would leak a value or hide a call, and how to fix it."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from pathlib import Path

import typer

from secretproxy.cli.work import finish, tell_place
from secretproxy.config import ConfigError, config_file, load_settings, review_database


def doctor(
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
    dsn: str | None = typer.Option(
        None, "--dsn", metavar="DSN", help="Database, as a superuser; default: audit.review_dsn, then PG*."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Look for what would leak a value or hide a call.

    Exit status: 0 no errors or warnings, 1 warnings, 2 could not look, 3 errors.
    """
    from secretproxy.install import InstallError
    from secretproxy.ops.doctor import examine

    settings = load_settings(config)
    places: list[str] = []
    try:
        found = finish(examine(review_database(dsn, config), settings, config_file(config), places.append))
    except InstallError as error:
        raise ConfigError(str(error)) from None
    grave = {finding.severity for finding in found}
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found]))
    else:
        _print(found)
    for place in places:
        tell_place(place)
    raise typer.Exit(3 if "error" in grave else 1 if "warning" in grave else 0)


def _print(found: list) -> None:  # type: ignore[type-arg]
    from rich.console import Console

    console = (
        Console(highlight=False, markup=False)
        if sys.stdout.isatty()
        else Console(highlight=False, markup=False, color_system=None, width=100)
    )
    colours = {"error": "bold red", "warning": "bold yellow", "info": "bold"}
    for finding in found:
        console.print(f"{finding.severity}: {finding.name}", style=colours[finding.severity])
        for text in (finding.what, finding.why):
            console.print(
                textwrap.fill(text, min(console.width, 100) - 1, initial_indent="  ", subsequent_indent="  "),
                soft_wrap=True,
            )
        console.print(f"  fix: {finding.fix}", soft_wrap=True)
    counts = {name: sum(finding.severity == name for finding in found) for name in ("error", "warning", "info")}
    console.print(
        ", ".join(f"{count} {name}{'s' if count != 1 and name != 'info' else ''}" for name, count in counts.items())
    )
