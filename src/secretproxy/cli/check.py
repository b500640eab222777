"""`secretproxy check`: whether the proxy could start and do its work with this configuration."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import typer

from secretproxy.config import ConfigError, Settings, load_settings


def check(
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Check settings, keys, backend and access log."""
    settings = load_settings(config)
    results = asyncio.run(_results(settings))
    if as_json:
        typer.echo(json.dumps([{"check": name, "ok": fault is None, "fault": fault} for name, fault in results]))
    else:
        for name, fault in results:
            typer.echo(f"{'ok  ' if fault is None else 'FAIL'}  {name}" + (f": {fault}" if fault else ""))
    raise typer.Exit(1 if any(fault for _, fault in results) else 0)


async def _results(settings: Settings) -> list[tuple[str, str | None]]:
    from secretproxy.proxy.server import check_built, read_keys

    results: list[tuple[str, str | None]] = []
    keys: dict[int, bytes] = {}
    try:
        check_built(settings)
        results.append(("settings", None))
    except ConfigError as error:
        results.append(("settings", str(error)))
    try:
        keys = read_keys(settings)
        results.append(("testimony.key_file", None))
    except ConfigError as error:
        results.append(("testimony.key_file", str(error)))
    results.append(("backend.hosts", await _backend(settings)))
    results.append(("audit.dsn", await _log(settings, keys)))
    return results


async def _backend(settings: Settings) -> str | None:
    from secretproxy.proxy.backend import BackendUnreachable, connect

    try:
        protocol, _ = await connect(asyncio.Protocol, settings.backend.addresses, settings.backend.connect_timeout)
    except BackendUnreachable as error:
        return str(error)
    del protocol
    return None


async def _log(settings: Settings, keys: dict[int, bytes]) -> str | None:
    from secretproxy.audit.trouble import describe
    from secretproxy.proxy.server import connect_log

    try:
        connection: Any = await connect_log(settings)
    except Exception as error:
        return describe(error)
    try:
        await connection.execute("SELECT secretproxy.access_log_partitions()")
    except Exception as error:
        return describe(error)
    finally:
        connection.terminate()
    return None
