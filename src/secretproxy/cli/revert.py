"""`secretproxy revert`: the backend half taken back, the stored data left readable."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from secretproxy.cli.audit.showing import safe
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
    """Take the backend half back; stored values stay.

    Exit status: 0 reverted, 1 there is nothing to revert in this database, 2 it could not be done.
    """
    from secretproxy.install import InstallError
    from secretproxy.install import revert as run

    del config
    places: list[str] = []
    if not yes:
        typer.confirm(
            f"Take back the functions, keys and settings of {_named(dsn)}? Stored values stay, in the original "
            "module's format.",
            abort=True,
        )
    try:
        reverted = finish(run(dsn, lambda change, state: typer.echo(f"  {change:<18} {state}"), places.append))
    except InstallError as error:
        raise ConfigError(str(error)) from None
    if not reverted:
        print(
            f"secretproxy: nothing to revert: it is not installed in {safe(places[0])}; name another database with "
            "--dsn or libpq's PG* variables",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    typer.echo(f"{len(reverted)} changes reverted in {safe(places[0])}")


def _named(dsn: str | None) -> str:
    """Gives the words for the database that a connection string names. Raises ConfigError."""
    from secretproxy.connections import ConninfoError, read

    try:
        known = read(dsn)
        servers = " or ".join(map(str, known.places)) if known.get("host") or known.get("hostaddr") else "this machine"
        return safe(f"database {known.database} at {servers}, as user {known.user}")
    except ConninfoError as error:
        raise ConfigError(f"{error} (--dsn)") from None
