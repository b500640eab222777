"""`secretproxy init`: a configuration to begin with."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from secretproxy.config import DEFAULT_FILE, ConfigError, Host, starter


def init(
    config: Path = typer.Option(DEFAULT_FILE, "--config", "-c", metavar="FILE", help="File to write."),
    backend: str = typer.Option(
        "127.0.0.1:5432", "--backend", metavar="HOST:PORT", help="PostgreSQL behind the proxy."
    ),
    audit_dsn: str | None = typer.Option(
        None, "--audit-dsn", metavar="DSN", help="Database of the access log, as a member of secretproxy_writer."
    ),
    review_dsn: str | None = typer.Option(
        None, "--review-dsn", metavar="DSN", help="The same database, as a member of secretproxy_auditor."
    ),
) -> None:
    """Write a commented configuration to begin with."""
    from secretproxy.connections import ConninfoError, read

    try:
        Host.parse(backend)
    except ValueError as error:
        raise ConfigError(f"--backend: {error}") from None
    for option, dsn in (("--audit-dsn", audit_dsn), ("--review-dsn", review_dsn)):
        try:
            if dsn is not None:
                read(dsn)
        except ConninfoError as error:
            raise ConfigError(f"{option}: {error}") from None
    values: dict[str, object] = {"backend.hosts": [backend]}
    values |= {} if audit_dsn is None else {"audit.dsn": audit_dsn}
    values |= {} if review_dsn is None else {"audit.review_dsn": review_dsn}
    try:
        # It can hold passwords.
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{config}: the file exists and is not overwritten; name another one with --config") from None
    except OSError as error:
        raise ConfigError(f"{config}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(starter(values))
    except OSError as error:
        config.unlink(missing_ok=True)
        raise ConfigError(f"{config}: cannot be written: {error.strerror}") from None
    typer.echo(f"{config} written; `secretproxy install` and `secretproxy check` come next")
