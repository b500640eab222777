"""Keeps in the log what a verification of all of it found, so that everybody sees since when that is.

It is an event `review` as every page of the console is, in the name of whoever had the log verified; a log that was
altered gets one too. May import asyncpg."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secretproxy.audit.evidence import Verification
from secretproxy.audit.filters import EQUAL
from secretproxy.audit.recorder import Recorder
from secretproxy.audit.records import pairs
from secretproxy.audit.review import LOG, NEWEST
from secretproxy.session.events import Identity

# What `function` says of it.
VERIFIED = "verified"
_LATEST = f"""
SELECT a.db_user, a.via FROM {LOG} WHERE a.event {EQUAL} 'review' AND a.function {EQUAL} '{VERIFIED}' {NEWEST} LIMIT 1
"""  # noqa: S608 - constant text
_SINCE = f"""
SELECT pg_catalog.count(*) FROM (SELECT FROM {LOG} WHERE a.at OPERATOR(pg_catalog.>=) $1 LIMIT $2) c
"""  # noqa: S608 - constant text
# Rows since then that are counted.
MOST_SINCE = 100_000


@dataclass(frozen=True, slots=True)
class Verified:
    """The latest verification of the whole log that the log knows of.

    `began`: rows from before then were verified; `signed`: whether the signatures of checkpoints were; `since`: rows
    that came after it, `MOST_SINCE` at most.
    """

    began: datetime
    by: str
    rows: int
    chains: int
    damages: int
    signed: bool
    since: int


async def keep(recorder: Recorder, who: Identity, number: int, found: Verification) -> None:
    """Records what a verification found; nothing where it has no report. Raises UnrecordedError."""
    report = found.report
    if report is None:
        return
    given = [
        ("began", found.began.isoformat()),
        ("rows", str(report.rows)),
        ("chains", str(report.instances)),
        ("damages", str(len(report.findings) + report.more_findings)),
        ("signatures", "checked" if found.signed else "not checked"),
    ]
    await recorder.record(who, number, VERIFIED, given)


async def latest(connection: Any) -> Verified | None:
    """Gives the latest verification that somebody had made; None if there is none."""
    row = await connection.fetchrow(_LATEST)
    if row is None:
        return None
    given = pairs(row["via"])
    try:
        began = datetime.fromisoformat(given["began"])
        rows, chains, damages = (int(given[name]) for name in ("rows", "chains", "damages"))
        since = int(await connection.fetchval(_SINCE, began, MOST_SINCE))
    except (KeyError, ValueError):
        return None
    return Verified(began, row["db_user"], rows, chains, damages, given.get("signatures") == "checked", since)
