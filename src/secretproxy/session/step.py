"""What the session hands to the outer layer with a chunk: what goes on, what waits for the log, what is recorded; and its limits.

What is decided stands in the parts of session.py, what is done with it in the proxy's relay. No text and no value is shown when one
of these is printed.
"""

from __future__ import annotations

from dataclasses import dataclass

from secretproxy.session.events import Event
from secretproxy.session.statements import Running
from secretproxy.wire.errors import ProtocolViolation


class Held:
    """A part of a client's chunk that waits for the log; `running` where it is an attempt itself."""

    __slots__ = ("data", "running")

    def __init__(self, data: bytes, running: Running | None = None) -> None:
        self.data = data
        self.running = running

    def __repr__(self) -> str:
        return f"Held({len(self.data)} bytes)"


class Step:
    """What is to be done with a chunk, in this order.

    forward: to the other side, at once. inject: to the backend, from the proxy itself. parse: a long text, its codec and how its
    strings may be read: run Detector.analyse elsewhere, hand the verdict to Session.parsed, then call from_client(b"").
    commit: events that must be durable before `held` goes on; where they cannot be, a client's chunk goes through
    Session.refuse and a backend's ends the session. record: events nobody waits for. ready: the client's chunks that waited can
    be taken now (from_client(b"")). again: there is more of the chunk, call from_client(b"") in a later turn of the event loop.
    violation: the session ends once all this is done. defined: the catalog may have changed. surprised: a call was made by a
    function that no attempt named.
    """

    __slots__ = ("again", "commit", "defined", "forward", "held", "inject", "parse", "ready", "record", "surprised", "violation")

    def __init__(self) -> None:
        self.forward = b""
        self.inject = b""
        self.parse: tuple[bytes, str, int] | None = None
        self.again = False
        self.commit: list[Event] = []
        self.held: list[Held] = []
        self.record: list[Event] = []
        self.ready = False
        self.violation: ProtocolViolation | None = None
        self.defined = False
        self.surprised = False

    def __repr__(self) -> str:
        return f"Step(forward={len(self.forward)} bytes, commit={len(self.commit)}, record={len(self.record)})"


class Output:
    """The Step of the chunk under way. A chunk that goes on as it came needs none."""

    def __init__(self) -> None:
        self.step: Step | None = None

    def begin(self) -> None:
        """Starts on a chunk: nothing is asked for yet."""
        self.step = None

    def made(self) -> Step:
        """Gives the Step, a new one where nothing was asked for so far."""
        step = self.step
        if step is None:
            step = self.step = Step()
        return step

    def take(self) -> Step | None:
        """Gives the Step away, None where nothing was asked for."""
        step, self.step = self.step, None
        return step


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: the longest message of a client, the longest statement that is parsed, the longest parsed at once.

    refuse_large: a longer statement than that is refused, not forwarded. max_prepared: statements with secret calls that may be
    prepared at once, and portals and cursors likewise.
    """

    max_message: int = 1_073_741_823
    max_statement_memory: int = 8 * 1024 * 1024
    parse_thread_bytes: int = 8192
    refuse_large: bool = False
    max_prepared: int = 1000
