"""The spool: a local file that takes the events of an instance while the access log cannot, for audit.on_outage = "spool".

A file `<instance>.spool` is a line of its kind and then records: length and CRC-32 of the payload (four bytes each, big-endian), and the row's
columns in JSON. A record counts once it is fsynced; a torn one at the end was never relied on. The writer holds a lock on its file, so that another
process knows which files were left behind by one that is gone; those are replayed and removed. Rows keep their instance and number: the log's
unique key keeps each single, however often it is replayed. Blocking: the journal calls it in a thread.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from secretproxy.audit.rows import COLUMNS, Row

KIND = b"secretproxy spool 1\n"
SUFFIX = ".spool"
_HEAD = struct.Struct("!II")
_UUIDS = frozenset({"id", "instance", "session_id", "owner_id", "accessed_by"})
_BYTES = frozenset({"prev_hash", "row_hash"})


class SpoolFull(Exception):  # noqa: N818 - says what is the matter
    """audit.spool_max_bytes is reached."""


class Spool:
    """The file of one instance."""

    def __init__(self, directory: Path, instance: uuid.UUID, max_bytes: int) -> None:
        self.directory = directory
        self.path = directory / f"{instance}{SUFFIX}"
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._size = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Appends rows, durable when it returns. Raises SpoolFull, OSError; then none of them counts."""
        data = b"".join(map(_record, rows))
        if self._descriptor is None:
            self._open()
        descriptor = self._descriptor
        assert descriptor is not None
        if self._size + len(data) > self._max_bytes:
            raise SpoolFull("audit.spool_max_bytes")
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, self._size)
            raise
        self._size += len(data)

    def _open(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, KIND)
            os.fsync(descriptor)
            _sync_directory(self.directory)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._size = descriptor, len(KIND)

    def clear(self) -> None:
        """The log has everything: the file goes away."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor, self._size = None, 0


def _record(row: Row) -> bytes:
    columns = {name: _plain(value) for name, value in zip(COLUMNS, row, strict=True) if value is not None}
    payload = json.dumps(columns, separators=(",", ":")).encode()
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def read(file: BinaryIO) -> Iterator[Row]:
    """The rows of a spool up to its end or to a torn record. Raises ValueError where the file is no spool."""
    if file.read(len(KIND)) != KIND:
        if file.tell() < len(KIND):
            return
        raise ValueError("not a spool of secretproxy")
    while True:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        length, checksum = _HEAD.unpack(head)
        payload = file.read(length)
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        columns = json.loads(payload)
        yield tuple(_value(name, columns.get(name)) for name in COLUMNS)


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _UUIDS:
        return uuid.UUID(value)
    if name in _BYTES:
        return bytes.fromhex(value)
    if name == "at":
        return datetime.fromisoformat(value)
    if name == "client_addr":
        return ipaddress.ip_address(value)
    return value


def left_behind(directory: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Files whose writers are gone, each locked for as long as the caller is at it."""
    for path in sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else []:
        try:
            file = path.open("rb")
        except OSError:
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield path, file


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
