"""Defines the errors of the wire layer."""

from __future__ import annotations

from secretproxy.wire.types import SqlState


class ProtocolViolationError(Exception):
    """The peer sent bytes that the protocol does not allow. Its text never quotes them; `sqlstate` is 08P01 unless
    said; `setting` is the one that rules it, None if none does."""

    def __init__(
        self,
        text: str,
        sqlstate: str = SqlState.PROTOCOL_VIOLATION,
        detail: str | None = None,
        setting: str | None = None,
    ) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.detail = detail
        self.setting = setting


class UnreadableError(ProtocolViolationError):
    """A message is framed well but its content is not what its type says: the other side is the one to complain."""


class MalformedError(ProtocolViolationError):
    """No backend takes such a length either: it ends the session by itself, in its own words or none."""
