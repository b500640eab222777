"""Cuts one direction's byte stream into messages without copying what only passes through.

Compiled by mypyc where that is asked for, pure Python otherwise: the same source, the same answers. The one
hot loop of the project is `Framer.next`. It skips messages that nobody needs to see, stops at those that
somebody does, and never waits for the end of a long message unless it is told to (`demand`), so that memory
stays bounded whatever the size of a row, a COPY or a statement.

Message format: https://www.postgresql.org/docs/current/protocol-message-formats.html (one type byte, an int32
length that counts itself, the content).
"""

from __future__ import annotations

from mypy_extensions import i64

from secretproxy.wire.errors import MalformedError, ProtocolViolationError

# What to do with a message of a type, an entry for each of the 256 type bytes.
PASS = 0  # skipped: rows and COPY data
MARK = 1  # reported by its type alone; a long one is reported at its first bytes
WHOLE = 2  # reported once it is complete, up to SHORT bytes; a longer one at its first HEAD bytes

# The longest length that PostgreSQL takes: PQ_LARGE_MESSAGE_LIMIT in src/include/libpq/libpq.h.
LONGEST = 0x3FFFFFFE

SHORT = 65536
HEAD = 1024


class Framer:
    """One direction of one connection.

    `push` a chunk, then call `next` until it says False. After each True, the message is `buffer[start:end]`,
    header included, of type `kind`; where `complete` is False only its first bytes are there and the rest will
    pass without being reported, unless more of it is asked for (`demand`). Afterwards `cut` is how much of
    `buffer` has been reported or skipped and may go on; what is left is kept for the next chunk.
    """

    def __init__(self, actions: bytes, max_message: int) -> None:
        self.actions = actions
        self.max_message: i64 = max_message
        self.buffer: bytes = b""
        self.cut: i64 = 0
        self.kind: i64 = 0
        self.start: i64 = 0
        self.end: i64 = 0
        self.complete: bool = True
        self._rest: bytes = b""
        self._part: bytearray = bytearray()
        self._need: i64 = 0
        self._skip: i64 = 0
        # Bytes of the message under way that must be there before it is reported again; 0: as its action says.
        self._wanted: i64 = 0

    @property
    def at_boundary(self) -> bool:
        """Says whether everything that was pushed ended with the end of a message."""
        return self._skip == 0 and not self._rest and not self._part

    @property
    def streaming(self) -> bool:
        """Says whether a message has been forwarded in part."""
        return self._skip > 0

    def push(self, data: bytes) -> None:
        """Takes the next chunk of the stream."""
        size: i64 = len(data)
        if self._need > 0:
            # One buffer that grows: as many parts as a client cares to send would weigh more than their bytes.
            self._part += data
            self._need -= size
            if self._need > 0:
                self.buffer = b""
                self.cut = 0
                return
            data = bytes(self._part)
            self._part = bytearray()
            self._need = 0
            size = len(data)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
            size = len(data)
        self.buffer = data
        if self._skip >= size:
            self._skip -= size
            self.cut = size
        else:
            self.cut = self._skip
            self._skip = 0

    def next(self) -> bool:
        """Goes on to the next message to be seen; False where the chunk has none left.

        Raises MalformedError for a length that no message can have, ProtocolViolationError for one that the
        settings do not allow.
        """
        data = self.buffer
        size: i64 = len(data)
        pos: i64 = self.cut
        actions = self.actions
        while True:
            if size - pos < 5:
                break
            length: i64 = (data[pos + 1] << 24) | (data[pos + 2] << 16) | (data[pos + 3] << 8) | data[pos + 4]
            if length < 4 or length > self.max_message:
                self.cut = pos
                if length < 4 or length > LONGEST:
                    raise MalformedError(f"message length {length} is out of range")
                raise ProtocolViolationError(f"message length {length} is out of range (limits.max_message)")
            end: i64 = pos + 1 + length
            kind: i64 = data[pos]
            action: i64 = actions[kind]
            if end <= size:
                if action == 0:
                    pos = end
                    continue
                self.complete = True
                self.cut = end
            elif action == 0:
                self._skip = end - size
                pos = size
                break
            else:
                wanted: i64 = self._wanted
                if wanted > 0:
                    upto: i64 = pos + wanted if pos + wanted < end else end
                    if upto > size:
                        # Wanted, and not all there: keep it. A long one is collected in parts, not glued chunk by
                        # chunk.
                        self._need = upto - size
                        self._part = bytearray(data[pos:])
                        self.cut = pos
                        self.buffer = data[:pos]
                        return False
                elif action == 2 and (length < SHORT or size - pos < HEAD):
                    break
                self.complete = False
                self._skip = end - size
                self.cut = size
            self.kind = kind
            self.start = pos
            self.end = end
            self._wanted = 0
            return True
        self.cut = pos
        if pos < size:
            self._rest = data[pos:]
            self.buffer = data[:pos]
        return False

    def demand(self, most: i64 = LONGEST) -> None:
        """Takes the message just reported in part back, to be reported once it is complete or `most` of its bytes
        are there."""
        self._skip = 0
        self.cut = self.start
        self._wanted = most

    def discard(self) -> int:
        """Ends the message just reported in part; gives how many of its bytes are still to come and must not be
        pushed."""
        rest = self._skip
        self._skip = 0
        return rest

    def let_head_go(self) -> None:
        """Counts the head of the message that `next` called malformed among what may go on."""
        self.cut += 5

    def unread(self) -> None:
        """Takes the message just reported back: the next call of `next` reports it again."""
        if not self.complete:
            self._skip = 0
        self.cut = self.start


def actions(mark: bytes, whole: bytes, default: int = MARK) -> bytes:
    """Makes a table of actions: one byte for each type byte."""
    table = bytearray([default]) * 256
    for kind in mark:
        table[kind] = MARK
    for kind in whole:
        table[kind] = WHOLE
    return bytes(table)


def passing(table: bytes, kinds: bytes) -> bytes:
    """Gives the table of actions with messages of these types skipped."""
    return bytes(PASS if kind in kinds else action for kind, action in enumerate(table))


def compiled() -> bool:
    """Says whether this module runs as C."""
    return not __file__.endswith(".py")
