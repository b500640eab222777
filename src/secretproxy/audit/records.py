"""A row of the log as JSON and as CSV: what commands print and what the console hands out. Pure."""

from __future__ import annotations

import csv
import json
import re
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from json.encoder import encode_basestring_ascii
from typing import Any

from secretproxy.audit.columns import TYPES

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


class Written(dict[Any, str]):
    """How texts are written, by the texts: of a column of the log few differ. Others are written when they come."""

    def __init__(self, write: Callable[[Any], str]) -> None:
        self._write = write
        self[None] = write(None)

    def __missing__(self, value: Any) -> str:
        made = self._write(value)
        # Texts alone, for other values are equal that are written differently, such as 1 and True.
        if type(value) is str and len(value) <= _LONGEST_KEPT:
            if len(self) >= _MOST_KEPT:
                self.clear()
                self[None] = self._write(None)
            self[value] = made
        return made


_LONGEST_KEPT, _MOST_KEPT = 250, 5000


def writers(names: Iterable[str], write: Callable[[Any], str]) -> list[Callable[[Any], str]]:
    """Gives what writes the value of each of these columns: `write`, which a text is not given twice in a row."""
    return [Written(write).__getitem__ if TYPES.get(name) == "text" else write for name in names]


def _written(value: Any) -> str:
    """Writes a value of the log as `json.dumps(plain(value))` does."""
    kind = type(value)
    write = _WRITERS.get(kind)
    if write is None:
        # The driver has a class of its own for uuids.
        write = _WRITERS[kind] = _uuid if issubclass(kind, uuid.UUID) else _other
    return write(value)


def _uuid(value: uuid.UUID) -> str:
    return f'"{value}"'


def _other(value: Any) -> str:
    return json.dumps(plain(value))


def _list(values: list[Any]) -> str:
    return f"[{', '.join([_written(value) for value in values])}]"


# What writes a value, by its type.
_WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "null",
    bool: lambda value: "true" if value else "false",
    int: int.__repr__,
    str: encode_basestring_ascii,
    bytes: lambda value: f'"{value.hex()}"',
    datetime: lambda value: f'"{value.isoformat()}"',
    list: _list,
}


def json_lines() -> Callable[[Any], str]:
    """Gives what writes a row as one line of JSON: the same as `json.dumps(record_of(row))`."""
    known: dict[tuple[str, ...], tuple[str, list[Callable[[Any], str]]]] = {}

    def line(row: Any) -> str:
        names = tuple(row.keys())
        found = known.get(names)
        if found is None:
            parts = [f"{json.dumps(name).replace('%', '%%')}: %s" for name in names]
            found = known[names] = f"{{{', '.join(parts)}}}\n", writers(names, _written)
        form, write = found
        return form % tuple([one(value) for one, value in zip(write, row.values(), strict=True)])

    return line


def writer_to(file: Any, as_csv: bool, raw: bool = False) -> Callable[[Any], None]:
    """Writes rows one by one: JSON lines, exactly as they are, or CSV with a heading."""
    if not as_csv:
        line, out = json_lines(), file.write

        def write_line(row: Any) -> None:
            out(line(row))

        return write_line
    writer = csv.writer(file)
    headed = False

    def write(row: Any) -> None:
        nonlocal headed
        if not headed:
            writer.writerow(row.keys())
            headed = True
        writer.writerow([cell_of(value, raw) for value in record_of(row).values()])

    return write
