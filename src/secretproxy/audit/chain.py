"""The hash chain: a canonical encoding of a row that covers every column, and SHA-256 over it and the hash before it.

A field is encoded as a byte that says its kind and, unless it is NULL, a length of four bytes and the content. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

GENESIS = bytes(32)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode(columns: Sequence[object]) -> bytes:
    """The canonical bytes of a row's columns, in the table's order, without prev_hash and row_hash."""
    out = bytearray()
    for value in columns:
        if value is None:
            out += b"N"
            continue
        if isinstance(value, list | tuple):
            content = encode(value)
            out += b"A"
        else:
            content = _scalar(value)
            out += b"S"
        out += len(content).to_bytes(4, "big")
        out += content
    return bytes(out)


def _scalar(value: object) -> bytes:
    if isinstance(value, datetime):
        delta = value - _EPOCH
        return str((delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds).encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, float):
        return repr(value).encode()
    if isinstance(value, bytes):
        return value.hex().encode()
    return str(value).encode("utf-8", "surrogatepass")


def link(previous: bytes, columns: Sequence[object]) -> bytes:
    """The hash of a row that follows `previous`."""
    return hashlib.sha256(previous + encode(columns)).digest()
