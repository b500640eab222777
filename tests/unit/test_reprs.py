"""Checks that nothing that the pure layers hold shows a value when it is printed, however deep it is found."""

from __future__ import annotations

import inspect
import pickle
import uuid
from collections.abc import Iterator
from inspect import isdatadescriptor
from typing import Any

import pytest

from secretproxy.audit.masking import NameMask
from secretproxy.session.events import Identity
from secretproxy.wire import messages
from secretproxy.wire.redacted import Redacted
from tests.unit.playbook import (
    OWNER,
    Playbook,
    bind,
    complete,
    describe,
    error,
    execute,
    message,
    notice,
    parameter,
    parse,
    query,
    ready,
    row,
    testified,
)

CANARY = "canary8c1f"
GETTER = f"encrypted_secrets.secrets_getter('{OWNER}', 'k', '{CANARY}')"


def everything(root: object) -> Iterator[object]:
    """Gives every object of the package that can be reached from one, through attributes, slots, lists and
    dictionaries."""
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, str | bytes | int | float | type) or found is None:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
            continue
        if isinstance(found, list | tuple | set | frozenset) or type(found).__name__ == "deque":
            waiting += list(found)
            continue
        if callable(found) or not type(found).__module__.startswith("secretproxy"):
            continue
        yield found
        # Slots, and the attributes of compiled classes.
        waiting += [
            getattr(found, name, None)
            for kind in type(found).__mro__
            for name in (
                *getattr(kind, "__slots__", ()),
                *(key for key, value in vars(kind).items() if isdatadescriptor(value)),
            )
        ]
        waiting += list(getattr(found, "__dict__", {}).values())
        # What is compiled has neither slots nor a dictionary.
        compiled = [
            name
            for kind in type(found).__mro__
            for name, what in vars(kind).items()
            if inspect.isgetsetdescriptor(what)
        ]
        waiting += [getattr(found, name, None) for name in compiled]


def filled() -> Playbook:
    """Gives a session in the middle of everything, with the value in all its places."""
    play = Playbook().logged_in()
    play << parameter("application_name", CANARY)
    play >> query(f"SELECT {GETTER}; SELECT '{CANARY}' -- {CANARY}")
    play << testified(CANARY, clock=1 << 60) + notice(CANARY, "SPX01") + row(CANARY) + complete() + ready()
    play >> query(f'PREPARE "{CANARY}" AS SELECT {GETTER}') >> query(f'DECLARE "{CANARY}2" CURSOR FOR SELECT {GETTER}')
    play >> query(f"EXECUTE \"{CANARY}\" ('{CANARY}')") >> query(f'DEALLOCATE "{CANARY}"; CLOSE "{CANARY}2"')
    call = "SELECT encrypted_secrets.secrets_upsert($1, $2, $3, $4)"
    play >> parse(call, CANARY) + describe("S", CANARY)
    values = [str(OWNER).encode(), CANARY.encode(), CANARY.encode(), CANARY.encode()]
    play >> bind(values, portal=CANARY, statement=CANARY) + execute(CANARY, 1)
    play >> parse(f"SELECT {GETTER}", CANARY)
    play >> message(b"F", CANARY.encode())
    play << error("22000")
    return play


def test_no_object_of_a_session_shows_a_value() -> None:
    play = filled()
    found = list(everything([play.session, play.detector, play.committed, play.recorded]))
    found += everything(play.session.lost())
    kinds = {type(thing).__name__ for thing in found}
    assert {
        "Session",
        "Event",
        "Identity",
        "Verdict",
        "Call",
        "Constant",
        "Prepared",
        "Running",
        "ResolvedCall",
    } <= kinds
    for thing in found:
        for shown in (repr(thing), str(thing), f"{thing}"):
            assert CANARY not in shown and CANARY.encode().hex() not in shown, type(thing).__name__


def test_what_is_read_of_a_message_shows_no_value() -> None:
    raw = bind([CANARY.encode()], portal=CANARY, statement=CANARY)
    assert CANARY not in repr(messages.read_bind(raw, 0, len(raw)))
    body = b"user\0" + CANARY.encode() + b"\0options\0-c x=" + CANARY.encode() + b"\0\0"
    startup = messages.read_startup(b"\0\0\0\0\0\3\0\0" + body)
    assert startup.parameters["user"] == CANARY and CANARY not in repr(startup)
    assert CANARY not in repr(Identity(uuid.uuid4(), CANARY, CANARY, CANARY))
    assert CANARY not in repr(NameMask(10, [CANARY], CANARY.encode()))


def test_a_redacted_value_becomes_text_nowhere() -> None:
    value = Redacted(CANARY.encode())
    assert [f"{value}", f"{value!r:>12}", str(value), f"{[value]}", f"{(value,)}"] == [
        "<redacted>", "  <redacted>", "<redacted>", "[<redacted>]", "(<redacted>,)",
    ]  # fmt: skip
    with pytest.raises(TypeError):
        pickle.dumps(value)
