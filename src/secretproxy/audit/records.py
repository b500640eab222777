"""A row of the log as JSON and as CSV: what commands print and what the console hands out. Pure."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

# A spreadsheet reads a cell that begins like this as a formula, also after what it reads as a separator, line break or
# blank.
_FORMULA = re.compile(r"(^|[;,|\t\r\n])(\s*)(?=[=+\-@\t\r'\uff1d\uff0b\uff0d\uff20])")


# What JSON has too: most columns of a row.
_AS_THEY_ARE = frozenset({type(None), str, int, float, bool})


def plain(value: Any) -> Any:
    """Converts a value of the log to JSON types."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def pairs(via: Iterable[str | None] | None) -> dict[str, str]:
    """Gives the filter of a review, from its column `via`: name and value in turn."""
    texts = [text or "" for text in via or ()]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def record_of(row: Any) -> dict[str, Any]:
    """Converts a row of the log to JSON types."""
    return {name: value if type(value) in _AS_THEY_ARE else plain(value) for name, value in row.items()}


def cell_of(value: Any, raw: bool) -> Any:
    """Converts a value to a CSV cell. Unless `raw`, puts a ' before what a spreadsheet would run as a formula."""
    if isinstance(value, list):
        value = json.dumps(value)
    return _FORMULA.sub(r"\1\2'", value) if isinstance(value, str) and not raw else value


def writer_to(file: Any, as_csv: bool, raw: bool = False) -> Callable[[Any], None]:
    """Writes rows one by one: JSON lines, exactly as they are, or CSV with a heading."""
    if not as_csv:
        return lambda row: file.write(json.dumps(record_of(row)) + "\n")
    heading: list[str] = []

    def write(row: Any) -> None:
        record = record_of(row)
        writer = csv.DictWriter(file, list(record))
        if not heading:
            heading.extend(record)
            writer.writeheader()
        writer.writerow({name: cell_of(value, raw) for name, value in record.items()})

    return write
