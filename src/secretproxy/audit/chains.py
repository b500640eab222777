"""Questions about the chains themselves: from when until when each goes, how far checkpoints cover it, and why one is
open.

What the log says of itself, and nothing of it recomputed: `audit.verify` does that. Functions take a connection and
give values; they print nothing. May import asyncpg."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from secretproxy.audit.chain import GENESIS
from secretproxy.audit.checkpoints import END, Checkpoint, PublicKey, genuine
from secretproxy.audit.counting import stretch
from secretproxy.audit.filters import AT_LEAST, EQUAL
from secretproxy.audit.follower import INSTANCES
from secretproxy.audit.review import LOG
from secretproxy.audit.verify import LATENESS, Damage

# The first and last row of each chain whose last row is not older than a time, the newest first.
_CHAINS = f"""
SELECT i.instance, f.seq AS first_seq, f.at AS first, f.event {EQUAL} 'review' AS is_console,
       l.seq AS last_seq, l.at AS last, l.row_hash
  FROM ({INSTANCES}) i
 CROSS JOIN LATERAL (SELECT a.seq, a.at, a.row_hash FROM {LOG}
                      WHERE a.instance {EQUAL} i.instance ORDER BY a.seq DESC LIMIT 1) l
 CROSS JOIN LATERAL (SELECT a.seq, a.at, a.event FROM {LOG}
                      WHERE a.instance {EQUAL} i.instance ORDER BY a.seq LIMIT 1) f
 WHERE l.at {AT_LEAST} $1 ORDER BY l.at DESC, i.instance LIMIT $2
"""  # noqa: S608 - constant text
# What signs how far a chain goes: its newest checkpoint, its end, what retention says that it removed.
_SIGNED = f"""
SELECT c.instance, c.seq, c.row_hash, c.at, c.signature, c.kind
  FROM pg_catalog.unnest($1::pg_catalog.uuid[]) AS i (instance)
 CROSS JOIN (VALUES ('checkpoint'::pg_catalog.text), ('end'), ('retention')) AS k (kind)
 CROSS JOIN LATERAL (SELECT s.* FROM ONLY secretproxy.checkpoints AS s
                      WHERE s.instance {EQUAL} i.instance AND s.kind {EQUAL} k.kind
                      ORDER BY s.seq DESC, s.at DESC LIMIT 1) c
"""  # noqa: S608 - constant text
_HASH = f"SELECT a.row_hash FROM {LOG} WHERE a.instance {EQUAL} $1 AND a.seq {EQUAL} $2"  # noqa: S608 - constant text
_BEFORE = f"""SELECT a.seq, a.at FROM {LOG} WHERE a.instance {EQUAL} $1 AND a.seq OPERATOR(pg_catalog.<) $2
 ORDER BY a.seq DESC LIMIT 1"""  # noqa: S608 - constant text
_FROM = f"""SELECT a.seq, a.at FROM {LOG} WHERE a.instance {EQUAL} $1 AND a.seq {AT_LEAST} $2
 ORDER BY a.seq LIMIT 1"""  # noqa: S608 - constant text


@dataclass(slots=True)
class Chain:
    """One chain. `covered`: the last row that a checkpoint is of; `signed`: whether that checkpoint's signature and
    hash fit; None: no key is at hand, or its row is gone. `marks`: times of checkpoints, with how many there were."""

    instance: uuid.UUID
    console: bool
    first_seq: int
    first: datetime
    last_seq: int
    last: datetime
    covered: int | None = None
    checkpoint: datetime | None = None
    signed: bool | None = None
    end: int | None = None
    removed: int = 0
    marks: list[tuple[datetime, int]] = field(default_factory=list)

    @property
    def uncovered(self) -> int:
        """Gives the number of rows after the last checkpoint."""
        return self.last_seq - max(self.covered or 0, self.first_seq - 1)

    def state(self, now: datetime, within: float) -> str:
        """Names the state at a time. `within`: seconds after which a row must have a checkpoint."""
        if self.signed is False or (self.covered or 0) > self.last_seq:
            return "wrong"
        if self.end is not None:
            return "ended" if self.end == self.last_seq else "wrong"
        if self.first_seq > self.removed + 1:
            return "begins late"
        if self.covered is None:
            return "unsigned"
        if not self.uncovered:
            return "quiet"
        return "running" if now - self.last < timedelta(seconds=within + LATENESS) else "broken off"


# What each state means, for whoever reads it.
MEANING = {
    "ended": "Closed. Its process ended in good order and signed its last row.",
    "running": "Open. Its process writes now; the next checkpoint covers the newest rows.",
    "quiet": "Open. Every row has a checkpoint, but no end is signed: the process runs and writes nothing, or it was "
    "killed. Of later rows, if there were any, nothing would be left to see.",
    "broken off": "Open, and rows came after its last checkpoint: the process was killed, or cannot sign. If rows were "
    "cut off after these, it would not show.",
    "unsigned": "Open, without any checkpoint: its process had no key (audit.checkpoint_key_file), or somebody who may "
    "write the log made it up. Rows cut off at its end would not show.",
    "begins late": "Rows before its first one are gone, and no retention says so. Verify the log.",
    "wrong": "What is signed does not fit its rows. Verify the log.",
}


@dataclass(frozen=True, slots=True)
class Gap:
    """The place of a damage: the rows of its chain before and from there on, as (number, time), if there are any."""

    damage: Damage
    before: tuple[int, datetime] | None = None
    after: tuple[int, datetime] | None = None


async def chains(
    connection: Any, since: datetime, step: timedelta, limit: int, key: PublicKey | None = None
) -> tuple[list[Chain], bool]:
    """Gives the chains that go beyond `since`, the newest first, and whether there are more.

    Checkpoints of one `step` are one mark, at the time of the last of them.
    """
    rows = await connection.fetch(_CHAINS, since, limit + 1)
    found = {
        row["instance"]: Chain(
            row["instance"], bool(row["is_console"]), row["first_seq"], row["first"], row["last_seq"], row["last"]
        )
        for row in rows[:limit]
    }
    hashes = {(row["instance"], row["last_seq"]): row["row_hash"] for row in rows}
    for row in await connection.fetch(_SIGNED, list(found)):
        chain, one = found[row["instance"]], Checkpoint(*row.values())
        if key is not None and not genuine(one, key):
            chain.signed = False
            continue
        if one.kind not in ("checkpoint", END):
            chain.removed = one.seq
            continue
        if one.kind == END:
            chain.end = one.seq
        if chain.covered is not None and one.seq < chain.covered:
            continue
        chain.covered, chain.checkpoint = one.seq, one.at
        if key is not None and chain.signed is not False and one.seq == 0:
            chain.signed = one.row_hash == GENESIS
        elif key is not None and chain.signed is not False and chain.first_seq <= one.seq:
            place = (chain.instance, one.seq)
            row_hash = hashes[place] if place in hashes else await connection.fetchval(_HASH, *place)
            chain.signed = row_hash == one.row_hash
    marks = f"""
SELECT a.instance, {stretch(step.total_seconds())} AS bucket, pg_catalog.count(*) AS n,
       pg_catalog.max(a.at) AS at
  FROM ONLY secretproxy.checkpoints AS a
 WHERE a.instance {EQUAL} ANY ($1::pg_catalog.uuid[]) AND a.at {AT_LEAST} $2
   AND a.kind {EQUAL} ANY (ARRAY['checkpoint', 'end']::pg_catalog.text[])
 GROUP BY 1, 2 ORDER BY 1, 2"""  # noqa: S608 - constant text
    for row in await connection.fetch(marks, list(found), since):
        found[row["instance"]].marks.append((row["at"], row["n"]))
    return list(found.values()), len(rows) > limit


async def gaps(connection: Any, damages: Iterable[Damage]) -> list[Gap]:
    """Says of each damage between which rows that are there it is."""
    found = []
    for damage in damages:
        try:
            place = (uuid.UUID(damage.instance), damage.seq)
        except ValueError:
            found.append(Gap(damage))
            continue
        if damage.seq is None:
            found.append(Gap(damage))
            continue
        before, after = await connection.fetchrow(_BEFORE, *place), await connection.fetchrow(_FROM, *place)
        found.append(Gap(damage, before and (before["seq"], before["at"]), after and (after["seq"], after["at"])))
    return found
