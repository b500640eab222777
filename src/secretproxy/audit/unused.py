"""Finds stored secrets that nobody has used for some time, as far as the log shows.

Names are compared in the form in which the log has them. Functions take connections and print nothing. May import
asyncpg.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secretproxy.audit.counting import fetch_counted
from secretproxy.audit.filters import EQUAL, spellings
from secretproxy.audit.masking import name_bytes
from secretproxy.audit.reading import is_raw
from secretproxy.audit.visible import logged, shown_bytes
from secretproxy.connections import unkept

USES = ("read", "verify", "write")
READS = ("read", "verify")
_STORED = "SELECT s.owner, s.name, s.masks FROM secretproxy.stored_names() AS s"
# Grouped before names are taken apart. An attempt counts, however it ended.
_USED = f"""
SELECT a.owner_id, a.secret_names, pg_catalog.max(a.at) AS at
  FROM secretproxy.access_log AS a
 WHERE a.event {EQUAL} ANY (ARRAY['attempt', 'access', 'call', 'direct']::pg_catalog.text[])
   AND a.operation {EQUAL} ANY ($1::pg_catalog.text[])
   AND a.database {EQUAL} $2 AND (a.owner_id IS NOT NULL OR a.event OPERATOR(pg_catalog.<>) 'attempt')
   AND (a.secret_names IS NOT NULL OR a.event OPERATOR(pg_catalog.<>) 'attempt')
 GROUP BY a.owner_id, a.secret_names
"""  # noqa: S608 - an operator
_FIRST = "SELECT pg_catalog.min(a.at) FROM secretproxy.access_log AS a"


@dataclass(frozen=True, slots=True)
class UnusedSecrets:
    """Unused secrets, longest unused first.

    How many are stored; since when the log has rows; the latest use that does not say of what.
    """

    rows: list[dict[str, Any]]
    stored: int
    database: str
    log_since: datetime | None
    unnamed: datetime | None


async def unused(log: Any, secrets: Any, before: datetime, uses: tuple[str, ...] = USES) -> UnusedSecrets:
    """Secrets of the database of `secrets` that were last used before that moment, or never. Raises asyncpg's errors.

    Calls that came by no proxy are in the log of the secrets' own database: both logs are read where they are two.
    """
    database = await secrets.fetchval("SELECT pg_catalog.current_database()::pg_catalog.text")
    latest: dict[tuple[Any, Any], datetime] = {}
    of_owner: dict[Any, datetime] = {}
    for connection in (log,) if log is secrets else (log, secrets):
        for row in await fetch_counted(connection, _USED, list(uses), database):
            names = row["secret_names"]
            if row["owner_id"] is None or names is None:
                # Of all that the owner has, any can have been meant.
                _later(of_owner, row["owner_id"], row["at"])
                continue
            for name in names:
                _later(latest, (row["owner_id"], name), row["at"])
    async with unkept(secrets):
        stored = await secrets.fetch(_STORED)
    rows = []
    for row in stored:
        forms = {row["name"], *row["masks"], *_forms(row["name"], is_raw(secrets), log)}
        seen = [latest.get((row["owner"], form)) for form in forms] + [of_owner.get(row["owner"])]
        last = max((at for at in seen if at is not None), default=None)
        if last is None or last < before:
            rows.append({"owner_id": row["owner"], "secret_name": row["name"], "last_used": last})
    rows.sort(
        key=lambda row: (
            row["last_used"] is not None,
            row["last_used"] or before,
            str(row["owner_id"]),
            row["secret_name"],
        )
    )
    return UnusedSecrets(rows, len(stored), str(database), await log.fetchval(_FIRST), of_owner.get(None))


def _forms(name: str, raw: bool, log: Any) -> list[str]:
    """Gives the forms that a proxy may have written a stored name in, in a log that may have another encoding. `raw`:
    the name is in its visible form."""
    text = logged(name) if raw else name
    encoding = log.get_settings().server_encoding
    return spellings(shown_bytes(name_bytes(text)) if is_raw(log) else text, encoding)


def _later(known: dict[Any, datetime], key: Any, at: datetime) -> None:
    if key not in known or known[key] < at:
        known[key] = at
