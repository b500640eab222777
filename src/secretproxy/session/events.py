"""Defines the events that a session gives to the access log. The journal adds number, time and hash, and writes it.

Fields are those of secretproxy.access_log and nothing else: there is no field that a value could go into.
"""

from __future__ import annotations

import ipaddress
import uuid
from dataclasses import dataclass, field
from typing import Literal

from mypy_extensions import mypyc_attr

EventKind = Literal["attempt", "call", "outcome", "definition", "table", "refusal", "forgery", "review", "access"]
Outcome = Literal["ok", "error", "cancelled", "lost", "refused"]
Protocol = Literal["simple", "extended", "fastpath"]


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """The session's identity, as the log names it."""

    session_id: uuid.UUID
    db_user: str | None = None
    database: str | None = None
    application_name: str | None = None
    client_addr: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    client_port: int | None = None
    tls: bool = False
    # What the journal makes of it, once.
    as_logged: list[object] = field(default_factory=list, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"Identity({self.session_id})"


class LogState:
    """What the log takes now; one object for all sessions of a process, which the journal keeps up to date."""

    __slots__ = ("takes_accesses",)

    def __init__(self) -> None:
        # Whether it can be written, and knows an event `access`: an access in one row.
        self.takes_accesses = False


# Compiled, the memory of one that is let go of is kept for the next one.
@mypyc_attr(free_list_len=1)
class Timing:
    """The start time of a statement, filled in by whoever has a clock, and shared by its events."""

    __slots__ = ("began",)

    def __init__(self) -> None:
        self.began: float | None = None


@mypyc_attr(free_list_len=1)
class Event:
    """One row of the log but for what the journal adds. Written out: a dataclass costs ten times as much to make,
    compiled."""

    __slots__ = (
        "accessed_by", "calls", "encoding", "event", "fingerprint", "function", "operation", "outcome", "owner_id",
            "protocol", "role",
        "secret_names", "sqlstate", "statement_no", "timing", "via", "who",
    )  # fmt: skip

    def __init__(
        self,
        event: EventKind,
        who: Identity,
        statement_no: int | None = None,
        function: str | None = None,
        operation: str | None = None,
        owner_id: uuid.UUID | None = None,
        secret_names: tuple[str | None, ...] | None = None,
        encoding: str | None = None,
        via: tuple[str, ...] | None = None,
        protocol: Protocol | None = None,
        fingerprint: str | None = None,
        role: str | None = None,
        accessed_by: uuid.UUID | None = None,
        outcome: Outcome | None = None,
        sqlstate: str | None = None,
        calls: int | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.event: EventKind = event
        self.who = who
        self.statement_no = statement_no
        self.function = function
        self.operation = operation
        self.owner_id = owner_id
        self.secret_names = secret_names
        self.encoding = encoding
        self.via = via
        self.protocol: Protocol | None = protocol
        self.fingerprint = fingerprint
        self.role = role
        self.accessed_by = accessed_by
        self.outcome: Outcome | None = outcome
        self.sqlstate = sqlstate
        self.calls = calls
        self.timing = Timing() if timing is None else timing

    def __repr__(self) -> str:
        # What a client called a secret may be a value; the journal masks it, this would not.
        return f"Event({self.event}, statement_no={self.statement_no}, outcome={self.outcome})"
