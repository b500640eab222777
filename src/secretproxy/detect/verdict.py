"""Defines the verdict of detection on one statement text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from secretproxy.detect.arguments import Argument, Array
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
    """The secret calls of a text and what else a session must remember of it. HARMLESS if there is nothing.

    calls: run when the statement runs; definitions: signatures of secret functions that the statement defines something
    over; tables: monitored tables it names; prepares and cursors: the calls that a later EXECUTE or FETCH of that name
    will make; executes and fetches: those; deallocates and closes: names that end (None: all); parsed: whether
    PostgreSQL's grammar took it; only_reads: whether it is one statement that does nothing but read secrets.
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
    only_reads: bool = False

    @property
    def concerns(self) -> bool:
        """Says whether the statement itself must be recorded before it goes on."""
        return bool(self.calls or self.definitions or self.tables)

    def __repr__(self) -> str:
        return f"Verdict(calls={len(self.calls)}, fingerprint={self.fingerprint})"


HARMLESS: Final = Verdict()


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
    only_reads: bool = False


# Calls of one statement that are written one by one.
MOST_CALLS: Final = 256
# Elements of arrays among the arguments of a statement's calls, or arguments of its EXECUTEs: of more none is kept.
MOST_ARGUMENTS: Final = 4000
# Calls that a PREPARE or a DECLARE keeps one by one, and names of those that one text executes or fetches from.
MOST_KEPT_CALLS, MOST_EXECUTES = 16, 64
# The most attempts through other objects that are written for one statement.
MOST_LED: Final = 50


def once(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Gives the calls of a text; those that another object leads to once each.

    If there are more than MOST_CALLS, gives the functions without arguments.
    """
    kept: list[Call] = []
    led: set[Call] = set()
    for call in calls:
        if call.via is not None:
            if call in led or len(led) >= MOST_LED:
                continue
            led.add(call)
        kept.append(call)
    return by_name(kept) if len(kept) > MOST_CALLS or _arguments(kept) > MOST_ARGUMENTS else tuple(kept)


def _arguments(calls: Sequence[Call]) -> int:
    count = 0
    for call in calls:
        count += len(call.positional) + len(call.named)
        count += sum(len(argument.elements) for argument in call.positional if isinstance(argument, Array))
        count += sum(len(argument.elements) for _, argument in call.named if isinstance(argument, Array))
    return count


def kept(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Gives the calls of a statement that will run by its name, each time somebody executes it."""
    found = once(calls)
    return found if len(found) <= MOST_KEPT_CALLS else by_name(found)


def executed(executes: Sequence[SqlExecute]) -> tuple[SqlExecute, ...]:
    """Gives the EXECUTEs of a text; if there are more than MOST_EXECUTES, one for each name, its arguments unknown."""
    if len(executes) <= MOST_EXECUTES and sum(len(execute.arguments) for execute in executes) <= MOST_ARGUMENTS:
        return tuple(executes)
    return tuple(SqlExecute(name, ()) for name in dict.fromkeys(execute.name for execute in executes))


def defined(signatures: Sequence[str]) -> tuple[str, ...]:
    """Gives what a text defines something over.

    If it has very many functions of a schema, `*` stands for those that are not known.
    """
    distinct = tuple(dict.fromkeys(signatures))
    if len(distinct) <= MOST_CALLS:
        return distinct
    return tuple(dict.fromkeys(_known_or_all(signature) for signature in distinct))


def _known_or_all(signature: str) -> str:
    schema, _, name = signature.partition("(")[0].rpartition(".")
    return signature if overloads(name) else f"{schema}.*"


def by_name(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Gives one opaque call for each function; if a schema has too many, one call of `*` for them."""
    distinct = dict.fromkeys(
        Call(call.schema, call.name, opaque=True, signature=call.signature, via=call.via) for call in calls
    )
    if len(distinct) <= MOST_CALLS:
        return tuple(distinct)
    kept = dict.fromkeys(
        call if call.via is not None or overloads(call.name) else Call(call.schema, "*", opaque=True)
        for call in distinct
    )
    return tuple(kept)


def union(one: Verdict, other: Verdict) -> Verdict:
    """Gives what either of two readings of a text says."""
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
