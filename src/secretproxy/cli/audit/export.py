"""`secretproxy audit export`: the rows of the log with their hashes, for `verify --file` and for other tools."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.files import whole_file
from secretproxy.cli.audit.progress import RowsProgress
from secretproxy.cli.audit.showing import tell_place
from secretproxy.config import ConfigError, load_settings, review_database

# Rows that are written at once.
_CHUNK = 500


@opt.with_more_filters
def export(
    output: Path = typer.Argument(..., metavar="FILE", help="File to write; - is standard output."),
    form: str = typer.Option("jsonl", "--format", "-f", metavar="FORM", help="jsonl, csv or parquet."),
    raw: bool = opt.RAW,
    since: str | None = opt.SINCE, until: str | None = opt.UNTIL, owner: str | None = opt.OWNER,
    secret: str | None = opt.SECRET,
    user: str | None = opt.USER, jwt_user: str | None = opt.JWT, function: str | None = opt.FUNCTION,
    operation: str | None = opt.OPERATION, outcome: list[str] | None = opt.OUTCOME, client: str | None = opt.CLIENT,
    application: str | None = opt.APPLICATION, session: str | None = opt.SESSION,
    dsn: str | None = opt.DSN, config: Path | None = opt.CONFIG,
    manifest: Path | None = typer.Option(None, "--manifest", metavar="FILE", help=
        "Manifest's file; default: FILE.manifest.json."),
    **more: str | None,
) -> None:  # fmt: skip
    """Write the log's rows, with their hashes, to a file.

    A manifest next to the file describes its content, so that a part can be verified and a cut is detected. It is
    signed where audit.checkpoint_key_file is there. --outcome, --jwt-user, --role, --sqlstate, --calls and --duration
    give the accesses that match, each with the outcomes of its statement; other filters give single rows."""
    # Long because its options are declared here, one a line.
    from secretproxy.audit import exporting, exports, forms, review
    from secretproxy.audit.columns import NAMES
    from secretproxy.cli.audit.recording import record

    if form == "parquet" and str(output) == "-":
        raise ConfigError("--format parquet needs a file")
    file = forms.rows_file("--format", form, NAMES, raw=raw)
    wanted = opt.filtered(
        since=since, until=until, owner=owner, secret=secret, user=user, jwt_user=jwt_user, function=function,
        operation=operation, outcome=outcome, client=client, application=application, session=session, **more,
    )  # fmt: skip
    database = review_database(dsn, config)
    settings = load_settings(config)
    signer = exporting.signer_at_hand(settings.audit.checkpoint_key_file)
    place = manifest or (exports.manifest_file(output) if str(output) != "-" else None)
    tally = exports.ExportTally()
    made_at = datetime.now(UTC)

    async def work() -> None:
        async with review.reading(database) as connection:
            await record(connection, settings, "export", {"format": form, **wanted.asked()})
            rows = exporting.tallied(review.rows(connection, wanted), tally)
            # The rows take their name last, so that a file with this name has its manifest.
            with _opened(output) as write:
                await _write_rows(rows, write, file, shown=str(output) != "-")
                if place is not None:
                    made = await exporting.manifest_of(
                        connection, tally, wanted.asked(), form, made_at, signer, accesses=wanted.needs_outcome
                    )
                    _write(place, made)
            await tell_place(connection)

    opt.run(work())
    print(f"{tally.rows} rows", file=sys.stderr)
    print(_proven(place, signed=signer is not None), file=sys.stderr)


def _proven(place: Path | None, *, signed: bool) -> str:
    """Tells what the export can be proven by."""
    if place is None:
        return "no manifest: give --manifest, so that the export can be proven to be whole"
    return (
        f"{place}: signed"
        if signed
        else f"{place}: not signed, for audit.checkpoint_key_file is not here (see --config)"
    )


def _write(place: Path, made: dict[str, Any]) -> None:
    with whole_file(place) as write:
        write((json.dumps(made, indent=1) + "\n").encode())


@contextlib.contextmanager
def _opened(output: Path) -> Iterator[Callable[[bytes], object]]:
    """Gives what writes to a file or to standard output. Raises ConfigError."""
    if str(output) != "-":
        with whole_file(output) as write:
            yield write
        return
    sys.stdout.flush()
    yield sys.stdout.buffer.write
    sys.stdout.buffer.flush()


async def _write_rows(rows: Any, write: Callable[[bytes], object], made: Any, *, shown: bool) -> None:
    """Writes rows in the form of `made`. `shown`: says how many there are by now."""
    count = 0
    with RowsProgress("rows written", shown=shown) as progress:
        async for row in rows:
            made.write(row)
            count += 1
            if count % _CHUNK == 0:
                write(made.taken())
                progress(count)
        write(made.close())
