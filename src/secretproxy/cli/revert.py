"""`secretproxy revert`: the backend half taken back, the stored data left readable."""

from __future__ import annotations

from pathlib import Path

import typer

from secretproxy.cli.work import finish
from secretproxy.config import ConfigError


def revert(
    dsn: str | None = typer.Option(
        None,
        "--dsn",
        metavar="DSN",
        help="Database, as a superuser or as the role that installed; default: the PG* variables.",
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", hidden=True),
) -> None:
    """Take the backend half back; stored values stay."""
    from secretproxy.install import InstallError
    from secretproxy.install import revert as run

    del config
    if not yes:
        typer.confirm(
            "Take back the functions, keys and settings? Stored values stay, in the original module's format.",
            abort=True,
        )
    try:
        reverted = finish(run(dsn, lambda change, state: typer.echo(f"  {change:<18} {state}")))
    except InstallError as error:
        raise ConfigError(str(error)) from None
    typer.echo(f"{len(reverted)} changes reverted")
