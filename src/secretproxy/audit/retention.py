"""Retention: old months of the log go, once a signed word says how each chain in them ended, so that what stays still verifies.

May import asyncpg. Needs the owner's rights: partitions are detached or dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
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


async def remove(
    connection: Any, partitions: list[Partition], signer: Signer, *, drop: bool, progress: Callable[[Partition], None]
) -> None:
    """Takes partitions out of the log, each in a transaction with the signed ends of its chains. Raises asyncpg's errors, OSError."""
    for partition in partitions:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '10s'")
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
