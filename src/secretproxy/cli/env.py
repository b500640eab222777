"""`secretproxy env`: shell lines that point libpq at the proxy."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from secretproxy.config import load_settings

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": ""}  # noqa: S104 - where a client on this host reaches them


def env(
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
) -> None:
    """Print shell lines that point libpq at the proxy."""
    listen = load_settings(config).listen
    host = _ANY.get(listen.host, listen.host) or str(listen.unix_socket_dir)
    typer.echo(f"export PGHOST={shlex.quote(host)}")
    typer.echo(f"export PGPORT={listen.port}")
