"""`secretproxy audit retention`: takes old months out of the log, so that the rest still verifies."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.showing import tell_place
from secretproxy.config import ConfigError, load_settings


def retention(
    keep: str | None = typer.Option(
        None, "--keep", metavar="TIME", help="How long to keep months, such as '400 days'; default: audit.retention."
    ),
    drop: bool = typer.Option(False, "--drop", help="Drop old months; default: detach them, their tables stay."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be removed, and remove nothing."),
    checkpoints: Path | None = opt.CHECKPOINTS,
    public_key: Path | None = opt.PUBLIC_KEY,
    accept_unsigned: bool = opt.ACCEPT_UNSIGNED,
    dsn: str | None = typer.Option(
        None, "--dsn", metavar="DSN", help="Log's database, as its owner; default: the PG* variables."
    ),
    config: Path | None = opt.CONFIG,
) -> None:
    """Take old months out of the log.

    The log is verified first, with the checkpoints that are kept elsewhere, and nothing goes where it is damaged. How
    each chain in the months ended is signed, so that the rest still verifies.
    """
    # Long because its options are declared here, one a line.
    from secretproxy.audit import retention as months
    from secretproxy.audit import review, verify
    from secretproxy.audit.checkpoints import PublicKeys, Signer, kept_outside, keys_of, public_key_of

    audit = load_settings(config).audit
    named = "--keep" if keep else "audit.retention"
    keep = keep or audit.retention
    if keep is None:
        raise ConfigError("no time to keep the log is set: give --keep, or set audit.retention")
    if re.fullmatch(r"\s*[\d.]+\s*", keep):
        # PostgreSQL reads it as seconds.
        raise ConfigError(f"{named}: {keep} has no unit; write '{keep.strip()} days'")
    if audit.checkpoint_key_file is None:
        raise ConfigError(
            "audit.checkpoint_key_file is unset: without a signed end nobody could tell retention from a theft of rows"
        )
    signer = Signer(audit.checkpoint_key_file, audit.checkpoint_file, audit.checkpoint_command)
    known = public_key_of(public_key, audit.checkpoint_key_file)
    key = known if public_key is not None else PublicKeys(keys_of(signer.public, known))
    outside, unreadable = kept_outside(checkpoints, audit.checkpoint_file)
    if unreadable:
        raise ConfigError(
            f"--checkpoints: line {unreadable[0]} is not a checkpoint; nothing is removed before that is cleared up"
        )

    async def work() -> int:
        async with review.reading(dsn, as_owner=True) as connection:
            await connection.execute("SET default_transaction_read_only = off")
            if not dry_run:
                for name in await months.settle(connection):
                    print(f"{name}: made of rows whose month had no partition")
            found = await months.old(connection, keep)
            for partition in found:
                print(f"{partition.name}: {partition.rows} rows, until {partition.upto:%Y-%m-%d}")
            if not found:
                print("nothing is that old")
                await tell_place(connection)
            if dry_run or not found:
                return 0
            report = await verify.verify_database(
                dsn, outside, key, lambda done, total: None, signed_within=audit.checkpoint_seconds,
                accept_unsigned=accept_unsigned,
                expected=[(gone.instance, gone.last, gone.row_hash) for part in found for gone in part.ranges],
            )  # fmt: skip
            if not report.sound:
                return _not_removed(report)
            return await _remove(connection, found, signer, drop=drop)

    raise typer.Exit(opt.run(work()))


def _not_removed(report: Any) -> int:
    """Tells the first damage, for which nothing was removed; gives the exit status."""
    first = report.findings[0]
    print(f"{first.kind}: instance {first.instance} row {first.seq}: {first.text}", file=sys.stderr)
    print("the log does not verify, so nothing was removed: see `secretproxy audit verify`", file=sys.stderr)
    return 1


async def _remove(connection: Any, found: list[Any], signer: Any, *, drop: bool) -> int:
    """Removes months, each with its signed ends.

    Gives the exit status. Raises ConfigError if a checkpoint cannot be kept.
    """
    from secretproxy.audit import retention as months
    from secretproxy.audit.durable import NotReplicatedError

    try:
        await months.remove(connection, found, signer, drop=drop, progress=lambda gone: print(f"{gone.name}: removed"))
    except months.ChangedError as error:
        print(f"{error}: its rows changed while the log was verified; nothing more was removed", file=sys.stderr)
        return 1
    except NotReplicatedError:
        print("removed here, but a synchronous standby did not confirm it: its wait was cancelled", file=sys.stderr)
        return 1
    except OSError as error:
        raise ConfigError(
            "audit.checkpoint_file, audit.checkpoint_command: a checkpoint could not be kept "
            f"({error.strerror or error}); "
            "nothing more was removed"
        ) from None
    return 0
