"""`secretproxy audit verify`: proves that nothing in the log, or in an export of it, was altered."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.config import ConfigError, load_settings, review_database


def verify(
    file: Path | None = typer.Option(None, "--file", metavar="FILE", help="An export, in any form, instead of the database."),
    manifest: Path | None = typer.Option(
        None, "--manifest", metavar="FILE", help="The export's manifest; default: FILE.manifest.json."
    ),
    checkpoints: Path | None = opt.CHECKPOINTS,
    public_key: Path | None = opt.PUBLIC_KEY,
    accept_unsigned: bool = opt.ACCEPT_UNSIGNED,
    dsn: str | None = opt.DSN,
    config: Path | None = opt.CONFIG,
    as_json: bool = opt.JSON,
) -> None:
    """Prove that no row was changed, removed or added. Exit status 1 where one was."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from secretproxy.audit import checkpoints as kept
    from secretproxy.audit import exports
    from secretproxy.audit import verify as verifying

    audit = load_settings(config).audit
    if public_key is None and audit.checkpoint_key_file is not None and kept.public_file(audit.checkpoint_key_file).exists():
        public_key = kept.public_file(audit.checkpoint_key_file)
    key = kept.load_public(public_key) if public_key is not None else None
    outside, unreadable = opt.kept_outside(checkpoints, audit.checkpoint_file)
    console = Console(stderr=True)
    words: list[str] = []
    if file is not None:
        beside = manifest or exports.manifest_file(file)
        try:
            if manifest is not None or beside.exists():
                proof = exports.verify_part(exports.records(file), exports.read_manifest(beside), outside, key)
                report, words = proof.report, proof.words
            else:
                report = verifying.verify_whole(exports.records(file), outside, key)
                words = [
                    f"not proven: that the file is whole, for it has no manifest ({beside.name}); rows cut off at an end do not show"
                ]
        except OSError as error:
            raise ConfigError(f"--file {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"--file {file}: not an export") from None
    else:
        with Progress(
            "rows", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("rows", total=None)
            report = opt.run(
                verifying.verify_database(
                    review_database(dsn, config),
                    outside,
                    key,
                    lambda done, total: bar.update(task, completed=done, total=total and max(done, total)),
                    signed_within=audit.checkpoint_seconds,
                    accept_unsigned=accept_unsigned,
                )
            )
    for number in unreadable:
        report.add("-", None, "checkpoint", f"line {number} of {checkpoints or audit.checkpoint_file} is not a checkpoint")
    if as_json:
        print(json.dumps({"sound": report.sound, **dataclasses.asdict(report), "words": words}))
    else:
        for finding in report.findings:
            where = f"instance {finding.instance}" + ("" if finding.seq is None else f" row {finding.seq}")
            print(f"{finding.kind}: {where}: {finding.text}")
        if report.more_findings:
            print(f"and {report.more_findings} more")
        print(f"{report.rows} rows of {report.instances} instances, {report.direct} direct calls outside the chains")
        if report.direct:
            print("nothing vouches for direct calls: whoever may write the log could have added, changed or removed them unseen")
        if report.steps_back:
            print(f"{report.steps_back} times a proxy's clock went back: the order of rows is that of seq, not of at")
        for word in words:
            print(word)
        if file is None:
            print(_signed(report, key is not None))
        print("nothing was altered" if report.sound else f"{len(report.findings) + report.more_findings} damages found")
    raise typer.Exit(0 if report.sound else 1)


def _signed(report: Any, with_key: bool) -> str:
    """What checkpoints say of a log."""
    if not report.checkpoints:
        return "no checkpoints: rows cut off at the end would not show (see audit.checkpoint_key_file)"
    if not with_key:
        return f"{report.checkpoints} checkpoints, their signatures not checked and nothing of them believed: give --public-key"
    return (
        f"{report.checkpoints} checkpoints; {report.unsigned} rows came after the last one of their instance, "
        f"{report.open} instances have no signed end (running, or killed)"
    )
