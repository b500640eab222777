"""Reads the state of the log: its last row, its chains, its checkpoints. May import asyncpg; prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secretproxy.audit.follower import INSTANCES
from secretproxy.audit.review import LogPlace, place

_ENDS = "SELECT pg_catalog.min(a.at) AS first, pg_catalog.max(a.at) AS last FROM secretproxy.access_log AS a"
_SIGNED = "SELECT pg_catalog.max(c.at) FROM ONLY secretproxy.checkpoints AS c"


@dataclass(frozen=True, slots=True)
class LogState:
    """Times of the first and last row and of the last checkpoint (None: there is none), chains, and where the log
    is."""

    first: datetime | None
    last: datetime | None
    chains: int
    checkpoint: datetime | None
    place: LogPlace


async def log_state(connection: Any) -> LogState:
    """Reads what the log says about itself; verifies nothing."""
    ends = await connection.fetchrow(_ENDS)
    chains = await connection.fetch(INSTANCES)
    return LogState(
        ends["first"], ends["last"], len(chains), await connection.fetchval(_SIGNED), await place(connection)
    )
