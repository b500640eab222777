"""Defines what a session remembers of statements: running ones, prepared ones, open portals.

The pipeline (pipeline.py) holds one entry for each client message that the backend still has to answer: a small
integer where nothing depends on it, a Running where a statement runs.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from secretproxy.detect import Call, ResolvedCall, Verdict
from secretproxy.detect.arguments import Values
from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.events import Protocol, Timing

# Entries of the queue of answers that are due. INJECTED: a message of the proxy's own.
PARSE: Final = 1
BIND: Final = 2
DESCRIBE: Final = 3
CLOSE: Final = 4
SYNC: Final = 5
COPY_END: Final = 6
INJECTED: Final = 7

# Function, owner as a number and names: the hash of a UUID is worked out in Python.
CallKey = tuple[str, int | None, tuple[str | None, ...] | None]


def call_key(function: str, owner: uuid.UUID | None, names: tuple[str | None, ...] | None) -> CallKey:
    """Gives what one call has in common with its testimony."""
    return function, None if owner is None else owner.int, names


class Tally:
    """The calls of one attempt that the backend testified to: how many, all by the same role and jwt user."""

    __slots__ = ("accessed_by", "calls", "role")

    def __init__(self) -> None:
        self.calls = 0
        self.role: str | None = None
        self.accessed_by: uuid.UUID | None = None

    def takes(self, role: str | None, accessed_by: uuid.UUID | None) -> bool:
        """Counts a call; False where another role or user made it than those before, which is a row of its own."""
        if self.calls == 0:
            self.role, self.accessed_by = role, accessed_by
        elif role != self.role or accessed_by != self.accessed_by:
            return False
        self.calls += 1
        return True

    def __repr__(self) -> str:
        return f"Tally({self.calls})"


class Preparation:
    """An SQL PREPARE that is not known to have been done: the name, what it leads to now and led to before; and the
    PREPAREs of the same name next to it that are not known to have been done either."""

    __slots__ = ("before", "earlier", "later", "made", "name")

    def __init__(self, name: str, made: Verdict, before: Verdict | None) -> None:
        self.name = name
        self.made = made
        self.before = before
        self.earlier: Preparation | None = None
        self.later: Preparation | None = None

    def __repr__(self) -> str:
        return f"Preparation(again={self.later is not None})"


class Running:
    """One execution: a Query, an Execute or a FunctionCall, from its forwarding to its end."""

    __slots__ = (
        "accessed_by", "attempts", "calls", "covered", "failed", "fingerprint", "number", "portal", "prepared",
            "protocol",
        "refused", "role", "sealed", "sqlstate", "text", "timing", "uncovered", "verdict", "waits",
    )  # fmt: skip

    def __init__(
        self, protocol: Protocol, verdict: Verdict, text: bytes | None = None, portal: Portal | None = None
    ) -> None:
        self.protocol: Protocol = protocol
        self.verdict = verdict
        self.text = text
        self.portal = portal
        self.number = 0
        self.fingerprint: str | None = None
        self.attempts: tuple[ResolvedCall, ...] = ()
        self.covered: dict[CallKey, Tally] = {}
        # Functions of calls that no attempt covers.
        self.uncovered: set[str] = set()
        # SQL PREPAREs that are not known to have been done, in order.
        self.prepared: list[Preparation] = []
        self.calls = 0
        self.role: str | None = None
        self.accessed_by: uuid.UUID | None = None
        self.failed = False
        self.refused: Refusal | None = None
        self.sqlstate: str | None = None
        # Whether it waits for the log: neither it nor anything behind it has been sent to the backend.
        self.waits = False
        # Whether it was sent before the log had it, and its answer is kept until the log does (Sealing).
        self.sealed = False
        self.timing = Timing()

    @property
    def in_the_log(self) -> bool:
        return bool(self.attempts) or self.calls > 0 or self.verdict.concerns

    def __repr__(self) -> str:
        return f"Running({self.protocol}, no={self.number}, attempts={len(self.attempts)}, calls={self.calls})"


class Owner:
    """An owner, and how its testimony writes it."""

    __slots__ = ("id", "written")

    def __init__(self, owner: uuid.UUID) -> None:
        self.id = owner
        self.written = str(owner).encode("ascii")

    def __repr__(self) -> str:
        return f"Owner({self.id})"


class ReadPlan:
    """Where a statement that reads one secret has the owner and the name of it, and what its rows of the log have in
    common each time it runs (reads.py).

    types: the parameter types that this was found for. call: None where the statement is another one. owner_at and
    name_at: the numbers of parameters; 0: a constant, which stands in `owner` and in `call`.
    """

    __slots__ = ("call", "fingerprint", "name_at", "owner", "owner_at", "protocol", "types")

    def __init__(
        self,
        types: tuple[int, ...],
        call: ResolvedCall | None = None,
        owner: Owner | None = None,
        owner_at: int = 0,
        name_at: int = 0,
        protocol: Protocol = "extended",
        fingerprint: str | None = None,
    ) -> None:
        self.types = types
        self.call = call
        self.owner = owner
        self.owner_at = owner_at
        self.name_at = name_at
        self.protocol: Protocol = protocol
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"ReadPlan(owner={self.owner_at}, name={self.name_at})"


@dataclass(slots=True, eq=False)
class Prepared:
    """A prepared statement of the protocol: the verdict on its text and its parameter types as far as they are
    known. plan: where it reads one secret, once that was asked."""

    verdict: Verdict
    text: bytes | None
    types: tuple[int, ...] = ()
    plan: ReadPlan | None = None

    def __repr__(self) -> str:
        return f"Prepared({self.verdict!r})"


class Portal:
    """A portal whose statement makes secret calls: those calls as its parameters make them.

    values: kept where the calls are known only once it runs. weight: how long the calls' names are together.
    current: not closed or replaced. suspended: the execution that stopped at its row limit.
    """

    __slots__ = ("calls", "current", "statement", "suspended", "values", "weight")

    def __init__(self, statement: Prepared, calls: tuple[ResolvedCall, ...], values: Values, weight: int = 0) -> None:
        self.statement = statement
        self.calls = calls
        self.values = values
        self.weight = weight
        self.current = True
        self.suspended: Running | None = None

    def __repr__(self) -> str:
        return f"Portal({self.statement!r})"


class Undo:
    """An entry of the pipeline for a Parse, Bind or Close that changed what is remembered: how it was before.

    pipeline: the pipeline in which it may be passed over for an error of what stands before it; 0: none does.
    """

    __slots__ = ("before", "kind", "name", "pipeline")

    def __init__(self, kind: int, name: bytes, before: Prepared | Portal | None) -> None:
        self.kind = kind
        self.name = name
        self.before = before
        self.pipeline = 0

    def __repr__(self) -> str:
        return f"Undo({self.kind})"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error for a client that replaces the error which a replaced message causes in the backend."""

    sqlstate: str
    text: str
    hint: str


@dataclass(slots=True, eq=False)
class Describing:
    """An entry of the pipeline for a Describe of a statement whose parameter types matter."""

    statement: Prepared


# A harmless statement may stand for itself: a Query as its text (empty if that is not kept), an Execute as what
# was prepared.
Entry = int | bytes | Prepared | Running | Undo | Describing

# An unknown statement: assumed harmless; testimony shows if it is not.
UNKNOWN: Final = Prepared(HARMLESS, None)


def query_like(entry: Entry) -> bool:
    """Tells whether a ReadyForQuery answers this entry itself: a Query or a FunctionCall."""
    return isinstance(entry, bytes) or (isinstance(entry, Running) and entry.protocol != "extended")


def resolve(calls: tuple[Call, ...], values: Values) -> tuple[ResolvedCall, ...]:
    return tuple(call.resolve(values) for call in calls)
