"""Tells a login that the server refuses from a connection that fails, and how long not to try again.

The server writes a FATAL into its log for each login that it refuses, and it refuses the next one too until somebody
changes something. Pure."""

from __future__ import annotations

import asyncpg

from secretproxy.connections import ConnectError
from secretproxy.wire.types import SqlState

# A connection that ended, as when somebody drops the database.
CUT = (
    ConnectionResetError,
    BrokenPipeError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
)
# Seconds without a login at most, after refusals.
LONGEST = 600.0
_WHY = {
    SqlState.OBJECT_NOT_IN_PREREQUISITE_STATE: "it takes no connections (ALLOW_CONNECTIONS false), or is being dropped",
    SqlState.TOO_MANY_CONNECTIONS: "no connection is left for the login of audit.dsn: CONNECTION LIMIT of the database "
    "or of the role, or max_connections",
    SqlState.INSUFFICIENT_PRIVILEGE: "the login of audit.dsn has no CONNECT on it: GRANT CONNECT ON DATABASE",
    SqlState.INVALID_AUTHORIZATION_SPECIFICATION: "pg_hba.conf does not let the login of audit.dsn into it, or "
    "there the role is missing or NOLOGIN",
    SqlState.INVALID_PASSWORD: "the password of audit.dsn is refused",
}  # fmt: skip


class Refusals:
    """The refused logins to one database, in a row."""

    def __init__(self, every: float) -> None:
        """Takes the seconds between two logins that are not refused."""
        self._every = every
        self._count = 0
        self.state: str | None = None

    def add(self, error: BaseException) -> str | None:
        """Takes a failure. Gives the reason in words if the server refused the login, None if it is another failure."""
        state = error.sqlstate if isinstance(error, ConnectError) else None
        if state not in _WHY:
            return None
        self.state = state
        self._count += 1
        return f"SQLSTATE {state} ({_WHY[state]})"

    def clear(self) -> None:
        """Notes that a login was not refused."""
        self.state, self._count = None, 0

    @property
    def pause(self) -> float:
        """Gives the seconds until the next login: twice as many after each refusal."""
        return 0.0 if not self._count else max(self._every, min(self._every * 2 ** min(self._count, 16), LONGEST))

    @property
    def closed(self) -> bool:
        """Whether the database takes no connection of anybody."""
        return self.state == SqlState.OBJECT_NOT_IN_PREREQUISITE_STATE


def is_cut(error: BaseException) -> bool:
    """Says whether a connection ended, or was ended while it was made."""
    return isinstance(error.cause if isinstance(error, ConnectError) else error, CUT)
