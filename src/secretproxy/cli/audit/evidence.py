"""`secretproxy audit evidence`: the evidence of a month in one archive, which is verified offline."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.config import ConfigError, load_settings, review_database


def evidence(
    month: str = typer.Option(..., "--month", metavar="MONTH", help="The month, in UTC: 2026-10."),
    to: Path = typer.Option(..., "--to", metavar="FILE", help="Archive to write, a new file such as evidence.zip."),
    public_key: Path | None = opt.PUBLIC_KEY,
    dsn: str | None = opt.DSN,
    config: Path | None = opt.CONFIG,
) -> None:
    """Write the evidence of a month: its rows, their signed manifest, a verification, and how to verify it offline.

    Verifies the whole log first. Exit status 1 where something in it was altered; the archive is written all the
    same."""
    from secretproxy.audit import evidence as evidences
    from secretproxy.audit import exporting, review
    from secretproxy.audit.checkpoints import kept_outside, public_key_of
    from secretproxy.audit.verify import verify_database

    wanted = evidences.Month.read("--month", month)
    database = review_database(dsn, config)
    audit = load_settings(config).audit
    signer = exporting.signer_at_hand(audit.checkpoint_key_file)
    key = public_key_of(public_key, audit.checkpoint_key_file)
    outside, unreadable = kept_outside(None, audit.checkpoint_file)

    async def verified(read_as: str) -> Any:
        began = datetime.now(UTC)
        report = await verify_database(
            database, outside, key, lambda done, total: None, signed_within=audit.checkpoint_seconds
        )
        for number in unreadable:
            report.add("-", None, "checkpoint", f"line {number} of {audit.checkpoint_file} is not a checkpoint")
        return evidences.Verification(began, datetime.now(UTC), read_as, key is not None, report)

    async def work() -> Any:
        async with review.reading(database) as connection:
            found = await verified((await review.place(connection)).user)

            async def given() -> Any:
                return found

            with _written(to) as write:
                async for part in evidences.archive(connection, wanted, signer, key, given()):
                    write(part)
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


@contextlib.contextmanager
def _written(place: Path) -> Iterator[Callable[[bytes], None]]:
    """Makes a file that only its owner reads, and removes it again unless all of it was written. Raises ConfigError."""
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"--to {place}: there is a file already; evidence is not overwritten") from None
    except OSError as error:
        raise ConfigError(f"--to {place}: cannot be written: {error.strerror}") from None

    def write(part: bytes) -> None:
        # Not with a buffer: what closing it could not write would be said too late.
        view = memoryview(part)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError as error:
            raise ConfigError(f"--to {place}: cannot be written: {error.strerror}") from None

    try:
        yield write
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
