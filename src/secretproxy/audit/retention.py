"""Retention: old months of the log go, once a signed word says how each chain in them ended, so that what stays still verifies.

May import asyncpg. Needs the owner's rights: partitions are detached or dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from secretproxy.audit.beside import CHECKPOINT_INSERT
from secretproxy.audit.checkpoints import RETENTION, Signer

_OLD = r"""
SELECT c.oid::regclass::text AS partition, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz AS upto
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'secretproxy.access_log'::regclass AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
   AND (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz <= now() - $1::text::interval
 ORDER BY 2
"""
_ENDS = """
SELECT DISTINCT ON (instance) instance, seq, row_hash FROM {partition} WHERE instance IS NOT NULL ORDER BY instance, seq DESC
"""


_STRAYS = """
SELECT month AT TIME ZONE 'UTC' AS first, (month + interval '1 month') AT TIME ZONE 'UTC' AS upto, to_char(month, 'YYYY_MM') AS name
  FROM (SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC') AS month FROM secretproxy.access_log_default) m ORDER BY 1
"""
# The rows go over and the month is attached in one transaction. Whoever writes other months is not held up by it.
_SETTLE = """
SET LOCAL lock_timeout = '10s';
LOCK TABLE secretproxy.access_log_default IN ACCESS EXCLUSIVE MODE;
CREATE TABLE secretproxy.{name} (LIKE secretproxy.access_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE secretproxy.{name} OWNER TO secretproxy_owner;
INSERT INTO secretproxy.{name} SELECT * FROM secretproxy.access_log_default WHERE at >= '{first}' AND at < '{upto}';
ALTER TABLE secretproxy.access_log_default DISABLE TRIGGER append_only;
DELETE FROM secretproxy.access_log_default WHERE at >= '{first}' AND at < '{upto}';
ALTER TABLE secretproxy.access_log_default ENABLE TRIGGER append_only;
ALTER TABLE secretproxy.access_log ATTACH PARTITION secretproxy.{name} FOR VALUES FROM ('{first}') TO ('{upto}');
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON secretproxy.{name}
    FOR EACH STATEMENT EXECUTE FUNCTION secretproxy.access_log_is_append_only();
"""


@dataclass(frozen=True, slots=True)
class Partition:
    """A month whose time is over: its table, its end, its rows."""

    name: str
    upto: datetime
    rows: int


async def old(connection: Any, keep: str) -> list[Partition]:
    """Partitions that end before `keep` (an interval of PostgreSQL's) ago, oldest first. Raises asyncpg's errors."""
    found = []
    for row in await connection.fetch(_OLD, keep):
        rows = int(await connection.fetchval(f"SELECT count(*) FROM {row['partition']}"))  # noqa: S608 - a name from the catalog
        found.append(Partition(row["partition"], row["upto"], rows))
    return found


async def settle(connection: Any) -> list[str]:
    """Gives the rows of the default partition, which came while their month had none, months of their own. Raises asyncpg's errors."""
    made = []
    for stray in await connection.fetch(_STRAYS):
        name = f"access_log_{stray['name']}"
        # A month that was detached may still be there as a table.
        if await connection.fetchval("SELECT to_regclass($1)", f"secretproxy.{name}") is not None:
            name += f"_{datetime.now(UTC):%Y%m%d%H%M%S}"
        async with connection.transaction():
            await connection.execute(_SETTLE.format(name=name, first=stray["first"].isoformat(), upto=stray["upto"].isoformat()))
        made.append(name)
    return made


async def remove(
    connection: Any, partitions: list[Partition], signer: Signer, *, drop: bool, progress: Callable[[Partition], None]
) -> None:
    """Takes partitions out of the log, each in a transaction with the signed ends of its chains. Raises asyncpg's errors, OSError."""
    for partition in partitions:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            # No row may come between its signed end and its going: a spool can bring some of long ago.
            await connection.execute(f"LOCK TABLE {partition.name} IN SHARE MODE")
            for end in await connection.fetch(_ENDS.format(partition=partition.name)):
                signed = signer.sign(end["instance"], end["seq"], bytes(end["row_hash"]), RETENTION)
                signer.keep(signed)
                await connection.execute(
                    CHECKPOINT_INSERT, signed.instance, signed.seq, signed.row_hash, signed.at, signed.signature, signed.kind
                )
            await connection.execute(f"ALTER TABLE secretproxy.access_log DETACH PARTITION {partition.name}")
            if drop:
                await connection.execute(f"DROP TABLE {partition.name}")
        progress(partition)
