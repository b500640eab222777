"""Questions about reviews themselves: who looked, how far the log was signed off, what came since, which findings
somebody knows.

A sign-off is an event `review` as every page of the console is. It says up to when, how many rows of how many chains
that is, and in `fingerprint` a digest over the chains' last hashes, so that it is seen later whether these rows are
still the same. May import asyncpg."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from secretproxy.audit.checkpoints import Checkpoint, PublicKey, genuine
from secretproxy.audit.filters import BELOW, EQUAL, Filter
from secretproxy.audit.follower import INSTANCES
from secretproxy.audit.masking import NameMask
from secretproxy.audit.recorder import Recorder
from secretproxy.audit.records import pairs
from secretproxy.audit.review import LOG, NEWEST, conditions_of
from secretproxy.config import ConfigError
from secretproxy.session.events import Identity

# What `function` says of a review that is more than a look.
SIGN_OFF, ACKNOWLEDGE = "sign-off", "acknowledge"
# A row's time is taken before it is committed. What is younger than this may still lack rows before it.
SETTLED = timedelta(seconds=10)
_REVIEW = f"a.event {EQUAL} 'review'"
_COLUMNS = (
    "a.id, a.at, a.instance, a.seq, a.row_hash, a.db_user, a.function, a.via, a.fingerprint, a.client_addr, "
    "a.application_name, a.session_id"
)
# The last row of each chain up to a time; a chain has its rows in the order of their numbers.
_HEADS = f"""
SELECT i.instance, l.seq, l.row_hash FROM ({INSTANCES}) i
 CROSS JOIN LATERAL (SELECT a.seq, a.row_hash FROM {LOG}
                      WHERE a.instance {EQUAL} i.instance AND a.at {BELOW} $1 ORDER BY a.seq DESC LIMIT 1) l
 ORDER BY i.instance
"""  # noqa: S608 - constant text
_SINCE = f"""
SELECT a.event, pg_catalog.count(*) AS n FROM {LOG}
 WHERE ($1::pg_catalog.timestamptz IS NULL OR a.at OPERATOR(pg_catalog.>=) $1) AND NOT ({_REVIEW}) GROUP BY a.event
     ORDER BY a.event
"""  # noqa: S608 - constant text
_CHECKPOINT = f"""
SELECT c.instance, c.seq, c.row_hash, c.at, c.signature, c.kind FROM ONLY secretproxy.checkpoints AS c
 WHERE c.instance {EQUAL} $1 AND c.seq OPERATOR(pg_catalog.>=) $2
     AND c.kind {EQUAL} ANY (ARRAY['checkpoint', 'end']::pg_catalog.text[])
 ORDER BY c.seq LIMIT 1
"""  # noqa: S608 - constant text


@dataclass(frozen=True, slots=True)
class Heads:
    """The extent of the chains at a time: rows of all of them, their number, a digest of the last hashes."""

    rows: int
    chains: int
    digest: str


@dataclass(frozen=True, slots=True)
class SignOff:
    """One sign-off. `signed`: whether a checkpoint of its chain covers it; None: no key is at hand to check that."""

    at: datetime
    reviewer: str
    up_to: datetime
    note: str
    heads: Heads
    instance: uuid.UUID
    seq: int
    signed: bool | None = None

    def compared(self, now: Heads) -> str:
        """Says how the rows that it is of are now."""
        if now == self.heads:
            return "the same rows"
        if now.rows > self.heads.rows:
            return f"{now.rows - self.heads.rows:,} rows of that time came later"
        if now.rows < self.heads.rows:
            return f"{self.heads.rows - now.rows:,} rows fewer, as where retention removes them: verify the log"
        return "other rows: verify the log"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody's note on a finding."""

    at: datetime
    reviewer: str
    note: str


@dataclass(slots=True)
class Reviewed:
    """The extent of the review: sign-offs, newest first, each with the present state of its rows, and the events after
    the latest time. `count`: sign-offs of the log, of which `sign_offs` may be the newest ones.
    """

    sign_offs: list[tuple[SignOff, str]]
    up_to: datetime | None
    since: dict[str, int] = field(default_factory=dict)
    count: int = 0

    @property
    def left(self) -> int:
        return sum(self.since.values())


async def heads(connection: Any, until: datetime) -> Heads:
    """Says how far the chains go before that time."""
    rows = await connection.fetch(_HEADS, until)
    text = "".join(f"{row['instance']} {row['seq']} {(row['row_hash'] or b'').hex()}\n" for row in rows)
    return Heads(sum(row["seq"] for row in rows), len(rows), hashlib.sha256(text.encode()).hexdigest())


async def looks(connection: Any, wanted: Filter, limit: int) -> list[Any]:
    """Gives the newest reviews that match: by user, time, client, session."""
    where, values = conditions_of(wanted.conditions(), 0)
    query = f"SELECT {_COLUMNS} FROM {LOG} WHERE {_REVIEW}{where} {NEWEST} LIMIT {limit:d}"  # noqa: S608
    return list(await connection.fetch(query, *values))


async def sign_offs(connection: Any, limit: int | None, key: PublicKey | None = None) -> list[SignOff]:
    """Gives the newest sign-offs, newest first; `limit` None: all."""
    most = "ALL" if limit is None else f"{limit:d}"
    query = f"SELECT {_COLUMNS} FROM {LOG} WHERE {_REVIEW} AND a.function {EQUAL} $1 {NEWEST} LIMIT {most}"  # noqa: S608
    found = []
    for row in await connection.fetch(query, SIGN_OFF):
        made = _sign_off(row)
        if made is not None:
            checkpoint = await connection.fetchrow(_CHECKPOINT, row["instance"], row["seq"])
            signed: bool | None = False
            if checkpoint is not None:
                one = Checkpoint(*checkpoint.values())
                fits = one.seq > row["seq"] or one.row_hash == row["row_hash"]
                signed = None if key is None else genuine(one, key) and fits
            found.append(replace(made, signed=signed))
    return found


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _sign_off(row: Any) -> SignOff | None:
    given = pairs(row["via"])
    up_to = _time(given.get("up_to", ""))
    if up_to is None:
        return None
    try:
        counted = Heads(int(given["rows"]), int(given["chains"]), row["fingerprint"] or "")
    except (KeyError, ValueError):
        return None
    return SignOff(row["at"], row["db_user"], up_to, given.get("note", ""), counted, row["instance"], row["seq"])


async def reviewed(connection: Any, limit: int | None, key: PublicKey | None = None) -> Reviewed:
    """Says how far the log is reviewed, with the newest `limit` sign-offs; None: all. If it is not, everything is
    left."""
    found = [(one, one.compared(await heads(connection, one.up_to))) for one in await sign_offs(connection, limit, key)]
    # The latest time need not be that of the newest sign-off, nor of one that is shown.
    query = f"SELECT a.via FROM {LOG} WHERE {_REVIEW} AND a.function {EQUAL} $1"  # noqa: S608 - constant text
    given = [pairs(row["via"]).get("up_to", "") for row in await connection.fetch(query, SIGN_OFF)]
    times = [at for at in map(_time, given) if at is not None]
    up_to = max(times, default=None)
    since = {row["event"]: row["n"] for row in await connection.fetch(_SINCE, up_to)}
    return Reviewed(found, up_to, since, len(times))


async def sign_off(
    connection: Any, recorder: Recorder, who: Identity, number: int, up_to: datetime, note: str
) -> Heads:
    """Signs the log off up to that time, in the name of `who`. Raises ConfigError, UnrecordedError."""
    now = await connection.fetchval("SELECT pg_catalog.clock_timestamp()")
    if up_to > now - SETTLED:
        raise ConfigError(f"up to: rows of the last {SETTLED.seconds} seconds may still come; give an earlier time")
    text = noted(note, recorder.mask)
    found = await heads(connection, up_to)
    given = [
        ("up_to", up_to.astimezone(UTC).isoformat()),
        ("rows", str(found.rows)),
        ("chains", str(found.chains)),
        ("note", text),
    ]
    await recorder.record(who, number, SIGN_OFF, given, found.digest)
    recorder.sign()
    return found


async def acknowledge(recorder: Recorder, who: Identity, number: int, kind: str, finding: str, note: str) -> None:
    """Keeps a note on a finding. Raises ConfigError, UnrecordedError."""
    await recorder.record(who, number, ACKNOWLEDGE, [("finding", kind), ("note", noted(note, recorder.mask))], finding)


async def acknowledged(connection: Any, findings: Iterable[str]) -> dict[str, Acknowledgement]:
    """Gives the latest note on each of these findings."""
    query = (
        f"SELECT {_COLUMNS} FROM {LOG} WHERE {_REVIEW} AND a.function {EQUAL} $1"  # noqa: S608
        f" AND a.fingerprint {EQUAL} ANY ($2::pg_catalog.text[]) ORDER BY a.at, a.seq"
    )
    rows = await connection.fetch(query, ACKNOWLEDGE, list(findings))
    return {
        row["fingerprint"]: Acknowledgement(row["at"], row["db_user"], pairs(row["via"]).get("note", ""))
        for row in rows
    }


def finding_of(kind: str, row: Mapping[str, Any], *names: str) -> str:
    """Gives what distinguishes a finding: a digest of its kind and these columns of it."""
    text = "\0".join([kind, *(repr(_plain(row[name])) for name in names)])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return [str(item) for item in value] if isinstance(value, list | tuple) else str(value)


def noted(note: str, mask: NameMask) -> str:
    """Gives a note as it is stored.

    Raises ConfigError for one that would be masked, because nothing readable would be left.
    """
    text = " ".join(note.split())
    if not text:
        raise ConfigError("note: say what was looked at, or why it is all right")
    if (mask(text) or "").startswith("masked:"):
        raise ConfigError("note: too long (limits.max_name), or it looks like a secret's value (monitor.name_patterns)")
    return text
