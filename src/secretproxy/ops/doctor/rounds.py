"""All topics in order, over one connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg

from secretproxy.config import Settings
from secretproxy.install import InstallError
from secretproxy.install import verify as verify_installed
from secretproxy.ops.doctor import backend, local, logging
from secretproxy.ops.doctor.findings import SEVERITIES, Finding


async def examine(dsn: str | None, settings: Settings, config: Path | None) -> list[Finding]:
    """Every finding, the gravest first. Raises InstallError where the backend cannot be reached."""
    found = local.examine(settings, config)
    try:
        connection = await asyncpg.connect(dsn, timeout=15, server_settings={"application_name": "secretproxy doctor"})
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        raise InstallError(
            f"cannot connect ({type(error).__name__}): name the database with --dsn or libpq's PG* variables"
        ) from None
    try:
        found += logging.examine(await backend.settings(connection))
        for topic, look in {
            "replication": backend.replication,
            "privileges": backend.privileges,
            "installation": backend.installed,
            "clock": backend.clock,
        }.items():
            try:
                async with connection.transaction(readonly=True):
                    found += await look(connection)
            except asyncpg.PostgresError as error:
                found.append(backend.unreadable(topic, error))
    finally:
        await connection.close()
    found += await _installation(dsn, settings)
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


async def _installation(dsn: str | None, settings: Settings) -> list[Finding]:
    key_file = settings.testimony.key_file
    why = "calls that a changed object serves may be neither seen nor safe"
    try:
        differing = await verify_installed(dsn, key_file if key_file.exists() else None)
    except (InstallError, asyncpg.PostgresError) as error:
        return [_could_not(error)]
    return [Finding("installation", "error", text, why, "secretproxy install") for text in differing]


def _could_not(error: Any) -> Finding:
    return Finding(
        "not_looked_at", "warning", f"installation: could not be verified ({type(error).__name__})", "what was not looked at may be wrong",
        "run doctor as a superuser",
    )  # fmt: skip
