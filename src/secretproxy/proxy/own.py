"""The journal's way to the log: which server, as which role, and the trial of it that `check` makes."""

from __future__ import annotations

from typing import Any

from secretproxy.config import Settings
from secretproxy.connections import Place, connect

__all__ = ["connect_log", "log_places"]


def log_places(settings: Settings) -> list[Place] | None:
    """The servers of the log where audit.dsn is unset: the backend's."""
    if settings.audit.dsn is not None:
        return None
    return [Place(host.host, None, host.port) for host in settings.backend.addresses]


async def connect_log(settings: Settings, application_name: str = "secretproxy journal") -> Any:
    """The journal's connection: as the role that may insert and nothing else, every commit durable. Raises ConnectError, asyncpg's."""
    dsn, places = settings.audit.dsn, log_places(settings)
    timeout = settings.audit.timeout
    connection = await connect(
        dsn.get_secret_value() if dsn is not None else None,
        application_name,
        timeout=timeout,
        command_timeout=timeout,
        places=places,
        # The log is written where writing is possible.
        target_session_attrs="read-write" if places is not None and len(places) > 1 else None,
    )
    try:
        await connection.execute("SET ROLE secretproxy_writer")
    except BaseException:
        connection.terminate()
        raise
    return connection
