"""Defines the steps of a session of the protocol: what a client says, and how much of the answer it waits for before it
goes on.

A step is bytes to send, `Z(n)` (wait for so many ReadyForQuery), `Until(kinds)` (wait for a message of one of these
kinds), `Byte()` or END (wait for the end of the connection). A session that does not say how it ends says Terminate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Until:
    """Wait for a message of one of these kinds."""

    kinds: bytes


@dataclass(frozen=True, slots=True)
class Z:
    """Wait for so many ReadyForQuery."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class Byte:
    """Wait for the one byte that answers an SSLRequest or a GSSENCRequest."""


END = Until(b"")
Step = bytes | Until | Z | Byte


@dataclass(frozen=True, slots=True)
class Played:
    """One session. Where `raw` is set, it says its startup packet itself."""

    name: str
    steps: tuple[Step, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    user: str = "app_user"
    raw: bool = False
