"""`secretproxy demo`: the main job on a private PostgreSQL."""

from __future__ import annotations

import typer


def demo(
    port: int = typer.Option(6432, "--port", "-p", metavar="PORT", min=1, max=65535, help="Port of the proxy."),
    once: bool = typer.Option(False, "--once", help="Stop after the tour."),
    console_port: int = typer.Option(
        6480,
        "--console-port",
        metavar="PORT",
        min=1,
        max=65535,
        help="Port of the console; a free one if it is in use.",
    ),
) -> None:
    """Take a tour on a private PostgreSQL."""
    from secretproxy.demo.tour import run

    run(port, once=once, echo=lambda line: print(line, flush=True), console_port=console_port)
