"""Retention: old months of the log go, once a signed word says how each chain in them ended, so that what stays still
verifies.

May import asyncpg. Needs the owner's rights: partitions are detached or dropped.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from secretproxy.audit.checkpoints import BEFORE, RETENTION, Signer
from secretproxy.audit.counting import SUMS
from secretproxy.audit.durable import Warnings
from secretproxy.audit.housekeeping import CHECKPOINT_INSERT
from secretproxy.config import ConfigError

_BOUND = (
    "(pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid), "
    r"'TO \(''([^'']+)''\)'::pg_catalog.text))[1]::pg_catalog.timestamptz"
)
_TOO_SHORT = """SELECT $1::pg_catalog.text::pg_catalog.interval
       OPERATOR(pg_catalog.<) '1 day'::pg_catalog.interval"""
_OLD = f"""
SELECT c.oid::pg_catalog.regclass::pg_catalog.text AS partition, {_BOUND} AS upto
  FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
 WHERE i.inhparent OPERATOR(pg_catalog.=) 'secretproxy.access_log'::pg_catalog.regclass::pg_catalog.oid
   AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) OPERATOR(pg_catalog.<>) 'DEFAULT'::pg_catalog.text
   AND {_BOUND} OPERATOR(pg_catalog.<=) (pg_catalog.now()
   OPERATOR(pg_catalog.-) $1::pg_catalog.text::pg_catalog.interval)
 ORDER BY 2
"""  # noqa: S608 - constant text
# The first and last of the rows of an instance that stand together. A clock that was set back spreads them over months.
_RANGES = """
SELECT instance, seq, prev_hash, row_hash, is_first, is_last
  FROM (SELECT instance, seq, prev_hash, row_hash,
               coalesce(pg_catalog.lag(seq) OVER w OPERATOR(pg_catalog.<>) (seq OPERATOR(pg_catalog.-) 1),
                   true) AS is_first,
               coalesce(pg_catalog.lead(seq) OVER w OPERATOR(pg_catalog.<>) (seq OPERATOR(pg_catalog.+) 1),
                   true) AS is_last
          FROM ONLY {partition} WHERE instance IS NOT NULL WINDOW w AS (PARTITION BY instance ORDER BY seq)) AS s
 WHERE is_first OR is_last ORDER BY instance, seq
"""


_STRAYS = """
SELECT month AT TIME ZONE 'UTC' AS first,
    (month OPERATOR(pg_catalog.+) '1 month'::pg_catalog.interval) AT TIME ZONE 'UTC' AS upto,
       pg_catalog.to_char(month, 'YYYY_MM') AS name
  FROM (SELECT DISTINCT pg_catalog.date_trunc('month', at AT TIME ZONE 'UTC') AS month
      FROM ONLY secretproxy.access_log_default) AS m ORDER BY 1
"""
# The rows go over and the month is attached in one transaction. Whoever writes other months is not held up by it.
_SETTLE = """
SET LOCAL lock_timeout = '10s';
LOCK TABLE secretproxy.access_log_default IN ACCESS EXCLUSIVE MODE;
CREATE TABLE secretproxy.{name} (LIKE secretproxy.access_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE secretproxy.{name} OWNER TO secretproxy_owner;
INSERT INTO secretproxy.{name} SELECT * FROM secretproxy.access_log_default
 WHERE at OPERATOR(pg_catalog.>=) '{first}'::pg_catalog.timestamptz
     AND at OPERATOR(pg_catalog.<) '{upto}'::pg_catalog.timestamptz;
ALTER TABLE secretproxy.access_log_default DISABLE TRIGGER append_only;
DELETE FROM secretproxy.access_log_default
 WHERE at OPERATOR(pg_catalog.>=) '{first}'::pg_catalog.timestamptz
     AND at OPERATOR(pg_catalog.<) '{upto}'::pg_catalog.timestamptz;
ALTER TABLE secretproxy.access_log_default ENABLE TRIGGER append_only;
ALTER TABLE secretproxy.access_log ATTACH PARTITION secretproxy.{name} FOR VALUES FROM ('{first}') TO ('{upto}');
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.{name}
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only();
"""


_HAS_SUMS = "SELECT pg_catalog.to_regclass('secretproxy.sums') IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Range:
    """Rows of an instance from `first` to `last`: the hash before the first, and that of the last."""

    instance: uuid.UUID
    first: int
    last: int
    before: bytes
    row_hash: bytes


@dataclass(frozen=True, slots=True)
class Partition:
    """A month whose time is over.

    Its table, its end, its rows, and the rows of each chain that stand together in it.
    """

    name: str
    upto: datetime
    rows: int
    ranges: tuple[Range, ...]


class ChangedError(Exception):
    """Rows of a month are not the ones that were verified."""


async def old(connection: Any, keep: str) -> list[Partition]:
    """Partitions that end before `keep` (an interval of PostgreSQL's) ago, oldest first.

    Raises ConfigError for less than a day; asyncpg's errors."""
    if await connection.fetchval(_TOO_SHORT, keep):
        raise ConfigError("a log is kept for at least a day: m and min are minutes, mon and months are months")
    found = []
    for row in await connection.fetch(_OLD, keep):
        rows = int(await connection.fetchval(f"SELECT pg_catalog.count(*) FROM ONLY {row['partition']}"))  # noqa: S608 - of the catalog
        found.append(Partition(row["partition"], row["upto"], rows, await _ranges(connection, row["partition"])))
    return found


async def _ranges(connection: Any, partition: str) -> tuple[Range, ...]:
    found = []
    first: Any = None
    for row in await connection.fetch(_RANGES.format(partition=partition)):
        if row["is_first"]:
            first = row
        if row["is_last"]:
            before, last = bytes(first["prev_hash"] or b""), bytes(row["row_hash"] or b"")
            found.append(Range(row["instance"], first["seq"], row["seq"], before, last))
    return tuple(found)


async def settle(connection: Any) -> list[str]:
    """Gives the rows of the default partition, which came while their month had none, months of their own.

    Raises asyncpg's errors.
    """
    made = []
    for stray in await connection.fetch(_STRAYS):
        name = f"access_log_{stray['name']}"
        # A month that was detached may still be there as a table.
        if (
            await connection.fetchval("SELECT pg_catalog.to_regclass($1::pg_catalog.text)", f"secretproxy.{name}")
            is not None
        ):
            name += f"_{datetime.now(UTC):%Y%m%d%H%M%S}"
        async with connection.transaction():
            await connection.execute(
                _SETTLE.format(name=name, first=stray["first"].isoformat(), upto=stray["upto"].isoformat())
            )
        made.append(name)
    return made


async def remove(
    connection: Any, partitions: list[Partition], signer: Signer, *, drop: bool, progress: Callable[[Partition], None]
) -> None:
    """Takes partitions out of the log, each in a transaction with the signed ends of its chains.

    Raises asyncpg's errors, OSError; ChangedError where rows changed since `old` saw them; NotReplicatedError.
    """
    warnings = Warnings(connection)
    for partition in partitions:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            # No row may come between its signed end and its going: a spool can bring some of long ago.
            await connection.execute(f"LOCK TABLE {partition.name} IN SHARE MODE")
            if await _ranges(connection, partition.name) != partition.ranges:
                raise ChangedError(partition.name)
            at = datetime.now(UTC)
            for gone in partition.ranges:
                # The times of a pair are the same, and each pair's are its own.
                at += timedelta(microseconds=1)
                made = [signer.sign(gone.instance, gone.last, gone.row_hash, RETENTION, at)]
                if gone.first > 1:
                    made.insert(0, signer.sign(gone.instance, gone.first - 1, gone.before, BEFORE, at))
                for signed in made:
                    signer.keep(signed)
                    await connection.execute(
                        CHECKPOINT_INSERT,
                        signed.instance,
                        signed.seq,
                        signed.row_hash,
                        signed.at,
                        signed.signature,
                        signed.kind,
                    )
            await connection.execute(f"ALTER TABLE secretproxy.access_log DETACH PARTITION {partition.name}")
            # Sums name owners and secrets as its rows do. A log of an older version has none.
            for table in reversed(SUMS) if await connection.fetchval(_HAS_SUMS) else ():
                await connection.execute(
                    f"DELETE FROM secretproxy.{table} WHERE month OPERATOR(pg_catalog.<) $1",  # noqa: S608 - names of ours
                    partition.upto,
                )
            if drop:
                await connection.execute(f"DROP TABLE {partition.name}")
        warnings.check()
        progress(partition)
