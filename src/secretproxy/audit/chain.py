"""The hash chain: a canonical text of a row that covers every column, and SHA-256 over the hash before it and that
text.

The text is the line that `COPY (SELECT ...) TO STDOUT` makes of the columns in the order of columns.CHAINED, in UTF-8,
under the settings of SETTINGS. So PostgreSQL gives it ready made to whoever verifies a log, and anybody can recompute a
chain with psql and sha256sum. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from secretproxy.audit.columns import ADDED, CHAINED
from secretproxy.wire.digest import MAKERS

GENESIS: Final = bytes(32)
_sha256: Final[Callable[[bytes, bytes], bytes]] = MAKERS[0]
# Of the session that reads the lines.
SETTINGS: Final = {
    "client_encoding": "UTF8", "DateStyle": "ISO, YMD", "TimeZone": "UTC", "extra_float_digits": "1", "bytea_output":
        "hex",
}  # fmt: skip
# How many columns the log's first version has.
_FIRST_COLUMNS: Final = len(CHAINED) - len(ADDED)
# src/backend/commands/copyto.c, CopyAttributeOutText()
_COPY: Final = str.maketrans(
    {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
)
_SPECIAL: Final = re.compile(r"[\\\x08-\x0d]")
# src/backend/utils/adt/arrayfuncs.c, array_out()
_QUOTED: Final = re.compile(r'[\s"\\{},]', re.ASCII)


def encode(columns: Sequence[object]) -> bytes:
    """Gives the canonical line of a row's columns, without prev_hash, row_hash and newline."""
    return "\t".join([field(value) for value in columns]).encode("utf-8", "surrogatepass")


def field(value: object) -> str:
    """Writes a column's value as a field of a line."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return text("{" + ",".join(["NULL" if part is None else element(str(part)) for part in value]) + "}")
    if type(value) is IPv6Address:
        return address(value)
    return text(str(value))


def address(value: IPv6Address) -> str:
    """Writes an IPv6 address: one behind 96 zeros, and not 112, ends like one of IPv4."""
    # src/port/inet_net_ntop.c, inet_net_ntop_ipv6()
    number = int(value)
    if 1 << 16 <= number < 1 << 32:
        return f"::{IPv4Address(number)}"
    return str(value)


def text(value: str) -> str:
    """Escapes a text as COPY does."""
    return value.translate(_COPY) if _SPECIAL.search(value) else value


def moment(value: datetime) -> str:
    """Writes a time as PostgreSQL does in UTC."""
    written = value.astimezone(UTC).isoformat(sep=" ")[:-6]
    return f"{written.rstrip('0') if '.' in written else written}+00"


def number(value: float) -> str:
    """Writes a double precision number."""
    return repr(value).removesuffix(".0")


def element(value: str) -> str:
    """Writes an element of an array, not yet escaped for COPY."""
    if value == "" or _QUOTED.search(value) or value.upper() == "NULL":
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return value


def covered(line: bytes) -> bytes:
    """Gives the part of a line that its hash covers.

    It ends before added columns that are NULL, which older rows do not have.
    """
    for _ in range(line.count(b"\t") + 1 - _FIRST_COLUMNS):
        if not line.endswith(b"\t\\N"):
            break
        line = line[:-3]
    return line


def link(previous: bytes, line: bytes) -> bytes:
    """Gives the hash of a row that follows the hash `previous`."""
    return _sha256(previous, covered(line) if ADDED else line)
