"""What the wire layer raises."""

from __future__ import annotations


class ProtocolViolation(Exception):  # noqa: N818 - the SQLSTATE's own name
    """The peer sent bytes that the protocol does not allow (SQLSTATE 08P01). Its text never quotes them."""

    sqlstate = "08P01"
