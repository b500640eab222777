"""`secretproxy audit retention`: takes old months out of the log, so that the rest still verifies."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from secretproxy.cli.audit.options import CONFIG, run
from secretproxy.config import ConfigError, load_settings


def retention(
    keep: str | None = typer.Option(None, "--keep", metavar="TIME", help="Such as '400 days'; default: audit.retention."),
    drop: bool = typer.Option(False, "--drop", help="Drop old months; default: detach them, their tables stay."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would go."),
    dsn: str | None = typer.Option(
        None, "--dsn", metavar="DSN", help="Log's database, as its owner; default: the PG* variables."
    ),
    config: Path | None = CONFIG,
) -> None:
    """Take old months out of the log.

    How each chain in them ended is signed first, so that the rest still verifies.
    """
    from secretproxy.audit import retention as months
    from secretproxy.audit import review, verify
    from secretproxy.audit.checkpoints import Signer, load_public, public_file

    audit = load_settings(config).audit
    keep = keep or audit.retention
    if keep is None:
        raise ConfigError("how long is the log to be kept? Give --keep, or set audit.retention")
    if audit.checkpoint_key_file is None:
        raise ConfigError(
            "audit.checkpoint_key_file is unset: without a signed end nobody could tell retention from a theft of rows"
        )
    signer = Signer(audit.checkpoint_key_file, audit.checkpoint_file, audit.checkpoint_command)
    public = public_file(audit.checkpoint_key_file)

    async def work() -> int:
        connection = await review.connect(dsn)
        try:
            await connection.execute("SET default_transaction_read_only = off")
            if not dry_run:
                for name in await months.settle(connection):
                    print(f"{name}: made of rows whose month had no partition")
            found = await months.old(connection, keep)
            for partition in found:
                print(f"{partition.name}: {partition.rows} rows, until {partition.upto:%Y-%m-%d}")
            if not found:
                print("nothing is that old")
            if dry_run or not found:
                return 0
            report = await verify.verify_database(
                dsn, [], load_public(public) if public.exists() else None, lambda done, total: None
            )
            if not report.sound:
                print("the log does not verify, nothing was removed: see `secretproxy audit verify`", file=sys.stderr)
                return 1
            await months.remove(connection, found, signer, drop=drop, progress=lambda gone: print(f"{gone.name}: removed"))
        finally:
            await connection.close()
        return 0

    raise typer.Exit(run(work()))
