"""`secretproxy audit evidence`: the evidence of a month in one archive, which is verified offline."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.files import new_file
from secretproxy.cli.audit.progress import RowsProgress
from secretproxy.cli.audit.showing import tell_place
from secretproxy.config import load_settings, review_database


def evidence(
    month: str = typer.Option(..., "--month", metavar="MONTH", help="The month, in UTC: 2026-10."),
    to: Path = typer.Option(..., "--to", metavar="FILE", help="Archive to write, a new file such as evidence.zip."),
    public_key: Path | None = opt.PUBLIC_KEY,
    dsn: str | None = opt.DSN,
    config: Path | None = opt.CONFIG,
) -> None:
    """Write the evidence of a month to one archive.

    The archive has the month's rows, their signed manifest, a verification, and how to verify it offline. The command
    verifies the whole log first. Exit status 1 where something in it was altered; the archive is written all the
    same."""
    # Long because its options are declared here, one a line.
    from secretproxy.audit import evidence as evidences
    from secretproxy.audit import exporting, review
    from secretproxy.audit.checkpoints import kept_outside, public_key_of
    from secretproxy.audit.verify import verify_database
    from secretproxy.cli.audit.recording import record

    wanted = evidences.Month.read("--month", month)
    database = review_database(dsn, config)
    settings = load_settings(config)
    audit = settings.audit
    signer = exporting.signer_at_hand(audit.checkpoint_key_file)
    key = public_key_of(public_key, audit.checkpoint_key_file)
    outside, unreadable = kept_outside(None, audit.checkpoint_file)

    async def verified(read_as: str) -> Any:
        began = datetime.now(UTC)
        with RowsProgress("rows verified") as progress:
            report = await verify_database(database, outside, key, progress, signed_within=audit.checkpoint_seconds)
        for number in unreadable:
            report.add("-", None, "checkpoint", f"line {number} of {audit.checkpoint_file} is not a checkpoint")
        return evidences.Verification(began, datetime.now(UTC), read_as, key is not None, report)

    async def work() -> Any:
        async with review.reading(database) as connection:
            await record(connection, settings, "evidence", {"month": month})
            found = await verified((await review.place(connection)).user)

            async def given() -> Any:
                return found

            with new_file("--to", to) as write, RowsProgress("rows written") as progress:
                async for part in evidences.archive(connection, wanted, signer, key, given(), progress):
                    write(part)
            await tell_place(connection)
            return found.report

    report = opt.run(work())
    print(
        f"{to}: {'signed' if signer is not None else 'not signed, for audit.checkpoint_key_file is not here'}",
        file=sys.stderr,
    )
    print(
        "nothing was altered in the log"
        if report.sound
        else f"{len(report.findings) + report.more_findings} damages of the log, which the archive names",
        file=sys.stderr,
    )
    raise typer.Exit(0 if report.sound else 1)
