"""What detection says of one statement text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from secretproxy.detect.arguments import Argument
from secretproxy.detect.calls import Call
from secretproxy.detect.functions import overloads

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SqlExecute:
    """An SQL EXECUTE of a prepared statement: its name and its arguments."""

    name: str
    arguments: tuple[Argument, ...]

    def __repr__(self) -> str:
        return f"SqlExecute(arguments={len(self.arguments)})"


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The secret calls of a text and what else a session must remember of it. HARMLESS where there is nothing.

    calls: run when the statement runs; definitions: signatures of secret functions that the statement defines something over;
    tables: monitored tables it names; prepares and cursors: the calls that a later EXECUTE or FETCH of that
    name will make; executes and fetches: those; deallocates and closes: names that end (None: all); parsed: whether PostgreSQL's grammar took it.
    """

    calls: tuple[Call, ...] = ()
    definitions: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    prepares: tuple[tuple[str, tuple[Call, ...]], ...] = ()
    cursors: tuple[tuple[str, tuple[Call, ...]], ...] = ()
    executes: tuple[SqlExecute, ...] = ()
    fetches: tuple[str, ...] = ()
    deallocates: tuple[str | None, ...] = ()
    closes: tuple[str | None, ...] = ()
    fingerprint: str | None = None
    parsed: bool = True

    @property
    def concerns(self) -> bool:
        """Whether the statement itself must be recorded before it goes on."""
        return bool(self.calls or self.definitions or self.tables)

    @property
    def remembers(self) -> bool:
        """Whether the session must look at it, though its own text may call nothing."""
        return bool(self.prepares or self.cursors or self.executes or self.fetches or self.deallocates or self.closes)

    def __repr__(self) -> str:
        return f"Verdict(calls={len(self.calls)}, fingerprint={self.fingerprint})"


HARMLESS = Verdict()


@dataclass(slots=True, repr=False)
class Found:
    """A verdict in the making."""

    calls: list[Call] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    prepares: list[tuple[str, tuple[Call, ...]]] = field(default_factory=list)
    cursors: list[tuple[str, tuple[Call, ...]]] = field(default_factory=list)
    executes: list[SqlExecute] = field(default_factory=list)
    fetches: list[str] = field(default_factory=list)
    deallocates: list[str | None] = field(default_factory=list)
    closes: list[str | None] = field(default_factory=list)
    level: int = 0


# Calls of one statement that are written one by one.
MOST_CALLS = 256
# Attempts that a statement makes by way of other objects: no more than these are written of one.
MOST_LED = 50


def once(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The calls of a text, those that another object leads to once each; of more than MOST_CALLS what is called, and no arguments."""
    kept: list[Call] = []
    led: set[Call] = set()
    for call in calls:
        if call.via is not None:
            if call in led or len(led) >= MOST_LED:
                continue
            led.add(call)
        kept.append(call)
    return tuple(kept) if len(kept) <= MOST_CALLS else by_name(kept)


def by_name(calls: Sequence[Call]) -> tuple[Call, ...]:
    """One opaque call for each function; for those of a schema that are too many together one call of `*`."""
    distinct = dict.fromkeys(Call(call.schema, call.name, opaque=True, signature=call.signature, via=call.via) for call in calls)
    if len(distinct) <= MOST_CALLS:
        return tuple(distinct)
    kept = dict.fromkeys(
        call if call.via is not None or overloads(call.name) else Call(call.schema, "*", opaque=True) for call in distinct
    )
    return tuple(kept)


def union(one: Verdict, other: Verdict) -> Verdict:
    """What either of two readings of a text says."""
    if one == other:
        return one
    if other is HARMLESS or one is HARMLESS:
        return one if other is HARMLESS else other
    return Verdict(
        once(_both(one.calls, other.calls)),
        _both(one.definitions, other.definitions),
        _both(one.tables, other.tables),
        _both(one.prepares, other.prepares),
        _both(one.cursors, other.cursors),
        _both(one.executes, other.executes),
        _both(one.fetches, other.fetches),
        _both(one.deallocates, other.deallocates),
        _both(one.closes, other.closes),
        one.fingerprint,
    )


def _both(a: Sequence[T], b: Sequence[T]) -> tuple[T, ...]:
    known = set(a)
    return (*a, *(part for part in b if part not in known))
