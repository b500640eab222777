"""`secretproxy install`: the backend half, over whatever is there."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit.showing import safe
from secretproxy.cli.work import finish
from secretproxy.config import ConfigError, Settings, config_file, load_settings, revealed


class Direct(StrEnum):
    """The values of --direct-calls."""

    REFUSE = "refuse"
    LOG = "log"


def install(
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
    dsn: str | None = typer.Option(
        None,
        "--dsn",
        metavar="DSN",
        help="Database, as a superuser or its owner with CREATEROLE; default: the PG* variables.",
    ),
    record: bool = typer.Option(False, "--record", help="Record the present state as what verify compares with."),
    again: bool = typer.Option(False, "--again", help="Redeploy every change, to replace whatever was altered."),
    classic_view: bool | None = typer.Option(
        None,
        "--classic-view/--no-classic-view",
        help="Create or drop public.secret_access_log, the log's short form; default: leave it unchanged.",
    ),
    direct_calls: Direct | None = typer.Option(
        None,
        "--direct-calls",
        help="Calls that bypass the proxy: refuse (default of a new installation) or log (default over the original "
        "modules, for a migration).",
    ),
    owner: str | None = typer.Option(
        None,
        "--owner",
        metavar="ROLE",
        help="Grant this role the rights of an owner of the original modules; their previous owner gets them in any "
        "case.",
    ),
    accept: list[str] = typer.Option(
        [],
        "--accept",
        metavar="NAME",
        help="Accept this third-party code on the secrets table, by the name that install prints; `all`: all of it.",
    ),
) -> None:
    """Install the backend half into a database."""
    # Long because its options are declared here, one a line.
    from secretproxy.install import InstallError, KeyFileError
    from secretproxy.install import install as run
    from secretproxy.install.nextsteps import next_steps

    settings = load_settings(config)
    new = not settings.testimony.key_file.exists()
    places: list[str] = []
    try:
        work = run(
            dsn,
            settings.testimony.key_file,
            lambda change, state: typer.echo(f"  {change:<18} {state}"),
            record,
            again=again,
            classic_view=classic_view,
            direct_calls=direct_calls,
            accepting=accept,
            owner=owner,
            looked=places.append,
        )
        deployed = finish(work)
        typer.echo(
            f"{len(deployed)} changes deployed in {safe(places[0])}, keys of {settings.testimony.key_file} stored"
        )
        steps = finish(next_steps(dsn, _setup(settings, config, new)))
    except (InstallError, KeyFileError) as error:
        raise ConfigError(str(error)) from None
    if steps:
        typer.echo("still missing:")
        for step in steps:
            typer.echo(f"  {step}")
        typer.echo("then: secretproxy check, secretproxy run")


def _setup(settings: Settings, config: Path | None, new_key_file: bool) -> Any:
    from secretproxy.install.nextsteps import Setup

    file = config_file(config)
    audit = settings.audit
    return Setup(
        str(file) if file is not None else None,
        revealed(audit.dsn),
        revealed(audit.review_dsn),
        settings.testimony.key_file if new_key_file else None,
        environment=file is None and bool(settings.model_fields_set),
    )
