"""`secretproxy audit export`: the rows of the log with their hashes, for `verify --file` and for other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from secretproxy.cli.audit.options import CLIENT, DSN, OPERATION, OWNER, SECRET, SESSION, SINCE, UNTIL, USER, filtered, run
from secretproxy.cli.audit.showing import writer_to
from secretproxy.config import ConfigError


def export(
    output: Path = typer.Argument(..., metavar="FILE", help="Where to; - is standard output."),
    form: str = typer.Option("jsonl", "--format", "-f", metavar="FORM", help="jsonl, csv or parquet."),
    since: str | None = SINCE, until: str | None = UNTIL, owner: str | None = OWNER, secret: str | None = SECRET,
    user: str | None = USER, operation: str | None = OPERATION, client: str | None = CLIENT, session: str | None = SESSION,
    dsn: str | None = DSN,
) -> None:  # fmt: skip
    """Write the log's rows, with their hashes, to a file."""
    from secretproxy.audit import review

    if form not in ("jsonl", "csv", "parquet"):
        raise ConfigError("--format: one of jsonl, csv, parquet")
    if form == "parquet":
        try:
            import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore] # noqa: F401
        except ImportError:
            raise ConfigError("--format parquet needs pyarrow: run `pip install pyarrow`, or take jsonl") from None
        if str(output) == "-":
            raise ConfigError("--format parquet needs a file")
    wanted = filtered(
        since=since, until=until, owner=owner, secret=secret, user=user, operation=operation, client=client, session=session
    )
    wanted.where()

    async def work() -> int:
        connection = await review.connect(dsn)
        count = 0
        try:
            if form == "parquet":
                return await _parquet(review.rows(connection, wanted), output)
            file: Any = sys.stdout
            if str(output) != "-":
                try:
                    file = output.open("w", encoding="utf-8", newline="")
                except OSError as error:
                    raise ConfigError(f"{output}: cannot be written: {error.strerror}") from None
            try:
                write = writer_to(file, form == "csv")
                async for row in review.rows(connection, wanted):
                    write(row)
                    count += 1
            finally:
                if file is not sys.stdout:
                    file.close()
        finally:
            await connection.close()
        return count

    count = run(work())
    print(f"{count} rows", file=sys.stderr)


async def _parquet(rows: Any, output: Path) -> int:
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    from secretproxy.audit.rows import COLUMNS

    kinds = {
        "at": pyarrow.timestamp("us", tz="UTC"), "seq": pyarrow.int64(), "statement_no": pyarrow.int64(), "calls": pyarrow.int64(),
        "client_port": pyarrow.int32(), "tls": pyarrow.bool_(), "duration": pyarrow.float64(), "prev_hash": pyarrow.binary(),
        "row_hash": pyarrow.binary(), "secret_names": pyarrow.list_(pyarrow.string()), "via": pyarrow.list_(pyarrow.string()),
    }  # fmt: skip
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    count = 0
    with pyarrow.parquet.ParquetWriter(output, schema) as writer:
        batch: list[dict[str, Any]] = []

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            batch.clear()

        async for row in rows:
            batch.append({name: row[name] if name in kinds or row[name] is None else str(row[name]) for name in COLUMNS})
            count += 1
            if len(batch) == 10_000:
                flush()
        flush()
    return count
