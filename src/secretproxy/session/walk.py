"""Walks the messages of chunks of the commonest form, for plain.py and reads.py: says where one stands in them, not
what it means.

Where the package was compiled, _walk.c does it; it must give the same for every chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

# Bytes of a chunk of the client's: a longer one is not worth it. No name that is looked for here is cut.
MOST: Final = 8192
_MOST_NAME: Final = 63

# What walk_client() gives, and walk_backend() is asked for: a pipeline of the extended protocol; with Parse, with
# Describe.
EXTENDED: Final = 1
PARSED: Final = 2
DESCRIBED: Final = 4
# Behind these bits: how long the statement's name is, which begins at NAME where there is no Parse and is empty where
# there is one; and behind that, where the text ends that a Parse begins at TEXT.
NAME: Final = 6
TEXT: Final = 6
NAME_SHIFT: Final = 3
NAME_BITS: Final = 63
TEXT_SHIFT: Final = 9

# Types of messages, as numbers that are known when this is compiled.
_PARSE: Final = 80
_BIND: Final = 66
_DESCRIBE: Final = 68
_EXECUTE: Final = 69
_SYNC: Final = 83
_PORTAL: Final = 80
_PARSE_COMPLETE: Final = 49
_BIND_COMPLETE: Final = 50
_ROW_DESCRIPTION: Final = 84
_NO_DATA: Final = 110
_DATA_ROW: Final = 68
_COMMAND_COMPLETE: Final = 67
_READY_FOR_QUERY: Final = 90
_IDLE: Final = 73
_IN_TRANSACTION: Final = 84
_NOTICE: Final = 78

# What walk_read() is asked for: what comes behind a testimony. What it gives: whether the answer ends there; behind
# these bits where the notice begins, and behind that how long it is.
HEARD: Final = 8
ANSWER_ENDS: Final = 1
NOTICE_SHIFT: Final = 1
NOTICE_BITS: Final = 0xFFFFF
NOTICE_SIZE_SHIFT: Final = 21
# Bytes of an owner's and a name's value in a Bind that bound() gives.
_MOST_OWNER: Final = 128
_MOST_SECRET: Final = 1024
_BINARY_UUID: Final = 16
# How the tags begin that mean nothing to a session: BEGIN, COMMIT, DELETE, INSERT, SELECT, UPDATE.
_SELECT: Final = 0x53454C
_TAGS: Final = frozenset({0x424547, 0x434F4D, 0x44454C, 0x494E53, _SELECT, 0x555044})


def walk_client(data: bytes) -> int:
    """Walks a chunk of the client's. Gives 0 if it is not one pipeline that binds a statement to the unnamed portal,
    executes that and ends: Bind, Execute, Sync, with a Describe of the portal or not, behind a Parse of the unnamed
    statement or not."""
    size: i64 = len(data)
    start: i64 = 0
    text_end: i64 = 0
    found: i64 = EXTENDED
    if size < 25 or size > MOST:
        return 0
    if data[0] == _PARSE:
        start = 1 + length_at(data, 0)
        if start < 8 or start > size or data[5] != 0:
            return 0
        text_end = data.find(b"\0", TEXT, start)
        if text_end < 0:
            return 0
        found |= PARSED
    if size - start < 25 or data[start] != _BIND or data[start + 5] != 0:
        return 0
    pos: i64 = start + 6
    end: i64 = start + 1 + length_at(data, start)
    if end <= pos or end > size:
        return 0
    name: i64 = data.find(b"\0", pos, min(end, pos + _MOST_NAME + 1)) - pos
    if name < 0 or (name > 0 and found & PARSED):
        return 0
    if _stands(data, end, _DESCRIBE, 6) and data[end + 5] == _PORTAL and data[end + 6] == 0:
        found |= DESCRIBED
        end += 7
    if not _stands(data, end, _EXECUTE, 9) or data[end + 5] != 0:
        return 0
    end += 10
    if not _stands(data, end, _SYNC, 4) or end + 5 != size:
        return 0
    return found | name << NAME_SHIFT | text_end << TEXT_SHIFT


def walk_backend(data: bytes, asked: int) -> int:
    """Walks a chunk of the backend's. Gives the transaction status that it ends with if it is the whole answer to what
    was asked for and no error, else 0. `asked`: bits of walk_client()'s, 0 for a Query of one statement."""
    size: i64 = len(data)
    pos: i64 = 0
    if asked & EXTENDED:
        if asked & PARSED:
            if not _stands(data, pos, _PARSE_COMPLETE, 4):
                return 0
            pos += 5
        if not _stands(data, pos, _BIND_COMPLETE, 4):
            return 0
        pos += 5
        if asked & DESCRIBED:
            if size - pos < 5 or (data[pos] != _ROW_DESCRIPTION and data[pos] != _NO_DATA):
                return 0
            pos = _behind(data, pos)
    elif size > 5 and data[0] == _ROW_DESCRIPTION:
        pos = _behind(data, 0)
    while size - pos >= 5 and data[pos] == _DATA_ROW:
        pos = _behind(data, pos)
    if size - pos < 14 or data[pos] != _COMMAND_COMPLETE or size - 6 != pos + 1 + length_at(data, pos):
        return 0
    tag: i64 = (data[pos + 5] << 16) | (data[pos + 6] << 8) | data[pos + 7]
    if tag not in _TAGS or not _stands(data, size - 6, _READY_FOR_QUERY, 5):
        return 0
    status = data[size - 1]
    return status if status in (_IDLE, _IN_TRANSACTION) else 0


def walk_read(data: bytes, asked: int) -> int:
    """Walks the answer to a read. Gives 0 if it is not the beginning of one up to the end of its one notice, or all of
    it up to a ReadyForQuery outside a transaction; with HEARD, what comes behind such a beginning. `asked`: bits of
    walk_client()'s, 0 for a Query, or HEARD."""
    size: i64 = len(data)
    pos: i64 = 0
    notice: i64 = 0
    notice_size: i64 = 0
    if size > NOTICE_BITS:
        return 0
    if not asked & HEARD:
        if asked & EXTENDED:
            if not _stands(data, 0, _BIND_COMPLETE, 4):
                return 0
            pos = 5
        if asked & DESCRIBED or not asked & EXTENDED:
            if size - pos < 5 or data[pos] != _ROW_DESCRIPTION:
                return 0
            pos = _behind(data, pos)
        notice = pos
        if size - pos < 5 or data[pos] != _NOTICE or length_at(data, pos) < 4:
            return 0
        notice_size = 1 + length_at(data, pos)
        pos += notice_size
        if pos > size:
            return 0
        if pos == size:
            return notice << NOTICE_SHIFT | notice_size << NOTICE_SIZE_SHIFT
    while size - pos >= 5 and data[pos] == _DATA_ROW:
        pos = _behind(data, pos)
    if size - pos < 14 or data[pos] != _COMMAND_COMPLETE or size - 6 != pos + 1 + length_at(data, pos):
        return 0
    tag: i64 = (data[pos + 5] << 16) | (data[pos + 6] << 8) | data[pos + 7]
    if tag != _SELECT or not _stands(data, size - 6, _READY_FOR_QUERY, 5) or data[size - 1] != _IDLE:
        return 0
    return ANSWER_ENDS | notice << NOTICE_SHIFT | notice_size << NOTICE_SIZE_SHIFT


def bound(data: bytes, start: int, owner: int, name: int) -> tuple[bytes | None, str | None] | None:
    """Reads an owner's bytes and a name's text from the Bind at the beginning of a chunk, whose parameters stand from
    `start` on. `owner`, `name`: their numbers, 0: None is given. None if one of them is not there, is NULL or is not
    of the commonest form, or if read_bind() of wire/messages.py could not read the Bind."""
    pos: i64 = start
    if len(data) < 5:
        return None
    end: i64 = 1 + length_at(data, 0)
    if end > len(data) or end - pos < 2:
        return None
    formats: i64 = data[pos] << 8 | data[pos + 1]
    formats_at: i64 = pos + 2
    pos = formats_at + 2 * formats
    if end - pos < 2:
        return None
    count: i64 = data[pos] << 8 | data[pos + 1]
    pos += 2
    if (formats > 1 and formats != count) or owner > count or name > count:
        return None
    raw: bytes | None = None
    text: str | None = None
    place: i64 = 1
    while place <= count:
        if end - pos < 4:
            return None
        size: i64 = (data[pos] << 24) | (data[pos + 1] << 16) | (data[pos + 2] << 8) | data[pos + 3]
        pos += 4
        if size == 0xFFFFFFFF:
            if place in (owner, name):
                return None
            size = 0
        if size > 0x7FFFFFFF or size > end - pos:
            return None
        if place == owner:
            at: i64 = formats_at if formats == 1 else formats_at + 2 * (place - 1)
            binary = formats > 0 and data[at] == 0 and data[at + 1] == 1
            if size > _MOST_OWNER or (size == _BINARY_UUID and not binary):
                return None
            raw = data[pos : pos + size]
        if place == name:
            if size > _MOST_SECRET:
                return None
            try:
                text = data[pos : pos + size].decode("utf-8")
            except UnicodeDecodeError:
                return None
        pos += size
        place += 1
    return raw, text


def length_at(data: bytes, pos: i64) -> i64:
    """Reads the length of the message at `pos`, of which at least five bytes are there."""
    return (data[pos + 1] << 24) | (data[pos + 2] << 16) | (data[pos + 3] << 8) | data[pos + 4]


def _behind(data: bytes, pos: i64) -> i64:
    """Gives the position behind the message at `pos`, or behind all of the data if it has no such length."""
    length: i64 = length_at(data, pos)
    return pos + 1 + length if length >= 4 else len(data)


def _stands(data: bytes, pos: i64, kind: i64, length: i64) -> bool:
    """Tells whether a whole message of this type and length is at `pos`."""
    return len(data) - pos > length and data[pos] == kind and length_at(data, pos) == length


_Walks = tuple[Callable[[bytes], int], Callable[[bytes, int], int]]
_Readers = tuple[Callable[[bytes, int], int], Callable[[bytes, int, int, int], tuple[bytes | None, str | None] | None]]


def _in_c() -> tuple[_Walks, _Readers]:
    """Gives walk_client() and walk_backend(), walk_read() and bound(): those in C where they are."""
    try:
        from secretproxy.session import _walk
    except ImportError:
        return (walk_client, walk_backend), (walk_read, bound)
    return (_walk.walk_client, _walk.walk_backend), (_walk.walk_read, _walk.bound)


_IN_C: Final = _in_c()
WALKS: Final[_Walks] = _IN_C[0]
READERS: Final[_Readers] = _IN_C[1]
