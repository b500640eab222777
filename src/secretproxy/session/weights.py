"""Limits what is kept of calls, in one form: names come from the client, and may be of any length.

Pure. What is let go here is unknown to an attempt, and told by testimony once it runs.
"""

from __future__ import annotations

from dataclasses import replace

from secretproxy.detect import Call, ResolvedCall
from secretproxy.detect.arguments import Argument, Array, Constant, Values
from secretproxy.session.encodings import native

# Characters of constants that one prepared statement, and of names that one cursor may keep.
MOST_KEPT = 4096


def _length(argument: Argument) -> int:
    if isinstance(argument, Constant):
        return len(argument.text or "")
    if isinstance(argument, Array):
        return sum(len(element.text or "") + 8 if isinstance(element, Constant) else 8 for element in argument.elements)
    return 0


def size(values: Values) -> int:
    """Estimates the size of the values of one execution."""
    weight = sum(_length(argument) for argument in values.arguments)
    if values.bind is not None:
        weight += sum(len(value.reveal() or b"") for value in values.bind.values)
    return weight + (size(values.outer) if values.outer is not None else 0)


def trimmed(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """Gives the calls of a remembered statement, without arguments that are too long to be kept."""
    weight = 0
    for call in calls:
        weight += sum(_length(argument) for argument in call.positional) + sum(
            _length(argument) for _, argument in call.named
        )
    if weight <= MOST_KEPT:
        return calls
    return tuple(replace(call, positional=(), named=(), opaque=True) for call in calls)


def name_bytes(call: ResolvedCall) -> int:
    """Estimates the size of a call's names."""
    return sum(len(name or "") + 8 for name in call.names or ())


def without_names(call: ResolvedCall) -> ResolvedCall:
    """Gives the call with its names unknown."""
    return call.named(None, exact=False)


def trimmed_call(call: ResolvedCall) -> ResolvedCall:
    """Gives the call of a remembered cursor, without names that are too long to be kept."""
    return call if name_bytes(call) <= MOST_KEPT else without_names(call)


def in_bytes(call: ResolvedCall) -> ResolvedCall:
    """Gives the call with the names that its bytes are in a SQL_ASCII server."""
    if not call.names or all(name is None or name.isascii() for name in call.names):
        return call
    names = tuple(None if name is None else native(name) for name in call.names)
    if any(found is None and given is not None for found, given in zip(names, call.names, strict=True)):
        return without_names(call)
    return call.named(names, exact=call.exact)
