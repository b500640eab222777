"""`secretproxy console`: the page for auditors, in the foreground."""

from __future__ import annotations

from pathlib import Path

import typer

from secretproxy.config import config_file, load_settings, review_database


def console(
    dsn: str | None = typer.Option(
        None, "--dsn", metavar="DSN", help="Log's database; the login in it is not used. Default: audit.review_dsn, "
                                           "then PG*."
    ),
    host: str = typer.Option("127.0.0.1", "--host", metavar="ADDRESS", help=
        "Address to listen on; one that other machines reach needs TLS."),
    port: int = typer.Option(6480, "--port", metavar="PORT", min=1, max=65535, help="Port to listen on."),
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
) -> None:  # fmt: skip
    """Serve the log's pages to auditors.

    They open them in a browser and sign in with their own PostgreSQL login.
    """
    from secretproxy.console.serve import serve

    serve(review_database(dsn, config), load_settings(config), config_file(config), host, port)
