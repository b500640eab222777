"""Makes an export and its manifest, for the command and for the console. Takes a connection; prints and opens
nothing."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

from secretproxy.audit import chain, exports
from secretproxy.audit.checkpoints import Checkpoint, Signer
from secretproxy.audit.columns import CHAINED
from secretproxy.audit.records import writers

# A row's columns in the order of its line.
_IN_LINE = operator.itemgetter(*CHAINED)


def signer_at_hand(key_file: Path | None) -> Signer | None:
    """Gives who signs manifests, where the checkpoint key is there. Raises ConfigError for one that cannot be used."""
    return Signer(key_file) if key_file is not None and key_file.exists() else None


async def tallied(rows: AsyncIterator[Any], tally: exports.ExportTally) -> AsyncIterator[Any]:
    """Gives the same rows, each counted in."""
    write = writers(CHAINED, chain.field)
    async for row in rows:
        # What its line says is that of its record: see exports.body_of.
        fields = [one(value) for one, value in zip(write, _IN_LINE(row), strict=True)]
        tally.take_row(row, chain.covered("\t".join(fields).encode("utf-8", "surrogatepass")))
        yield row


async def manifest_of(
    connection: Any,
    tally: exports.ExportTally,
    filters: dict[str, str],
    form: str,
    made_at: datetime,
    signer: Signer | None,
    *,
    accesses: bool = False,
) -> dict[str, Any]:
    """Makes the manifest of rows that were all counted in, with the checkpoints of their chains.

    `accesses`: the rows are those of the accesses that match, each with its outcomes."""
    found = [Checkpoint(*row.values()) for row in await connection.fetch(exports.CHECKPOINTS, list(tally.chains))]
    made = tally.manifest(filters, form, made_at, found)
    if getattr(connection, "raw", False):
        made["texts"] = exports.VISIBLE
    if accesses:
        made["of"] = exports.ACCESSES
        made["encoding"] = connection.get_settings().server_encoding
    if signer is not None:
        exports.sign(made, signer)
    return made
