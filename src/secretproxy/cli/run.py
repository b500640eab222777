"""`secretproxy run`: the proxy in the foreground."""

from __future__ import annotations

from pathlib import Path

import typer

from secretproxy.config import load_settings


def run(
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
) -> None:
    """Start the proxy in the foreground."""
    from secretproxy.ops import service
    from secretproxy.proxy.listeners.supervisor import run as serve

    service.end(serve(load_settings(config)))
