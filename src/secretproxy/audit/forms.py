"""Rows of the log as a file: JSON lines, CSV or Parquet, made in parts as the rows come. Opens nothing.

Parquet needs pyarrow, which is imported when the first such file is made: it is an extra of this package."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import Any, Protocol

from secretproxy.audit.columns import TYPES
from secretproxy.audit.records import writer_to
from secretproxy.config import ConfigError

# By the ends of their files' names.
FORMS = ("jsonl", "csv", "parquet")
MEDIA = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
# Rows of a group of a Parquet file: what a reader takes at once.
GROUP = 5000
MISSING = "parquet needs pyarrow, which is not installed here: run `pip install 'secretproxy[parquet]'`, or take jsonl"


class RowsFile(Protocol):
    """A file of rows that is being made."""

    def write(self, row: Any) -> None:
        """Takes a row."""

    def taken(self) -> bytes:
        """Gives the bytes that came since the last call."""

    def close(self) -> bytes:
        """Ends the file. Gives the last bytes."""


def has_parquet() -> bool:
    return importlib.util.find_spec("pyarrow") is not None


def rows_file(option: str, form: str, names: Sequence[str], *, raw: bool = False) -> RowsFile:
    """Begins a file of rows with these columns of the log. Raises ConfigError for a form that there is not."""
    if form not in FORMS:
        raise ConfigError(f"{option}: one of {', '.join(FORMS)}")
    if form == "parquet":
        if not has_parquet():
            raise ConfigError(f"{option}: {MISSING}")
        return _Parquet(names)
    return _Text(as_csv=form == "csv", raw=raw)


class _Text:
    """JSON lines or CSV. An empty CSV has no heading."""

    def __init__(self, *, as_csv: bool, raw: bool) -> None:
        self._out = io.StringIO()
        self.write = writer_to(self._out, as_csv, raw)

    def taken(self) -> bytes:
        data = self._out.getvalue().encode()
        self._out.seek(0)
        self._out.truncate()
        return data

    def close(self) -> bytes:
        return self.taken()


class _Sink(io.RawIOBase):
    """What pyarrow writes to."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._size += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


class _Parquet:
    """A Parquet file. What Parquet has no type for is a text."""

    def __init__(self, names: Sequence[str]) -> None:
        import pyarrow
        import pyarrow.parquet

        types = {
            "timestamptz": pyarrow.timestamp("us", tz="UTC"), "int8": pyarrow.int64(), "int4": pyarrow.int32(),
            "bool": pyarrow.bool_(),
            "float8": pyarrow.float64(), "bytea": pyarrow.binary(), "text[]": pyarrow.list_(pyarrow.string()),
        }  # fmt: skip
        self._kept = {name for name in names if TYPES.get(name) in types}
        self._schema = pyarrow.schema([(name, types.get(TYPES.get(name, "text"), pyarrow.string())) for name in names])
        self._table = pyarrow.Table
        self._sink = _Sink()
        self._writer = pyarrow.parquet.ParquetWriter(self._sink, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, row: Any) -> None:
        kept = self._kept
        self._rows.append(
            {
                name: row[name] if name in kept or row[name] is None else str(row[name])
                for name in self._schema.names
            }
        )  # fmt: skip
        if len(self._rows) == GROUP:
            self._group()

    def _group(self) -> None:
        self._writer.write_table(self._table.from_pylist(self._rows, self._schema))
        self._rows.clear()

    def taken(self) -> bytes:
        return self._sink.taken()

    def close(self) -> bytes:
        if self._rows:
            self._group()
        self._writer.close()
        return self._sink.taken()
