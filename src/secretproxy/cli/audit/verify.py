"""`secretproxy audit verify`: proves that nothing in the log, or in an export of it, was altered."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import typer

from secretproxy.cli.audit.options import ACCEPT_UNSIGNED, CHECKPOINTS, CONFIG, DSN, JSON, PUBLIC_KEY, kept_outside, run
from secretproxy.config import ConfigError, load_settings


def verify(
    file: Path | None = typer.Option(None, "--file", metavar="FILE", help="An export (jsonl) instead of the database."),
    checkpoints: Path | None = CHECKPOINTS,
    public_key: Path | None = PUBLIC_KEY,
    accept_unsigned: bool = ACCEPT_UNSIGNED,
    dsn: str | None = DSN,
    config: Path | None = CONFIG,
    as_json: bool = JSON,
) -> None:
    """Prove that no row was changed, removed or added. Exit status 1 where one was."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from secretproxy.audit import checkpoints as kept
    from secretproxy.audit import verify as verifying

    audit = load_settings(config).audit
    if public_key is None and audit.checkpoint_key_file is not None and kept.public_file(audit.checkpoint_key_file).exists():
        public_key = kept.public_file(audit.checkpoint_key_file)
    key = kept.load_public(public_key) if public_key is not None else None
    outside, unreadable = kept_outside(checkpoints, audit.checkpoint_file)
    console = Console(stderr=True)
    if file is not None:
        try:
            with file.open(encoding="utf-8") as lines:
                report = verifying.verify_export(lines, outside, key)
        except OSError as error:
            raise ConfigError(f"--file {file}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"--file {file}: {error}") from None
    else:
        with Progress(
            "rows", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("rows", total=None)
            report = run(
                verifying.verify_database(
                    dsn,
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
        print(json.dumps({"sound": report.sound, **dataclasses.asdict(report)}))
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
        if report.checkpoints and key is None:
            print(
                f"{report.checkpoints} checkpoints, their signatures not checked and nothing of them believed: give --public-key"
            )
        elif report.checkpoints:
            print(
                f"{report.checkpoints} checkpoints; {report.unsigned} rows came after the last one of their instance, "
                f"{report.open} instances have no signed end (running, or killed)"
            )
        else:
            print("no checkpoints: rows cut off at the end would not show (see audit.checkpoint_key_file)")
        print("nothing was altered" if report.sound else f"{len(report.findings) + report.more_findings} damages found")
    raise typer.Exit(0 if report.sound else 1)
