"""How the commands of `secretproxy audit` print a row: for a terminal, in a pipe, as JSON and as CSV.

What a client has chosen reaches a terminal through `safe` alone.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any


def plain(value: Any) -> Any:
    """A value of the log as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def safe(value: Any) -> str:
    """A text of a client's for the terminal: what would move the cursor or hide is shown as an escape."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def names_of(row: Any) -> str:
    names = row["secret_names"]
    return "?" if names is None else ", ".join("(null)" if name is None else safe(name) for name in names)


def who(row: Any) -> str:
    login = safe(row["db_user"])
    return f"{login}/{safe(row['role'])}" if row["role"] and row["role"] != row["db_user"] else login


def how_ended(row: Any) -> str:
    ended = str(row["outcome"])
    if row["sqlstate"] and row["sqlstate"] != "00000":
        ended += f" {row['sqlstate']}"
    return ended


def origin(row: Any) -> str:
    address = "local" if row["client_addr"] is None else str(row["client_addr"]).removesuffix("/32")
    return f"{address} direct" if row["how"] == "direct" else address


def console_of() -> Any:
    from rich.console import Console

    # In a pipe nothing is coloured and nothing is cut off.
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    return Console(**plain) if sys.stdout.isatty() else Console(**plain, width=1000, color_system=None)


def print_table(console: Any, table: Any, **how: Any) -> None:
    """A table without the blanks that fill it up to the console's width."""
    with console.capture() as captured:
        console.print(table, **how)
    print("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))


def record_of(row: Any) -> dict[str, Any]:
    return {name: plain(row[name]) for name in row.keys()}  # noqa: SIM118 - an asyncpg.Record


def writer_to(file: Any, as_csv: bool) -> Callable[[Any], None]:
    """Writes rows one by one, exactly as they are: JSON lines, or CSV with a heading."""
    if not as_csv:
        return lambda row: print(json.dumps(record_of(row)), file=file)
    heading: list[str] = []

    def write(row: Any) -> None:
        record = record_of(row)
        writer = csv.DictWriter(file, list(record))
        if not heading:
            heading.extend(record)
            writer.writeheader()
        writer.writerow({name: json.dumps(value) if isinstance(value, list) else value for name, value in record.items()})

    return write
