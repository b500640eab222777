"""Defines what the session gives the outer layer for a chunk: what is forwarded, what waits for the log, what is
recorded; and its limits.

What is decided stands in the parts of session.py; interpreter.py does what is said here. No text and no value is
shown when one of these is printed.
"""

from __future__ import annotations

from dataclasses import dataclass

from mypy_extensions import mypyc_attr

from secretproxy.session.events import Event
from secretproxy.session.statements import Running
from secretproxy.wire.errors import ProtocolViolationError


@mypyc_attr(free_list_len=1)
class Held:
    """A part of a client's chunk that waits for the log; `running` where it is an attempt itself."""

    __slots__ = ("data", "running")

    def __init__(self, data: bytes, running: Running | None = None) -> None:
        self.data = data
        self.running = running

    def __repr__(self) -> str:
        return f"Held({len(self.data)} bytes)"


@mypyc_attr(free_list_len=1)
class Step:
    """The work to do for a chunk.

    Of a client's chunk, in this order: `forward` goes to the backend; `record` goes to the log, and nobody waits for
    it; once the log has `commit`, `held` goes to the backend, or what Session.refuse gives in its place. After all of
    that, and before anything more of the client's is read, one of these:

    - `parse`, a long text, its codec and how its strings may be read: run Detector.analyse elsewhere, hand the
      verdict to Session.parsed, and call from_client(b"");
    - `violation`: the session ends;
    - `again`: there is more of the chunk, call from_client(b"") in a later turn of the event loop.

    `sealed`: a statement of `forward` that only reads, which the log does not have yet: nothing that the backend says
    from here on goes to the client before the log does, or before Session.unseal.

    Of a backend's chunk: a `violation` without a `commit` ends the session, and nothing of the chunk goes on. Else
    `forward` goes to the client and `inject` to the backend. Once the log has `commit`, `held` goes to the client and
    `record` to the log, or `violation` ends the session; nothing more of the backend's is read before. `more`: the
    chunk ends with a testimony that an attempt covers, which PostgreSQL sends ahead of what it belongs to; `forward`
    may wait a moment for that. `replaceable`: `held` is the whole answer to a statement that only reads, and
    Session.withhold gives another one where the log cannot commit it. `unannounced`: a call was made by a function
    that no attempt named. `defined`: the catalog may have changed. `ready`: the client's chunks that waited are taken
    now (from_client(b""))."""

    __slots__ = (
        "access",
        "again",
        "commit",
        "defined",
        "forward",
        "held",
        "inject",
        "more",
        "parse",
        "ready",
        "record",
        "replaceable",
        "sealed",
        "unannounced",
        "violation",
    )

    def __init__(self) -> None:
        self.forward = b""
        self.inject = b""
        self.more = False
        self.parse: tuple[bytes, str, int] | None = None
        self.again = False
        self.commit: list[Event] = []
        # Accesses of a sealed statement that has ended, for Sealing alone.
        self.access: list[Event] = []
        self.sealed: Running | None = None
        self.replaceable = False
        self.held: list[Held] = []
        self.record: list[Event] = []
        self.ready = False
        self.violation: ProtocolViolationError | None = None
        self.defined = False
        self.unannounced = False

    def take_held(self) -> bytes:
        """Gives away the bytes of what is held."""
        if len(self.held) != 1:
            return b"".join([held.data for held in self.held])
        held = self.held[0]
        data = held.data
        held.data = b""
        return data

    def __repr__(self) -> str:
        return f"Step(forward={len(self.forward)} bytes, commit={len(self.commit)}, record={len(self.record)})"


class Output:
    """The Step of the chunk under way. A chunk that goes on as it came needs none."""

    def __init__(self) -> None:
        self.step: Step | None = None

    def begin(self) -> None:
        """Starts a chunk, without any work so far."""
        self.step = None

    def made(self) -> Step:
        """Gives the Step, a new one where nothing was asked for so far."""
        step = self.step
        if step is None:
            step = self.step = Step()
        return step

    def take(self) -> Step | None:
        """Gives the Step away, None if nothing was asked for."""
        step, self.step = self.step, None
        return step


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: the longest message of a client, the longest statement that is parsed, the longest parsed at once.

    refuse_large: a longer statement than that is refused, not forwarded. max_prepared: statements with secret
    calls that may be prepared at once, and portals and cursors likewise.
    """

    max_message: int = 1_073_741_823
    max_statement_memory: int = 8 * 1024 * 1024
    parse_thread_bytes: int = 8192
    refuse_large: bool = False
    max_prepared: int = 1000
