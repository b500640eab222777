"""What the wire layer raises."""

from __future__ import annotations

from secretproxy.wire.types import SqlState


class ProtocolViolation(Exception):  # noqa: N818 - the SQLSTATE's own name
    """The peer sent bytes that the protocol does not allow. Its text never quotes them; `sqlstate` is 08P01 unless said."""

    def __init__(self, text: str, sqlstate: str = SqlState.PROTOCOL_VIOLATION, detail: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.detail = detail


class Unreadable(ProtocolViolation):
    """A message is framed well but its content is not what its type says: the other side is the one to complain."""


class Malformed(ProtocolViolation):
    """No backend takes such a length either: it ends the session by itself, in its own words or none."""
