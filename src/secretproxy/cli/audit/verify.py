"""`secretproxy audit verify`: proves that nothing in the log, or in an export of it, was altered."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.progress import RowsProgress
from secretproxy.cli.audit.showing import say_place
from secretproxy.config import ConfigError, load_settings, review_database


def verify(
    file: Path | None = typer.Option(
        None, "--file", metavar="FILE", help="Verify an export, in any format, instead of the database."
    ),
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
    from secretproxy.audit.checkpoints import kept_outside, public_key_of

    audit = load_settings(config).audit
    key = public_key_of(public_key, audit.checkpoint_key_file)
    outside, unreadable = kept_outside(checkpoints, audit.checkpoint_file)
    words: list[str] = []
    if file is not None:
        report, words = _of_export(file, manifest, outside, key)
    else:
        limits = {"signed_within": audit.checkpoint_seconds, "accept_unsigned": accept_unsigned}
        report = _of_database(review_database(dsn, config), outside, key, limits)
    for number in unreadable:
        report.add(
            "-", None, "checkpoint", f"line {number} of {checkpoints or audit.checkpoint_file} is not a checkpoint"
        )
    if as_json:
        print(json.dumps({"sound": report.sound, **dataclasses.asdict(report), "words": words}))
    else:
        if file is None:
            words = [_signed(report, key is not None), *_newest(report, outside, key)]
            if report.sums_used:
                words.append("the sums that the log keeps for `audit stats` were counted again")
        _tell(report, words)
    if report.looked_in is not None:
        say_place(f"looked in {report.looked_in}", report.elsewhere)
    raise typer.Exit(0 if report.sound else 1)


def _of_export(file: Path, manifest: Path | None, outside: list[Any], key: Any) -> tuple[Any, list[str]]:
    """Verifies an export; gives the report, and in words what was proven. Raises ConfigError."""
    from secretproxy.audit import exports
    from secretproxy.audit.verify import verify_whole

    place = manifest or exports.manifest_file(file)
    try:
        if manifest is not None or place.exists():
            content = exports.read_manifest(place)
            proof = exports.verify_part(exports.records(file), content, outside, key, place.parent)
            return proof.report, proof.words
        report = verify_whole(exports.records(file), outside, key)
        if not report.sound:
            # Nothing says whether the log was one in SQL_ASCII: then the hashes are of other texts in every row.
            other = verify_whole(exports.with_logged_texts(exports.records(file)), outside, key)
            report = other if other.sound else report
    except OSError as error:
        raise ConfigError(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--file {file}: not an export") from None
    return report, [
        f"not proven: that the file is whole, for it has no manifest ({place.name}); rows cut off at an end do not show"
    ]


def _of_database(dsn: str | None, outside: list[Any], key: Any, limits: dict[str, Any]) -> Any:
    """Verifies the log of a database, and shows in a terminal how far it is."""
    from secretproxy.audit.verify import verify_database

    with RowsProgress("rows") as progress:
        return opt.run(verify_database(dsn, outside, key, progress, **limits))


def _tell(report: Any, words: list[str]) -> None:
    """Prints a report for a person."""
    for damage in report.findings:
        where = f"instance {damage.instance}" + ("" if damage.seq is None else f" row {damage.seq}")
        print(f"{damage.kind}: {where}: {damage.text}")
    if report.more_findings:
        print(f"and {report.more_findings} more")
    print(f"{report.rows} rows of {report.instances} instances, {report.direct} direct calls outside the chains")
    if report.direct:
        print(
            "nothing vouches for direct calls: whoever may write the log could have added, changed or removed them "
            "without a trace"
        )
    if report.steps_back:
        print(f"{report.steps_back} times a proxy's clock went back: the order of rows is that of seq, not of at")
    for word in words:
        print(word)
    print(
        "nothing was altered" if report.sound else f"{len(report.findings) + report.more_findings} findings of damage"
    )


def _signed(report: Any, with_key: bool) -> str:
    """Says what checkpoints prove of a log."""
    if not report.checkpoints:
        return "no checkpoints: rows cut off at the end would not show (see audit.checkpoint_key_file)"
    if not with_key:
        return (
            f"{report.checkpoints} checkpoints, their signatures not checked and nothing of them believed: give "
            "--public-key"
        )
    return (
        f"{report.checkpoints} checkpoints; {report.unsigned} rows came after the last one of their instance, "
        f"{report.open} instances have no signed end (running, or killed)"
    )


def _newest(report: Any, outside: list[Any], key: Any) -> list[str]:
    """Says from when the newest checkpoints are: a file or a table that was put back to an older state has none since
    then."""
    from secretproxy.audit.checkpoints import genuine

    if key is None or report.newest_checkpoint is None:
        return []
    words = [f"the newest checkpoint is of {report.newest_checkpoint}: rows cut off since then would not show"]
    kept = [checkpoint.at for checkpoint in outside if genuine(checkpoint, key)]
    if outside:
        newest = max(kept).astimezone(UTC).isoformat(timespec="seconds") if kept else "none of this key"
        if newest != report.newest_checkpoint:
            words.append(
                f"the newest one in the file of checkpoints: {newest}; later ones are those of the table alone"
            )
    return words
