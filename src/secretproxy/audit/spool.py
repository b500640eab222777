"""The spool: local files that take the events of an instance while the access log cannot, for audit.on_outage =
"spool".

A segment `<instance>.<number>.spool` is a line of its kind and then records: length and CRC-32 of the payload (four
bytes each, big-endian), and the row as COPY takes it. A record counts once it is fsynced; a torn one at the end was
never relied on, unless a whole one stands behind it. A segment that could not be written is given up for a new one,
and is cut back to what was durable. The writer holds a lock on its segments, so that another process knows which were
left behind by one that is gone; those are replayed and removed. A file of another user is not: whoever may write into
the directory could have anything signed. Rows keep their instance and number: the log's unique key keeps each single,
however often it is replayed. Blocking: the journal calls it in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from secretproxy.audit.rows import Line, stored_line

KIND = b"secretproxy spool 2\n"
SUFFIX = ".spool"
SEGMENT = 16 * 1024 * 1024
_HEAD = struct.Struct("!II")
# How the payload of each record begins: an instance and a number.
_BEGINNING = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\t[0-9]+\t")


class SpoolFullError(Exception):
    """audit.spool_max_bytes is reached."""


class SpoolDamagedError(ValueError):
    """A segment holds something else than records, and not just a torn one at its end."""


class Spool:
    """The segments of one instance."""

    def __init__(self, directory: Path, instance: uuid.UUID, max_bytes: int) -> None:
        self.directory = directory
        self._instance = instance
        self._max_bytes = max_bytes
        self._number = 0
        self._size = 0
        # Path, descriptor and bytes of each; the last one is written to where `_open` says so.
        self._segments: list[tuple[Path, int, int]] = []
        self._open = False

    def write(self, lines: Sequence[Line]) -> None:
        """Appends lines, durable when it returns. Raises SpoolFullError, OSError; then none of them counts."""
        data = b"".join(map(_record, lines))
        if self._size + len(data) > self._max_bytes:
            raise SpoolFullError("audit.spool_max_bytes")
        if not self._open or self._segments[-1][2] >= SEGMENT:
            self._begin()
        path, descriptor, size = self._segments[-1]
        try:
            _write(descriptor, data)
        except OSError:
            self._cut_back(descriptor, size)
            raise
        try:
            os.fsync(descriptor)
        except OSError:
            # What an fsync that failed left on the disk is not known: nothing more goes into this file.
            self._open = False
            self._cut_back(descriptor, size)
            if size == len(KIND):
                self.drop(path)
            raise
        self._segments[-1] = path, descriptor, size + len(data)
        self._size += len(data)

    def _cut_back(self, descriptor: int, size: int) -> None:
        try:
            os.ftruncate(descriptor, size)
        except OSError:
            self._open = False

    def _begin(self) -> None:
        self._open = False
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"{self._instance}.{self._number:08}{SUFFIX}"
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Locked before it has the name that others search for.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(descriptor, KIND)
            os.fsync(descriptor)
            fresh.rename(path)
            _sync_directory(self.directory)
        except OSError:
            os.close(descriptor)
            raise
        self._number += 1
        self._segments.append((path, descriptor, len(KIND)))
        self._open = True

    def seal(self) -> list[tuple[Path, int]]:
        """Closes the current segment. Gives the segments with everything written so far, and their bytes."""
        self._open = False
        return [(path, size) for path, _, size in self._segments]

    def drop(self, path: Path) -> None:
        """Removes a sealed segment that the log has."""
        for place, (known, descriptor, size) in enumerate(self._segments):
            if known == path:
                path.unlink(missing_ok=True)
                os.close(descriptor)
                self._size -= size - len(KIND)
                del self._segments[place]
                return


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _record(line: Line) -> bytes:
    payload = line.stored()
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def read(file: BinaryIO, most: int | None = None) -> Iterator[Line]:
    """Reads the lines of a segment, up to a torn record at its end. `most`: as many bytes are known to be durable, and
    all of them are read. Raises SpoolDamagedError."""
    kind = file.read(len(KIND))
    if kind != KIND:
        if KIND.startswith(kind) and most is None:
            return
        raise SpoolDamagedError("not a spool of secretproxy")
    while most is None or file.tell() < most:
        head = file.read(_HEAD.size)
        length, checksum = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
        payload = file.read(length)
        if len(head) < _HEAD.size or len(payload) < length:
            if most is not None or _holds_a_record(payload):
                raise SpoolDamagedError(f"a damaged record before byte {file.tell()}")
            return
        if not length or zlib.crc32(payload) != checksum:
            raise SpoolDamagedError(f"a damaged record before byte {file.tell()}")
        try:
            line = stored_line(payload)
            line.instance  # noqa: B018
        except (ValueError, IndexError):
            raise SpoolDamagedError(f"a record that is no row before byte {file.tell()}") from None
        yield line


def up_to_damage(lines: Iterator[Line], damage: list[SpoolDamagedError]) -> Iterator[Line]:
    """Gives the lines that come before a damaged record, and puts the error into `damage`."""
    try:
        yield from lines
    except SpoolDamagedError as error:
        damage.append(error)


def _holds_a_record(data: bytes) -> bool:
    """Tells whether a whole record stands somewhere in what seemed to be the beginning of one: then that one's length
    is damaged, and it is not the torn end of the segment."""
    for found in _BEGINNING.finditer(data, _HEAD.size):
        begin = found.start()
        length, checksum = _HEAD.unpack_from(data, begin - _HEAD.size)
        if length and begin + length <= len(data) and zlib.crc32(data[begin : begin + length]) == checksum:
            return True
    return False


def segments(directory: Path) -> list[Path]:
    """Lists every segment of a directory, those of an instance in order."""
    return sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else []


def left_behind(directory: Path) -> Iterator[list[tuple[Path, BinaryIO]]]:
    """Yields the segments of each instance whose writer is gone, in order, locked while the caller uses them."""
    instances: dict[str, list[Path]] = {}
    for path in segments(directory):
        instances.setdefault(path.name.partition(".")[0], []).append(path)
    for paths in instances.values():
        with contextlib.ExitStack() as held:
            found: list[tuple[Path, BinaryIO]] = []
            try:
                for path in paths:
                    file = held.enter_context(_own_file(path))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found.append((path, file))
            except OSError:
                # Its writer lives, another process is at it, or it is somebody else's.
                continue
            yield found


def strange(directory: Path) -> list[Path]:
    """Lists what looks like a segment and is no file of this user's own."""
    return [path for path in segments(directory) if not _is_own(path.lstat())]


def _is_own(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _own_file(path: Path) -> BinaryIO:
    """Opens a file of this user's own. Raises OSError, for a link, a pipe and the file of another user too."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not _is_own(os.fstat(file.fileno())):
        file.close()
        raise PermissionError(f"{path.name} is not this user's own file")
    return file


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
