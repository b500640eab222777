"""The hash chain: a canonical text of a row that covers every column, and SHA-256 over the hash before it and that text.

The text is the line that `COPY (SELECT ...) TO STDOUT` makes of the columns in the order of rows.CHAINED, in UTF-8, under the settings of
SETTINGS. So PostgreSQL gives it ready made to whoever verifies a log, and anybody can recompute a chain with psql and sha256sum.
Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime

GENESIS = bytes(32)
# Of the session that reads the lines.
SETTINGS = {
    "client_encoding": "UTF8", "DateStyle": "ISO, YMD", "TimeZone": "UTC", "extra_float_digits": "1", "bytea_output": "hex",
}  # fmt: skip
# src/backend/commands/copyto.c, CopyAttributeOutText()
_COPY = str.maketrans({"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"})
# src/backend/utils/adt/arrayfuncs.c, array_out()
_QUOTED = re.compile(r'[\s"\\{},]', re.ASCII)


def encode(columns: Sequence[object]) -> bytes:
    """The canonical line of a row's columns, without prev_hash and row_hash and without a newline."""
    return "\t".join(map(_field, columns)).encode("utf-8", "surrogatepass")


def _field(value: object) -> str:
    if value is None:
        return "\\N"
    kind = type(value)
    if kind is str:
        return value.translate(_COPY)  # type: ignore[attr-defined,no-any-return]
    if kind is int:
        return str(value)
    if isinstance(value, datetime):
        moment = value.astimezone(UTC)
        fraction = f"{moment.microsecond:06}".rstrip("0")
        return f"{moment:%Y-%m-%d %H:%M:%S}{'.' if fraction else ''}{fraction}+00"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list | tuple):
        return f"{{{','.join(map(_element, value))}}}".translate(_COPY)
    return str(value).translate(_COPY)


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    text = str(value)
    if text == "" or text.upper() == "NULL" or _QUOTED.search(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def link(previous: bytes, line: bytes) -> bytes:
    """The hash of a row that follows the hash `previous`."""
    return hashlib.sha256(previous + line).digest()
