"""`secretproxy audit export`: the rows of the log with their hashes, for `verify --file` and for other tools."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit import options as opt
from secretproxy.cli.audit.showing import tell_place, writer_to
from secretproxy.config import ConfigError, load_settings, review_database


def export(
    output: Path = typer.Argument(..., metavar="FILE", help="File to write; - is standard output."),
    form: str = typer.Option("jsonl", "--format", "-f", metavar="FORM", help="jsonl, csv or parquet."),
    raw: bool = opt.RAW,
    since: str | None = opt.SINCE, until: str | None = opt.UNTIL, owner: str | None = opt.OWNER,
    secret: str | None = opt.SECRET,
    user: str | None = opt.USER, operation: str | None = opt.OPERATION, client: str | None = opt.CLIENT,
    session: str | None = opt.SESSION,
    dsn: str | None = opt.DSN, config: Path | None = opt.CONFIG,
    manifest: Path | None = typer.Option(None, "--manifest", metavar="FILE", help=
        "Manifest's file; default: FILE.manifest.json."),
) -> None:  # fmt: skip
    """Write the log's rows, with their hashes, to a file.

    A manifest next to the file describes its content, so that a part can be verified and a cut is detected. It is
    signed where audit.checkpoint_key_file is there."""
    from secretproxy.audit import exporting, exports, review

    if form not in ("jsonl", "csv", "parquet"):
        raise ConfigError("--format: one of jsonl, csv, parquet")
    if form == "parquet":
        _check_parquet(output)
    given = {"since": since, "until": until, "owner": owner, "secret": secret, "user": user, "operation": operation,
             "client": client, "session": session}  # fmt: skip
    wanted = opt.filtered(**given)
    filters = {name: str(getattr(wanted, name)) for name, value in given.items() if value is not None}
    database = review_database(dsn, config)
    signer = exporting.signer_at_hand(load_settings(config).audit.checkpoint_key_file)
    place = manifest or (exports.manifest_file(output) if str(output) != "-" else None)
    tally = exports.ExportTally()
    made_at = datetime.now(UTC)

    async def work() -> None:
        async with review.reading(database) as connection:
            rows = exporting.tallied(review.rows(connection, wanted), tally)
            if form == "parquet":
                await _parquet(rows, output)
            else:
                await _text(rows, output, form == "csv", raw)
            if place is not None:
                made = await exporting.manifest_of(connection, tally, filters, form, made_at, signer)
                _write(place, made)
            await tell_place(connection)

    opt.run(work())
    print(f"{tally.rows} rows", file=sys.stderr)
    print(_proven(place, signed=signer is not None), file=sys.stderr)


def _check_parquet(output: Path) -> None:
    """Raises ConfigError if no parquet file can be written there."""
    try:
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: F401
    except ImportError:
        raise ConfigError("--format parquet needs pyarrow: run `pip install pyarrow`, or take jsonl") from None
    if str(output) == "-":
        raise ConfigError("--format parquet needs a file")


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
    try:
        place.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--manifest {place}: cannot be written: {error.strerror}") from None


async def _text(rows: Any, output: Path, as_csv: bool, raw: bool) -> None:
    file: Any = sys.stdout
    if str(output) != "-":
        try:
            file = output.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise ConfigError(f"{output}: cannot be written: {error.strerror}") from None
    try:
        write = writer_to(file, as_csv, raw)
        async for row in rows:
            write(row)
    finally:
        if file is not sys.stdout:
            file.close()


async def _parquet(rows: Any, output: Path) -> None:
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    from secretproxy.audit.columns import NAMES, TABLE

    # What parquet has no type for is a text.
    types = {
        "timestamptz": pyarrow.timestamp("us", tz="UTC"), "int8": pyarrow.int64(), "int4": pyarrow.int32(),
        "bool": pyarrow.bool_(),
        "float8": pyarrow.float64(), "bytea": pyarrow.binary(), "text[]": pyarrow.list_(pyarrow.string()),
    }  # fmt: skip
    kinds = {column.name: types[column.type] for column in TABLE if column.type in types}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in NAMES])
    with pyarrow.parquet.ParquetWriter(output, schema) as writer:
        batch: list[dict[str, Any]] = []

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            batch.clear()

        async for row in rows:
            batch.append({name: row[name] if name in kinds or row[name] is None else str(row[name]) for name in NAMES})
            if len(batch) == 10_000:
                flush()
        flush()
