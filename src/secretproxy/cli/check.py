"""`secretproxy check`: whether the proxy could start and do its work with this configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from secretproxy.cli.work import finish
from secretproxy.config import ConfigError, Settings, load_settings
from secretproxy.ops import logs

if TYPE_CHECKING:
    from secretproxy.proxy.backend.connect import Target


def check(
    config: Path | None = typer.Option(None, "--config", "-c", metavar="FILE", help="Configuration file."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Check settings, keys, backend and access log.

    Rows are written to the log, as the proxy writes them, and rolled back.
    Exit status: 0 nothing is wrong, 1 something is, 2 the configuration cannot be read.
    """
    settings = load_settings(config)
    # What is tried says a word in the log; standard output has the results alone.
    logs.configure(settings.log, sys.stderr)
    results = finish(_results(settings))
    if as_json:
        typer.echo(json.dumps([{"check": name, "ok": fault is None, "fault": fault} for name, fault in results]))
    else:
        for name, fault in results:
            typer.echo(
                f"{'ok  ' if fault is None else 'FAIL'}  {name}"
                + (f": {re.sub(f'^{re.escape(name)}:? ', '', fault)}" if fault else "")
            )
    raise typer.Exit(1 if any(fault for _, fault in results) else 0)


async def _results(settings: Settings) -> list[tuple[str, str | None]]:
    from secretproxy.proxy.catalog.proof import checked
    from secretproxy.proxy.listeners import preflight
    from secretproxy.proxy.listeners.server import check_usable, read_keys
    from secretproxy.proxy.service_connection import log_fault

    results: list[tuple[str, str | None]] = []
    keys: dict[int, bytes] = {}
    try:
        check_usable(settings)
        results.append(("settings", None))
    except ConfigError as error:
        results.append(("settings", str(error)))
    results += preflight.places(settings)
    results += preflight.certificates(settings)
    try:
        keys = read_keys(settings)
        results += await checked(settings, keys)
    except ConfigError as error:
        results.append(("testimony.key_file", str(error)))
    servers = await _backends(settings)
    results += [(f"backend.hosts {target or ''}".rstrip(), fault) for target, fault in servers]
    reached = [target for target, fault in servers if target is not None and fault is None]
    with contextlib.suppress(ConfigError):
        # What cannot be used was told of already.
        results += [result async for result in preflight.logins_in_tls(settings, reached)]
        results += [result async for result in preflight.poolers(settings, reached)]
    if settings.auth.mode == "scram":
        results.append(("auth", await _users(settings)))
    if settings.auth.mode == "passthrough" and settings.backend.target_session_attrs != "any":
        results.append(("backend.target_session_attrs", await _kinds(settings)))
    results.append(("audit.dsn", await log_fault(settings, keys)))
    return results


async def _backends(settings: Settings) -> list[tuple[Target | None, str | None]]:
    """Checks every address of every server, in TLS if backend.tls says so."""
    from secretproxy.proxy.backend.connect import AddressUnreachableError, reach
    from secretproxy.proxy.backend.hosts import Hosts
    from secretproxy.proxy.backend.tls import BackendTls

    backend = settings.backend
    try:
        tls = BackendTls.of(backend)
    except ConfigError as error:
        return [(None, str(error))]

    async def look(target: Target) -> tuple[Target | None, str | None]:
        try:
            await reach(asyncio.Protocol, target, backend.connect_timeout, tls)
        except AddressUnreachableError as error:
            return target, str(error).removeprefix(f"{target}: ")
        return target, None

    targets, causes = await Hosts(settings).addresses()
    return [(None, cause) for cause in causes] + list(await asyncio.gather(*map(look, targets)))


async def _users(settings: Settings) -> str | None:
    """Checks that a look-up works, with a name that nobody has."""
    from secretproxy.proxy.authentication.verifiers import LookupFailedError, users_of

    try:
        await users_of(settings.auth, settings.backend.connect_timeout).find("secretproxy check")
    except ConfigError as error:
        return str(error)
    except LookupFailedError as error:
        return f"users cannot be looked up: {error} (auth.lookup_dsn, auth.lookup_query)"
    return None


async def _kinds(settings: Settings) -> str | None:
    """Checks that some server is of the kind that is asked for."""
    from secretproxy.proxy.backend.connect import BackendUnreachableError
    from secretproxy.proxy.backend.hosts import Hosts

    hosts = Hosts(settings)
    hosts.start()
    try:
        await hosts.candidates()
    except BackendUnreachableError as error:
        return str(error)
    finally:
        await hosts.stop()
    return None
