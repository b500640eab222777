"""Questions to the access log: accesses by filter, one session's story, counts, and what is new since the last look.

Every answer is made of the rows of secretproxy.access_log; an access is an attempt, call, direct call or refusal with its outcome, as in
the view secretproxy.secret_access. May import asyncpg; prints nothing.
"""

from __future__ import annotations

import ipaddress
import os
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from secretproxy.audit.rows import COLUMNS
from secretproxy.audit.trouble import describe
from secretproxy.config import ConfigError

ACCESS_COLUMNS = """
SELECT a.at, a.db_user, coalesce(a.role, o.role) AS role, coalesce(a.accessed_by, o.accessed_by) AS accessed_by,
       a.operation, a.function, a.owner_id, a.secret_names,
       CASE WHEN a.event = 'direct' THEN 'ok' ELSE coalesce(o.outcome, a.outcome, 'unknown') END AS outcome,
       coalesce(o.sqlstate, a.sqlstate) AS sqlstate, o.calls, a.client_addr, a.client_port, a.application_name, a.database,
       a.encoding, a.via, a.event AS how, o.duration, a.session_id, a.statement_no, a.protocol, a.fingerprint, a.id,
       a.instance, a.seq
"""
OUTCOME_OF = """
  LEFT JOIN LATERAL (SELECT * FROM secretproxy.access_log o
                      WHERE o.session_id = a.session_id AND o.statement_no = a.statement_no AND o.event = 'outcome'
                        AND o.at >= a.at ORDER BY o.at DESC LIMIT 1) o ON true
"""
IS_ACCESS = """
       a.event IN ('attempt', 'call', 'direct', 'refusal')
   AND NOT (a.event = 'attempt' AND (a.owner_id IS NULL OR a.secret_names IS NULL) AND EXISTS (
        SELECT FROM secretproxy.access_log c
         WHERE c.session_id = a.session_id AND c.statement_no = a.statement_no AND c.event = 'call' AND c.at >= a.at
           AND split_part(c.function, '(', 1) = split_part(a.function, '(', 1)))
"""
# A page of accesses. The outcome is looked up for the rows of the page alone.
ACCESS = f"{ACCESS_COLUMNS} FROM secretproxy.access_log a {OUTCOME_OF} WHERE {IS_ACCESS}"
OPERATIONS = ("read", "write", "verify", "delete")
OUTCOMES = ("ok", "error", "cancelled", "lost", "refused", "unknown")
# Each has an index of its own.
_FIRST_NAME = "(a.secret_names IS NOT NULL AND a.secret_names[1] = ?)"
_LATER_NAME = "(cardinality(a.secret_names) > 1 AND a.secret_names @> ARRAY[?] AND a.secret_names[1] IS DISTINCT FROM ?)"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Filter:
    """What to look for; None is anything. `secret`: a name; `client`: an address or a network."""

    since: datetime | None = None
    until: datetime | None = None
    owner: str | None = None
    secret: str | None = None
    user: str | None = None
    jwt_user: str | None = None
    function: str | None = None
    operation: str | None = None
    outcome: str | None = None
    client: str | None = None
    application: str | None = None
    session: str | None = None

    def where(self, secret: str = "") -> tuple[str, list[Any]]:
        """SQL conditions with their parameters; `secret` narrows down where the name stands. Raises ConfigError for nonsense."""
        secret = secret or f"({_FIRST_NAME} OR {_LATER_NAME})"
        conditions: list[str] = []
        values: list[Any] = []

        def add(condition: str, value: Any) -> None:
            values.append(value)
            conditions.append(condition.replace("?", f"${len(values)}"))

        if self.since is not None:
            add("a.at >= ?", self.since)
        if self.until is not None:
            add("a.at < ?", self.until)
        if self.owner is not None:
            add("a.owner_id = ?", as_uuid("--owner", self.owner))
        if self.secret is not None:
            add(secret, self.secret)
        if self.user is not None:
            add("a.db_user = ?", self.user)
        if self.jwt_user is not None:
            add("coalesce(a.accessed_by, o.accessed_by) = ?", as_uuid("--jwt-user", self.jwt_user))
        if self.function is not None:
            add("(a.function = ? OR split_part(a.function, '(', 1) IN (?, 'encrypted_secrets.' || ?))", self.function)
        if self.operation is not None:
            add("a.operation = ?", one_of("--operation", self.operation, OPERATIONS))
        if self.outcome is not None:
            add(
                "CASE WHEN a.event = 'direct' THEN 'ok' ELSE coalesce(o.outcome, a.outcome, 'unknown') END = ?",
                one_of("--outcome", self.outcome, OUTCOMES),
            )
        if self.client is not None:
            add("a.client_addr <<= ?", _network(self.client))
        if self.application is not None:
            add("a.application_name = ?", self.application)
        if self.session is not None:
            add("a.session_id = ?", as_uuid("--session", self.session))
        return "".join(f" AND {condition}" for condition in conditions), values


def as_uuid(option: str, text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ConfigError(f"{option}: not a uuid, such as 6a8f3b1e-5c0d-4b0e-9a57-0d6b1c2f3a44") from None


def one_of(option: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise ConfigError(f"{option}: one of {', '.join(known)}")
    return text


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError("--client: not an address or a network, such as 10.0.0.7 or 10.0.0.0/24") from None


def moment(option: str, text: str, now: datetime | None = None) -> datetime:
    """`90m`, `2h`, `7d` (ago), `today`, `yesterday`, or an ISO 8601 date or time (of this machine's zone). Raises ConfigError."""
    now = now or datetime.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("now", "today", "yesterday"):
        return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[text]
    ago = re.fullmatch(r"(\d{1,6})\s*([smhdw])", text)
    if ago:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option}: not a time; write 2h, 7d, yesterday, 2026-11-24 or 2026-11-24T09:30") from None
    return found if found.tzinfo else found.astimezone()


def local_zone() -> tuple[str, str]:
    """This machine's time zone by its name, and its distance from UTC today."""
    offset = f"{datetime.now().astimezone():%z}"
    named = os.environ.get("TZ", "").removeprefix(":") or os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    return (named if re.fullmatch(r"[A-Za-z0-9_+/-]{1,60}", named) else "UTC", f"{offset[:3]}:{offset[3:]}")


async def connect(dsn: str | None) -> Any:
    """A connection for reading. Raises ConfigError."""
    try:
        return await asyncpg.connect(
            dsn, timeout=15, server_settings={"application_name": "secretproxy audit", "default_transaction_read_only": "on"}
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        raise explained(error) from None


def explained(error: Exception) -> ConfigError:
    """What to do about a failed question, without the server's DETAIL."""
    state = getattr(error, "sqlstate", None)
    if state == "42501":
        return ConfigError("this login may not read the log: make it a member of secretproxy_auditor, or give another with --dsn")
    if state in ("42P01", "42703", "3F000"):
        return ConfigError(
            "this database has no access log, or an older one: run `secretproxy install` there, or give another with --dsn"
        )
    if isinstance(error, asyncpg.PostgresError):
        return ConfigError(f"the database refused: {describe(error)}; see --dsn")
    if isinstance(error, ValueError):
        return ConfigError("--dsn: not a URL such as postgresql://auditor@db.example/app")
    return ConfigError(f"cannot connect ({type(error).__name__}): name the log's database with --dsn or the PG* variables")


async def accesses(connection: Any, wanted: Filter, limit: int | None = None) -> AsyncIterator[Any]:
    """Accesses, the newest `limit` of them (None: all), oldest first."""
    if limit is None:
        where, values = wanted.where()
        async with connection.transaction(readonly=True):
            async for row in connection.cursor(f"{ACCESS}{where} ORDER BY a.at, a.seq", *values, prefetch=500):
                yield row
        return
    query, values = page(wanted, limit)
    for row in reversed(await connection.fetch(query, *values)):
        yield row


def page(wanted: Filter, limit: int) -> tuple[str, list[Any]]:
    """The query for the newest `limit` accesses, newest first, and its parameters. Raises ConfigError."""
    where, values = wanted.where()
    newest = f"ORDER BY a.at DESC, a.seq DESC LIMIT {limit:d}"
    if wanted.secret is None:
        return f"{ACCESS}{where} {newest}", values
    # A page by each index: with both in one condition every access of that secret would be read and sorted.
    pages = " UNION ALL ".join(f"({ACCESS}{wanted.where(place)[0]} {newest})" for place in (_FIRST_NAME, _LATER_NAME))
    return f"SELECT * FROM ({pages}) a {newest}", values  # noqa: S608 - constant text


async def story(connection: Any, session: uuid.UUID) -> list[Any]:
    """Every row of one session, in order."""
    return list(
        await connection.fetch("SELECT * FROM secretproxy.access_log WHERE session_id = $1 ORDER BY instance, seq, at", session)
    )


async def rows(connection: Any, wanted: Filter) -> AsyncIterator[Any]:
    """The log's own rows with every column, in the order that they are verified in."""
    where, values = wanted.where()
    query = f"SELECT {', '.join(f'a.{name}' for name in COLUMNS)} FROM secretproxy.access_log a"  # noqa: S608
    if "o." in where:
        raise ConfigError(
            "an export takes whole rows: filter by time, owner, secret, user, operation, client, application or session"
        )
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(f"{query} WHERE true{where} ORDER BY a.instance, a.seq, a.at", *values, prefetch=1000):
            yield row


_STATS = f"WITH access AS ({ACCESS}{{where}})"
_BY = {
    "secrets": """SELECT owner_id, array_to_string(secret_names, ', ', '(null)') AS secret, count(*) AS n, max(at) AS latest
        FROM access GROUP BY 1, 2 ORDER BY 3 DESC, 2 LIMIT {limit}""",
    "users": "SELECT db_user, role, accessed_by, count(*) AS n, max(at) AS latest FROM access GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1 LIMIT {limit}",
    "hours": "SELECT extract(hour FROM at)::int AS hour, count(*) AS n FROM access GROUP BY 1 ORDER BY 1",
    "outcomes": "SELECT operation, outcome, count(*) AS n FROM access GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
    # An access by somebody who, as far as the log goes back, had never used that secret before.
    "first_time": """SELECT min(at) AS at, db_user, accessed_by, owner_id, array_to_string(secret_names, ', ', '(null)') AS secret, count(*) AS times
        FROM access a WHERE owner_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM secretproxy.access_log e WHERE e.owner_id = a.owner_id AND e.secret_names = a.secret_names AND e.db_user = a.db_user
               AND e.event IN ('attempt', 'call', 'direct') AND e.at < {since})
        GROUP BY 2, 3, 4, 5 ORDER BY 1 DESC LIMIT {limit}""",
    "at_night": """SELECT at, db_user, accessed_by, owner_id, array_to_string(secret_names, ', ', '(null)') AS secret
        FROM access WHERE operation = 'read' AND (extract(hour FROM at) >= {evening} OR extract(hour FROM at) < {morning})
        ORDER BY at DESC LIMIT {limit}""",
    # Whether a password was right is not logged; whoever tries many in a row is. As in the view many_verifies.
    "many_verifies": """SELECT min(at) AS at, db_user, owner_id, array_to_string(secret_names, ', ', '(null)') AS secret,
           count(*) FILTER (WHERE outcome <> 'ok') AS failed, count(*) AS n
        FROM (SELECT *, count(*) FILTER (WHERE pause > interval '1 minute') OVER w AS run
                FROM (SELECT *, at - lag(at) OVER w AS pause FROM access WHERE operation = 'verify'
                      WINDOW w AS (PARTITION BY db_user, owner_id, secret_names ORDER BY at, seq)) v
              WINDOW w AS (PARTITION BY db_user, owner_id, secret_names ORDER BY at, seq)) r
       GROUP BY db_user, owner_id, secret_names, run HAVING count(*) >= 5 ORDER BY 6 DESC, 1 LIMIT {limit}""",
}


async def stats(connection: Any, wanted: Filter, *, limit: int, evening: int, morning: int) -> dict[str, list[dict[str, Any]]]:
    """Counts by secret, user, hour (of the session's time zone) and outcome, and what looks unusual."""
    where, values = wanted.where()
    answers: dict[str, list[dict[str, Any]]] = {}
    zone, offset = local_zone()
    try:
        await connection.execute(f"SET TIME ZONE '{zone}'")
    except asyncpg.PostgresError:
        await connection.execute(f"SET TIME ZONE INTERVAL '{offset}' HOUR TO MINUTE")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for name, question in _BY.items():
            given = list(values)
            text = question
            if "{since}" in text:
                given.append(wanted.since or datetime.fromtimestamp(0, UTC))
                text = text.replace("{since}", f"${len(given)}")
            text = text.replace("{limit}", str(limit)).replace("{evening}", str(evening)).replace("{morning}", str(morning))
            answers[name] = [dict(row) for row in await connection.fetch(_STATS.replace("{where}", where) + " " + text, *given)]
    return answers


__all__ = ["Filter", "accesses", "connect", "explained", "moment", "rows", "stats", "story"]
