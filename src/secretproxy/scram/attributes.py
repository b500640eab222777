"""The attributes of SCRAM messages (RFC 5802, section 5.1), read as PostgreSQL reads them (auth-scram.c,
read_attr_value())."""

from __future__ import annotations

from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.types import SqlState


def malformed(
    detail: str | None, text: str = "malformed SCRAM message", sqlstate: str = SqlState.PROTOCOL_VIOLATION
) -> ProtocolViolationError:
    """Makes the error for a malformed message of the exchange. `detail` says what is wrong, and quotes nothing."""
    return ProtocolViolationError(text, sqlstate, detail)


class Reader:
    """Goes through one message from attribute to attribute."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.pos = 0

    @property
    def at_end(self) -> bool:
        return self.pos >= len(self._message)

    def peek(self) -> bytes:
        return self._message[self.pos : self.pos + 1]

    def skip(self, expected: bytes, detail: str) -> None:
        if self.peek() != expected:
            raise malformed(detail)
        self.pos += 1

    def attribute(self) -> tuple[bytes, bytes]:
        """Reads the next attribute, whichever it is, and its value."""
        name = self.peek()
        if not name.isalpha():
            raise malformed("Attribute expected, but found something else.")
        return name, self.value(name)

    def value(self, name: bytes) -> bytes:
        """Reads the value of the attribute that must come here."""
        message = self._message
        if self.peek() != name:
            raise malformed(f'Expected attribute "{name.decode("ascii")}" but found another.')
        if message[self.pos + 1 : self.pos + 2] != b"=":
            raise malformed(f'Expected character "=" for attribute "{name.decode("ascii")}".')
        start = self.pos + 2
        stop = message.find(b",", start)
        if stop < 0:
            stop = len(message)
        self.pos = stop + 1
        return message[start:stop]
