"""Checks the order in which the interpreter carries out what a session decides: Steps made by hand, effects written
down.

Pure Python, as a compiled interpreter takes no other session than a real one; the playbook's runs as it is installed.
"""

from __future__ import annotations

import uuid
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fuzz.pure import PURE
from tests.support.effects import given

Step, Held, Event, Wait, Interpreter = PURE.Step, PURE.Held, PURE.Event, PURE.Wait, PURE.Interpreter
WHO = PURE.Identity(uuid.UUID(int=1), "app", "app")
VIOLATION = PURE.ProtocolViolationError("too much of it")


def event(kind: Any = "attempt", outcome: Any = None) -> Any:
    made = Event(kind, WHO)
    made.outcome = outcome
    return made


def step(**fields: Any) -> Any:
    made = Step()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def held(*parts: bytes) -> list[Any]:
    return [Held(part, SimpleNamespace(waits=True)) for part in parts]


class Decided:
    """A session whose decisions are made beforehand: bytes, a Step, or an error for each chunk."""

    def __init__(self) -> None:
        self.client: deque[Any] = deque()
        self.backend: deque[Any] = deque()
        self.taken: list[bytes] = []
        # Chunks of the commonest form.
        self.plain: set[bytes] = set()
        self.idle = False
        self.above_high_water = False
        self.below_low_water = True
        self.waiting_bytes = 0
        self.pooled = False
        self.read_timing = None
        self.pooler = PURE.ProtocolViolationError("a pooler")

    def _next(self, decisions: deque[Any], data: bytes) -> Any:
        self.taken.append(data)
        decision = decisions.popleft() if decisions else data
        if isinstance(decision, Exception):
            raise decision
        return decision

    def passes_client(self, data: bytes) -> bool:
        return data in self.plain

    def passes_backend(self, data: bytes) -> bool:
        return data in self.plain

    def reads_client(self, data: bytes) -> Any:
        return self._next(self.client, data)

    def reads_backend(self, data: bytes) -> Any:
        return self._next(self.backend, data)

    def refuse(self, refused: Any, *, taken: bool) -> tuple[bytes, list[Any]]:
        return b"refused", [event("refusal")]

    def undelivered(self, step: Any) -> list[Any]:
        return [event("outcome") for told in step.commit if told.event == "access"]

    def parsed(self, text: bytes, verdict: object) -> None:
        self.taken.append(b"verdict on " + text)


class Written:
    """Effects that are written down."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.admitted = True
        self.alone = True

    def __getattr__(self, name: str) -> Any:
        def note(*given: Any) -> bool:
            self.done.append((name, *given))
            return {"login_may_proceed": self.admitted, "owns_process": self.alone}.get(name, False)

        return note

    def take(self) -> list[tuple[Any, ...]]:
        done, self.done = self.done, []
        return [one for one in done if one[0] != "login_may_proceed"]

    def names(self) -> list[str]:
        return [one[0] for one in self.take()]


@pytest.fixture
def session() -> Decided:
    return Decided()


@pytest.fixture
def effects() -> Written:
    return Written()


@pytest.fixture
def interpreter(session: Decided, effects: Written) -> Any:
    made = Interpreter(session, *given(effects))
    session.backend.append(step(ready=True))
    made.from_backend(b"")
    effects.take()
    session.taken.clear()
    return made


def test_what_needs_nothing_goes_on(interpreter: Any, effects: Written) -> None:
    interpreter.from_client(b"SELECT")
    interpreter.from_backend(b"rows")
    assert effects.take() == [("send_to_backend", b"SELECT"), ("send_to_client", b"rows")]


# --- chunks that their reader sends on --------------------------------------------------------------------------------


def reads(interpreter: Any, side: str, data: bytes, *, directly: bool = True) -> bool:
    """Has a chunk of a side taken, whose bytes go to the other one; gives what the interpreter says of it."""
    return bool(getattr(interpreter, f"reads_{side}")(data, directly=directly))


@pytest.fixture
def clear(interpreter: Any) -> Any:
    """Gives an interpreter neither of whose connections has bytes that wait."""
    interpreter._client.takes_directly = interpreter._backend.takes_directly = lambda: True
    return interpreter


OTHER = {"client": "backend", "backend": "client"}


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("side", ["client", "backend"])
def test_what_goes_on_as_it_came_may_be_left_to_its_reader(
    clear: Any, session: Decided, effects: Written, side: str, plain: bool
) -> None:
    session.plain = {b"chunk"} if plain else set()
    assert reads(clear, side, b"chunk") and effects.take() == []
    assert not reads(clear, side, b"chunk", directly=False)
    getattr(clear, f"_{OTHER[side]}").takes_directly = lambda: False
    assert not reads(clear, side, b"chunk")
    assert effects.take() == [(f"send_to_{OTHER[side]}", b"chunk")] * 2


@pytest.mark.parametrize("side", ["client", "backend"])
def test_what_goes_on_otherwise_is_not_left_to_its_reader(
    clear: Any, session: Decided, effects: Written, side: str
) -> None:
    getattr(session, side).extend([b"other", b"", step(forward=b"part", record=[event()])])
    assert not any(reads(clear, side, b"chunk") for _ in range(3))
    sent = f"send_to_{OTHER[side]}"
    assert [one for one in effects.take() if one[0] == sent] == [(sent, b"other"), (sent, b"part")]


def test_what_more_is_to_be_done_for_is_not_left_to_its_reader(clear: Any, session: Decided, effects: Written) -> None:
    session.above_high_water = True
    assert not reads(clear, "client", b"chunk")
    assert effects.names() == ["send_to_backend", "flush_backend", "pause_client"]
    assert not reads(clear, "client", b"behind") and effects.names() == ["pause_client"]
    session.above_high_water = False
    session.plain = {b"chunk"}
    assert not reads(clear, "backend", b"chunk")
    assert effects.take() == [("send_to_client", b"chunk"), ("send_to_backend", b"behind"), ("resume_client",)]
    clear.report_idle()
    session.idle = True
    assert not reads(clear, "backend", b"chunk") and effects.names() == ["send_to_client", "idle_reported"]


def test_nothing_is_left_to_a_reader_once_the_client_has_gone(clear: Any, effects: Written) -> None:
    clear.lose_client()
    assert not reads(clear, "client", b"chunk") and effects.take() == []


# --- a client's Steps -------------------------------------------------------------------------------------------------


def test_held_bytes_wait_for_the_log(interpreter: Any, session: Decided, effects: Written) -> None:
    waiting = step(forward=b"before", record=[event("definition")], commit=[event()], held=held(b"call", b"behind"))
    session.client.append(waiting)
    interpreter.from_client(b"chunk")
    assert effects.take() == [
        ("send_to_backend", b"before"), ("record", waiting.record), ("commit_attempts", waiting),
    ]  # fmt: skip
    assert interpreter.client_waits is Wait.LOG
    interpreter.attempts_committed()
    assert effects.take() == [("send_to_backend", b"callbehind"), ("resume_client",)]
    assert session.taken == [b"chunk", b""], "the rest of the chunk is looked at"
    interpreter.attempts_committed()
    assert effects.take() == [], "once"


def test_what_comes_meanwhile_waits_in_order(interpreter: Any, session: Decided, effects: Written) -> None:
    session.client.append(step(commit=[event()], held=held(b"call")))
    for chunk in (b"chunk", b"second", b"third"):
        interpreter.from_client(chunk)
    assert effects.names() == ["commit_attempts", "pause_client", "pause_client"]
    session.client += [b"", step(commit=[event()], held=held(b"second"))]
    interpreter.attempts_committed()
    assert effects.names() == ["send_to_backend", "commit_attempts"], "the third waits for the second's attempts"
    interpreter.attempts_committed()
    assert effects.take()[-2:] == [("send_to_backend", b"third"), ("resume_client",)]
    assert session.taken == [b"chunk", b"", b"second", b"", b"third"]


def test_what_the_log_cannot_take_is_refused(interpreter: Any, session: Decided, effects: Written) -> None:
    session.client.append(step(commit=[event(), event()], held=[*held(b"call", b"call"), Held(b"Sync")]))
    interpreter.from_client(b"chunk")
    effects.take()
    interpreter.refuse(taken=False)
    refused, sent = effects.take()
    assert refused[0] == "refused" and refused[2] == 2 and sent == ("send_to_backend", b"refused")
    assert interpreter.client_waits is Wait.LOG, "until it may proceed"
    interpreter.proceed()
    assert effects.names() == ["resume_client"]


def test_a_verdict_is_asked_for_behind_what_waits(interpreter: Any, session: Decided, effects: Written) -> None:
    session.client.append(step(commit=[event()], held=held(b"call"), parse=(b"long", "utf-8", 1)))
    interpreter.from_client(b"chunk")
    assert effects.names() == ["commit_attempts"]
    interpreter.attempts_committed()
    assert effects.take()[1:] == [("pause_client",), ("parse", b"long", "utf-8", 1)]
    assert interpreter.client_waits is Wait.VERDICT
    interpreter.parsed(b"long", object())
    assert session.taken == [b"chunk", b"verdict on long", b""] and effects.names() == ["resume_client"]


def test_a_violation_ends_it_behind_what_waits(interpreter: Any, session: Decided, effects: Written) -> None:
    session.client.append(step(commit=[event()], held=held(b"call"), violation=VIOLATION))
    interpreter.from_client(b"chunk")
    assert effects.names() == ["commit_attempts"]
    interpreter.attempts_committed()
    assert effects.take() == [("send_to_backend", b"call"), ("end_by_client", VIOLATION)]


def test_a_violation_that_is_raised_ends_it(interpreter: Any, session: Decided, effects: Written) -> None:
    session.client.append(VIOLATION)
    interpreter.from_client(b"chunk")
    assert effects.take() == [("end_by_client", VIOLATION)]


def test_more_of_a_chunk_is_looked_at_in_a_later_turn(interpreter: Any, session: Decided, effects: Written) -> None:
    session.client.append(step(forward=b"part", again=True))
    interpreter.from_client(b"chunk")
    assert effects.names() == ["send_to_backend", "continue_later"] and interpreter.client_waits is Wait.TURN
    interpreter.from_client(b"next")
    interpreter.resume_client()
    assert session.taken == [b"chunk", b"", b"next"]


def test_above_the_high_water_mark_the_client_waits_for_answers(
    interpreter: Any, session: Decided, effects: Written
) -> None:
    session.above_high_water, session.below_low_water = True, False
    interpreter.from_client(b"much")
    assert effects.names() == ["send_to_backend", "flush_backend", "pause_client"]
    assert interpreter.client_waits is Wait.ANSWERS
    interpreter.from_client(b"more")
    interpreter.from_backend(b"some")
    assert effects.names() == ["pause_client", "send_to_client"]
    session.above_high_water, session.below_low_water = False, True
    interpreter.from_backend(b"enough")
    assert effects.take() == [("send_to_client", b"enough"), ("send_to_backend", b"more"), ("resume_client",)]


# --- a backend's Steps ------------------------------------------------------------------------------------------------


def test_an_answer_is_held_until_the_log_has_the_call(interpreter: Any, session: Decided, effects: Written) -> None:
    waiting = step(
        forward=b"before", inject=b"token", commit=[event("call")], held=held(b"row"), record=[event("outcome", "ok")]
    )
    session.backend.append(waiting)
    interpreter.from_backend(b"chunk")
    assert effects.take() == [("send_to_client", b"before"), ("inject", b"token"), ("commit_testimony", waiting)]
    interpreter.from_backend(b"next")
    assert effects.names() == ["pause_backend"] and session.taken == [b"chunk"]
    interpreter.testimony_committed()
    assert effects.take() == [
        ("send_to_client", b"row"), ("record", waiting.record), ("resume_backend",), ("send_to_client", b"next"),
    ]  # fmt: skip
    assert waiting.record[0].outcome == "ok"


def test_a_client_that_leaves_has_not_been_told(interpreter: Any, session: Decided, effects: Written) -> None:
    waiting = step(commit=[event("call")], held=held(b"row"), record=[event("outcome", "ok")])
    session.backend.append(waiting)
    interpreter.from_backend(b"chunk")
    effects.take()
    interpreter.lose_client()
    assert effects.take() == [("record", waiting.record)] and waiting.record[0].outcome == "lost"
    interpreter.testimony_committed()
    interpreter.from_client(b"late")
    assert effects.take() == [] and session.taken == [b"chunk"]


def test_a_backends_violation_lets_nothing_of_its_chunk_on(
    interpreter: Any, session: Decided, effects: Written
) -> None:
    session.backend.append(step(forward=b"bytes", record=[event("outcome")], violation=VIOLATION))
    interpreter.from_backend(b"chunk")
    assert effects.take() == [("end_by_backend", VIOLATION)]


def test_a_backends_violation_waits_for_the_log(interpreter: Any, session: Decided, effects: Written) -> None:
    session.backend.append(step(forward=b"before", commit=[event("forgery")], held=held(b"row"), violation=VIOLATION))
    interpreter.from_backend(b"chunk")
    assert effects.names() == ["send_to_client", "commit_testimony"]
    interpreter.testimony_committed()
    assert effects.take() == [("end_by_backend", VIOLATION)]
    assert not interpreter.backend_is_free, "nothing more of it goes on"


def test_what_is_no_protocol_is_said_to_be_none(interpreter: Any, session: Decided, effects: Written) -> None:
    session.backend.append(VIOLATION)
    interpreter.from_backend(b"chunk")
    assert effects.take() == [("unreadable_backend", VIOLATION)]


def test_the_catalog_is_told_last(interpreter: Any, session: Decided, effects: Written) -> None:
    session.backend.append(step(forward=b"done", record=[event("definition")], unannounced=True, defined=True))
    interpreter.from_backend(b"chunk")
    assert effects.names() == ["send_to_client", "record", "unannounced", "defined"]


# --- the login --------------------------------------------------------------------------------------------------------


def test_what_a_client_says_early_is_bounded(session: Decided, effects: Written) -> None:
    interpreter = Interpreter(session, *given(effects))
    session.client += [b"", b""]
    session.waiting_bytes = 65_536
    interpreter.from_client(b"early")
    assert effects.take() == []
    session.waiting_bytes = 65_537
    interpreter.from_client(b"more")
    assert effects.names() == ["pause_client"] and interpreter.client_waits is Wait.LOGIN
    session.backend.append(step(forward=b"ready", ready=True))
    interpreter.from_backend(b"chunk")
    assert effects.names() == ["send_to_client", "ready", "resume_client"]


def test_a_login_that_may_not_proceed_says_nothing(session: Decided, effects: Written) -> None:
    interpreter = Interpreter(session, *given(effects))
    effects.admitted = False
    interpreter.from_backend(b"standby")
    assert effects.take() == []


def test_a_process_behind_a_pooler_is_one_sessions(session: Decided, effects: Written) -> None:
    interpreter = Interpreter(session, *given(effects))
    session.pooled, effects.alone = True, False
    session.backend.append(step(forward=b"ready", ready=True))
    interpreter.from_backend(b"chunk")
    assert effects.take() == [("owns_process",), ("end_by_backend", session.pooler)] and not interpreter.ready


# --- the end ----------------------------------------------------------------------------------------------------------


def test_an_orphaned_backend_is_read_with_other_effects(interpreter: Any, session: Decided, effects: Written) -> None:
    session.backend.append(step(commit=[event("call")], held=held(b"row")))
    interpreter.from_backend(b"chunk")
    interpreter.from_backend(b"waits")
    interpreter.lose_client()
    effects.take()
    orphan = Written()
    interpreter.read_orphan(*given(orphan))
    late = step(commit=[event("call")], violation=VIOLATION)
    session.backend.append(late)
    interpreter.take_backlog()
    assert orphan.take() == [("commit_testimony", late)] and effects.take() == []
    interpreter.testimony_committed()
    assert orphan.names() == ["send_to_client", "resume_backend"], "nobody is there for whom it would end"
    interpreter.stop()
    interpreter.from_backend(b"more")
    assert orphan.take() == [] and session.taken == [b"chunk", b"waits"]


def test_a_step_that_loses_bytes_is_none(interpreter: Any, session: Decided) -> None:
    session.client.append(step(held=held(b"call")))
    with pytest.raises(AssertionError):
        interpreter.from_client(b"chunk")
    session.backend.append(step(held=held(b"row")))
    with pytest.raises(AssertionError):
        interpreter.from_backend(b"chunk")
