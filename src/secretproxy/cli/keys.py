"""`secretproxy keys`: the keys that stored values are sealed with."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import typer

from secretproxy.cli.audit.progress import RowsProgress
from secretproxy.cli.work import finish, tell_place
from secretproxy.config import ConfigError, load_settings

app = typer.Typer(
    help="Manage the keys of the stored values.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

_DSN = typer.Option(None, "--dsn", metavar="DSN", help="Database, as its owner; default: the PG* variables.")
_CONFIG = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file.")
_JSON = typer.Option(False, "--json", help="Print JSON.")
_Result = TypeVar("_Result")


def _run(work: Coroutine[object, object, _Result]) -> _Result:
    from secretproxy.install import InstallError
    from secretproxy.install.keyfile import KeyFileError

    try:
        return finish(work)
    except (InstallError, KeyFileError) as error:
        raise ConfigError(str(error)) from None


@app.command()
def status(dsn: str | None = _DSN, as_json: bool = _JSON) -> None:
    """Show key versions and how many values each sealed."""
    from rich.console import Console
    from rich.table import Table

    from secretproxy.install import keys

    places: list[str] = []
    ring, stored = _run(keys.status(dsn, places.append))
    testimony = _run(keys.testimony_status(dsn))
    if as_json:
        report = {
            "keys": [dataclasses.asdict(key) for key in ring],
            "stored": [dataclasses.asdict(item) for item in stored],
            "testimony": [dataclasses.asdict(key) for key in testimony],
        }
        typer.echo(json.dumps(report, default=str))
        tell_place(places[0])
        return
    console = Console(highlight=False)
    table = Table("version", "created", "retired", "values", box=None, pad_edge=False)
    for key in ring:
        retired = key.retired_at.isoformat(" ", "seconds") if key.retired_at else "-"
        table.add_row(str(key.version), key.created_at.isoformat(" ", "seconds"), retired, str(key.values))
    console.print(table)
    console.print()
    table = Table("encoding", "format", "key version", "values", box=None, pad_edge=False)
    for item in stored:
        version = "-" if item.key_version is None else str(item.key_version)
        table.add_row(item.encoding or "none", str(item.format) if item.format else "-", version, str(item.values))
    console.print(table if stored else "no values are stored")
    console.print()
    table = Table("testimony key", "created", "state", box=None, pad_edge=False)
    for shared in testimony:
        table.add_row(str(shared.version), shared.created_at.isoformat(" ", "seconds"), shared.state)
    console.print(table)
    tell_place(places[0])


@app.command()
def rotate(
    dsn: str | None = _DSN,
    testimony: bool = typer.Option(
        False, "--testimony", help="The key that is shared with the proxy, not the keys of the values."
    ),
    stage: bool = typer.Option(
        False, "--stage", help="With --testimony: distribute the new key, but do not sign with it yet."
    ),
    retire: bool = typer.Option(False, "--retire", help="With --testimony: retire the keys before the one that signs."),
    config: Path | None = _CONFIG,
) -> None:
    """Make a new key that seals, or signs, from now on."""
    from secretproxy.install import keys

    if (stage or retire) and not testimony:
        raise ConfigError("--stage and --retire are for the key shared with the proxy: add --testimony")
    if stage and retire:
        raise ConfigError("--stage begins an exchange of keys and --retire ends it: give one of them")
    if testimony:
        file = load_settings(config).testimony.key_file
        if retire:
            ended = _run(keys.retire_testimony(dsn, file, tell_place))
            typer.echo(f"testimony keys retired: {', '.join(map(str, ended)) or 'none'}")
            return
        version = _run(keys.stage_testimony(dsn, file, tell_place))
        if stage:
            typer.echo(
                f"testimony key version {version} is in {file}: copy that to every proxy, then run this without --stage"
            )
            return
        version = _run(keys.activate_testimony(dsn, file))
        typer.echo(
            f"testimony key version {version} signs from now on; end older ones with --retire when no session is older"
        )
        return
    version = _run(keys.rotate(dsn, tell_place))
    typer.echo(f"key version {version} seals from now on; `secretproxy keys reencrypt` seals older values with it")


@app.command()
def reencrypt(
    dsn: str | None = _DSN,
    batch: int = typer.Option(500, "--batch", metavar="N", min=1, max=100_000, help="Rows per transaction."),
    as_json: bool = _JSON,
) -> None:
    """Seal every value with the newest key."""
    from secretproxy.install import keys

    places: list[str] = []
    with RowsProgress("values") as progress:
        result = _run(keys.reencrypt(dsn, progress, batch, places.append))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result)))
    else:
        typer.echo(f"{result.done} values sealed with the newest key")
    tell_place(places[0])
    if result.failed:
        print(
            f"secretproxy: {result.failed} values do not open and stay as they are: "
            "damaged, or copied under another owner or name",
            file=sys.stderr,
        )
        raise typer.Exit(1)
