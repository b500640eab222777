"""`secretproxy verify`: whether the backend half is what was installed."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from secretproxy.cli.work import finish, tell_place
from secretproxy.config import ConfigError, load_settings, review_database


def verify(
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
    dsn: str | None = typer.Option(
        None,
        "--dsn",
        metavar="DSN",
        help="Database, as a superuser or as the role that installed; default: audit.review_dsn, then PG*.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Name whatever differs from what was installed."""
    from secretproxy.install import InstallError, KeyFileError, remedy
    from secretproxy.install import verify as run

    settings = load_settings(config)
    places: list[str] = []
    try:
        findings = finish(run(review_database(dsn, config), settings.testimony.key_file, places.append))
    except (InstallError, KeyFileError) as error:
        raise ConfigError(str(error)) from None
    if as_json:
        typer.echo(json.dumps(findings))
    else:
        for finding in findings or ["everything is as it was installed"]:
            typer.echo(finding)
        if findings:
            typer.echo(remedy(findings))
    for place in places:
        tell_place(place)
    raise typer.Exit(1 if findings else 0)
